//! Endpoints of DTM that belong to its other transaction modes, and to topics, which only messages use.
//!
//! A request to change something is refused, so that no client believes its branch is registered. The two endpoints that
//! DTM's admin pages read answer as a DTM without topics does.

use std::future::{Ready, ready};

use axum::{
    Router,
    http::StatusCode,
    response::Response,
    routing::{delete, get, post},
};

use crate::api::{context::Context, error::Error, json};

pub(super) fn routes() -> Router<Context> {
    Router::new()
        .route("/api/dtmsvr/registerBranch", post(|| refuse("registerBranch")))
        .route("/api/dtmsvr/registerXaBranch", post(|| refuse("registerXaBranch")))
        .route("/api/dtmsvr/registerTccBranch", post(|| refuse("registerTccBranch")))
        .route("/api/dtmsvr/prepareWorkflow", post(|| refuse("prepareWorkflow")))
        .route("/api/dtmsvr/subscribe", get(|| refuse("subscribe")))
        .route("/api/dtmsvr/unsubscribe", get(|| refuse("unsubscribe")))
        .route("/api/dtmsvr/topic/{topicName}", delete(|| refuse("topic")))
        .route("/api/dtmsvr/scanKV", get(async || no_rows(r#"{"kv":[],"next_position":""}"#)))
        .route("/api/dtmsvr/queryKV", get(async || no_rows(r#"{"kv":[]}"#)))
}

fn refuse(endpoint: &'static str) -> Ready<Error> {
    ready(Error::OtherModes { endpoint })
}

fn no_rows(body: &'static str) -> Response {
    json::response(StatusCode::OK, body)
}
