//! A host whose branches do what their addresses say.

use std::{
    future::{pending, ready},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{
        HeaderMap, Method, Request, StatusCode,
        header::{CONTENT_TYPE, HOST},
    },
};
use futures_util::{FutureExt, future::BoxFuture};
use prometheus_client::registry::Registry;
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt;
use wasaga::{
    api::{self, Context, Limits, Uploads, metrics::Journal},
    branch::{self, Branch, Call, Containment, Directory, NotFound, Outcome},
    engine::{Clock, Engine, Settings},
    memory::Budget,
    plugin,
    saga::{BranchOp, Definition, Pin},
    store::{
        self, LocalStore,
        disk::{Disk, Os},
    },
};

use wasaga_testkit::{engine::TestDisk, no_plugins};

pub const JSON: &str = "application/json; charset=utf-8";

/// Bytes of memory of a host that needs no limit.
const MEMORY: u64 = 1 << 30;

/// How long a test waits for what must happen, before it gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// The request of the tutorial, as a user types it.
pub const TUTORIAL: &str = r#"{"gid":"saga-golang-demo-001","trans_type":"saga","steps":[{"action":"http://service-a:8081/try","compensate":"http://service-a:8081/cancel"},{"action":"http://service-b:8082/try","compensate":"http://service-b:8082/cancel"}],"payloads":[{"amount":100},{"amount":600}]}"#;

pub struct Host {
    pub engine: Engine,
    pub router: Router,
    pub branches: Script,
    _dir: TempDir,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn content_type(&self) -> &str {
        self.headers[CONTENT_TYPE].to_str().unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// Status and body, of an answer in JSON.
    pub fn parts(&self) -> (u16, &str) {
        assert_eq!(self.content_type(), JSON, "{}", self.body);
        (self.status.as_u16(), &self.body)
    }
}

impl Host {
    pub fn start() -> Self {
        Self::start_with(Settings::default(), Limits::default())
    }

    pub fn start_with(settings: Settings, limits: Limits) -> Self {
        let branches = Script::default();
        Self { branches: branches.clone(), ..Self::start_on(Arc::new(branches), settings, limits) }
    }

    /// One with so many bytes of memory for requests, live sagas and guests.
    pub fn start_within(memory: u64) -> Self {
        let (branches, rest) = (Script::default(), (no_plugins(), Uploads::Off));
        let directory = Arc::new(branches.clone());
        let (settings, limits) = (Settings::default(), Limits::default());
        Self { branches, ..Self::put_together(directory, settings, limits, rest, Budget::of(memory), Arc::new(Os)) }
    }

    /// One that shows these plugins.
    pub fn start_with_plugins(plugins: Arc<plugin::Registry>, uploads: Uploads) -> Self {
        let directory = Arc::new(Script::default());
        let settings = Settings::default();
        Self::put_together(directory, settings, Limits::default(), (plugins, uploads), Budget::of(MEMORY), Arc::new(Os))
    }

    /// One whose disk fails when the test wants it.
    pub fn start_on_disk(disk: &TestDisk) -> Self {
        let (branches, plugins) = (Script::default(), (no_plugins(), Uploads::Off));
        let (directory, disk) = (Arc::new(branches.clone()), Arc::new(disk.clone()));
        Self {
            branches,
            ..Self::put_together(directory, Settings::default(), Limits::default(), plugins, Budget::of(MEMORY), disk)
        }
    }

    /// One with other branches than those of a [`Script`].
    pub fn start_on(directory: Arc<dyn Directory>, settings: Settings, limits: Limits) -> Self {
        Self::put_together(directory, settings, limits, (no_plugins(), Uploads::Off), Budget::of(MEMORY), Arc::new(Os))
    }

    fn put_together(
        directory: Arc<dyn Directory>,
        settings: Settings,
        limits: Limits,
        (plugins, uploads): (Arc<plugin::Registry>, Uploads),
        memory: Budget,
        disk: Arc<dyn Disk>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = LocalStore::open(store::Settings { disk, ..store::Settings::new(dir.path()) }).unwrap();
        let store = Arc::new(store);
        let engine = Engine::start(store.clone(), directory, settings, Clock::start().unwrap(), memory).unwrap();
        let mut registry = Registry::default();
        api::metrics::register(&mut registry, engine.clone(), move || {
            let stats = store.stats();
            Journal { commits: stats.commits, syncs: stats.syncs, bytes: stats.journal_bytes }
        });
        let context = Context::new(engine.clone(), plugins, uploads, registry, limits);
        let router = api::router(context);
        Self { engine, router, branches: Script::default(), _dir: dir }
    }

