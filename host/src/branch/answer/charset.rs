//! The text of a body, by its byte order mark, its first bytes, or the charset that its `Content-Type` declares.

use std::borrow::Cow;

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};
use http::{HeaderMap, header::CONTENT_TYPE};

/// Longest name of a charset in an error, in characters.
const NAME_CHARS_MAX: usize = 64;

/// The text, without its byte order mark. The error says why it cannot be decoded.
///
/// Without a declared charset it is UTF-8, and what is malformed in it is replaced: DTM's words are ASCII, which malformed
/// UTF-8 cannot hide. Under a declared charset, and in UTF-16, malformed text is an error, unless the text is cut.
pub fn text<'a>(body: &'a [u8], headers: &HeaderMap, is_cut: bool) -> Result<Cow<'a, str>, String> {
    let declared = declared(headers)?;
    let (encoding, text) = match (marked(body)?, &declared) {
        (Some((encoding, mark_bytes)), _) => (encoding, body.get(mark_bytes..).unwrap_or_default()),
        (None, Some(charset)) => (known(charset)?, body),
        (None, None) => (UTF_8, body),
    };
    let (text, is_malformed) = encoding.decode_without_bom_handling(text);
    let is_exact = declared.is_some() || encoding != UTF_8;
    if is_malformed && is_exact && !is_cut {
        let name = encoding.name();
        return Err(format!(
            "the answer cannot be read: its body is not valid {name}; let the service declare the charset it answers in"
        ));
    }
    Ok(text)
}

/// The charset that `Content-Type` declares. The error: there are several.
fn declared(headers: &HeaderMap) -> Result<Option<String>, String> {
    let mut declared: Option<String> = None;
    for value in headers.get_all(CONTENT_TYPE) {
        let value = String::from_utf8_lossy(value.as_bytes());
        // A proxy that folds several headers into one separates them by commas.
        for parameter in value.split([';', ',']).skip(1) {
            let (name, charset) = parameter.split_once('=').unwrap_or_default();
            let charset = charset.trim().trim_matches(['"', '\'']).trim().to_ascii_lowercase();
            if !name.trim().eq_ignore_ascii_case("charset") || charset.is_empty() {
                continue;
            }
            if declared.as_ref().is_some_and(|other| *other != charset) {
                return Err("the answer cannot be read: its Content-Type declares several charsets".to_owned());
            }
            declared = Some(charset);
        }
    }
    Ok(declared)
}

/// The encoding of a declared charset, in lower case.
fn known(charset: &str) -> Result<&'static Encoding, String> {
    let name: String = charset.chars().take(NAME_CHARS_MAX).collect();
    match Encoding::for_label(charset.as_bytes()) {
        // The standard for the web has it in one order, RFC 2781 in the other.
        Some(encoding) if encoding == UTF_16LE && charset != "utf-16le" => Err(format!(
            "the answer cannot be read: charset {name:?} does not say the order of bytes, nor does a byte order mark; \
             let the service answer in UTF-8"
        )),
        Some(encoding) => Ok(encoding),
        None => Err(format!(
            "the answer cannot be read: its charset {name:?} is not known; let the service answer in UTF-8"
        )),
    }
}

/// The encoding that the first bytes show, and the length of the byte order mark among them. They count more than a
/// declaration, as for browsers.
///
/// Without a mark UTF-16 and UTF-32 are known by their zeros (RFC 4627, section 3), of which text in other encodings has
/// none. The error: it is UTF-32.
fn marked(body: &[u8]) -> Result<Option<(&'static Encoding, usize)>, String> {
    let is_text = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    match body {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Err(utf_32()),
        [first, 0, 0, 0, ..] | [0, 0, 0, first, ..] if is_text(first) => Err(utf_32()),
        [first, 0, second, 0, ..] if is_text(first) && is_text(second) => Ok(Some((UTF_16LE, 0))),
        [0, first, 0, second, ..] if is_text(first) && is_text(second) => Ok(Some((UTF_16BE, 0))),
        _ => Ok(Encoding::for_bom(body)),
    }
}

fn utf_32() -> String {
    "the answer cannot be read: it is in UTF-32; let the service answer in UTF-8".to_owned()
}
