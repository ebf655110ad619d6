//! DTM's API as JSON-RPC 2.0 (`dtmsvr/api_json_rpc.go`): `POST /api/json-rpc`.
//!
//! The parameters of a method are the body of the HTTP endpoint of the same name, with the same rules. As in DTM the `id`
//! must be a string that is not empty, there are no notifications and no batches, and the status of the response is 200
//! unless the request is not JSON.

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use serde::{Serialize, de::MapAccess};
use serde_json::value::RawValue;

use super::{
    lenient::{Fields, Text, set},
    operations, request,
};
use crate::api::{
    body::Body,
    client::Client,
    context::Context,
    error::{Error, Rendered},
    json,
};

/// DTM's code for FAILURE; the other codes are those of JSON-RPC.
const FAILURE: i32 = -32901;
const PARSE_ERROR: i32 = -32700;
const BAD_REQUEST: i32 = -32600;
const NO_SUCH_METHOD: i32 = -32601;
const INTERNAL_ERROR: i32 = -32603;

pub(super) fn routes() -> Router<Context> {
    Router::new().route("/api/json-rpc", post(handle))
}

/// A call. Its parameters stay as they are until the method is known.
#[derive(Default)]
pub(super) struct RpcRequest<'a> {
    jsonrpc: String,
    method: String,
    id: String,
    pub(super) params: Option<&'a RawValue>,
}

impl<'de> Fields<'de> for RpcRequest<'de> {
    const NAMES: &'static [&'static str] = &["jsonrpc", "method", "id", "params"];

    fn read<A: MapAccess<'de>>(&mut self, name: &'static str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "jsonrpc" => set::<Text<'_>, _>(&mut self.jsonrpc, map),
            "method" => set::<Text<'_>, _>(&mut self.method, map),
            "id" => set::<Text<'_>, _>(&mut self.id, map),
            _ => {
                self.params = map.next_value()?;
                Ok(())
            }
        }
    }
}

/// A response. Its keys are in alphabetical order, in which Go writes maps.
#[derive(Serialize)]
struct RpcResponse<'a> {
    error: Option<RpcError>,
    id: &'a str,
    jsonrpc: &'static str,
    result: Option<Gid>,
}

#[derive(Serialize)]
struct RpcError {
    code: i32,
    message: String,
}

#[derive(Serialize)]
struct Gid {
    gid: String,
}

async fn handle(State(context): State<Context>, client: Client, body: Result<Body, Error>) -> Response {
    let body = match body {
        Ok(Body(body)) => body,
        Err(error) => return error.into_response(),
    };
    let call = match request::read::<RpcRequest<'_>>(&body) {
        Ok(call) => call,
        Err(error) => {
            let message = format!("Parse json error: {}", Rendered::from(Error::from(error)).message);
            return reply(StatusCode::BAD_REQUEST, "", Err(RpcError { code: PARSE_ERROR, message }));
        }
    };
    let result = perform(&context, client, &call).await;
    reply(StatusCode::OK, &call.id, result)
}

async fn perform(context: &Context, client: Client, call: &RpcRequest<'_>) -> Result<Option<Gid>, RpcError> {
    if call.id.is_empty() || call.jsonrpc != "2.0" {
        let message = "Bad json request: id must be a string that is not empty, and jsonrpc \"2.0\"".to_owned();
        return Err(RpcError { code: BAD_REQUEST, message });
    }
    let params = call.params.map_or("{}", RawValue::get).as_bytes();
    match &*call.method {
        "newGid" => return Ok(Some(Gid { gid: context.gids().next(context.engine().now()) })),
        "prepare" => operations::prepare_json(context, client, params).await,
        "submit" => operations::submit_json(context, client, params).await,
        "abort" => Err(operations::refuse_abort_json(context, client, params).await),
        "registerBranch" => Err(Error::OtherModes { endpoint: "registerBranch" }),
        unknown => {
            let name: String = unknown.chars().take(request::EXCERPT_CHARS_MAX).collect();
            return Err(RpcError { code: NO_SUCH_METHOD, message: format!("Method not found: {name}") });
        }
    }?;
    Ok(None)
}

impl From<Error> for RpcError {
    fn from(error: Error) -> Self {
        let Rendered { status, message, .. } = error.into();
        Self { code: if status == StatusCode::CONFLICT { FAILURE } else { INTERNAL_ERROR }, message }
    }
}

fn reply(status: StatusCode, id: &str, result: Result<Option<Gid>, RpcError>) -> Response {
    let (result, error) = match result {
        Ok(result) => (result, None),
        Err(error) => (None, Some(error)),
    };
    json::response(status, json::encode(&RpcResponse { error, id, jsonrpc: "2.0", result }))
}
