//! Our own API: what DTM's has no place for.

mod plan;

use axum::{
    Router,
    extract::{Path, State, rejection::PathRejection},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};

use super::{Context, error::Error};
use crate::{engine, saga::render};

/// The routes.
pub fn routes() -> Router<Context> {
    Router::new().route("/api/v1/sagas/{gid}/log", get(log)).route("/api/v1/sagas/plan", post(plan::plan))
}

/// A saga's log, as people read it.
async fn log(State(context): State<Context>, gid: Result<Path<String>, PathRejection>) -> Result<Response, Error> {
    // The only thing that can be wrong with one part of a path is its encoding, and no gid is in another than UTF-8.
    let Path(gid) = gid.map_err(|_| Error::NotFound { gid: String::new() })?;
    let Some(record) = context.engine().find(&gid).await? else { return Err(Error::NotFound { gid }) };
    let log = render::log(record.saga.definition(), &record.log).map_err(engine::Error::Illegal)?;
    Ok((StatusCode::OK, [(CONTENT_TYPE, "text/plain; charset=utf-8")], log).into_response())
}
