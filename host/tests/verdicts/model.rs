//! What DTM makes of an answer, by its code: `HTTPResp2DtmError` (`client/dtmcli/utils.go`), `getURLResult`
//! (`dtmsvr/trans_status.go`), and resty, which decodes `gzip` alone.

use std::io::Read;

use flate2::read::MultiGzDecoder;
use http::HeaderMap;
use serde_json::Value;

use crate::Is;

/// The verdict of an HTTP answer. DTM knows none of the settings.
pub fn verdict(status: u16, headers: &HeaderMap, body: &[u8], is_json_rpc: bool) -> Is {
    // Go's transport refuses transfer codings but `chunked`.
    if headers.contains_key("transfer-encoding") {
        return Is::Unknown;
    }
    let is_gzip = headers.get("content-encoding").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"gzip"));
    let mut read = Vec::new();
    if is_gzip && !body.is_empty() {
        if MultiGzDecoder::new(body).read_to_end(&mut read).is_err() {
            return Is::Unknown;
        }
    } else {
        read.extend_from_slice(body);
    }
    let has = |word: &[u8]| read.windows(word.len()).any(|part| part == word);
    match status {
        425 => Is::Ongoing,
        _ if has(b"ONGOING") => Is::Ongoing,
        409 => Is::Rejected,
        _ if has(b"FAILURE") => Is::Rejected,
        200 if is_json_rpc => json_rpc(&read),
        200 => Is::Succeeded,
        _ => Is::Unknown,
    }
}

/// The body is decoded to a map, and any `error` in it is one. Its code is compared with a number of another type.
fn json_rpc(body: &[u8]) -> Is {
    match serde_json::from_slice(body) {
        Ok(Value::Null) => Is::Succeeded,
        Ok(Value::Object(answer)) if answer.get("error").is_none_or(Value::is_null) => Is::Succeeded,
        _ => Is::Unknown,
    }
}
