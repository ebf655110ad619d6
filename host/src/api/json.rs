//! JSON as Go's `encoding/json` writes it, which is how DTM answers, and HTTP responses with it.
//!
//! Characters that control a terminal, or hide or reorder text, are escaped too, where Go writes them as they are: the
//! meaning is the same, and a body can be read as it is.

use std::io::{self, Write};

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

use crate::saga::text::is_hidden;

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// A response with JSON that is encoded already.
pub fn response(status: StatusCode, json: impl Into<Body>) -> Response {
    (status, [(CONTENT_TYPE, JSON)], json.into()).into_response()
}

/// Encodes a value as Go does: compact, and with the characters escaped that mean something in HTML or JavaScript.
pub fn encode(value: &impl Serialize) -> Vec<u8> {
    let mut json = Vec::with_capacity(128);
    append(&mut json, value);
    json
}

/// As [`encode`], at the end of other JSON.
pub fn append(json: &mut Vec<u8>, value: &impl Serialize) {
    // Writing to memory cannot fail, and the API serializes only structs and strings, which cannot fail either.
    let _ = value.serialize(&mut Serializer::with_formatter(json, Go));
}

/// Go's escapes, and those of hidden characters.
struct Go;

impl Formatter for Go {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        write_escaped(writer, fragment, |c| matches!(c, '<' | '>' | '&') || is_hidden(c))
    }

    /// JSON of a branch. Beyond ASCII, hidden characters can only be in its strings.
    fn write_raw_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        write_escaped(writer, fragment, |c| c >= '\u{7f}' && is_hidden(c))
    }
}

fn write_escaped<W: ?Sized + Write>(
    writer: &mut W,
    mut rest: &str,
    is_escaped: impl Fn(char) -> bool,
) -> io::Result<()> {
    while let Some((plain, special)) = rest.find(&is_escaped).and_then(|at| rest.split_at_checked(at)) {
        CompactFormatter.write_string_fragment(writer, plain)?;
        let mut chars = special.chars();
        if let Some(special) = chars.next() {
            special.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(writer, "\\u{unit:04x}"))?;
        }
        rest = chars.as_str();
    }
    CompactFormatter.write_string_fragment(writer, rest)
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    #[test]
    fn hidden_characters_are_escaped_in_texts_and_in_json_of_branches() {
        let text = "a\u{9b}\u{202e}\u{200b}\u{feff}\u{e0041}\u{7f}é😀";
        let json = r#""a\u009b\u202e\u200b\ufeff\udb40\udc41\u007fé😀""#;
        assert_eq!(String::from_utf8(encode(&text)).unwrap(), json);
        let raw = format!("{{\n\t\"k<>\": \"{text}\"}}");
        let encoded = encode(&serde_json::from_str::<&RawValue>(&raw).unwrap());
        assert_eq!(str::from_utf8(&encoded).unwrap(), format!("{{\n\t\"k<>\": {json}}}"));
        let [read, meant] =
            [&encoded, raw.as_bytes()].map(|json| serde_json::from_slice::<serde_json::Value>(json).unwrap());
        assert_eq!(read, meant);
    }

    #[test]
    fn json_is_escaped_as_go_does() {
        let text = "a<b>&c \u{2028}\u{2029} \"q\" \\ / \n\t\u{1} é";
        assert_eq!(
            String::from_utf8(encode(&text)).unwrap(),
            r#""a\u003cb\u003e\u0026c \u2028\u2029 \"q\" \\ / \n\t\u0001 é""#
        );
        assert_eq!(encode(&["<<", ""]), br#"["\u003c\u003c",""]"#);
    }
}
