//! A host, a participant, and a clock that the test moves.
//!
//! Time is tokio's paused time: when every task waits, it jumps to the next timer. A task that waits for a connection
//! waits too, so by itself time would run away while a call is under way. [`Still`] prevents that: tokio does not let
//! time jump while a blocking task runs, and here one runs for as long as a call does. A call that a test holds back
//! therefore stops the clock; such a test moves it by hand (`tokio::time::advance`).

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Request, header::CONTENT_TYPE},
};
use futures_util::{FutureExt, future::BoxFuture};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tower::ServiceExt;
use wasaga::{
    api,
    branch::{
        self, Branch, Call, Containment, Directory, NotFound, Outcome,
        http::{self, HttpBranch},
    },
    engine::Settings,
    saga::{BranchOp, Definition, Pin},
};

use crate::{
    participant::Participant,
    support::{Host, Setup, no_plugins, until},
};

/// The steps of most of DTM's tests.
pub const OUT_IN: [(&str, &str); 2] = [("TransOut", "TransOutRevert"), ("TransIn", "TransInRevert")];

/// A running host in front of a participant.
pub struct World {
    pub host: Host,
    pub participant: Participant,
    router: Router,
}

/// An answer of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    pub status: u16,
    pub content_type: String,
    pub body: String,
}

impl Answered {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Status and body at once.
    pub fn parts(&self) -> (u16, &str) {
        (self.status, &self.body)
    }

