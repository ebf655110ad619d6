//! A gRPC service that plays a bank: it answers as a test has set, and keeps DTM's barrier.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Router,
    extract::{Path, Request, State},
    response::Response,
    routing::post,
};
use bytes::Bytes;
use tokio::{net::TcpListener, sync::oneshot};
use tonic::{Code, Status, metadata::MetadataMap, server::Grpc};
use tower::service_fn;
use wasaga::{
    api::{self, Connections, serve::Settings},
    branch::grpc::Raw,
};

/// One call, as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    /// The method: `TransOut`, `TransInRevert`, ...
    pub name: String,
    pub metadata: MetadataMap,
    pub message: Bytes,
}

impl Received {
    /// A value of the metadata; empty if there is none.
    pub fn meta(&self, name: &str) -> &str {
        self.metadata.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// How a call is answered that does not simply succeed.
pub enum Answer {
    /// This status.
    Refuse(Code, &'static str),
    /// What was asked for is done, but the answer is lost.
    Lost,
    /// Success, when the test says so; it is told when the call has come.
    Hold(oneshot::Sender<()>, oneshot::Receiver<()>),
}

/// The participant; clones are the same one.
#[derive(Clone, Default)]
pub struct Participant {
    address: String,
    state: Arc<Mutex<Bank>>,
}

#[derive(Default)]
struct Bank {
    switches: BTreeMap<String, VecDeque<Answer>>,
    calls: Vec<Received>,
    /// gid, branch, operation.
    barrier: BTreeSet<[String; 3]>,
    moved: BTreeMap<String, i64>,
}

impl Participant {
    /// Serves on a free port for as long as the test lasts.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let participant = Self { address: listener.local_addr().unwrap().to_string(), ..Self::default() };
        let router = Router::new().route("/busi.Busi/{method}", post(serve)).with_state(participant.clone());
        let connections = Connections::new(Settings::default());
        tokio::spawn(api::serve_http2(listener, router.into(), connections, std::future::pending()));
        participant
    }

    /// The address of a method; empty for the empty name.
    pub fn url(&self, method: &str) -> String {
        if method.is_empty() { String::new() } else { format!("{}/busi.Busi/{method}", self.address) }
    }

    /// The next call of this name that no other switch is set for is answered so.
    pub fn switch(&self, method: &str, answer: Answer) {
        self.state().switches.entry(method.into()).or_default().push_back(answer);
    }

    /// The next call of this name waits: until the first resolves it has not come, the second lets it succeed.
    pub fn hold(&self, method: &str) -> (oneshot::Receiver<()>, oneshot::Sender<()>) {
        let (came, has_come) = oneshot::channel();
        let (release, released) = oneshot::channel();
        self.switch(method, Answer::Hold(came, released));
        (has_come, release)
    }

    /// All calls so far.
    pub fn calls(&self) -> Vec<Received> {
        self.state().calls.clone()
    }

    /// The names of all calls so far.
    pub fn names(&self) -> Vec<String> {
        self.calls().into_iter().map(|call| call.name).collect()
    }

    /// How often this method took effect, less how often it was taken back.
    pub fn moved(&self, method: &str) -> i64 {
        self.state().moved.get(method).copied().unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, Bank> {
        self.state.lock().unwrap()
    }

    async fn call(&self, call: Received) -> Result<(), Status> {
        let answer = {
            let mut bank = self.state();
            bank.calls.push(call.clone());
            bank.switches.get_mut(&call.name).and_then(VecDeque::pop_front)
        };
        match answer {
            None => self.state().act(&call),
            Some(Answer::Refuse(code, message)) => return Err(Status::new(code, message)),
            Some(Answer::Lost) => {
                self.state().act(&call);
                return Err(Status::unavailable("the answer is lost"));
            }
            Some(Answer::Hold(came, released)) => {
                came.send(()).unwrap();
                released.await.unwrap();
                self.state().act(&call);
            }
        }
        Ok(())
    }
}

impl Bank {
    /// DTM's barrier, in memory: a repeated call has no effect, nor has the compensation of what never was.
    fn act(&mut self, call: &Received) {
        let row = |op: &str| [call.meta("dtm-gid").to_owned(), call.meta("dtm-branch_id").to_owned(), op.to_owned()];
        let op = call.meta("dtm-op");
        let was_empty = op == "compensate" && self.barrier.insert(row("action"));
        if self.barrier.insert(row(op)) && !was_empty {
            let method = call.name.trim_end_matches("Revert").to_owned();
            *self.moved.entry(method).or_default() += if op == "action" { 1 } else { -1 };
        }
    }
}

async fn serve(State(participant): State<Participant>, Path(name): Path<String>, request: Request) -> Response {
    let method = service_fn(async |request: tonic::Request<Bytes>| {
        let (metadata, _, message) = request.into_parts();
        participant.call(Received { name: name.clone(), metadata, message }).await?;
        Ok::<_, Status>(tonic::Response::new(Bytes::from_static(b"\x08\x01")))
    });
    Grpc::new(Raw).unary(method, request).await.map(axum::body::Body::new)
}
