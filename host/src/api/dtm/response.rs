//! What DTM answers, byte for byte: bodies, statuses, and JSON as Go writes it.

use std::io::{self, Write};

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

const SUCCESS: Bytes = Bytes::from_static(br#"{"dtm_result":"SUCCESS"}"#);
const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// The answer to everything that went well and has nothing more to say.
pub fn success() -> Response {
    json(StatusCode::OK, SUCCESS)
}

/// JSON that has been written already.
pub fn json(status: StatusCode, body: impl Into<Body>) -> Response {
    (status, [(CONTENT_TYPE, JSON)], body.into()).into_response()
}

/// An answer with `dtm_result`: what clients take for the verdict on their transaction.
///
/// `status`, an addition of ours, tells where the saga stands when the verdict alone would mislead.
pub fn failure(message: &str, status: Option<&'static str>) -> Response {
    #[derive(Serialize)]
    struct Body<'a> {
        dtm_result: &'static str,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<&'static str>,
    }
    json(StatusCode::CONFLICT, to_json(&Body { dtm_result: "FAILURE", message, status }))
}

/// An answer without a verdict: the request failed, the transaction is as it was.
pub fn error(status: StatusCode, message: &str) -> Response {
    #[derive(Serialize)]
    struct Body<'a> {
        message: &'a str,
    }
    json(status, to_json(&Body { message }))
}

/// The answer to an unknown path, and to the wrong method: DTM knows no 405.
pub fn not_found() -> Response {
    (StatusCode::NOT_FOUND, [(CONTENT_TYPE, "text/plain")], "404 page not found").into_response()
}

/// A value as Go's `encoding/json` writes it.
pub fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut json = Vec::with_capacity(128);
    // Writing to memory cannot fail, and what the API serializes are structs and strings, which always can be.
    let _ = value.serialize(&mut Serializer::with_formatter(&mut json, Go));
    json
}

/// Go's JSON: compact, and safe inside HTML and JavaScript.
struct Go;

impl Formatter for Go {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            let (plain, special) = rest.split_at(at);
            CompactFormatter.write_string_fragment(writer, plain)?;
            let mut chars = special.chars();
            if let Some(special) = chars.next() {
                write!(writer, "\\u{:04x}", u32::from(special))?;
            }
            rest = chars.as_str();
        }
        CompactFormatter.write_string_fragment(writer, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_escaped_as_go_does() {
        let text = "a<b>&c \u{2028}\u{2029} \"q\" \\ / \n\t\u{1} é";
        assert_eq!(
            String::from_utf8(to_json(&text)).unwrap(),
            r#""a\u003cb\u003e\u0026c \u2028\u2029 \"q\" \\ / \n\t\u0001 é""#
        );
        assert_eq!(to_json(&["<<", ""]), br#"["\u003c\u003c",""]"#);
    }
}
