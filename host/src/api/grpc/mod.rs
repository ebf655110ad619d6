//! DTM's gRPC service for sagas, `dtmgimp.Dtm`: the operations of the HTTP API in another encoding.
//!
//! ```text
//!  connection ──> router ──> body ──> message ──> dtm::request ──> engine ──> status
//!  (serve_http2)
//! ```
//!
//! Results are status codes, as in DTM's `DtmError2GrpcError` (`client/dtmgrpc/type.go`): `Aborted` means FAILURE. Methods
//! of other transaction modes return `Unimplemented`.

#[cfg(test)]
mod fuzz;
mod message;

use std::sync::Mutex;

use axum::{
    Router,
    body::Body as HttpBody,
    extract::{FromRequest, Request, State},
    http::StatusCode,
    middleware::from_fn_with_state,
    response::Response,
    routing::post,
};
use bytes::Bytes;
use prost::Message;
use tonic::{
    Code, Status,
    server::{Grpc, UnaryService},
};

use self::message::{DtmRequest, GidReply};
use super::{
    body::Body,
    client::Client,
    context::Context,
    dtm::{metrics, operations},
    error::{Error, Rendered},
};
use crate::{branch::grpc::Raw, store::sync::lock};

/// The methods of the service that belong to other transaction modes.
const OTHER_MODES: [&str; 5] = ["RegisterBranch", "PrepareWorkflow", "Subscribe", "Unsubscribe", "DeleteTopic"];

/// The routes: one path for each method.
pub fn router(context: Context) -> Router {
    Router::new()
        .route("/dtmgimp.Dtm/NewGid", post(new_gid))
        .route("/dtmgimp.Dtm/Prepare", post(prepare))
        .route("/dtmgimp.Dtm/Submit", post(submit))
        .route("/dtmgimp.Dtm/Abort", post(abort))
        .route_layer(from_fn_with_state(context.requests().clone(), metrics::count_grpc))
        .fallback(unimplemented)
        .with_state(context)
}

async fn new_gid(State(context): State<Context>, request: Request) -> Response {
    let next =
        async |context: Context, _: Client, ()| Ok(GidReply { gid: context.gids().next(context.engine().now()) });
    handle(context, request, next).await
}

async fn prepare(State(context): State<Context>, request: Request) -> Response {
    let prepare = async |context: Context, client: Client, request: DtmRequest| {
        operations::prepare(&context, client, request.into_definition(context.engine().now())?).await
    };
    handle(context, request, prepare).await
}

async fn submit(State(context): State<Context>, request: Request) -> Response {
    let submit = async |context: Context, client: Client, request: DtmRequest| {
        operations::submit(&context, client, request.into_definition(context.engine().now())?).await
    };
    handle(context, request, submit).await
}

async fn abort(State(context): State<Context>, request: Request) -> Response {
    let abort = async |context: Context, client: Client, request: DtmRequest| {
        Err::<(), _>(operations::refuse_abort(&context, client, &request.gid).await)
    };
    handle(context, request, abort).await
}

async fn unimplemented(request: Request) -> Response {
    let path = request.uri().path();
    let method = path.strip_prefix("/dtmgimp.Dtm/").unwrap_or_default();
    let refused = match OTHER_MODES.into_iter().find(|known| *known == method) {
        Some(endpoint) => status(Error::OtherModes { endpoint }),
        None => Status::unimplemented("there is no such method: call NewGid, Prepare, Submit or Abort of dtmgimp.Dtm"),
    };
    refused.into_http()
}

/// Reads the one message of a call, within the limits of bodies, and responds with one message or a status.
async fn handle<I, O, F>(context: Context, request: Request, method: F) -> Response
where
    I: Message + Default,
    O: Message,
    F: AsyncFn(Context, Client, I) -> Result<O, Error>,
{
    let (parts, body) = request.into_parts();
    let client = Client::of(&parts.extensions);
    let mut whole = Request::new(body);
    *whole.extensions_mut() = parts.extensions.clone();
    let body = match Body::from_request(whole, &context).await {
        Ok(Body(bytes)) => bytes,
        Err(error) => return status(error).into_http(),
    };
    // For the copy that tonic takes the message from, until it is decoded.
    let Some(room) = context.memory().requests_of(client.0).try_reserve(body.len()) else {
        return status(Error::RequestMemory).into_http();
    };
    let (body, room) = (HttpBody::from(body), Mutex::new(Some(room)));
    let method = Unary(async |message: Bytes| {
        let message = I::decode(message).map_err(|error| status(Error::Message(error)))?;
        drop(lock(&room).take());
        let reply = method(context.clone(), client, message).await.map_err(status)?;
        Ok(tonic::Response::new(Bytes::from(reply.encode_to_vec())))
    });
    let mut grpc = Grpc::new(Raw).max_decoding_message_size(context.limits().body_bytes_max);
    grpc.unary(method, Request::from_parts(parts, body)).await.map(HttpBody::new)
}

/// An error with the message of HTTP and the matching code of gRPC.
fn status(error: Error) -> Status {
    let Rendered { status, message, .. } = error.into();
    let code = match status {
        StatusCode::CONFLICT => Code::Aborted,
        StatusCode::BAD_REQUEST => Code::InvalidArgument,
        StatusCode::PAYLOAD_TOO_LARGE => Code::ResourceExhausted,
        StatusCode::REQUEST_TIMEOUT => Code::DeadlineExceeded,
        StatusCode::NOT_IMPLEMENTED => Code::Unimplemented,
        StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
        // As in DTM, for an error that says nothing about the saga.
        _ => Code::Unknown,
    };
    Status::new(code, message)
}

/// A function as tonic's service of one method.
struct Unary<F>(F);

impl<F, Reply> UnaryService<Bytes> for Unary<F>
where
    F: FnMut(Bytes) -> Reply,
    Reply: Future<Output = Result<tonic::Response<Bytes>, Status>>,
{
    type Response = Bytes;
    type Future = Reply;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Reply {
        (self.0)(request.into_inner())
    }
}
