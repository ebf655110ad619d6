//! Sagas in the responses of `query` and `all`: DTM's keys, in DTM's order, left out when DTM leaves them out.
//!
//! The structs mirror DTM's `TransGlobalStore`, `TransOptions` and `TransBranchStore` (`dtmsvr/storage/trans.go`). Typed
//! clients do not accept `null` for times and numbers, so absent values are left out; `id` is 0, as in a DTM without an
//! SQL database. Wasaga's own keys come last: `stuck`, and of a branch `attempts`, `error` and `output`.

use std::{borrow::Cow, collections::VecDeque, sync::Arc};

use axum::body::Body;
use base64::{display::Base64Display, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Serialize, Serializer};

use crate::{
    api::{
        answer::{self, Pieces},
        json,
        rollback::rollback_reason,
        time::Time,
    },
    engine::{Engine, Record},
    hidden::{self, Headers, Secrets},
    memory::{Holder, Reserved},
    saga::{
        BranchId, BranchOp, Definition, Op, Options, Policy, Saga, Status, Timestamp,
        state::{OpState, Progress},
    },
};

/// What the body of `query` holds in memory, as a multiple of the saga's stored bytes: as stored, decoded, the payloads once
/// as text, and for each of the two operations as base64.
pub const QUERY_COPIES: usize = 6;

/// What the body of `all` holds of a saga, as such a multiple.
pub const LIST_COPIES: usize = 3;

/// Length of the pieces in which a list of small sagas is built, in bytes.
const PIECE_BYTES: usize = 64 << 10;

/// What an encoded saga has besides what its client has sent, in bytes; an estimate.
const SAGA_BYTES: usize = 2 << 10;

/// What decides how a saga is shown.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Whether it is stuck.
    pub policy: &'a Policy,
    /// Which of its headers are secrets.
    pub headers: &'a Headers,
}

impl<'a> Rules<'a> {
    /// Those of an engine.
    pub fn of(engine: &'a Engine) -> Self {
        Self { policy: engine.policy(), headers: engine.hidden_headers() }
    }
}

/// The body of `query`: a saga with its branches, or neither.
pub fn query(record: Option<&Record>, rules: Rules<'_>) -> Vec<u8> {
    #[derive(Serialize)]
    struct QueryView<'a> {
        branches: Vec<Branch<'a>>,
        transaction: Option<Transaction<'a>>,
    }
    let saga = record.map(|record| &record.saga);
    json::encode(&QueryView {
        branches: saga.map(|saga| branches(saga, rules)).unwrap_or_default(),
        transaction: saga.map(|saga| Transaction::of(saga, rules)),
    })
}

/// The body of `all`, built saga by saga. Its memory is reserved as it grows.
pub struct List {
    pieces: VecDeque<Bytes>,
    /// The piece that grows.
    piece: Vec<u8>,
    room: Reserved,
    holder: Arc<Holder>,
    /// Of all pieces.
    bytes: usize,
}

impl List {
    /// An empty list, whose memory `holder` has.
    pub fn new(holder: &Arc<Holder>) -> Self {
        let (pieces, piece) = (VecDeque::new(), Vec::new());
        Self { pieces, piece, room: holder.nothing(), holder: holder.clone(), bytes: 0 }
    }

    /// Adds a saga, with the reservation of what it holds itself. `false`: there is no room for it in memory, and nothing was
    /// added.
    pub fn push(&mut self, record: &Record, mut room: Reserved, rules: Rules<'_>) -> bool {
        // Characters that are escaped make it longer; the piece grows then.
        let expected = record.saga.definition().bytes() / 8 * 9 + SAGA_BYTES;
        if self.piece.capacity() - self.piece.len() < expected {
            let capacity = expected.max(PIECE_BYTES);
            if !room.try_grow(capacity.saturating_sub(room.bytes())) {
                return false;
            }
            self.end_piece();
            (self.piece, self.room) = (Vec::with_capacity(capacity), room);
        }
        let before = self.piece.len();
        if self.bytes > 0 {
            self.piece.push(b',');
        }
        json::append(&mut self.piece, &Transaction::of(&record.saga, rules));
        let fits = self.room.try_grow(self.piece.capacity().saturating_sub(self.room.bytes()));
        if fits {
            self.bytes += self.piece.len() - before;
        } else {
            self.piece.truncate(before);
            self.piece.shrink_to(self.room.bytes());
        }
        self.room.shrink_to(self.piece.capacity());
        fits
    }

