//! The participant of DTM's own tests (`test/busi`): two accounts, and answers that a test can switch, one call each.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, Query, State},
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse, Response},
    routing::any,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::oneshot, time::Instant};

/// What both accounts hold at first.
pub const BALANCE: i64 = 10_000;

/// One call, as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    /// Last part of the path: `TransOut`, `TransInRevert`, ...
    pub name: String,
    pub method: Method,
    pub query: Vec<(String, String)>,
    pub headers: HeaderMap,
    pub body: String,
    pub at: Instant,
}

impl Received {
    /// A parameter behind the `?`; empty if there is none.
    pub fn param(&self, name: &str) -> &str {
        self.query.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }
}

/// How a call is answered.
#[derive(Debug)]
pub enum Answer {
    /// 409 with this reason.
    Failure(&'static str),
    /// 425.
    Ongoing,
    /// 500 without a verdict.
    Error,
    /// As without a switch.
    Act,
    /// What was asked for is done, but the answer is lost: 500.
    Lost,
    /// This status and body.
    Raw(u16, &'static str),
    /// As the test says when it comes to it.
    Later(EgressDenied),
}

/// The far end of a [`Gate`].
#[derive(Debug)]
pub struct EgressDenied {
    arrived: oneshot::Sender<()>,
    answer: oneshot::Receiver<Answer>,
}

/// A call that a test answers by hand. Dropped, it is never answered.
pub struct Gate {
    arrived: oneshot::Receiver<()>,
    answer: oneshot::Sender<Answer>,
}

impl Gate {
    /// Waits until the call has arrived.
    pub async fn arrived(&mut self) {
        (&mut self.arrived).await.unwrap();
    }

    /// Answers it.
    pub fn answer(self, answer: Answer) {
        // The caller may be gone: that is what some tests are about.
        let _ = self.answer.send(answer);
    }
}

/// The success that DTM's participant answers.
pub const SUCCESS: Answer = Answer::Raw(200, "null");

/// The participant; clones are the same one.
#[derive(Clone)]
pub struct Participant {
    url: String,
    state: Arc<Mutex<Service>>,
}

#[derive(Default)]
struct Service {
    switches: BTreeMap<String, VecDeque<Answer>>,
    /// Answered so whenever no switch is left.
    constant: BTreeMap<String, (u16, &'static str)>,
    calls: Vec<Received>,
    /// The table that DTM's barrier needs: gid, branch, op, barrier id.
    barrier: BTreeSet<[String; 4]>,
    moved: BTreeMap<&'static str, i64>,
}

impl Participant {
    /// Serves on a free port for as long as the test lasts.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/api/busi", listener.local_addr().unwrap());
        let participant = Self { url, state: Arc::default() };
        let router = Router::new().route("/api/busi/{name}", any(serve)).with_state(participant.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        participant
    }

    /// The address of an operation; empty for the empty name.
    pub fn url(&self, name: &str) -> String {
        if name.is_empty() { String::new() } else { format!("{}/{name}", self.url) }
    }

    /// The next call of this name that no other switch is set for is answered so, once.
    pub fn switch(&self, name: &str, answer: Answer) {
        self.state().switches.entry(name.into()).or_default().push_back(answer);
    }

    /// Every call of this name is answered so when no switch is set.
    pub fn always(&self, name: &str, status: u16, body: &'static str) {
        self.state().constant.insert(name.into(), (status, body));
    }

    /// The next call of this name is answered by hand.
    pub fn hold(&self, name: &str) -> Gate {
        let (arrived_sender, arrived) = oneshot::channel();
        let (answer_sender, answer) = oneshot::channel();
        self.switch(name, Answer::Later(EgressDenied { arrived: arrived_sender, answer }));
        Gate { arrived, answer: answer_sender }
    }

    /// Does what the newest call of this name asks for, without answering it.
    pub fn work(&self, name: &str) {
        let call = self.calls().into_iter().rfind(|call| call.name == name).unwrap();
        self.state().act(&call);
    }

    /// All calls so far.
    pub fn calls(&self) -> Vec<Received> {
        self.state().calls.clone()
    }

    /// The names of all calls so far.
    pub fn names(&self) -> Vec<String> {
        self.calls().into_iter().map(|call| call.name).collect()
    }

    /// How many calls of this name there were.
    pub fn count(&self, name: &str) -> usize {
        self.calls().iter().filter(|call| call.name == name).count()
    }

    /// The balances of the account that pays and the one that is paid.
    pub fn balances(&self) -> (i64, i64) {
        let state = self.state();
        let of = |account| BALANCE + state.moved.get(account).copied().unwrap_or_default();
        (of("out"), of("in"))
    }

    fn state(&self) -> MutexGuard<'_, Service> {
        self.state.lock().unwrap()
    }
}

async fn serve(
    State(participant): State<Participant>,
    Path(name): Path<String>,
    method: Method,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let body = String::from_utf8(body.into()).unwrap();
    let call = Received { name, method, query, headers, body, at: Instant::now() };
    let switch = {
        let mut state = participant.state();
        state.calls.push(call.clone());
        state.switches.get_mut(&call.name).and_then(VecDeque::pop_front)
    };
    let switch = match switch {
        Some(Answer::Later(held)) => {
            held.arrived.send(()).unwrap();
            match held.answer.await {
                Ok(answer) => answer,
                Err(_) => std::future::pending().await,
            }
        }
        Some(answer) => answer,
        None => Answer::Act,
    };
    let answer = match switch {
        Answer::Act => participant.state().act(&call),
        Answer::Lost => {
            participant.state().act(&call);
            Answer::Error
        }
        answer => answer,
    };
    respond(&answer)
}

fn respond(answer: &Answer) -> Response {
    let (status, body) = match answer {
        Answer::Failure(reason) => (409, json!({ "error": format!("reason:{reason}. FAILURE") }).to_string()),
        Answer::Ongoing => (425, r#"{"error":"ONGOING"}"#.to_owned()),
        Answer::Error => (500, r#"{"error":"ERROR from user"}"#.to_owned()),
        Answer::Raw(status, body) => (*status, (*body).to_owned()),
        Answer::Act | Answer::Lost | Answer::Later(_) => panic!("only as a switch"),
    };
    (StatusCode::from_u16(status).unwrap(), body).into_response()
}

impl Service {
    /// What the participant does when no switch is set.
    fn act(&mut self, call: &Received) -> Answer {
        if let Some((status, body)) = self.constant.get(&call.name) {
            return Answer::Raw(*status, body);
        }
        let body: Value = serde_json::from_str(&call.body).unwrap_or_default();
        let is_out = call.name.contains("Out");
        let wanted = body[if is_out { "trans_out_Result" } else { "trans_in_result" }].as_str().unwrap_or_default();
        match call.name.as_str() {
            "TransOutHeaderYes" if !call.headers.contains_key("test_header") => Answer::Error,
            "TransInRetry" if self.calls.iter().filter(|earlier| earlier.name == call.name).count() <= 3 => {
                Answer::Error
            }
            name if name.starts_with("Saga") => self.act_behind_barrier(call, &body),
            name if name.ends_with("Revert") => SUCCESS,
            _ => match wanted {
                "FAILURE" => Answer::Failure("asked for"),
                "ONGOING" => Answer::Ongoing,
                "ERROR" => Answer::Error,
                _ => SUCCESS,
            },
        }
    }

    /// `SagaB...`: moves money, once. `SagaB2...` has two calls of the barrier in one request, `SagaRedis...` and
    /// `SagaMongo...` stand for stores that refuse a balance below zero.
    fn act_behind_barrier(&mut self, call: &Received, body: &Value) -> Answer {
        let amount = body["amount"].as_i64().unwrap_or_default();
        let (account, sign) = if call.name.contains("Out") { ("out", -1) } else { ("in", 1) };
        let sign = if call.param("op") == "compensate" { -sign } else { sign };
        let balance = BALANCE + self.moved.get(account).copied().unwrap_or_default();
        let is_too_little = balance + sign * amount < 0;
        let has_result = body["trans_in_result"] == "FAILURE" && account == "in" && sign == 1;
        let barriers = if call.name.starts_with("SagaB2") { ["01", "02"].as_slice() } else { ["01"].as_slice() };
        for barrier in barriers {
            let rows = self.barrier.clone();
            if !self.pass(call, barrier) {
                continue;
            }
            if has_result || is_too_little {
                // The business refuses: its transaction, the barrier's rows with it, is rolled back.
                self.barrier = rows;
                return Answer::Failure("Insufficient balance");
            }
            *self.moved.entry(account).or_default() += sign * amount / i64::try_from(barriers.len()).unwrap();
        }
        SUCCESS
    }

    /// DTM's barrier (`client/dtmcli/barrier.go`): whether the business may act. Not for a repetition, not for a
    /// compensation whose action never came, and not for an action that comes after its compensation.
    fn pass(&mut self, call: &Received, barrier: &str) -> bool {
        let row = |op: &str| [call.param("gid"), call.param("branch_id"), op, barrier].map(str::to_owned);
        assert!(!call.param("gid").is_empty() && call.param("trans_type") == "saga");
        let op = call.param("op");
        let action_is_new = op == "compensate" && self.barrier.insert(row("action"));
        self.barrier.insert(row(op)) && !action_is_new
    }
}
