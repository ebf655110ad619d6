//! A plugin's action is compensated if it can have had an effect, which the host knows of real plugins too.

use serde_json::{Value, json};
use wasaga::saga::{BranchOp, Event, Op, Status};
use wasaga_testkit::{
    engine::{Host, Setup},
    server::Server,
};

use crate::world::{Plugins, request, saga, starts, value};

/// A compensation that says which action it takes back.
fn with_cancel(mut payload: Value) -> Value {
    payload["cancel"] = json!("kv");
    payload["kv"] = json!([["increment", "cancelled", 1]]);
    payload
}

async fn failed(host: &Host, gid: &str) -> Vec<Event> {
    host.until_status(gid, Status::Failed).await.log
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_action_that_began_no_request_is_not_compensated_and_one_that_did_is() {
    let mut server = Server::start().await;
    let plugins = Plugins::reaching(&server);
    let host = Setup::new(plugins.branches.clone()).start();
    let mut stall = request(&server, "GET", "/stall");
    stall["between_bytes_ms"] = json!(50);
    let action = |step| BranchOp { step, op: Op::Action };

    // May reach the server, and rejects without having asked it.
    let inside = with_cancel(json!({"try": "reject", "text": "no"}));
    host.submit(&saga("inside", &[("outside", inside)])).await;
    let log = failed(&host, "inside").await;
    assert!(starts(&log).is_empty() && log.iter().any(|event| matches!(event, Event::Skipped { step: 0, .. })));
    assert_eq!((value(&host, "outside", "cancelled"), server.requests()), (None, 0));

    // Asks, and rejects then.
    let outside = with_cancel(json!({"try": "fetch", "requests": [stall.clone()], "or": "reject", "text": "no"}));
    host.submit(&saga("outside", &[("outside", outside)])).await;
    let log = failed(&host, "outside").await;
    assert_eq!(starts(&log), [action(0)]);
    server.asked().await;
    assert_eq!((value(&host, "outside", "cancelled").as_deref(), server.requests()), (Some("1"), 1));

    // Asks for what is refused: nothing has left.
    let refused = request(&server, "DELETE", "/hello");
    let denied = with_cancel(json!({"try": "fetch", "requests": [refused], "or": "reject", "text": "no"}));
    host.submit(&saga("denied", &[("outside", denied)])).await;
    let log = failed(&host, "denied").await;
    assert!(starts(&log).is_empty());
    assert_eq!((value(&host, "outside", "cancelled").as_deref(), server.requests()), (Some("1"), 1));
}

/// A compensation asks the server as well, under a key of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compensation_that_asks_has_a_key_of_its_own() {
    let mut server = Server::start().await;
    let plugins = Plugins::reaching(&server);
    let host = Setup::new(plugins.branches.clone()).start();
    let fetch = json!({"try": "fetch", "cancel": "fetch", "requests": [request(&server, "GET", "/hello")]});
    host.submit(&saga("g", &[("outside", fetch), ("inside", json!({"try": "reject", "text": "no"}))])).await;
    let log = failed(&host, "g").await;
    assert_eq!(starts(&log), [BranchOp { step: 0, op: Op::Action }, BranchOp { step: 0, op: Op::Compensate }]);
    for op in ["action", "compensate"] {
        assert_eq!(server.asked().await.headers["idempotency-key"], format!("g-01-{op}-1"));
    }
    assert_eq!(server.requests(), 2);
}
