//! DTM's HTTP API for sagas, with the same paths, methods, bodies, statuses and texts, so that DTM's clients work
//! unchanged.
//!
//! [`request`] decodes a body into a definition, the engine acts on it, and [`view`] encodes a saga's state. The content
//! type of a request is ignored, as DTM ignores it.
//!
//! Reading order: [`lenient`], [`request`], [`order`], [`operations`], this file, [`view`], [`json_rpc`],
//! [`other_modes`], [`metrics`].

#[cfg(test)]
pub(super) mod fuzz;
pub(super) mod gid;
mod json_rpc;
mod lenient;
pub(super) mod metrics;
pub(super) mod operations;
mod order;
mod other_modes;
pub mod request;
pub mod view;

use std::time::Duration;

use axum::{
    Router,
    body::Body as HttpBody,
    extract::{Query, State},
    http::StatusCode,
    response::Response,
    routing::{any, get, post},
};
use serde::Serialize;

use super::{answer, body::Body, client::Client, context::Context, error::Error, json};
use crate::{
    engine::{ControlError, Filter, Record, Retried, SagaId, Taken},
    memory::Reserved,
    saga::{Status, Timestamp},
};

/// Default `timeout` of `resetCronTime`, in seconds: all that wait count. DTM has 105, and no limit of its waits; here none
/// is longer than `retry_interval_max` and a quarter, which is 75 s by default.
const RETRY_DUE_AFTER_S: u64 = 0;

/// Default `limit` of `resetCronTime`, in sagas.
const RETRY_LIMIT_DEFAULT: u64 = 100;

/// Default `limit` of `all`, in sagas.
const LIST_DEFAULT: usize = 100;

/// Most sagas on a page of `all`.
const LIST_MAX: usize = 1000;

/// A page of `all` ends with the saga that brings it to this many bytes, whatever its `limit`.
const LIST_BYTES: usize = 8 << 20;

const SUCCESS: &str = r#"{"dtm_result":"SUCCESS"}"#;

const STATUSES: [Status; 5] = [Status::Prepared, Status::Submitted, Status::Aborting, Status::Succeed, Status::Failed];

/// The routes. Their paths are given in full, since nested routers copy the address of every request.
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

/// The response to a request that succeeded and returns no data.
fn success() -> Response {
    json::response(StatusCode::OK, SUCCESS)
}

