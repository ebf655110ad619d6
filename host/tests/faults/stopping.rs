//! SIGTERM while clients submit over connections that they keep.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use wasaga_testkit::process::poll;

use crate::{
    client::{Answer, Client, Gone, saga_with},
    probe::honest,
    world::{World, last_lines},
};

const CLIENTS: u64 = 64;

/// Every other client has sagas that take some time.
fn saga(client: u64, number: u64) -> Value {
    let gid = format!("{client}-{number}");
    if client.is_multiple_of(2) {
        return honest(&gid);
    }
    let asleep = json!({ "try": "sleep", "ms": 20 });
    saga_with(&gid, "wasm://chaos/try", &asleep, &json!({ "wait_result": true }))
}

/// What clients were told of their sagas: the answer, or that there was none.
#[derive(Default)]
struct Told {
    answers: Mutex<BTreeMap<String, Answer>>,
    unanswered: Mutex<Vec<String>>,
    succeeded: AtomicU64,
}

/// Submits one saga after the other, until the host is no longer there.
async fn run(address: String, number: u64, told: Arc<Told>) {
    let mut client = Client::new(&address);
    for saga in (0..).map(|n| saga(number, n)) {
        let gid = saga["gid"].as_str().unwrap().to_owned();
        match client.submit(&saga).await {
            Ok(answer) => {
                told.succeeded.fetch_add(u64::from(answer.status == 200), Relaxed);
                told.answers.lock().unwrap().insert(gid, answer);
            }
            Err(Gone::NotConnected) => return,
            Err(Gone::Unanswered) => told.unanswered.lock().unwrap().push(gid),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_told_to_stop_answers_what_still_comes() {
    let world = World::with_chaos("", &["chaos"]);
    for _ in 0..3 {
        let _ = std::fs::remove_dir_all(&world.data);
        let host = world.start();
        let told = Arc::new(Told::default());
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            clients.spawn(run(host.address.clone(), number, told.clone()));
        }
        let enough = || async { (told.succeeded.load(Relaxed) >= 500).then_some(()) };
        poll(enough, || format!("sagas do not succeed:\n{}", last_lines(&host.log()))).await;
        assert!(host.terminate().success());
        clients.join_all().await;
        let unanswered = told.unanswered.lock().unwrap().clone();
        assert!(unanswered.is_empty(), "{} were dropped unanswered: {unanswered:?}", unanswered.len());
        check(&world, &told).await;
    }
}

/// What was told must hold at the next start.
async fn check(world: &World, told: &Told) {
    let host = world.start();
    let mut client = Client::new(&host.address);
    let answers = std::mem::take(&mut *told.answers.lock().unwrap());
    for (gid, answer) in &answers {
        let status = client.status(gid).await;
        match answer.status {
            200 => assert_eq!(status.as_deref(), Some("succeed"), "{gid}: {answer:?}"),
            // Accepted, and still under way when the answer was given.
            409 | 425 => assert!(status.is_some(), "{gid}: {answer:?}"),
            503 => assert_eq!(status, None, "{gid}: {answer:?}"),
            _ => panic!("{gid}: {answer:?}"),
        }
    }
}
