//! DTM's gRPC service for sagas, `dtmgimp.Dtm`: the same requests as over HTTP, so the same engine behind them.
//!
//! ```text
//!  connection ──> router ──> body ──> message ──> dtm::request ──> engine ──> status
//!  (serve_http2)
//! ```
//!
//! A verdict is a status code, as in DTM's `DtmError2GrpcError` (`client/dtmgrpc/type.go`): `Aborted` stands for FAILURE.
//! Methods of other transaction modes answer `Unimplemented`.

mod message;

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
    Context,
    body::Body,
    dtm,
    error::{Answer, Error},
};
use crate::branch::grpc::Raw;

/// The methods of the service that no saga needs.
const OTHER_MODES: [&str; 5] = ["RegisterBranch", "PrepareWorkflow", "Subscribe", "Unsubscribe", "DeleteTopic"];

/// All methods, each with its full path.
pub fn router(context: Context) -> Router {
    Router::new()
        .route("/dtmgimp.Dtm/NewGid", post(new_gid))
        .route("/dtmgimp.Dtm/Prepare", post(prepare))
        .route("/dtmgimp.Dtm/Submit", post(submit))
        .route("/dtmgimp.Dtm/Abort", post(abort))
        .route_layer(from_fn_with_state(context.clone(), dtm::metrics::count_grpc))
        .fallback(unimplemented)
        .with_state(context)
}

async fn new_gid(State(context): State<Context>, request: Request) -> Response {
    let next = async |context: Context, ()| Ok(GidReply { gid: context.gids().next(context.engine().now()) });
    answer(context, request, next).await
}

async fn prepare(State(context): State<Context>, request: Request) -> Response {
    let prepare = async |context: Context, request: DtmRequest| {
        let engine = context.engine();
        engine.prepare(request.into_definition(engine.now())?).await.map_err(Error::Prepare)
    };
    answer(context, request, prepare).await
}

async fn submit(State(context): State<Context>, request: Request) -> Response {
    let submit = async |context: Context, request: DtmRequest| {
        dtm::run(&context, request.into_definition(context.engine().now())?).await
    };
    answer(context, request, submit).await
}

async fn abort(State(context): State<Context>, request: Request) -> Response {
    let abort =
        async |context: Context, request: DtmRequest| Err::<(), _>(dtm::refuse_abort_of(&context, &request.gid).await);
    answer(context, request, abort).await
}

async fn unimplemented(request: Request) -> Response {
    let path = request.uri().path();
    let method = path.strip_prefix("/dtmgimp.Dtm/").unwrap_or_default();
    let refusal = match OTHER_MODES.into_iter().find(|known| *known == method) {
        Some(endpoint) => status(Error::OtherModes { endpoint }),
        None => Status::unimplemented("there is no such method: call NewGid, Prepare, Submit or Abort of dtmgimp.Dtm"),
    };
    refusal.into_http()
}

/// Reads the one message of a call, within the limits of bodies, and answers with one message or a status.
async fn answer<I, O, F>(context: Context, request: Request, method: F) -> Response
where
    I: Message + Default,
    O: Message,
    F: AsyncFn(Context, I) -> Result<O, Error>,
{
    let (parts, body) = request.into_parts();
    let body = match Body::from_request(Request::new(body), &context).await {
        Ok(Body(bytes)) => HttpBody::from(bytes),
        Err(error) => return status(error).into_http(),
    };
    let method = Unary(async |message: Bytes| {
        let message = I::decode(message).map_err(|error| status(Error::Message(error)))?;
        let reply = method(context.clone(), message).await.map_err(status)?;
        Ok(tonic::Response::new(Bytes::from(reply.encode_to_vec())))
    });
    let mut grpc = Grpc::new(Raw).max_decoding_message_size(context.limits().body_bytes_max);
    grpc.unary(method, Request::from_parts(parts, body)).await.map(HttpBody::new)
}

/// A refusal, in the words of HTTP and with gRPC's code for it.
fn status(error: Error) -> Status {
    let Answer { status, message, .. } = error.into();
    let code = match status {
        StatusCode::CONFLICT => Code::Aborted,
        StatusCode::BAD_REQUEST => Code::InvalidArgument,
        StatusCode::PAYLOAD_TOO_LARGE => Code::ResourceExhausted,
        StatusCode::REQUEST_TIMEOUT => Code::DeadlineExceeded,
        StatusCode::NOT_IMPLEMENTED => Code::Unimplemented,
        StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
        // As DTM answers whatever is no verdict.
        _ => Code::Unknown,
    };
    Status::new(code, message)
}

/// A function as the service of one method.
struct Unary<F>(F);

impl<F, Answering> UnaryService<Bytes> for Unary<F>
where
    F: FnMut(Bytes) -> Answering,
    Answering: Future<Output = Result<tonic::Response<Bytes>, Status>>,
{
    type Response = Bytes;
    type Future = Answering;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Answering {
        (self.0)(request.into_inner())
    }
}
