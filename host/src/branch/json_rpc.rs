//! HTTP branches that are called by JSON-RPC 2.0, as in DTM (`getURLResult` in `dtmsvr/trans_status.go`): those of a saga
//! whose `protocol` is `json-rpc`, if the address has a parameter `method`.
//!
//! The payload must be an object. Its members are the parameters of the method, together with the four that DTM adds to
//! the query of other HTTP branches; here the query is unchanged. `answer` reads what comes back.

use serde::Serialize;
use serde_json::{Map, Value};

use super::Call;

/// The body of the request. The error is a text for people.
pub(super) fn request(call: &Call, method: &str) -> Result<String, String> {
    #[derive(Serialize)]
    struct Request<'a> {
        jsonrpc: &'static str,
        id: String,
        method: &'a str,
        params: Map<String, Value>,
    }
    let not_an_object =
        |error| format!("the payload is not a JSON object, which json-rpc needs for its parameters: {error}");
    let mut params: Map<String, Value> = match &*call.payload() {
        [] => Map::new(),
        payload => serde_json::from_slice(payload).map_err(not_an_object)?,
    };
    let branch_id = call.branch_id().to_string();
    let dtm_params = [
        ("gid", call.saga.gid().as_str()),
        ("trans_type", "saga"),
        ("branch_id", &*branch_id),
        ("op", call.branch_op.op.as_str()),
    ];
    params.extend(dtm_params.map(|(name, value)| (name.to_owned(), value.into())));
    let request = Request { jsonrpc: "2.0", id: call.idempotency_key(), method, params };
    serde_json::to_string(&request).map_err(|error| error.to_string())
}