    pub async fn send(&self, method: Method, path: &str, body: impl Into<Body>) -> Answer {
        self.send_to(method, "127.0.0.1", path, body).await
    }

    /// As a client that calls the host by this name.
    pub async fn send_to(&self, method: Method, host: &str, path: &str, body: impl Into<Body>) -> Answer {
        self.send_whole(Request::builder().method(method).uri(path).header(HOST, host).body(body.into()).unwrap()).await
    }

    pub async fn send_whole(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        Answer { status, headers, body: String::from_utf8(body.into()).unwrap() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, Body::empty()).await
    }

    /// POSTs to an endpoint of DTM's API.
    pub async fn post(&self, endpoint: &str, body: impl Into<Body>) -> Answer {
        self.send(Method::POST, &format!("/api/dtmsvr/{endpoint}"), body).await
    }

    pub async fn submit(&self, body: impl Into<Body>) -> Answer {
        self.post("submit", body).await
    }

    pub async fn query(&self, gid: &str) -> Value {
        self.get(&format!("/api/dtmsvr/query?gid={gid}")).await.json()
    }

    /// Waits until the saga has this status.
    pub async fn until(&self, gid: &str, status: &str) -> Value {
        let reached = async {
            loop {
                let found = self.query(gid).await;
                if found["transaction"]["status"] == status {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{gid} does not become {status}"))
    }
}

/// A saga with one step for each of these actions.
pub fn saga(gid: &str, actions: &[&str], fields: &str) -> String {
    let steps: Vec<_> =
        actions.iter().map(|action| format!(r#"{{"action":"{action}","compensate":"http://c/cancel"}}"#)).collect();
    let payloads = vec![r#""{}""#; actions.len()].join(",");
    format!(r#"{{"gid":"{gid}","trans_type":"saga","steps":[{}],"payloads":[{payloads}]{fields}}}"#, steps.join(","))
}

/// The statuses of a saga's branches, as stored: compensation before action.
pub fn statuses(query: &Value) -> Vec<&str> {
    query["branches"].as_array().unwrap().iter().map(|branch| branch["status"].as_str().unwrap()).collect()
}

/// Branches that do what the last part of their address says, and remember their calls.
#[derive(Clone, Default)]
pub struct Script(Arc<Mutex<Vec<String>>>);

impl Script {
    /// Address and payload of all calls so far.
    pub fn calls(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// `None` if it never comes to an end.
    fn play(&self, call: &Call) -> Option<Outcome> {
        self.0.lock().unwrap().push(format!("{} {}", call.target(), str::from_utf8(&call.payload()).unwrap()));
        let amount = serde_json::from_slice::<Value>(&call.payload()).ok().and_then(|json| json["amount"].as_u64());
        Some(match call.target().rsplit('/').next().unwrap() {
            "reject" => Outcome::rejected("no <way>"),
            "reject-in-dtms-words" => Outcome::rejected("no. FAILURE"),
            "try" if amount > Some(500) => Outcome::rejected("simulated failure"),
            "fail" => Outcome::unknown("HTTP 500"),
            "hang" => return None,
            _ => Outcome::succeeded(None),
        })
    }
}

impl Branch for Script {
    fn call<'a>(&'a self, call: &'a Call, _: &'a branch::Host) -> BoxFuture<'a, Outcome> {
        match self.play(call) {
            Some(outcome) => ready(outcome).boxed(),
            None => pending().boxed(),
        }
    }

    fn containment(&self) -> Containment {
        Containment::External
    }
}

impl Directory for Script {
    fn find(&self, saga: &Definition, branch_op: BranchOp, _: Option<&Pin>) -> Result<Arc<dyn Branch>, NotFound> {
        match saga.target(branch_op) {
            "wasm://nobody/try" => Err(NotFound("there is no plugin \"nobody\"".into())),
            _ => Ok(Arc::new(self.clone())),
        }
    }
}
