//! Whether the host is alive and ready, for supervisors and load balancers, and all that a starting host answers.
//!
//! | path       | starting                       | ready | stopping, or the store has failed |
//! |------------|--------------------------------|-------|-----------------------------------|
//! | `/healthz` | 200                            | 200   | 200                               |
//! | `/readyz`  | 503, and how far it is         | 200   | 503, and why                      |
//! | all others | 503 with `Retry-After`         | as documented | as documented             |
//!
//! `/healthz` is for restarting a host that hangs, `/readyz` for sending it requests.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::Response,
    routing::get,
};
use serde::Serialize;
use tonic::Status;

use super::{drain::drain, json};

/// What a host is doing. Clones share it.
#[derive(Clone)]
pub struct Health(Arc<Shared>);

struct Shared {
    began: Instant,
    state: Mutex<Condition>,
    progress: Box<dyn Fn() -> Option<Progress> + Send + Sync>,
}

/// How far a step of the start is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// The part of the step.
    pub part: &'static str,
    /// How many of `total` things are done: records, files. Both are 0 if they are not counted.
    pub done: u64,
    pub total: u64,
}

/// The condition of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// In this step of the start.
    Starting(&'static str),
    Ready,
    Stopping,
    /// The store has failed, and the host stops.
    Failed,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Health").field(&self.condition()).finish()
    }
}

impl Health {
    /// The health of a host that begins to start. `progress` tells how far the opening of the store is, while it is opened.
    pub fn starting(progress: impl Fn() -> Option<Progress> + Send + Sync + 'static) -> Self {
        let state = Mutex::new(Condition::Starting("starting"));
        Self(Arc::new(Shared { began: Instant::now(), state, progress: Box::new(progress) }))
    }

    /// Changes the condition. A host whose store has failed stays so.
    pub fn set(&self, condition: Condition) {
        let mut state = self.lock();
        if *state != Condition::Failed {
            *state = condition;
        }
    }

    /// The condition now.
    pub fn condition(&self) -> Condition {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Condition> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `/healthz` and `/readyz`, to be merged into the routes of a running host.
    pub fn routes(&self) -> Router {
        Router::new().route("/healthz", get(alive)).route("/readyz", get(ready)).with_state(self.clone())
    }

    /// The routes of a starting host over HTTP.
    pub fn starting_routes(&self) -> Router {
        self.routes().fallback(starting).method_not_allowed_fallback(starting)
    }

    /// The routes of a starting host over gRPC.
    pub fn starting_grpc_routes() -> Router {
        Router::new().fallback(async || Status::unavailable(STARTING).into_http::<Body>())
    }
}

const STARTING: &str = "the host is starting: send it again later, nothing was stored; GET /readyz says how far it is";

async fn alive() -> Response {
    json::response(StatusCode::OK, r#"{"alive":true}"#)
}

/// The body of the answer of `/readyz`.
#[derive(Serialize)]
struct Answer {
    ready: bool,
    state: &'static str,
    /// The step of the start, or what is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<Progress>,
    /// Since the process started.
    uptime_s: u64,
}

async fn ready(State(health): State<Health>) -> Response {
    let (state, detail) = match health.condition() {
        Condition::Starting(step) => ("starting", Some(step)),
        Condition::Ready => ("ready", None),
        Condition::Stopping => ("stopping", Some("the host was told to stop")),
        Condition::Failed => {
            ("failed", Some("the store has failed: the host ends, start it again, its log has the cause"))
        }
    };
    let ready = state == "ready";
    let progress = if state == "starting" { (health.0.progress)() } else { None };
    let answer = Answer { ready, state, detail, progress, uptime_s: health.0.began.elapsed().as_secs() };
    if ready { json::response(StatusCode::OK, json::encode(&answer)) } else { unavailable(json::encode(&answer)) }
}

async fn starting(request: Request) -> Response {
    #[derive(Serialize)]
    struct Starting {
        message: &'static str,
    }
    drain(request.into_body()).await;
    unavailable(json::encode(&Starting { message: STARTING }))
}

fn unavailable(body: Vec<u8>) -> Response {
    let mut response = json::response(StatusCode::SERVICE_UNAVAILABLE, body);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use tower::ServiceExt as _;

    use super::*;

    async fn ready(health: &Health) -> (u16, String) {
        let request = Request::builder().uri("/readyz").body(Body::empty()).unwrap();
        let answer = health.routes().oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        (status, String::from_utf8(to_bytes(answer.into_body(), usize::MAX).await.unwrap().into()).unwrap())
    }

    #[tokio::test]
    async fn a_host_is_ready_between_its_start_and_its_end() {
        let health = Health::starting(|| Some(Progress { part: "replaying", done: 1, total: 3 }));
        health.set(Condition::Starting("opening"));
        let text = r#"{"ready":false,"state":"starting","detail":"opening","progress":{"part":"replaying","done":1,"total":3}"#;
        let (status, body) = ready(&health).await;
        assert!(status == 503 && body.starts_with(text), "{status} {body}");
        for (condition, expected, text) in [
            (Condition::Ready, 200, r#"{"ready":true,"state":"ready","uptime_s":0}"#),
            (Condition::Stopping, 503, r#"{"ready":false,"state":"stopping","detail":"the host was told to stop","#),
            (Condition::Failed, 503, r#"{"ready":false,"state":"failed","detail":"the store has failed"#),
            // A failed store stays so.
            (Condition::Ready, 503, r#"{"ready":false,"state":"failed","detail":"the store has failed"#),
        ] {
            health.set(condition);
            let (status, body) = ready(&health).await;
            assert!(status == expected && body.starts_with(text), "{status} {body}");
        }
    }
}
