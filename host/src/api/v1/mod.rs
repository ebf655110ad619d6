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

use super::{context::Context, error::Error, json};
use crate::{
    engine::{self, Record},
    saga::render,
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
            post(plan::plan).get(async |context| saga(context, Ok(Path("plan".to_owned()))).await),
        )
        .route("/api/v1/sagas/{gid}", get(saga))
        .route("/api/v1/sagas/{gid}/log", get(log))
}

/// A saga with the outputs of its branches.
async fn saga(State(context): State<Context>, gid: Gid) -> Result<Response, Error> {
    let record = find(&context, gid).await?;
    Ok(json::response(StatusCode::OK, saga::encode(&record.saga, context.engine())))
}

/// A saga's log as text.
async fn log(State(context): State<Context>, gid: Gid) -> Result<Response, Error> {
    let record = find(&context, gid).await?;
    let log = render::log(record.saga.definition(), &record.log).map_err(engine::Error::Illegal)?;
    Ok((StatusCode::OK, [(CONTENT_TYPE, "text/plain; charset=utf-8")], log).into_response())
}

/// The path segment that holds a saga's gid.
type Gid = Result<Path<String>, PathRejection>;

async fn find(context: &Context, gid: Gid) -> Result<Record, Error> {
    // A rejected segment is not UTF-8, and every gid is.
    let Path(gid) = gid.map_err(|_| Error::NotFound { gid: String::new() })?;
    context.engine().find(&gid).await?.ok_or(Error::NotFound { gid })
}
