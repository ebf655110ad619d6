//! Our own API: what DTM's has no place for.

mod plan;
pub mod plugins;
mod saga;
mod shown;

use axum::{
    Router,
    extract::{Path, State, rejection::PathRejection},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};

use super::{Context, dtm::response, error::Error};
use crate::{
    engine::{self, Record},
    saga::render,
};

/// The routes.
pub fn routes() -> Router<Context> {
    Router::new()
        .route("/api/v1/plugins", get(plugins::list))
        .route("/api/v1/plugins/{name}", get(plugins::show).put(plugins::upload))
        // A saga may be called so as well.
        .route(
            "/api/v1/sagas/plan",
            post(plan::plan).get(async |context| saga(context, Ok(Path("plan".to_owned()))).await),
        )
        .route("/api/v1/sagas/{gid}", get(saga))
        .route("/api/v1/sagas/{gid}/log", get(log))
}

/// A saga, with what its branches gave.
async fn saga(State(context): State<Context>, gid: Gid) -> Result<Response, Error> {
    let record = find(&context, gid).await?;
    Ok(response::json(StatusCode::OK, saga::json(&record.saga, context.engine().policy())))
}

/// A saga's log, as people read it.
async fn log(State(context): State<Context>, gid: Gid) -> Result<Response, Error> {
    let record = find(&context, gid).await?;
    let log = render::log(record.saga.definition(), &record.log).map_err(engine::Error::Illegal)?;
    Ok((StatusCode::OK, [(CONTENT_TYPE, "text/plain; charset=utf-8")], log).into_response())
}

/// The part of a path that names a saga.
type Gid = Result<Path<String>, PathRejection>;

async fn find(context: &Context, gid: Gid) -> Result<Record, Error> {
    // The only thing that can be wrong with one part of a path is its encoding, and no gid is in another than UTF-8.
    let Path(gid) = gid.map_err(|_| Error::NotFound { gid: String::new() })?;
    context.engine().find(&gid).await?.ok_or(Error::NotFound { gid })
}
