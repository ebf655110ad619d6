//! What the answer of an HTTP service says about an attempt: bytes in, a verdict out, without I/O.
//!
//! The rules are those of DTM's `HTTPResp2DtmError` (`client/dtmcli/utils.go`), in its order, for a body that has been
//! decoded: content codings first ([`coding`]), then the charset ([`charset`]). A body that cannot be decoded has said
//! nothing. The status counts alone then, and is never a success.

mod charset;
mod coding;
#[cfg(test)]
mod fuzz;
mod json;

use std::borrow::Cow;

use http::{HeaderMap, StatusCode};

use crate::saga::{Verdict, text};
use json::{DtmResult, JsonRpc};

/// Longest text of an answer in a reason or an error, in bytes: the width of DTM's column for the rollback reason.
pub const TEXT_BYTES_MAX: usize = 1024;

/// The answer of a service, as it came.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    /// `Content-Encoding`, `Transfer-Encoding` and `Content-Type` are read.
    pub headers: HeaderMap,
    /// Still in its codings, without the framing of chunks.
    pub body: Vec<u8>,
    /// The body is longer, and this is its beginning.
    pub is_cut: bool,
}

impl Answer {
    /// Whether the body has to be decoded.
    pub fn is_coded(&self) -> bool {
        coding::codings(&self.headers).is_ok_and(|codings| !codings.is_empty())
    }
}

/// What counts in an answer.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// See [`Settings::any_2xx_succeeds`](super::http::Settings::any_2xx_succeeds).
    pub any_2xx_succeeds: bool,
    /// A status from 500 to 599 is a rejection.
    pub rejects_5xx: bool,
    /// The call was one of JSON-RPC 2.0: a success needs a body that is its answer, without an error.
    pub is_json_rpc: bool,
    /// Most bytes of the body that are read, each coding decoded.
    pub bytes_max: usize,
}

/// The verdict of an answer. Its texts have at most [`TEXT_BYTES_MAX`] bytes and an ellipsis.
///
/// A success is said only of a body that was read to its end. Of a body that is longer than the limit the words that were
/// read count.
pub fn verdict(answer: &Answer, rules: Rules) -> Verdict {
    let verdict = match Body::read(answer, rules.bytes_max) {
        Ok(body) => verdict_of_body(answer.status, &body, rules),
        Err(fault) => verdict_of_status(answer.status, &fault, rules),
    };
    match verdict {
        Verdict::Rejected { reason } => Verdict::Rejected { reason: cut(reason) },
        Verdict::Unknown { error } => Verdict::Unknown { error: cut(error) },
        verdict => verdict,
    }
}

/// The text, or its beginning followed by `…`.
pub fn excerpt(text: &str) -> Cow<'_, str> {
    text::cut(text, TEXT_BYTES_MAX)
}

/// As [`excerpt`], of a text that is owned.
pub fn cut(text: String) -> String {
    text::cut_owned(text, TEXT_BYTES_MAX)
}

/// A body that could be decoded.
struct Body<'a> {
    text: Cow<'a, str>,
    /// The text goes on behind the limit.
    is_cut: bool,
}

impl<'a> Body<'a> {
    /// Decodes the codings and the charset. The error says what cannot be decoded, and the mend.
    fn read(answer: &'a Answer, bytes_max: usize) -> Result<Self, String> {
        // Nothing can be hidden in it, whatever the headers say.
        if answer.body.is_empty() {
            return Ok(Self { text: "".into(), is_cut: answer.is_cut });
        }
        let codings = coding::codings(&answer.headers)?;
        if codings.is_empty() {
            let is_cut = answer.is_cut || answer.body.len() > bytes_max;
            let kept = answer.body.get(..bytes_max).unwrap_or(&answer.body);
            return Ok(Self { text: charset::text(kept, &answer.headers, is_cut)?, is_cut });
        }
        if answer.is_cut {
            return Err(too_long(bytes_max));
        }
        let decoded = coding::decode(&answer.body, &codings, bytes_max)?;
        let text = charset::text(&decoded.bytes, &answer.headers, decoded.is_cut)?.into_owned();
        Ok(Self { text: text.into(), is_cut: decoded.is_cut })
    }

    /// The word that the body holds: anywhere, or as its `dtm_result`. The error says why that cannot be known.
    fn word(&self, rules: Rules) -> Result<Option<DtmResult>, String> {
        if rules.any_2xx_succeeds {
            return json::dtm_result(&self.text);
        }
        let words = [("ONGOING", DtmResult::Ongoing), ("FAILURE", DtmResult::Failure)];
        Ok(words.into_iter().find(|(word, _)| self.text.contains(word)).map(|(_, word)| word))
    }
}

fn too_long(bytes_max: usize) -> String {
    format!("the answer is longer than the limit of {bytes_max} bytes (response_bytes_max)")
}

fn is_success(status: StatusCode, rules: Rules) -> bool {
    if rules.any_2xx_succeeds { status.is_success() } else { status == StatusCode::OK }
}

/// The verdict of an answer whose body was decoded.
fn verdict_of_body(status: StatusCode, body: &Body, rules: Rules) -> Verdict {
    let word = match body.word(rules) {
        Ok(word) => word,
        Err(_) if body.is_cut => return verdict_of_status(status, &too_long(rules.bytes_max), rules),
        Err(fault) => return verdict_of_status(status, &fault, rules),
    };
    let failed = || format!("HTTP {}: {}", status.as_u16(), excerpt(&body.text));
    match status {
        status if status == StatusCode::TOO_EARLY || word == Some(DtmResult::Ongoing) => ongoing(),
        status if status == StatusCode::CONFLICT || word == Some(DtmResult::Failure) => rejected(excerpt(&body.text)),
        status if is_success(status, rules) && body.is_cut => unknown(too_long(rules.bytes_max)),
        status if is_success(status, rules) && rules.is_json_rpc => match json::json_rpc(&body.text) {
            Ok(JsonRpc::Result) => Verdict::Succeeded { output: None },
            Ok(JsonRpc::Ongoing) => ongoing(),
            Ok(JsonRpc::Failure(error)) => rejected(excerpt(error)),
            Ok(JsonRpc::Error(error)) => unknown(excerpt(error)),
            Err(fault) => unknown(fault),
        },
        status if is_success(status, rules) => Verdict::Succeeded { output: None },
        status if status.is_server_error() && rules.rejects_5xx => rejected(failed()),
        _ => unknown(failed()),
    }
}

/// The verdict of an answer whose body says nothing, for this reason.
fn verdict_of_status(status: StatusCode, fault: &str, rules: Rules) -> Verdict {
    let failed = || format!("HTTP {}, and {fault}", status.as_u16());
    match status {
        StatusCode::TOO_EARLY => ongoing(),
        StatusCode::CONFLICT => rejected(failed()),
        status if is_success(status, rules) => unknown(fault),
        status if status.is_server_error() && rules.rejects_5xx => rejected(failed()),
        _ => unknown(failed()),
    }
}

fn ongoing() -> Verdict {
    Verdict::Ongoing { retry_after: None }
}

fn rejected(reason: impl Into<String>) -> Verdict {
    Verdict::Rejected { reason: reason.into() }
}

fn unknown(error: impl Into<String>) -> Verdict {
    Verdict::Unknown { error: error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let body = format!("x{}", "é".repeat(TEXT_BYTES_MAX));
        assert_eq!(excerpt(&body), format!("x{}…", "é".repeat((TEXT_BYTES_MAX - 1) / 2)));
        assert_eq!(cut(body.clone()), excerpt(&body));
    }
}
