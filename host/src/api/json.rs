//! JSON as Go's `encoding/json` writes it, which is how DTM answers, and HTTP responses with it.

use std::io::{self, Write};

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

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

/// Go's escapes.
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
            String::from_utf8(encode(&text)).unwrap(),
            r#""a\u003cb\u003e\u0026c \u2028\u2029 \"q\" \\ / \n\t\u0001 é""#
        );
        assert_eq!(encode(&["<<", ""]), br#"["\u003c\u003c",""]"#);
    }
}
