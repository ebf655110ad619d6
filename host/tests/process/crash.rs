//! SIGKILL of the real program at random times under load, again and again on the same data.
//!
//! What must hold afterwards: every acknowledged saga is there; every saga that is there ends; none that succeeded
//! lacks an effect and none that failed has one; and no service was ever called for a saga that the host does not know
//! (the output rule). The participant keeps the score, with the barrier that every participant of DTM needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{Query, State},
    http::StatusCode,
    routing::post,
};
use futures_util::{StreamExt, stream};
use serde_json::json;
use wasaga_testkit::process::Host;

const ROUNDS: u64 = 8;
const CLIENTS: u64 = 16;

/// What the participant knows of one branch.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Score {
    has_effect: bool,
    is_compensated: bool,
}

#[derive(Clone, Default)]
struct Participant {
    scores: Arc<Mutex<BTreeMap<(String, String), Score>>>,
    calls: Arc<AtomicU64>,
}

/// Every tenth call fails after its effect, every tenth before it, as services do.
async fn act(State(participant): State<Participant>, Query(call): Query<BTreeMap<String, String>>) -> StatusCode {
    let number = participant.calls.fetch_add(1, Ordering::Relaxed);
    if number % 10 == 3 {
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    let mut scores = participant.scores.lock().unwrap();
    let score = scores.entry((call["gid"].clone(), call["branch_id"].clone())).or_default();
    if call["op"] == "action" {
        score.has_effect |= !score.is_compensated;
    } else {
        *score = Score { has_effect: false, is_compensated: true };
    }
    if number % 10 == 7 { StatusCode::BAD_GATEWAY } else { StatusCode::OK }
}

async fn participant() -> (Participant, String) {
    let participant = Participant::default();
    let router = Router::new().route("/act", post(act)).with_state(participant.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/act", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (participant, url)
}

/// HTTP, Wasm, HTTP; every third one is rejected by the Wasm step in the middle.
fn saga(gid: &str, number: u64, url: &str) -> String {
    let http = json!({ "action": url, "compensate": url });
    let wasm = json!({ "action": "wasm://service-b/try", "compensate": "wasm://service-b/cancel" });
    let amount = if number.is_multiple_of(3) { 600 } else { 100 };
    json!({
        "gid": gid,
        "trans_type": "saga",
        "steps": [http, wasm, http],
        "payloads": [json!({ "amount": amount }), json!({ "amount": amount }), json!({ "amount": amount })],
        "wait_result": number.is_multiple_of(2),
        "custom_data": if number.is_multiple_of(5) { r#"{"concurrent":true}"# } else { "" },
    })
    .to_string()
}

/// Submits sagas until the host is gone; gives those that were acknowledged.
async fn client(host: Arc<Host>, first: u64, url: String, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for number in (first..).step_by(usize::try_from(CLIENTS).unwrap()) {
        let gid = format!("kill-{number}");
        match host.submit(saga(&gid, number, &url)).await {
            Ok((200 | 409, _)) => acknowledged.push(gid),
            Ok(other) => panic!("{other:?}"),
            Err(_) => break,
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_and_no_effect_leaks() {
    let dir = tempfile::tempdir().unwrap();
    let (data, config) = (dir.path().join("data"), dir.path().join("wasaga.toml"));
    // Quick retries: with a fifth of all calls failing, some sagas need many.
    std::fs::write(&config, "[saga.retry]\nretry_interval = \"50ms\"\nretry_interval_max = \"200ms\"\n").unwrap();
    let start = || Host::start_with(&data, &["--config", config.to_str().unwrap()]);
    let (participant, url) = participant().await;
    let seed = wasaga_testkit::seed(fastrand::u64(..));
    let mut random = fastrand::Rng::with_seed(seed);
    let mut acknowledged = BTreeSet::new();
    for round in 0..ROUNDS {
        let host = Arc::new(start());
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let first = round * 1_000_000 + number;
                tokio::spawn(client(host.clone(), first, url.clone(), stop.clone()))
            })
            .collect();
        // The load runs for a random time: this is a delay of the test's choice, not a wait for a condition.
        tokio::time::sleep(Duration::from_millis(random.u64(20..400))).await;
        host.signal_kill();
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            acknowledged.extend(client.await.unwrap());
        }
    }
    assert!(acknowledged.len() > 100, "too little load to tell anything: {}", acknowledged.len());

    let host = &start();
    let called: BTreeSet<String> = participant.scores.lock().unwrap().keys().map(|(gid, _)| gid.clone()).collect();
    let known = acknowledged.union(&called);
    stream::iter(known).for_each_concurrent(16, async |gid| check(host, &participant, gid).await).await;
    println!("{} sagas acknowledged, {} called the participant", acknowledged.len(), called.len());
}

async fn check(host: &Host, participant: &Participant, gid: &str) {
    assert!(!host.query(gid).await["transaction"].is_null(), "{gid} is unknown to the host");
    let view = host.wait_for_end(gid).await;
    let status = view["transaction"]["status"].as_str().unwrap();
    for branch in ["01", "03"] {
        let score = participant.scores.lock().unwrap().get(&(gid.to_owned(), branch.to_owned())).copied();
        let has_effect = score.unwrap_or_default().has_effect;
        assert_eq!(has_effect, status == "succeed", "{gid} {branch} ended {status}: {view:#}");
    }
}
