//! What a body in JSON says: its `dtm_result`, or the answer of JSON-RPC 2.0.
//!
//! Of equal keys the last counts, as in all JSON that the host reads from clients. What is not asked for may be anything
//! that JSON allows, however deep, but the object must be whole, and nothing may follow it.

use std::{borrow::Cow, fmt};

use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// DTM's codes of errors that are a verdict.
const FAILURE: i64 = -32901;
const ONGOING: i64 = -32902;

/// The body's `dtm_result` is one of DTM's words that decide against a success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DtmResult {
    Ongoing,
    Failure,
}

/// The `dtm_result` of a body that is a JSON object, if it is one of these words. The error: the body begins like an object
/// and cannot be read.
pub fn dtm_result(body: &str) -> Result<Option<DtmResult>, String> {
    let is_blank = |c: char| c.is_whitespace() || c.is_control() || c == '\u{feff}';
    if !body.trim_start_matches(is_blank).starts_with('{') {
        if body.contains("dtm_result") && serde_json::from_str::<IgnoredAny>(body).is_err() {
            let fault =
                "the answer cannot be read: something stands before its JSON object; let the service send that alone";
            return Err(fault.to_owned());
        }
        return Ok(None);
    }
    let unreadable = |error| format!("the answer cannot be read: its JSON is damaged: {error}");
    let [result] = members(body, ["dtm_result"]).map_err(unreadable)?;
    let Some(result) = result.filter(|result| result.get().starts_with('"')) else { return Ok(None) };
    let result: String = serde_json::from_str(result.get()).map_err(unreadable)?;
    Ok(match result.as_str() {
        "ONGOING" => Some(DtmResult::Ongoing),
        "FAILURE" => Some(DtmResult::Failure),
        _ => None,
    })
}

/// What an answer of JSON-RPC says.
#[derive(Debug)]
pub enum JsonRpc<'a> {
    /// A result, or an `error` of `null`.
    Result,
    /// An error with DTM's code for "ask again".
    Ongoing,
    /// An error with DTM's code for a rejection, in JSON.
    Failure(&'a str),
    /// Any other error, in JSON.
    Error(&'a str),
}

/// Reads an answer of JSON-RPC. The error says why the body is none.
pub fn json_rpc(body: &str) -> Result<JsonRpc<'_>, String> {
    let [error, result] =
        members(body, ["error", "result"]).map_err(|error| format!("the answer is not JSON-RPC: {error}"))?;
    let Some(error) = error.map(RawValue::get).filter(|error| *error != "null") else {
        return match (error, result) {
            (None, None) => Err("the answer is not JSON-RPC: it has neither a result nor an error".to_owned()),
            _ => Ok(JsonRpc::Result),
        };
    };
    let code = members(error, ["code"]).ok().and_then(|[code]| serde_json::from_str(code?.get()).ok());
    Ok(match code {
        Some(ONGOING) => JsonRpc::Ongoing,
        Some(FAILURE) => JsonRpc::Failure(error),
        _ => JsonRpc::Error(error),
    })
}

/// The values of these members of a text that is one JSON object.
fn members<'a, const N: usize>(
    text: &'a str,
    names: [&'static str; N],
) -> Result<[Option<&'a RawValue>; N], serde_json::Error> {
    let mut decoder = serde_json::Deserializer::from_str(text);
    let members = Members(names).deserialize(&mut decoder)?;
    decoder.end()?;
    Ok(members)
}

struct Members<const N: usize>([&'static str; N]);

impl<'de, const N: usize> DeserializeSeed<'de> for Members<N> {
    type Value = [Option<&'de RawValue>; N];

    fn deserialize<D: Deserializer<'de>>(self, decoder: D) -> Result<Self::Value, D::Error> {
        decoder.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Members<N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [None; N];
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match self.0.iter().zip(&mut found).find(|(name, _)| **name == key) {
                Some((_, value)) => *value = Some(map.next_value()?),
                None => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dtm_result_counts_as_a_whole() {
        for (body, word) in [
            (r#"{"dtm_result":"FAILURE"}"#, Some(DtmResult::Failure)),
            (r#" {"a":{"dtm_result":1},"dtm_result":"ONGOING"} "#, Some(DtmResult::Ongoing)),
            (r#"{"dtm_result":"\u0046AILURE"}"#, Some(DtmResult::Failure)),
            (r#"{"dtm_result":"SUCCESS"}"#, None),
            (r#"{"dtm_result":"a FAILURE"}"#, None),
            (r#"{"dtm_result":["FAILURE"]}"#, None),
            (r#"{"message":"FAILURE"}"#, None),
            (r#"[{"dtm_result":"FAILURE"}]"#, None),
            (r#"["FAILURE"]"#, None),
            ("FAILURE", None),
            ("", None),
        ] {
            assert_eq!(dtm_result(body), Ok(word), "{body}");
        }
    }

    #[test]
    fn something_before_the_object_is_damage() {
        for before in [")]}',\n", "\u{200b}", "\u{fffd}", "<!-- -->", "Warning: x\n"] {
            let error = dtm_result(&format!(r#"{before}{{"dtm_result":"FAILURE"}}"#)).unwrap_err();
            assert!(error.contains("before its JSON object"), "{before:?}: {error}");
        }
    }

    #[test]
    fn what_is_not_asked_for_may_be_anything_that_json_allows() {
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        for value in ["1e999", r#""\ud800""#, deep.as_str(), "-0", r#"{"dtm_result":"SUCCESS"}"#] {
            let body = format!(r#"{{"a":{value},"dtm_result":"FAILURE","b":{value}}}"#);
            assert_eq!(dtm_result(&body), Ok(Some(DtmResult::Failure)), "{value}");
        }
    }

    #[test]
    fn an_object_that_is_damaged_says_so() {
        for body in
            ["{", "\u{feff}{}", "{}x", "{\"a\":\"\t\"}", "{\"a\":NaN}", r#"{"a":1,}"#, r#"{"dtm_result":"\ud800"}"#]
        {
            assert!(dtm_result(body).unwrap_err().contains("JSON is damaged"), "{body}");
        }
    }
}