    /// The length of the encoded sagas so far.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The body. `next_position` is where the next page begins, and empty at the end of the list.
    pub fn finish(mut self, next_position: &str) -> Body {
        self.end_piece();
        let position = json::encode(&next_position);
        self.pieces.push_front([b"{\"next_position\":", &*position, b",\"transactions\":["].concat().into());
        self.pieces.push_back(Bytes::from_static(b"]}"));
        Pieces::body(self.pieces)
    }

    fn end_piece(&mut self) {
        if !self.piece.is_empty() {
            let room = std::mem::replace(&mut self.room, self.holder.nothing());
            self.pieces.push_back(answer::held_by(std::mem::take(&mut self.piece), room));
        }
    }
}

/// The body of `all` for the gid of a saga that does not exist.
pub fn no_list(position: &str) -> Vec<u8> {
    [b"{\"next_position\":", &*json::encode(&position), b",\"transactions\":null}"].concat()
}

#[derive(Serialize)]
struct Transaction<'a> {
    id: u32,
    create_time: Time,
    update_time: Time,
    gid: &'a str,
    trans_type: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    steps: Vec<Step<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    payloads: Vec<&'a str>,
    status: &'static str,
    #[serde(skip_serializing_if = "is_empty")]
    query_prepared: Cow<'a, str>,
    protocol: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_time: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rollback_time: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rollback_reason: Option<String>,
    options: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    custom_data: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    next_cron_interval: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cron_time: Option<Time>,
    #[serde(flatten)]
    flat_options: TransOptions<'a>,
    #[serde(skip_serializing_if = "is_false")]
    stuck: bool,
}

impl<'a> Transaction<'a> {
    fn of(saga: &'a Saga, Rules { policy, headers }: Rules<'a>) -> Self {
        let definition = saga.definition();
        let options = definition.options();
        let ended = |status| (saga.status() == status).then(|| Time(saga.updated_at()));
        let retry = next_retry(saga);
        Self {
            id: 0,
            create_time: Time(definition.created_at()),
            update_time: Time(saga.updated_at()),
            gid: definition.gid().as_str(),
            trans_type: "saga",
            steps: definition.steps().iter().map(Step::of).collect(),
            payloads: payloads(definition),
            status: saga.status().as_str(),
            query_prepared: hidden::address(&options.query_prepared),
            protocol: if options.protocol.is_empty() { "http" } else { &options.protocol },
            finish_time: ended(Status::Succeed),
            rollback_time: ended(Status::Failed),
            rollback_reason: rollback_reason(saga, headers),
            options: String::from_utf8(json::encode(&TransOptions::of(options, headers, 0))).unwrap_or_default(),
            custom_data: &options.custom_data,
            next_cron_interval: retry.map_or(0, |retry| retry.interval_s),
            next_cron_time: retry.map(|retry| Time(retry.at)),
            flat_options: TransOptions::of(options, headers, saga.retries()),
            stuck: saga.is_stuck(policy),
        }
    }
}

/// The payloads, if all are text. Others, which gRPC clients can send, are in `bin_data` of the branches, as in DTM.
fn payloads(definition: &Definition) -> Vec<&str> {
    let texts = definition.steps().iter().map(|step| str::from_utf8(&step.payload).ok());
    texts.collect::<Option<_>>().unwrap_or_default()
}