    #[track_caller]
    pub fn assert_success(&self) {
        assert_eq!(self.parts(), (200, r#"{"dtm_result":"SUCCESS"}"#));
    }

    /// A 409 with this message.
    #[track_caller]
    pub fn assert_failure(&self, message: &str) {
        assert_eq!((self.status, self.json()["dtm_result"].as_str()), (409, Some("FAILURE")), "{self:?}");
        assert_eq!(self.json()["message"], message);
    }

    /// A 409 because the saga has not ended well yet.
    #[track_caller]
    pub fn assert_unfinished(&self) {
        self.assert_failure("wait result not return success: FAILURE");
        // Ours: tells that the saga goes on.
        assert_eq!(self.json()["status"], "submitted");
    }
}

impl World {
    pub async fn new() -> Self {
        Self::with(&http::Settings::default(), |_| {}).await
    }

    /// With other settings.
    pub async fn with(http: &http::Settings, change: impl FnOnce(&mut Settings)) -> Self {
        let services = Arc::new(Services(http::Client::new(http).unwrap()));
        let setup = Setup::paused(services).with(change);
        Self::on(&setup, Participant::start().await)
    }

    fn on(setup: &Setup, participant: Participant) -> Self {
        let host = setup.start();
        let (engine, limits) = (host.engine.clone(), api::Limits::default());
        let context = api::Context::new(engine, no_plugins(), api::Uploads::Off, Registry::default(), limits);
        Self { host, participant, router: api::router(context) }
    }

    /// Stops the host in peace: calls under way may end.
    pub async fn stop(self) -> Stopped {
        let Self { host, participant, router } = self;
        drop(router);
        Stopped { setup: host.stop(Duration::from_secs(10)).await, participant }
    }

    /// Stops the host in peace and starts it again.
    pub async fn restart(self) -> Self {
        self.stop().await.start()
    }

    /// The power goes, and comes back: whatever was not on disk is lost.
    pub async fn crash(self) -> Self {
        let Self { host, participant, router } = self;
        drop(router);
        Self::on(&host.kill().await, participant)
    }

    /// A saga of these steps, each with the payload of DTM's tests, and further fields.
    pub fn saga(&self, gid: &str, steps: &[(&str, &str)], more: Value) -> Value {
        let urls = |(action, compensate): &(&str, &str)| json!({ "action": self.participant.url(action), "compensate": self.participant.url(compensate) });
        let payload = json!({ "amount": 30, "trans_in_result": "", "trans_out_Result": "", "store": "" }).to_string();
        let mut saga = json!({
            "gid": gid,
            "trans_type": "saga",
            "concurrent": false,
            "steps": steps.iter().map(urls).collect::<Vec<_>>(),
            "payloads": vec![payload; steps.len()],
            "protocol": "",
        });
        let Value::Object(more) = more else { panic!("no fields: {more}") };
        saga.as_object_mut().unwrap().extend(more);
        saga
    }

    /// The saga of most of DTM's tests, with further fields.
    pub fn transfer(&self, gid: &str, more: Value) -> Value {
        self.saga(gid, &OUT_IN, more)
    }

    pub async fn submit(&self, saga: &Value) -> Answered {
        self.post("/api/dtmsvr/submit", &saga.to_string()).await
    }

    /// Submits, and waits until everything has happened that happens without a wait: DTM's first round.
    pub async fn submit_and_settle(&self, saga: &Value) {
        self.submit(saga).await.assert_success();
        self.settle().await;
    }

    /// Waits until no saga is being worked on, nor about to be. No call may be held back.
    pub async fn settle(&self) {
        // Time moves when every task waits: what is due now has begun then.
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.host.until_idle().await;
    }

    /// Lets so much time pass, and what is then under way end.
    pub async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
        self.settle().await;
    }

    /// What cron does in DTM: the retry that comes next.
    pub async fn next_retry(&self, gid: &str) {
        let attempts = || async { attempts(&self.query(gid).await) };
        let before = attempts().await;
        until(async || (attempts().await > before).then_some(())).await;
        self.settle().await;
    }

    pub async fn post(&self, path: &str, body: &str) -> Answered {
        self.call("POST", path, body.to_owned(), "application/json").await
    }

    pub async fn get(&self, path: &str) -> Answered {
        self.call("GET", path, String::new(), "").await
    }

    /// Any request.
    pub async fn call(&self, method: &str, path: &str, body: impl Into<Body>, content_type: &str) -> Answered {
        ask(self.router.clone(), method, path, body.into(), content_type).await
    }

    /// A submission that goes on while the test does something else.
    pub fn submit_aside(&self, saga: &Value) -> JoinHandle<Answered> {
        let (router, body) = (self.router.clone(), Body::from(saga.to_string()));
        tokio::spawn(async move { ask(router, "POST", "/api/dtmsvr/submit", body, "application/json").await })
    }

    /// DTM's view of a saga.
    pub async fn query(&self, gid: &str) -> Value {
        let answer = self.get(&format!("/api/dtmsvr/query?gid={gid}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// The saga's status, and those of its rows by their first letters: `[01.compensate, 01.action, 02.compensate, ..]`.
    pub async fn statuses(&self, gid: &str) -> (String, String) {
        let view = self.query(gid).await;
        let status = view["transaction"]["status"].as_str().unwrap_or_else(|| panic!("{gid} is unknown")).to_owned();
        let rows = view["branches"].as_array().unwrap().iter().map(|row| &row["status"].as_str().unwrap()[..1]);
        (status, rows.collect::<String>().to_uppercase())
    }

    /// Status and rows must be these.
    pub async fn assert_saga(&self, gid: &str, status: &str, rows: &str) {
        let found = self.statuses(gid).await;
        assert_eq!((found.0.as_str(), found.1.as_str()), (status, rows), "{:#}", self.query(gid).await);
    }

    /// Why the saga was rolled back; empty if it was not.
    pub async fn rollback_reason(&self, gid: &str) -> String {
        let view = self.query(gid).await;
        view["transaction"]["rollback_reason"].as_str().unwrap_or_default().to_owned()
    }

    /// The saga must not exist.
    pub async fn assert_unknown(&self, gid: &str) {
        assert!(self.query(gid).await["transaction"].is_null(), "{gid} was stored");
    }
}

/// What is left of a world without its host.
pub struct Stopped {
    setup: Setup,
    participant: Participant,
}

impl Stopped {
    /// Starts the host again.
    pub fn start(self) -> World {
        World::on(&self.setup, self.participant)
    }
}

async fn ask(router: Router, method: &str, path: &str, body: Body, content_type: &str) -> Answered {
    let mut request = Request::builder().method(method).uri(path);
    if !content_type.is_empty() {
        request = request.header(CONTENT_TYPE, content_type);
    }
    let answer = router.oneshot(request.body(body).unwrap()).await.unwrap();
    let content_type = answer.headers().get(CONTENT_TYPE).map_or("", |value| value.to_str().unwrap()).to_owned();
    let status = answer.status().as_u16();
    let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    Answered { status, content_type, body: String::from_utf8(body.into()).unwrap() }
}

/// Attempts of all operations together.
fn attempts(view: &Value) -> u64 {
    view["branches"].as_array().unwrap().iter().map(|row| row["attempts"].as_u64().unwrap_or_default()).sum()
}

/// HTTP services and nothing else, called while time stands still.
struct Services(http::Client);

impl Directory for Services {
    fn find(&self, saga: &Definition, branch_op: BranchOp, _: Option<&Pin>) -> Result<Arc<dyn Branch>, NotFound> {
        let not_found = |error: http::Error| NotFound(error.to_string());
        http::headers(&saga.options().branch_headers).map_err(not_found)?;
        Ok(Arc::new(Service(self.0.branch(saga.target(branch_op)).map_err(not_found)?)))
    }
}

struct Service(HttpBranch);

impl Branch for Service {
    fn call<'a>(&'a self, call: &'a Call, host: &'a branch::Host) -> BoxFuture<'a, Outcome> {
        async {
            let _still = Still::new();
            self.0.call(call, host).await
        }
        .boxed()
    }

    fn containment(&self) -> Containment {
        self.0.containment()
    }
}

/// While it lives, paused time does not move by itself.
struct Still {
    _end: mpsc::Sender<()>,
}

impl Still {
    fn new() -> Self {
        let (end, ended) = mpsc::channel();
        // Ends with an error when the sender is dropped.
        tokio::task::spawn_blocking(move || ended.recv());
        Self { _end: end }
    }
}
