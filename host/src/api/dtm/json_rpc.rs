//! DTM's API as JSON-RPC 2.0, for clients that speak that (`dtmsvr/api_json_rpc.go`): `POST /api/json-rpc`.
//!
//! The parameters of a method are the body of the endpoint of the same name, and what is refused there is refused here.
//! As in DTM the `id` must be a string that is not empty, there are no notifications and no batches, and the answer
//! comes with status 200 unless the request is no JSON.

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
    prepare_saga, refuse_abort, request, response, submit_saga,
};
use crate::api::{
    Context,
    body::Body,
    error::{Answer, Error},
};

/// DTM's own code for FAILURE; the others are those of JSON-RPC.
const FAILURE: i32 = -32901;
const PARSE_ERROR: i32 = -32700;
const BAD_REQUEST: i32 = -32600;
const NO_SUCH_METHOD: i32 = -32601;
const INTERNAL_ERROR: i32 = -32603;

pub(super) fn routes() -> Router<Context> {
    Router::new().route("/api/json-rpc", post(answer))
}

#[derive(Default)]
struct Call<'a> {
    jsonrpc: String,
    method: String,
    id: String,
    params: Option<&'a RawValue>,
}

impl<'de> Fields<'de> for Call<'de> {
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

/// The keys of an answer in the order of Go's maps, which is that of the alphabet.
#[derive(Serialize)]
struct Reply<'a> {
    error: Option<Refusal>,
    id: &'a str,
    jsonrpc: &'static str,
    result: Option<Gid>,
}

#[derive(Serialize)]
struct Refusal {
    code: i32,
    message: String,
}

#[derive(Serialize)]
struct Gid {
    gid: String,
}

async fn answer(State(context): State<Context>, body: Result<Body, Error>) -> Response {
    let body = match body {
        Ok(Body(body)) => body,
        Err(error) => return error.into_response(),
    };
    let call = match request::read::<Call<'_>>(&body) {
        Ok(call) => call,
        Err(error) => {
            let message = format!("Parse json error: {}", Answer::from(Error::from(error)).message);
            return reply(StatusCode::BAD_REQUEST, "", Err(Refusal { code: PARSE_ERROR, message }));
        }
    };
    let result = perform(&context, &call).await;
    reply(StatusCode::OK, &call.id, result)
}

async fn perform(context: &Context, call: &Call<'_>) -> Result<Option<Gid>, Refusal> {
    if call.id.is_empty() || call.jsonrpc != "2.0" {
        let message = "Bad json request: id must be a string that is not empty, and jsonrpc \"2.0\"".to_owned();
        return Err(Refusal { code: BAD_REQUEST, message });
    }
    let params = call.params.map_or("{}", RawValue::get).as_bytes();
    match &*call.method {
        "newGid" => return Ok(Some(Gid { gid: context.gids().next(context.engine().now()) })),
        "prepare" => prepare_saga(context, params).await,
        "submit" => submit_saga(context, params).await,
        "abort" => Err(refuse_abort(context, params).await),
        "registerBranch" => Err(Error::OtherModes { endpoint: "registerBranch" }),
        unknown => {
            let name: String = unknown.chars().take(request::EXCERPT_CHARS_MAX).collect();
            return Err(Refusal { code: NO_SUCH_METHOD, message: format!("Method not found: {name}") });
        }
    }?;
    Ok(None)
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let Answer { status, message, .. } = error.into();
        Self { code: if status == StatusCode::CONFLICT { FAILURE } else { INTERNAL_ERROR }, message }
    }
}

fn reply(status: StatusCode, id: &str, result: Result<Option<Gid>, Refusal>) -> Response {
    let (result, error) = match result {
        Ok(result) => (result, None),
        Err(refusal) => (None, Some(refusal)),
    };
    response::json(status, response::to_json(&Reply { error, id, jsonrpc: "2.0", result }))
}
