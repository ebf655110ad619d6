//! The API: DTM's over HTTP ([`dtm`]) and gRPC ([`grpc`]), Wasaga's own (`/api/v1`), and [`metrics`].
//!
//! ```text
//!  connection ──> web ──> router ──> body ──> dtm::request ──> engine ──> dtm::view, json ──> response
//!    (serve)       │        │                      │             │                               ^
//!                  └── 403  └── 404                └─── error ───┴───────────────────────────────┘
//! ```
//!
//! While the host starts, a connection is served by the routes of [`health`] alone.
//!
//! Invariants: the types of the wire formats are defined here and nowhere else; a refused request has changed nothing;
//! every refusal is one [`Error`], and `error.rs` alone chooses its status and text; but for what [`web`] refuses before
//! the request has a route.

mod answer;
mod authority;
mod body;
mod client;
mod context;
mod drain;
pub mod dtm;
mod error;
pub mod grpc;
pub mod health;
mod json;
pub mod metrics;
mod rollback;
pub mod serve;
mod time;
mod v1;
pub mod web;

use axum::{
    Router,
    http::{
        StatusCode, Uri,
        header::{CONTENT_TYPE, LOCATION},
    },
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
};

pub use self::{
    context::{Context, Limits},
    error::Error,
    serve::{Connections, Routes, serve, serve_http2},
    v1::uploads::Uploads,
};

/// All routes over HTTP. An unknown path, and a known one with the wrong method, is answered as DTM answers it.
pub fn router(context: Context) -> Router {
    Router::new()
        .merge(dtm::routes().route_layer(from_fn_with_state(context.requests().clone(), dtm::metrics::count_http)))
        .merge(v1::routes())
        .merge(metrics::routes())
        .fallback(not_found)
        .method_not_allowed_fallback(not_found)
        .with_state(context)
}

/// DTM knows no 405. As by DTM, an address of its API with a slash at the end is sent on to the one without it; by 307, with
/// which clients send the same method and body again.
async fn not_found(uri: Uri) -> Response {
    if let Some(path) = uri.path().strip_suffix('/').filter(|path| path.starts_with("/api/dtmsvr/")) {
        let location = uri.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
        return (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, location)]).into_response();
    }
    (StatusCode::NOT_FOUND, [(CONTENT_TYPE, "text/plain")], "404 page not found").into_response()
}
