//! DTM's HTTP API for sagas: the same paths, methods, bodies, statuses and words, so that its clients work unchanged.
//!
//! A request passes [`request`] (bytes to a definition), the engine, and [`response`] or [`view`] (state to bytes). The
//! content type of a request is ignored, as DTM ignores it.
//!
//! Reading order: [`lenient`], [`request`], [`order`], this file, [`response`], [`view`], [`json_rpc`],
//! [`other_modes`], [`metrics`].

pub mod gid;
mod json_rpc;
mod lenient;
pub(super) mod metrics;
mod order;
mod other_modes;
pub mod request;
pub mod response;
pub mod view;

use std::time::Duration;

use axum::{
    Router,
    extract::{Query, State},
    http::StatusCode,
    response::Response,
    routing::{any, get, post},
};
use serde::Serialize;

use super::{Context, body::Body, error::Error};
use crate::{
    engine::{ControlError, Filter, RetriedNow, SagaId, Submitted},
    saga::{Definition, Saga, Status, Timestamp},
};

/// Wait from which on `resetCronTime` retries sagas when the client does not say, in seconds: three times the time-out of
/// DTM's other modes, as in DTM.
const RETRY_DUE_AFTER_S: u64 = 105;

/// How many sagas `resetCronTime` retries when the client does not say.
const RETRY_LIMIT_DEFAULT: u64 = 100;

/// Sagas on a page of `all` when the client does not say.
const LIST_DEFAULT: usize = 100;

/// Most sagas on a page of `all`.
const LIST_MAX: usize = 1000;

/// Sagas of `all` that are read from the store at a time: what bounds the memory of one request, payloads included.
const LIST_CHUNK: usize = 32;

/// Bytes of sagas after which a page of `all` ends, however few they are.
const LIST_BYTES: usize = 8 << 20;

const STATUSES: [Status; 5] = [Status::Prepared, Status::Submitted, Status::Aborting, Status::Succeed, Status::Failed];

/// The routes, with their full paths: nesting would copy the address of every request.
pub fn routes() -> Router<Context> {
    Router::new()
        .route("/api/ping", any(ping))
        .route("/api/dtmsvr/version", get(version))
        .route("/api/dtmsvr/newGid", get(new_gid))
        .route("/api/dtmsvr/prepare", post(prepare))
        .route("/api/dtmsvr/submit", post(submit))
        .route("/api/dtmsvr/abort", post(abort))
        .route("/api/dtmsvr/forceStop", post(force_stop))
        .route("/api/dtmsvr/resetNextCronTime", post(reset_next_cron_time))
        .route("/api/dtmsvr/resetCronTime", get(reset_cron_time))
        .route("/api/dtmsvr/query", get(query))
        .route("/api/dtmsvr/all", get(all))
        .merge(json_rpc::routes())
        .merge(other_modes::routes())
}

