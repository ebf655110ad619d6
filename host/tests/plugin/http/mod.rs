//! Plugins ask for what they are granted, after they were let out, and for nothing else.

mod busy;
mod failures;
mod limits;
mod pieces;
mod refusals;
mod tls;

use std::{collections::BTreeMap, sync::Mutex};

use futures_util::future::BoxFuture;
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};
use wasaga::{
    branch::{Egress, EgressDenied, EgressRequest},
    plugin::{Grants, Limits, grants, grants::rule::Allowed},
};

use super::{
    keyvalue::{Meddler, World},
    *,
};
use wasaga_testkit::server::{self, Event, Server};

/// An exit that keeps a list, and opens when it is told to.
struct Door {
    asked: Mutex<Vec<String>>,
    knocked: Notify,
    answer: watch::Sender<Option<Result<(), EgressDenied>>>,
}

impl Door {
    fn new(answer: Option<Result<(), EgressDenied>>) -> Arc<Self> {
        Arc::new(Self { asked: Mutex::default(), knocked: Notify::new(), answer: watch::channel(answer).0 })
    }

    fn open() -> Arc<Self> {
        Self::new(Some(Ok(())))
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Egress for Door {
    fn request(&self, egress_request: EgressRequest) -> BoxFuture<'_, Result<(), EgressDenied>> {
        self.asked.lock().unwrap().push(egress_request.what);
        self.knocked.notify_one();
        Box::pin(async {
            let answer = self.answer.subscribe().wait_for(Option::is_some).await.unwrap().clone();
            answer.unwrap()
        })
    }
}

fn allowed(url: &str, methods: &[&str], private: bool) -> Allowed {
    Allowed { url: url.into(), methods: methods.iter().map(|method| (*method).to_owned()).collect(), private }
}

/// The misbehaving plugin with these addresses, limits and secrets.
fn granted(http: Vec<Allowed>, limits: Limits) -> Registry {
    granted_with(&grants::Settings { http, ..Default::default() }, limits)
}

fn granted_with(settings: &grants::Settings, limits: Limits) -> Registry {
    let grants = Arc::new(Grants::new("chaos", settings).unwrap());
    chaos(&Settings { limits, grants: BTreeMap::from([("chaos".to_owned(), grants)]), ..Settings::default() })
}

/// May ask this server for anything below `/`.
fn granted_all_of(server: &Server) -> Registry {
    granted(vec![allowed(&server.url("/"), &["GET", "POST"], true)], Limits::default())
}

async fn attempt(plugins: &Registry, door: Option<Arc<Door>>, payload: &Value) -> Outcome {
    let egress = door.map(|door| door as Arc<dyn Egress>);
    let host = Host { egress, ..host() };
    branch(plugins, "chaos", Op::Action).call(&call(Op::Action, &payload.to_string()), &host).await
}

/// What the requests came to, one after the other.
async fn fetch(plugins: &Registry, requests: &[Value]) -> Vec<Value> {
    let payload = json!({"try": "fetch", "requests": requests});
    match output(attempt(plugins, Some(Door::open()), &payload).await) {
        Value::Array(answers) => answers,
        other => panic!("{other}"),
    }
}

/// A request to the server; more members can be added.
fn get(server: &Server, path: &str) -> Value {
    json!({"scheme": "http", "authority": server.authority(), "path": path})
}

fn with(mut request: Value, members: Value) -> Value {
    let Value::Object(members) = members else { panic!("{members}") };
    request.as_object_mut().unwrap().extend(members);
    request
}

#[tokio::test]
async fn what_is_granted_arrives_and_is_answered() {
    let mut server = Server::start().await;
    let plugins = granted_all_of(&server);
    let post = with(get(&server, "/length?q=1"), json!({"method": "POST", "body": 100_000, "headers": [["x-a", "b"]]}));
    let answers = fetch(&plugins, &[post, get(&server, "/hello")]).await;
    assert_eq!((&answers[0]["status"], &answers[0]["body"]), (&json!(200), &json!("100000")));
    assert_eq!(answers[1]["body"], "hello");
    let asked = server.asked().await;
    assert_eq!((&*asked.method, &*asked.uri), ("POST", "/length?q=1"));
    assert_eq!(asked.headers["host"], *server.authority());
    assert_eq!(asked.headers["x-a"], "b");
    assert_eq!(server.connections(), 1, "connections are used again");
}

#[tokio::test]
async fn names_are_resolved() {
    let server = Server::start().await;
    let port = server.address.port();
    let plugins = granted(vec![allowed(&format!("http://localhost:{port}/"), &["GET"], true)], Limits::default());
    let request = json!({"scheme": "http", "authority": format!("LOCALHOST:{port}"), "path": "/hello"});
    assert_eq!(fetch(&plugins, &[request]).await[0]["body"], "hello");
}

/// A connection that is still open to where only the one rule leads is none for the other.
#[tokio::test]
async fn rules_for_one_host_share_no_connection_unless_both_are_private() {
    let server = Server::start().await;
    let port = server.address.port();
    let host = |path: &str, private| allowed(&format!("http://localhost:{port}{path}"), &["GET"], private);
    let plugins = granted(vec![host("/hello", true), host("/length", false), host("/large", true)], Limits::default());
    let ask = |path: &str| json!({"scheme": "http", "authority": format!("localhost:{port}"), "path": path});
    let answers = fetch(&plugins, &[ask("/hello"), ask("/length"), ask("/large"), ask("/length")]).await;
    let statuses: Vec<_> = answers.iter().map(|answer| answer["status"].as_u64()).collect();
    assert_eq!(statuses, [Some(200), None, Some(200), None]);
    assert_eq!(answers[1]["error"], "ErrorCode::DestinationIpProhibited");
    assert_eq!((server.connections(), server.requests()), (1, 2));
}

#[tokio::test]
async fn a_repeated_attempt_repeats_its_keys() {
    let mut server = Server::start().await;
    let plugins = granted_all_of(&server);
    let requests = [get(&server, "/hello"), get(&server, "/hello")];
    let mut spans = Vec::new();
    for attempt in [1, 2] {
        let payload = json!({"try": "fetch", "requests": requests}).to_string();
        let call = Call { attempt, ..call(Op::Action, &payload) };
        let host = Host { egress: Some(Door::open()), ..host() };
        output(branch(&plugins, "chaos", Op::Action).call(&call, &host).await);
        for n in [1, 2] {
            let headers = server.asked().await.headers;
            assert_eq!(headers["idempotency-key"], format!("gid-1-02-action-{n}"));
            let traceparent = headers["traceparent"].to_str().unwrap().to_owned();
            // The first 16 bytes of the SHA-256 of "gid-1".
            assert!(traceparent.starts_with("00-374484cade53004632c4feb457c95641-"), "{traceparent}");
            spans.push(traceparent);
        }
    }
    spans.sort();
    spans.dedup();
    assert_eq!(spans.len(), 4, "each request is a span of its own: {spans:?}");
    let mine = with(get(&server, "/hello"), json!({"headers": [["Idempotency-Key", "mine"], ["traceparent", "t"]]}));
    fetch(&plugins, &[mine]).await;
    let headers = server.asked().await.headers;
    assert_eq!(
        (&headers["idempotency-key"], &headers["traceparent"]),
        (&"mine".parse().unwrap(), &"t".parse().unwrap())
    );
}

#[tokio::test]
async fn redirects_are_the_guests_business() {
    let mut server = Server::start().await;
    let plugins = granted_all_of(&server);
    let answers = fetch(&plugins, &[get(&server, "/redirect")]).await;
    assert_eq!(answers[0]["status"], 302);
    assert!(answers[0]["headers"].as_array().unwrap().contains(&json!(["location", "/hello"])));
    assert_eq!(server.asked().await.uri, "/redirect");
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn nothing_arrives_before_the_exit_opens() {
    let server = Server::start().await;
    let plugins = granted_all_of(&server);
    let door = Door::new(None);
    let payload = json!({"try": "fetch", "requests": [get(&server, "/hello?secret=1")]});
    let outcome = tokio::spawn({
        let door = door.clone();
        async move { attempt(&plugins, Some(door), &payload).await }
    });
    timeout(PATIENCE, door.knocked.notified()).await.unwrap();
    assert_eq!(door.asked(), [format!("GET {}", server.url("/hello"))], "without the query");
    assert_eq!(server.connections(), 0);
    door.answer.send_replace(Some(Ok(())));
    assert_eq!(output(outcome.await.unwrap())[0]["body"], "hello");
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn a_denied_attempt_ends_with_nothing_sent() {
    let server = Server::start().await;
    let plugins = granted_all_of(&server);
    let payload = json!({"try": "fetch", "requests": [get(&server, "/hello")]});
    let held = Door::new(Some(Err(EgressDenied("the saga has ended".into()))));
    assert_eq!(unknown(attempt(&plugins, Some(held), &payload).await), "nothing was sent: the saga has ended");
    let error = unknown(attempt(&plugins, None, &payload).await);
    assert_eq!(error, "nothing was sent: nothing may leave the host for this attempt");
    assert_eq!(server.connections(), 0);
}

/// The first run has read what changes before it asks: neither the server nor the exit hears of it.
#[tokio::test]
async fn nothing_leaves_on_what_is_no_longer_so() {
    let server = Server::start().await;
    let plugins = granted_all_of(&server);
    let (world, door) = (World::new(), Door::open());
    let state = Meddler::new(&world.store, 1);
    let payload = json!({"try": "kv", "kv": [["get", "k"]], "then": "fetch", "requests": [get(&server, "/hello")]});
    let call = call(Op::Action, &payload.to_string());
    let host = Host { state: state.clone(), egress: Some(door.clone()), is_dry_run: false, place: None };
    assert_eq!(output(branch(&plugins, "chaos", Op::Action).call(&call, &host).await), json!(["1"]));
    assert_eq!((state.gets(), door.asked().len(), server.requests()), (2, 1, 1));
}

#[tokio::test]
async fn an_attempt_that_does_not_wait_for_its_requests_has_made_none() {
    let server = Server::start().await;
    makes_none_that_it_does_not_wait_for(&server, &granted_all_of(&server)).await;
}

async fn makes_none_that_it_does_not_wait_for(server: &Server, plugins: &Registry) {
    let door = Door::new(None);
    let payload = json!({"try": "leave requests", "requests": [get(server, "/hello")]});
    assert_eq!(output(attempt(plugins, Some(door.clone()), &payload).await), Value::Null);
    door.answer.send_replace(Some(Ok(())));
    // A later attempt, so that the first one's request would have had its time.
    fetch(plugins, &[get(server, "/length")]).await;
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn requests_end_with_their_attempt() {
    let server = Server::start().await;
    let plugins = granted_all_of(&server);
    end_with_their_attempt(server, plugins).await;
}

async fn end_with_their_attempt(mut server: Server, plugins: Registry) {
    let payload = json!({"try": "fetch", "requests": [get(&server, "/silence")]});
    let attempt = tokio::spawn(async move { attempt(&plugins, Some(Door::open()), &payload).await });
    server.asked().await;
    attempt.abort();
    assert!(matches!(server.next().await, Event::GivenUp));
}

#[tokio::test]
async fn an_unfinished_request_is_not_sent_as_a_finished_one() {
    let mut server = Server::start().await;
    let plugins = granted_all_of(&server);
    let post = json!({"method": "POST", "body": "first half", "unfinished": true});
    let requests = json!([with(get(&server, "/length"), post)]);
    let payload = json!({"try": "leave requests", "requests": requests, "then": "sleep", "ms": 60_000});
    let attempt = tokio::spawn(async move { attempt(&plugins, Some(Door::open()), &payload).await });
    server.asked().await;
    attempt.abort();
    assert!(matches!(server.next().await, Event::BrokenOff));
}

#[tokio::test]
async fn a_plugin_with_a_way_out_is_gated() {
    let server = Server::start().await;
    let plugins = granted_all_of(&server);
    assert_eq!(branch(&plugins, "chaos", Op::Action).containment(), Containment::Gated);
    let reason = plugins.plugin("chaos").unwrap().classification().reason.clone();
    let expected = format!("imports wasi:http/outgoing-handler and is granted {} (GET, POST)", server.url("/"));
    assert_eq!(*reason, expected);
}