#[derive(Serialize)]
struct Step<'a> {
    action: Cow<'a, str>,
    compensate: Cow<'a, str>,
}

impl<'a> Step<'a> {
    fn of(step: &'a crate::saga::Step) -> Self {
        Self { action: hidden::address(&step.action), compensate: hidden::address(&step.compensation) }
    }
}

#[derive(Serialize)]
struct TransOptions<'a> {
    #[serde(skip_serializing_if = "is_false")]
    wait_result: bool,
    #[serde(skip_serializing_if = "is_zero")]
    timeout_to_fail: u64,
    #[serde(skip_serializing_if = "is_zero")]
    request_timeout: u64,
    #[serde(skip_serializing_if = "is_zero")]
    retry_interval: u64,
    #[serde(skip_serializing_if = "Shown::is_empty")]
    branch_headers: Shown<'a>,
    concurrent: bool,
    #[serde(skip_serializing_if = "is_zero")]
    retry_limit: u64,
    #[serde(skip_serializing_if = "is_zero")]
    retry_count: u64,
}

impl<'a> TransOptions<'a> {
    fn of(options: &'a Options, headers: &'a Headers, retry_count: u64) -> Self {
        Self {
            wait_result: options.wait_result,
            timeout_to_fail: options.timeout_to_fail_s,
            request_timeout: options.request_timeout_s,
            retry_interval: options.retry_interval_s,
            branch_headers: Shown { given: &options.branch_headers, headers },
            concurrent: options.concurrent,
            retry_limit: options.retry_limit,
            retry_count,
        }
    }
}

/// The headers that a saga has, without the values that are hidden.
struct Shown<'a> {
    given: &'a [(String, String)],
    headers: &'a Headers,
}

impl Shown<'_> {
    fn is_empty(&self) -> bool {
        self.given.is_empty()
    }
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.given.iter().map(|(name, value)| (name, hidden::header(self.headers, name, value))))
    }
}

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are DTM's")]
struct Branch<'a> {
    id: u32,
    create_time: Time,
    update_time: Time,
    gid: &'a str,
    #[serde(skip_serializing_if = "is_empty")]
    url: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bin_data: Option<Base64<'a>>,
    branch_id: String,
    op: &'static str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_time: Option<Time>,
    #[serde(skip_serializing_if = "is_zero")]
    attempts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Cow<'a, str>>,
}

/// All operations that have a state. As in DTM, the compensation of a step comes before its action.
fn branches<'a>(saga: &'a Saga, rules: Rules<'_>) -> Vec<Branch<'a>> {
    let secrets = Secrets::of(saga.definition(), rules.headers);
    let branch_ops =
        (0..saga.steps().len()).flat_map(|step| [Op::Compensate, Op::Action].map(|op| BranchOp { step, op }));
    branch_ops
        .filter_map(|branch_op| saga.op(branch_op).map(|state| Branch::of(saga, &secrets, branch_op, state)))
        .collect()
}

impl<'a> Branch<'a> {
    fn of(saga: &'a Saga, secrets: &Secrets<'_>, branch_op: BranchOp, state: &'a OpState) -> Self {
        let definition = saga.definition();
        let created_at = definition.created_at();
        let payload = definition.steps().get(branch_op.step).map(|step| &*step.payload);
        let (status, output) = match &state.progress {
            Progress::Pending => ("prepared", None),
            Progress::Succeeded { output } => ("succeed", output.as_deref()),
            Progress::Skipped => ("succeed", None),
            Progress::Rejected { .. } => ("failed", None),
        };
        let error = match &state.progress {
            Progress::Rejected { reason } => Some(&**reason),
            _ => state.last_error.as_deref(),
        };
        let text = |text: &'a str| secrets.text(Some(branch_op.step), text);
        Self {
            id: 0,
            create_time: Time(created_at),
            update_time: Time(state.updated_at.unwrap_or(created_at)),
            gid: definition.gid().as_str(),
            url: hidden::address(definition.target(branch_op)),
            bin_data: payload.filter(|payload| !payload.is_empty()).map(Base64),
            branch_id: BranchId(branch_op.step).to_string(),
            op: branch_op.op.as_str(),
            status,
            finish_time: state.updated_at.filter(|_| !state.is_pending()).map(Time),
            attempts: state.attempts.into(),
            error: error.map(text),
            output: output.map(|output| secrets.output(branch_op.step, output)),
        }
    }
}

