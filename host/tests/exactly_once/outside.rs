//! Requests of a real plugin, under the engine's own gate.
//!
//! 1. One leaves when that it starts, and all that the guest has read, is on disk; so does each piece of its body.
//! 2. A repeated attempt repeats its keys, whether it was the engine or a new host that repeated it.
//! 3. An attempt whose reads are stale is retried, and its writes count once.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use wasaga::saga::{BranchOp, Op, Status};
use wasaga_testkit::{
    engine::Setup,
    server::{Event, Server},
};

use crate::world::{Plugins, give, request, saga, starts, value};

const STEP: BranchOp = BranchOp { step: 1, op: Op::Action };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_leaves_when_its_start_and_what_was_read_is_on_disk() {
    let mut server = Server::start().await;
    let plugins = Plugins::reaching(&server);
    let host = Setup::new(plugins.branches.clone()).start();
    let fetch = json!({"try": "kv", "kv": [["increment", "n", 1]], "then": "fetch",
        "requests": [request(&server, "GET", "/hello")]});
    let plan = saga("g", &[("inside", json!({"try": "kv", "kv": [["set", "k", "v"]]})), ("outside", fetch)]);
    host.disk.hold();
    let submitted = tokio::spawn({
        let (engine, definition) = (host.engine.clone(), plan.now(&host.engine));
        async move { engine.submit(definition).await.map(drop) }
    });
    assert!(server.is_quiet().await, "sent with nothing on disk");
    host.disk.release();
    let asked = server.asked().await;
    assert_eq!(asked.headers["idempotency-key"], "g-02-action-1");
    submitted.await.unwrap().unwrap();
    let record = host.until_status("g", Status::Succeed).await;
    assert_eq!(starts(&record.log), [STEP]);
    assert_eq!((value(&host, "outside", "n").as_deref(), server.requests()), (Some("1"), 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_leaves_when_what_was_read_since_the_head_is_on_disk() {
    let mut server = Server::start().await;
    let plugins = Plugins::reaching(&server);
    let host = Setup::new(plugins.branches.clone()).start();
    let stream = json!({"try": "stream", "request": request(&server, "POST", "/pieces"),
        "requests": [request(&server, "GET", "/when")], "kv": [["get", "k"]]});
    host.submit(&saga("g", &[("outside", stream)])).await;
    for _ in 0..2 {
        server.asked().await;
    }
    // The guest has not read yet. What it is going to read may be lost.
    host.disk.hold();
    let given = give(&host, "outside", "k", "v");
    server.tell();
    assert!(server.is_quiet().await, "told what is not on disk");
    host.disk.release();
    assert_eq!(server.piece().await, r#"["v"]"#);
    assert!(given.is_durable());
    host.until_status("g", Status::Succeed).await;
}

/// The power goes while the body waits for the disk: what it would have told never was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_waits_for_a_disk_that_is_lost_never_leaves() {
    let mut server = Server::start().await;
    let plugins = Plugins::reaching(&server);
    let host = Setup::new(plugins.branches.clone()).start();
    let stream = json!({"try": "stream", "request": request(&server, "POST", "/pieces"),
        "requests": [request(&server, "GET", "/when")], "kv": [["get", "k"]]});
    host.submit(&saga("g", &[("outside", stream)])).await;
    for _ in 0..2 {
        server.asked().await;
    }
    host.disk.hold();
    give(&host, "outside", "k", "v");
    server.tell();
    let host = host.kill().await.start();
    assert!(matches!(server.next().await, Event::BrokenOff));
    assert_eq!(value(&host, "outside", "k"), None);
    for _ in 0..2 {
        server.asked().await;
    }
    server.tell();
    assert_eq!(server.piece().await, "[null]");
    host.until_status("g", Status::Succeed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_attempt_repeats_its_keys() {
    let mut server = Server::start().await;
    let plugins = Plugins::reaching(&server);
    let setup = Setup::new(plugins.branches.clone()).with(|settings| {
        settings.policy.retry_interval = Duration::from_millis(1);
    });
    let mut host = setup.start();
    // One request that is answered and one that is not, so that the attempt fails after it has been outside.
    let mut stall = request(&server, "GET", "/stall");
    stall["between_bytes_ms"] = json!(50);
    let fetch = json!({"try": "fetch", "requests": [request(&server, "GET", "/hello"), stall], "or": "be unavailable"});
    host.submit(&saga("g", &[("outside", fetch)])).await;
    // Two lives of the host, with some attempts in each.
    for life in 0..2 {
        for _ in 0..3 {
            for n in 1..=2 {
                let asked = server.asked().await;
                assert_eq!(asked.headers["idempotency-key"], format!("g-01-action-{n}"), "life {life}");
            }
        }
        let setup = host.kill().await;
        // What was asked just before the end.
        while !server.is_quiet().await {}
        host = setup.start();
    }
    host.engine.force_stop("g").await.unwrap();
}

/// Sagas read, ask the server and write, all of the same key. Each repetition asks the server again, so they have to
/// give each other room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sagas_that_want_the_same_data_while_they_are_outside_succeed_and_count_once() {
    const SAGAS: u32 = 16;
    let mut server = Server::start().await;
    let plugins = Plugins::reaching(&server);
    let host = Setup::new(plugins.branches.clone()).start();
    let fetch = json!({"try": "kv", "kv": [["increment", "n", 1]], "then": "fetch",
        "requests": [request(&server, "GET", "/crowd")]});
    for n in 0..SAGAS {
        host.submit(&saga(&format!("g{n}"), &[("outside", fetch.clone())])).await;
    }
    for n in 0..SAGAS {
        host.until_status(&format!("g{n}"), Status::Succeed).await;
    }
    assert_eq!(value(&host, "outside", "n"), Some(SAGAS.to_string()));
    let mut keys = BTreeMap::new();
    for _ in 0..server.requests() {
        *keys.entry(server.asked().await.headers["idempotency-key"].to_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    println!("{} requests, at most {:?} of one saga", server.requests(), keys.values().max());
    assert_eq!(keys.len(), SAGAS as usize);
    assert!(keys.values().all(|requests| *requests <= 8), "{keys:?}");
}
