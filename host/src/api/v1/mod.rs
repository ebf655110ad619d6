//! Wasaga's own API, for what DTM's does not cover: plugins, plans, and sagas with the outputs of their branches.

mod destinations;
mod plan;
pub mod plugins;
mod saga;
mod shown;
pub mod uploads;

use axum::{
    Router,
    extract::{Path, State, rejection::PathRejection},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};

use bytes::Bytes;

use super::{answer, client::Client, context::Context, error::Error, json};
use crate::{
    engine::{self, Record},
    hidden::Secrets,
    saga::{IllegalEvent, render},
};

/// The routes.
pub fn routes() -> Router<Context> {
    Router::new()
        .route("/api/v1/destinations", get(destinations::list))
        .route("/api/v1/plugins", get(plugins::list))
        .route("/api/v1/plugins/{name}", get(plugins::show).put(plugins::upload))
        // `plan` is also a valid gid, so a GET reads the saga of that name.
        .route(
            "/api/v1/sagas/plan",
            post(plan::plan).get(async |context, client| saga(context, client, Ok(Path("plan".to_owned()))).await),
        )
        .route("/api/v1/sagas/{gid}", get(saga))
        .route("/api/v1/sagas/{gid}/log", get(log))
}

/// What these answers hold in memory, as a multiple of the saga's stored bytes: as stored, decoded and encoded.
const COPIES: usize = 3;

/// A saga with the outputs of its branches.
async fn saga(State(context): State<Context>, client: Client, gid: Gid) -> Result<Response, Error> {
    let engine = context.engine().clone();
    let json = show(&context, client, gid, move |record| Ok(saga::encode(&record.saga, &engine))).await?;
    Ok(json::response(StatusCode::OK, json))
}

/// A saga's log as text.
async fn log(State(context): State<Context>, client: Client, gid: Gid) -> Result<Response, Error> {
    let engine = context.engine().clone();
    let render = move |record: &Record| {
        let definition = record.saga.definition();
        let secrets = Secrets::of(definition, engine.hidden_headers());
        let log = render::log_with(definition, &record.log, &|step, text: &str| secrets.text(Some(step), text));
        log.map(String::into_bytes)
    };
    let log = show(&context, client, gid, render).await?;
    Ok((StatusCode::OK, [(CONTENT_TYPE, "text/plain; charset=utf-8")], log).into_response())
}

/// The path segment that holds a saga's gid.
type Gid = Result<Path<String>, PathRejection>;

/// A saga as `encode` shows it.
async fn show(
    context: &Context,
    Client(client): Client,
    gid: Gid,
    encode: impl FnOnce(&Record) -> Result<Vec<u8>, IllegalEvent> + Send + 'static,
) -> Result<Bytes, Error> {
    // A rejected segment is not UTF-8, and every gid is.
    let Path(gid) = gid.map_err(|_| Error::NotFound { gid: String::new() })?;
    let encode = move |record: Option<Record>, room| {
        record.map(|record| answer::hold(encode(&record).map_err(engine::Error::Illegal)?, room))
    };
    context
        .engine()
        .show(&gid, COPIES, context.memory().requests_of(client), encode)
        .await?
        .ok_or(Error::NotFound { gid })?
}
