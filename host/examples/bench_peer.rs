//! The other end of the benchmarks: what HTTP costs on this machine at all, and participants that do nothing.
//!
//! Run with: `cargo run --release --example bench_peer -- 127.0.0.1:8090`, or rather let `make bench` start it.
//!
//! It has the runtime, allocator and socket options of the host, so that `POST /echo` is the most that the host could
//! reach if sagas cost nothing. `/succeed` is a participant whose branches succeed at once. `/busy` is one that always
//! answers "ongoing", and `GET /busy/calls` tells how often it was asked. `/never` is one that does not answer.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderName, StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::{any, get, post},
    serve::ListenerExt,
};
use serde_json::value::RawValue;
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const JSON: [(HeaderName, &str); 1] = [(CONTENT_TYPE, "application/json")];

static BUSY_CALLS: AtomicU64 = AtomicU64::new(0);

#[tokio::main]
async fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).ok_or_else(|| io::Error::other("usage: bench_peer ADDRESS:PORT"))?;
    let listener = TcpListener::bind(address).await?.tap_io(|connection| {
        // Without it, answers would be slower, not wrong.
        let _ = connection.set_nodelay(true);
    });
    let router = Router::new()
        .route("/echo", post(echo))
        .route("/succeed", any(async || (JSON, r#"{"dtm_result":"SUCCESS"}"#)))
        .route("/busy", any(busy))
        .route("/never", any(std::future::pending::<StatusCode>))
        .route("/busy/calls", get(async || BUSY_CALLS.load(Ordering::Relaxed).to_string()));
    axum::serve(listener, router).await
}

/// Checks that the body is JSON and sends it back.
async fn echo(body: Bytes) -> impl IntoResponse {
    match serde_json::from_slice::<&RawValue>(&body) {
        Ok(_) => (StatusCode::OK, JSON, body),
        Err(_) => (StatusCode::BAD_REQUEST, JSON, Bytes::new()),
    }
}

async fn busy() -> impl IntoResponse {
    BUSY_CALLS.fetch_add(1, Ordering::Relaxed);
    (StatusCode::TOO_EARLY, JSON, r#"{"dtm_result":"ONGOING"}"#)
}