/// The next retry of an operation.
#[derive(Clone, Copy)]
struct Retry {
    at: Timestamp,
    /// The whole wait, in seconds.
    interval_s: u64,
}

/// The earliest retry of the saga's pending operations.
fn next_retry(saga: &Saga) -> Option<Retry> {
    let op = match saga.status() {
        Status::Submitted => Op::Action,
        Status::Aborting => Op::Compensate,
        Status::Prepared | Status::Succeed | Status::Failed => return None,
    };
    let waiting = saga.steps().iter().map(|step| step.op(op)).filter(|state| state.is_pending());
    let retries = waiting.filter_map(|state| {
        let at = state.retry_at?;
        let interval = state.updated_at?.until(at);
        Some(Retry { at, interval_s: u64::try_from(interval.as_millis().div_ceil(1000)).unwrap_or(u64::MAX) })
    });
    retries.min_by_key(|retry| retry.at)
}

/// Bytes as Go writes them to JSON.
struct Base64<'a>(&'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(self.0, &BASE64_STANDARD))
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

fn is_empty(text: &str) -> bool {
    text.is_empty()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, LazyLock};

    use axum::body::to_bytes;

    use super::*;
    use crate::{
        engine::SagaId,
        memory::Share,
        saga::{Event, Failure, Gid, Order, Results},
    };

    const CREATED: u64 = 1_767_448_066_123;

    fn at(ms: u64) -> Timestamp {
        Timestamp(CREATED + ms)
    }

    fn record(options: Options, log: Vec<Event>) -> Record {
        let step = |name: &str, payload: &str| crate::saga::Step {
            action: format!("http://{name}/try"),
            compensation: if name == "b" { String::new() } else { format!("http://{name}/cancel?x=1&y=<2>") },
            payload: payload.to_owned().into(),
        };
        let steps = vec![step("a", r#"{"amount":30}"#), step("b", "")];
        let gid = Gid::new("g<1>").unwrap();
        let definition = Definition::new(gid, steps, Order::default(), options, at(0)).unwrap();
        let saga = Saga::replay(Arc::new(definition), &log).unwrap();
        Record { id: SagaId(5), saga, log }
    }

    fn rules() -> Rules<'static> {
        static RULES: LazyLock<(Policy, Headers)> = LazyLock::new(Default::default);
        Rules { policy: &RULES.0, headers: &RULES.1 }
    }

    fn text(json: Vec<u8>) -> String {
        String::from_utf8(json).unwrap()
    }

    fn succeeded(step: usize, op: Op, output: Option<&str>, ms: u64) -> Event {
        Event::Succeeded { step, op, output: output.map(Into::into), at: at(ms) }
    }

    #[test]
    fn a_saga_that_has_succeeded() {
        let log = vec![
            Event::Submitted { at: at(0) },
            succeeded(0, Op::Action, Some(r#"{"id":7}"#), 4),
            succeeded(1, Op::Action, None, 900),
        ];
        assert_eq!(
            text(query(Some(&record(Options::default(), log)), rules())),
            concat!(
                r#"{"branches":["#,
                r#"{"id":0,"create_time":"2026-01-03T13:47:46.123Z","update_time":"2026-01-03T13:47:46.123Z","gid":"g\u003c1\u003e","url":"http://a/cancel?x=1\u0026y=\u003c2\u003e","bin_data":"eyJhbW91bnQiOjMwfQ==","branch_id":"01","op":"compensate","status":"prepared"},"#,
                r#"{"id":0,"create_time":"2026-01-03T13:47:46.123Z","update_time":"2026-01-03T13:47:46.127Z","gid":"g\u003c1\u003e","url":"http://a/try","bin_data":"eyJhbW91bnQiOjMwfQ==","branch_id":"01","op":"action","status":"succeed","finish_time":"2026-01-03T13:47:46.127Z","attempts":1,"output":"{\"id\":7}"},"#,
                r#"{"id":0,"create_time":"2026-01-03T13:47:46.123Z","update_time":"2026-01-03T13:47:46.123Z","gid":"g\u003c1\u003e","branch_id":"02","op":"compensate","status":"prepared"},"#,
                r#"{"id":0,"create_time":"2026-01-03T13:47:46.123Z","update_time":"2026-01-03T13:47:47.023Z","gid":"g\u003c1\u003e","url":"http://b/try","branch_id":"02","op":"action","status":"succeed","finish_time":"2026-01-03T13:47:47.023Z","attempts":1}"#,
                r#"],"transaction":{"id":0,"create_time":"2026-01-03T13:47:46.123Z","update_time":"2026-01-03T13:47:47.023Z","gid":"g\u003c1\u003e","trans_type":"saga","steps":[{"action":"http://a/try","compensate":"http://a/cancel?x=1\u0026y=\u003c2\u003e"},{"action":"http://b/try","compensate":""}],"payloads":["{\"amount\":30}",""],"status":"succeed","protocol":"http","finish_time":"2026-01-03T13:47:47.023Z","options":"{\"concurrent\":false}","concurrent":false}}"#,
            )
        );
    }

    #[test]
    fn a_saga_with_every_option_that_is_being_rolled_back() {
        let options = Options {
            wait_result: true,
            timeout_to_fail_s: 60,
            request_timeout_s: 5,
            retry_interval_s: 2,
            retry_limit: 3,
            branch_headers: vec![("a".into(), "<b>".into())],
            concurrent: true,
            protocol: "grpc".into(),
            custom_data: r#"{"orders":{}}"#.into(),
            query_prepared: "http://q".into(),
            results: Results::default(),
        };
        let failed = |op, ms, retry_ms| {
            let failure = Failure::Unknown { error: "HTTP 500".into() };
            Event::Failed { step: 0, op, failure, retry_at: at(retry_ms), at: at(ms) }
        };
        let log = vec![
            Event::Submitted { at: at(0) },
            failed(Op::Action, 10, 2010),
            succeeded(0, Op::Action, None, 2020),
            Event::Started { step: 1, op: Op::Action, at: at(2020) },
            Event::Rejected { step: 1, reason: r#"{"error":"too much. FAILURE"}"#.into(), at: at(2030) },
            succeeded(1, Op::Compensate, None, 2030),
            failed(Op::Compensate, 3000, 5001),
        ];
        let policy = Policy { stuck_after: 0, ..Policy::default() };
        let json = text(query(Some(&record(options, log)), Rules { policy: &policy, ..rules() }));
        let (branches, transaction) = json.split_once(r#"],"transaction":"#).unwrap();
        assert_eq!(
            transaction,
            concat!(
                r#"{"id":0,"create_time":"2026-01-03T13:47:46.123Z","update_time":"2026-01-03T13:47:49.123Z","gid":"g\u003c1\u003e","trans_type":"saga","steps":[{"action":"http://a/try","compensate":"http://a/cancel?x=1\u0026y=\u003c2\u003e"},{"action":"http://b/try","compensate":""}],"payloads":["{\"amount\":30}",""],"status":"aborting","query_prepared":"http://q","protocol":"grpc","#,
                r#""rollback_reason":"url:http://b/try return failed: {\"error\":\"too much. FAILURE\"} FAILURE","#,
                r#""options":"{\"wait_result\":true,\"timeout_to_fail\":60,\"request_timeout\":5,\"retry_interval\":2,\"branch_headers\":{\"a\":\"\\u003cb\\u003e\"},\"concurrent\":true,\"retry_limit\":3}","#,
                r#""custom_data":"{\"orders\":{}}","next_cron_interval":3,"next_cron_time":"2026-01-03T13:47:51.124Z","#,
                r#""wait_result":true,"timeout_to_fail":60,"request_timeout":5,"retry_interval":2,"branch_headers":{"a":"\u003cb\u003e"},"concurrent":true,"retry_limit":3,"retry_count":1,"stuck":true}}"#,
            )
        );
        let branches: Vec<_> = branches
            .split(r#"{"id":0,"#)
            .skip(1)
            .map(|branch| branch.split_once(r#""branch_id":"#).unwrap().1)
            .collect();
        assert_eq!(
            branches,
            [
                r#""01","op":"compensate","status":"prepared","attempts":1,"error":"HTTP 500"},"#,
                r#""01","op":"action","status":"succeed","finish_time":"2026-01-03T13:47:48.143Z","attempts":2},"#,
                r#""02","op":"compensate","status":"succeed","finish_time":"2026-01-03T13:47:48.153Z","attempts":1},"#,
                r#""02","op":"action","status":"failed","finish_time":"2026-01-03T13:47:48.153Z","attempts":1,"error":"{\"error\":\"too much. FAILURE\"}"}"#,
            ]
        );
    }

    #[test]
    fn an_unknown_saga() {
        assert_eq!(text(query(None, rules())), r#"{"branches":[],"transaction":null}"#);
        assert_eq!(text(no_list("7")), r#"{"next_position":"7","transactions":null}"#);
    }

    async fn body(list: List) -> String {
        text(to_bytes(list.finish("7"), usize::MAX).await.unwrap().into())
    }

    #[tokio::test]
    async fn a_list_is_one_body_whatever_its_pieces() {
        let share = Share::new(1 << 20, usize::MAX);
        let holder = share.holder();
        assert_eq!(body(List::new(&holder)).await, r#"{"next_position":"7","transactions":[]}"#);
        let saga = record(Options::default(), vec![Event::Submitted { at: at(0) }]);
        let mut list = List::new(&holder);
        for _ in 0..200 {
            assert!(list.push(&saga, holder.nothing(), rules()));
        }
        let (bytes, pieces) = (list.bytes(), list.pieces.len());
        assert!(pieces > 0, "{bytes} bytes are more than one piece");
        let text = body(list).await;
        assert_eq!(text.len(), bytes + r#"{"next_position":"7","transactions":[]}"#.len());
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["transactions"].as_array().unwrap().len(), 200);
        assert_eq!(share.used(), 0);
    }

    #[tokio::test]
    async fn a_list_ends_where_memory_does() {
        let share = Share::new(200 << 10, usize::MAX);
        let holder = share.holder();
        let mut other = share.holder().nothing();
        other.grow_over(110 << 10);
        // Four times as long when it is encoded as it was expected to be.
        let options = Options { query_prepared: "<".repeat(20 << 10), ..Options::default() };
        let saga = record(options, vec![Event::Submitted { at: at(0) }]);
        let mut list = List::new(&holder);
        assert!(!list.push(&saga, holder.nothing(), rules()), "120 KiB");
        assert_eq!(body(list).await, r#"{"next_position":"7","transactions":[]}"#);
        let saga = record(Options::default(), vec![Event::Submitted { at: at(0) }]);
        let mut list = List::new(&holder);
        let pushed =
            std::iter::repeat_with(|| list.push(&saga, holder.nothing(), rules())).take_while(|fits| *fits).count();
        assert!(holder.used() > 50 << 10);
        let json: serde_json::Value = serde_json::from_str(&body(list).await).unwrap();
        assert_eq!(json["transactions"].as_array().unwrap().len(), pushed);
        drop(other);
        assert_eq!(share.used(), 0);
    }
}
