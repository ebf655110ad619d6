//! HTTP branches that speak JSON-RPC 2.0, as DTM calls them (`getURLResult` in `dtmsvr/trans_status.go`): those of a
//! saga whose `protocol` is `json-rpc`, where the address has a parameter `method`.
//!
//! The parameters are the members of the payload, which must be an object, and DTM's four. The address is called as it
//! is: what HTTP branches learn from its query stands in the parameters here.

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Call, Outcome};

/// DTM's codes; any other error means that nobody knows.
const FAILURE: i64 = -32901;
const ONGOING: i64 = -32902;

/// The body of the request. The error is for people.
pub(super) fn request(call: &Call, method: &str) -> Result<String, String> {
    #[derive(Serialize)]
    struct Request<'a> {
        jsonrpc: &'static str,
        id: String,
        method: &'a str,
        params: Map<String, Value>,
    }
    let no_object = |error| format!("the payload is no JSON object, which json-rpc needs for its parameters: {error}");
    let mut params: Map<String, Value> = match &*call.payload() {
        [] => Map::new(),
        payload => serde_json::from_slice(payload).map_err(no_object)?,
    };
    let branch_id = call.branch_id().to_string();
    let own = [
        ("gid", call.saga.gid().as_str()),
        ("trans_type", "saga"),
        ("branch_id", &*branch_id),
        ("op", call.branch_op.op.as_str()),
    ];
    params.extend(own.map(|(name, value)| (name.to_owned(), value.into())));
    let request = Request { jsonrpc: "2.0", id: call.idempotency_key(), method, params };
    serde_json::to_string(&request).map_err(|error| error.to_string())
}

/// What the body of an answer says against its success, which is what HTTP takes it for.
pub(super) fn understand(body: &[u8]) -> Option<Outcome> {
    let reply: Value = match serde_json::from_slice(body) {
        Ok(reply) => reply,
        Err(error) => return Some(Outcome::unknown(format!("the answer is no JSON-RPC: {error}"))),
    };
    let error = reply.get("error").filter(|error| !error.is_null())?;
    Some(match error.get("code").and_then(Value::as_i64) {
        Some(FAILURE) => Outcome::rejected(error.to_string()),
        Some(ONGOING) => Outcome::ongoing(None),
        _ => Outcome::unknown(error.to_string()),
    })
}