async fn ping() -> Response {
    json::response(StatusCode::OK, r#"{"msg":"pong"}"#)
}

async fn version() -> Response {
    json::response(StatusCode::OK, concat!(r#"{"version":"v"#, env!("CARGO_PKG_VERSION"), r#""}"#))
}

/// All values are strings: Go's client reads them into a map of strings.
async fn new_gid(State(context): State<Context>) -> Response {
    #[derive(Serialize)]
    struct NewGid {
        dtm_result: &'static str,
        gid: String,
    }
    let gid = context.gids().next(context.engine().now());
    json::response(StatusCode::OK, json::encode(&NewGid { dtm_result: "SUCCESS", gid }))
}

async fn prepare(State(context): State<Context>, client: Client, Body(body): Body) -> Result<Response, Error> {
    operations::prepare_json(&context, client, &body).await?;
    Ok(success())
}

async fn submit(State(context): State<Context>, client: Client, Body(body): Body) -> Result<Response, Error> {
    operations::submit_json(&context, client, body).await?;
    Ok(success())
}

async fn abort(State(context): State<Context>, client: Client, Body(body): Body) -> Result<Response, Error> {
    Err(operations::refuse_abort_json(&context, client, &body).await)
}

async fn force_stop(State(context): State<Context>, Body(body): Body) -> Result<Response, Error> {
    let gid = request::decode_gid(&body)?;
    match context.engine().force_stop(&gid).await {
        Ok(()) => Ok(success()),
        Err(ControlError::Finished(status)) => Err(Error::ForceStop(status)),
        Err(ControlError::NotFound) => Err(Error::Unknown { gid: gid.into_owned() }),
        Err(ControlError::Engine(error)) => Err(error.into()),
    }
}

/// Retries a saga now. A finished saga has nothing to retry, which is a success too.
async fn reset_next_cron_time(State(context): State<Context>, Body(body): Body) -> Result<Response, Error> {
    let gid = request::decode_gid(&body)?;
    match context.engine().retry_now(&gid).await {
        Ok(()) | Err(ControlError::Finished(_)) => Ok(success()),
        Err(ControlError::NotFound) => Err(Error::Unknown { gid: gid.into_owned() }),
        Err(ControlError::Engine(error)) => Err(error.into()),
    }
}

/// Retries up to `limit` sagas whose next retry is more than `timeout` seconds away, those first that would wait longest.
async fn reset_cron_time(State(context): State<Context>, Query(params): Query<Params>) -> Result<Response, Error> {
    #[derive(Serialize)]
    struct ResetCronTime {
        has_remaining: bool,
        succeed_count: u64,
    }
    let number = |name, default| match integer(first(&params, name))? {
        None => Ok::<_, Error>(default),
        Some(given) => Ok(u64::try_from(given).unwrap_or_default()),
    };
    let (timeout_s, limit) = (number("timeout", RETRY_DUE_AFTER_S)?, number("limit", RETRY_LIMIT_DEFAULT)?);
    let engine = context.engine();
    let due_after = engine.now().after(Duration::from_secs(timeout_s));
    let Retried { count, has_more } = engine.retry_all_due_after(due_after, limit).await?;
    let body = ResetCronTime { has_remaining: has_more, succeed_count: count };
    Ok(json::response(StatusCode::OK, json::encode(&body)))
}

async fn query(
    State(context): State<Context>,
    Client(client): Client,
    Query(params): Query<Params>,
) -> Result<Response, Error> {
    let gid = first(&params, "gid");
    if gid.is_empty() {
        return Err(Error::NoGid);
    }
    let engine = context.engine().clone();
    let encode =
        move |record: Option<Record>, room| answer::hold(view::query(record.as_ref(), view::Rules::of(&engine)), room);
    let room = context.memory().requests_of(client);
    let json = context.engine().show(gid, view::QUERY_COPIES, room, encode).await??;
    Ok(json::response(StatusCode::OK, json))
}

async fn all(
    State(context): State<Context>,
    Client(client): Client,
    Query(params): Query<Params>,
) -> Result<Response, Error> {
    let engine = context.engine();
    let (gid, position) = (first(&params, "gid"), first(&params, "position").to_owned());
    let holder = context.memory().requests_of(client);
    let list = view::List::new(&holder);
    let rules = engine.clone();
    if !gid.is_empty() {
        let encode =
            move |record: Option<Record>, room| one(list, record.as_ref(), room, view::Rules::of(&rules), &position);
        let body = engine.show(gid, view::LIST_COPIES, holder, encode).await??;
        return Ok(json::response(StatusCode::OK, body));
    }
    let Some(filter) = filter(&params)? else {
        return Ok(json::response(StatusCode::OK, list.finish("")));
    };
    let push = move |list: &mut view::List, record: Record, room: Reserved| match list.push(
        &record,
        room,
        view::Rules::of(&rules),
    ) {
        false => Taken::NoRoom,
        true if list.bytes() < LIST_BYTES => Taken::AndMore,
        true => Taken::AsLast,
    };
    let (list, listed) = engine.show_list(filter, holder, list, push).await?;
    // The position is where this page began if not one saga was added.
    if listed.count == 0 && listed.is_cut {
        return Err(Error::AnswerMemory);
    }
    let next_position = listed.next.map(|SagaId(id)| id.to_string()).unwrap_or_default();
    Ok(json::response(StatusCode::OK, list.finish(&next_position)))
}

/// The list of one saga, if there is one.
fn one(
    mut list: view::List,
    record: Option<&Record>,
    room: Reserved,
    rules: view::Rules<'_>,
    position: &str,
) -> Result<HttpBody, Error> {
    match record {
        None => Ok(view::no_list(position).into()),
        Some(record) if list.push(record, room, rules) => Ok(list.finish(position)),
        Some(_) => Err(Error::AnswerMemory),
    }
}

/// The parameters of the query string, in the order given.
type Params = Vec<(String, String)>;

/// The first value of a parameter, which is the one that DTM reads; empty if there is none.
fn first<'a>(params: &'a Params, name: &str) -> &'a str {
    params.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
}

/// The filter of `all`; `None` if no saga can match.
fn filter(params: &Params) -> Result<Option<Filter>, Error> {
    let limit = match integer(first(params, "limit"))? {
        None => LIST_DEFAULT,
        // A negative limit means no limit, as in DTM.
        Some(limit) => usize::try_from(limit).unwrap_or(LIST_MAX).clamp(1, LIST_MAX),
    };
    let timestamp = |name| {
        let ms = integer(first(params, name))?;
        Ok::<_, Error>(ms.map(|ms| Timestamp(u64::try_from(ms).unwrap_or_default())))
    };
    let (created_from, created_to) = (timestamp("createTimeStart")?, timestamp("createTimeEnd")?);
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
    Ok(Some(Filter { status, created_from, created_to, before, limit }))
}

fn integer(given: &str) -> Result<Option<i64>, Error> {
    if given.is_empty() {
        return Ok(None);
    }
    given.parse().map(Some).map_err(|_| Error::NotInteger { given: given.to_owned() })
}