async fn ping() -> Response {
    response::json(StatusCode::OK, r#"{"msg":"pong"}"#)
}

async fn version() -> Response {
    response::json(StatusCode::OK, concat!(r#"{"version":"v"#, env!("CARGO_PKG_VERSION"), r#""}"#))
}

/// All values are strings: Go's client reads them into a map of strings.
async fn new_gid(State(context): State<Context>) -> Response {
    #[derive(Serialize)]
    struct Body {
        dtm_result: &'static str,
        gid: String,
    }
    let gid = context.gids().next(context.engine().now());
    response::json(StatusCode::OK, response::to_json(&Body { dtm_result: "SUCCESS", gid }))
}

async fn prepare(State(context): State<Context>, Body(body): Body) -> Result<Response, Error> {
    prepare_saga(&context, &body).await?;
    Ok(response::success())
}

async fn submit(State(context): State<Context>, Body(body): Body) -> Result<Response, Error> {
    submit_saga(&context, body).await?;
    Ok(response::success())
}

/// Stores the saga that this JSON describes.
async fn prepare_saga(context: &Context, json: &[u8]) -> Result<(), Error> {
    let engine = context.engine();
    let definition = request::decode(json, engine.now())?;
    engine.prepare(definition).await.map_err(Error::Prepare)
}

/// Runs the saga that this JSON describes, and drops the JSON before it waits.
async fn submit_saga(context: &Context, json: impl AsRef<[u8]>) -> Result<(), Error> {
    let definition = request::decode(json.as_ref(), context.engine().now())?;
    drop(json);
    run(context, definition).await
}

/// Runs a saga; holds a client that waits for the result until there is one.
pub(super) async fn run(context: &Context, definition: Definition) -> Result<(), Error> {
    match context.engine().submit(definition).await.map_err(Error::Submit)? {
        Submitted::Accepted => Ok(()),
        Submitted::Settled(saga) => verdict(&saga),
    }
}

/// What a client that waited for the result learns. A failure does not mean that a saga has been rolled back, only that
/// it has not succeeded, so an unfinished one also says where it stands.
fn verdict(saga: &Saga) -> Result<(), Error> {
    match saga.status() {
        Status::Succeed => Ok(()),
        Status::Aborting | Status::Failed => {
            let reason = view::rollback_reason(saga).unwrap_or_default();
            Err(Error::Unsuccessful { message: ending_in_failure(reason), stands: None })
        }
        status @ (Status::Prepared | Status::Submitted) => {
            let message = "wait result not return success: FAILURE".to_owned();
            Err(Error::Unsuccessful { message, stands: Some(status.as_str()) })
        }
    }
}

/// Clients look for the word at the end.
fn ending_in_failure(mut reason: String) -> String {
    if !reason.ends_with("FAILURE") {
        reason.push_str(" FAILURE");
    }
    reason
}

async fn abort(State(context): State<Context>, Body(body): Body) -> Result<Response, Error> {
    Err(refuse_abort(&context, &body).await)
}

async fn refuse_abort(context: &Context, json: &[u8]) -> Error {
    match request::decode_gid(json) {
        Ok(gid) => refuse_abort_of(context, &gid).await,
        Err(error) => error.into(),
    }
}

/// Sagas cannot be aborted from outside, whatever mode the request claims: always refused, in DTM's words.
pub(super) async fn refuse_abort_of(context: &Context, gid: &str) -> Error {
    match context.engine().find(gid).await {
        Ok(Some(record)) => Error::Abort(record.saga.status()),
        Ok(None) => Error::Unknown { gid: gid.to_owned() },
        Err(error) => error.into(),
    }
}

async fn force_stop(State(context): State<Context>, Body(body): Body) -> Result<Response, Error> {
    let gid = request::decode_gid(&body)?;
    match context.engine().force_stop(&gid).await {
        Ok(()) => Ok(response::success()),
        Err(ControlError::Finished(status)) => Err(Error::ForceStop(status)),
        Err(ControlError::NotFound) => Err(Error::Unknown { gid: gid.into_owned() }),
        Err(ControlError::Engine(error)) => Err(error.into()),
    }
}

/// "Retry now". Also a success for a saga that has ended and has nothing to retry.
async fn reset_next_cron_time(State(context): State<Context>, Body(body): Body) -> Result<Response, Error> {
    let gid = request::decode_gid(&body)?;
    match context.engine().retry_now(&gid).await {
        Ok(()) | Err(ControlError::Finished(_)) => Ok(response::success()),
        Err(ControlError::NotFound) => Err(Error::Unknown { gid: gid.into_owned() }),
        Err(ControlError::Engine(error)) => Err(error.into()),
    }
}

/// "Retry now" for all sagas that wait for longer than `timeout` seconds; `limit` of them.
async fn reset_cron_time(State(context): State<Context>, Query(params): Query<Params>) -> Result<Response, Error> {
    #[derive(Serialize)]
    struct Body {
        has_remaining: bool,
        succeed_count: u64,
    }
    let number = |name, default| match integer(first(&params, name))? {
        None => Ok::<_, Error>(default),
        Some(given) => Ok(u64::try_from(given).unwrap_or_default()),
    };
    let (timeout_s, limit) = (number("timeout", RETRY_DUE_AFTER_S)?, number("limit", RETRY_LIMIT_DEFAULT)?);
    let engine = context.engine();
    let moment = engine.now().after(Duration::from_secs(timeout_s));
    let RetriedNow { count, has_more } = engine.retry_all_due_after(moment, limit).await?;
    let body = Body { has_remaining: has_more, succeed_count: count };
    Ok(response::json(StatusCode::OK, response::to_json(&body)))
}

async fn query(State(context): State<Context>, Query(params): Query<Params>) -> Result<Response, Error> {
    let gid = first(&params, "gid");
    if gid.is_empty() {
        return Err(Error::NoGid);
    }
    let engine = context.engine();
    let record = engine.find(gid).await?;
    Ok(response::json(StatusCode::OK, view::query(record.as_ref(), engine.policy())))
}

async fn all(State(context): State<Context>, Query(params): Query<Params>) -> Result<Response, Error> {
    let engine = context.engine();
    let (gid, position) = (first(&params, "gid"), first(&params, "position"));
    let mut list = view::List::default();
    if !gid.is_empty() {
        let Some(record) = engine.find(gid).await? else {
            return Ok(response::json(StatusCode::OK, view::no_list(position)));
        };
        list.push(&record, engine.policy());
        return Ok(response::json(StatusCode::OK, list.finish(position)));
    }
    let Some((mut filter, limit)) = filter(&params)? else {
        return Ok(response::json(StatusCode::OK, list.finish("")));
    };
    let mut listed = 0;
    loop {
        filter.limit = LIST_CHUNK.min(limit - listed);
        let page = engine.list(&filter).await?;
        page.sagas.iter().for_each(|record| list.push(record, engine.policy()));
        listed += page.sagas.len();
        filter.before = page.next;
        // A short page that is not the last: the engine has searched enough for one request.
        let is_short = page.sagas.len() < filter.limit;
        if page.next.is_none() || is_short || listed >= limit || list.bytes() >= LIST_BYTES {
            break;
        }
    }
    let next_position = filter.before.map(|SagaId(id)| id.to_string()).unwrap_or_default();
    Ok(response::json(StatusCode::OK, list.finish(&next_position)))
}

/// The parameters behind the `?`, in the order given.
type Params = Vec<(String, String)>;

/// The first value of a parameter, as DTM takes it; empty if there is none.
fn first<'a>(params: &'a Params, name: &str) -> &'a str {
    params.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
}

/// What `all` is asked for, and how many of it; `None` if no saga can match.
fn filter(params: &Params) -> Result<Option<(Filter, usize)>, Error> {
    let limit = match integer(first(params, "limit"))? {
        None => LIST_DEFAULT,
        // To DTM a negative limit is none.
        Some(limit) => usize::try_from(limit).unwrap_or(LIST_MAX).clamp(1, LIST_MAX),
    };
    let moment = |name| {
        let ms = integer(first(params, name))?;
        Ok::<_, Error>(ms.map(|ms| Timestamp(u64::try_from(ms).unwrap_or_default())))
    };
    let (created_from, created_to) = (moment("createTimeStart")?, moment("createTimeEnd")?);
    let before = match first(params, "position") {
        "" => None,
        given => Some(given.parse().map(SagaId).map_err(|_| Error::Position { given: given.to_owned() })?),
    };
    let status = match first(params, "status") {
        "" => None,
        given => match STATUSES.into_iter().find(|status| status.as_str() == given) {
            None => return Ok(None),
            status => status,
        },
    };
    if !["", "saga"].contains(&first(params, "transType")) {
        return Ok(None);
    }
    Ok(Some((Filter { status, created_from, created_to, before, limit: 0 }, limit)))
}

fn integer(given: &str) -> Result<Option<i64>, Error> {
    if given.is_empty() {
        return Ok(None);
    }
    given.parse().map(Some).map_err(|_| Error::NotInteger { given: given.to_owned() })
}
