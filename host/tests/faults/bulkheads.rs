//! One dead service, one stuck plugin, one flooding client: the places of the others stay theirs.
//!
//! While a client floods the host, others are those with another address: it may have used up its own share. Once its sagas
//! wait for their turn, those that it submits for something healthy must be served too.

use std::{collections::BTreeSet, sync::Mutex};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use wasaga_testkit::process::{Host, poll};

use crate::{
    client::{Answer, Client, FLOODING, saga, saga_with},
    participant::Participant,
    probe::Probe,
    world::{World, all_succeed, assert_alive, need_files, unless_it_ends},
};

/// Short waits: while the service is dead its sagas come back all the time, and once it is back they are soon done.
const SETTINGS: &str = "[saga.retry]\nretry_interval_max = \"2s\"\n";
/// More than `live_max`.
const SAGAS: usize = 4400;
const FLOODERS: usize = 32;

/// From one address, submits each saga once, and gives the gids of those that were accepted. The others must have been told to come back.
async fn flood(host: &Host, saga: impl Fn(usize) -> Value) -> BTreeSet<String> {
    let accepted = Mutex::new(BTreeSet::new());
    stream::iter(0..FLOODERS)
        .for_each_concurrent(None, async |first| {
            let mut client = Client::from(FLOODING, &host.address);
            for number in (first..SAGAS).step_by(FLOODERS) {
                let saga = saga(number);
                match client.submit(&saga).await {
                    Ok(Answer { status: 200, .. }) => {
                        accepted.lock().unwrap().insert(saga["gid"].as_str().unwrap().to_owned());
                    }
                    Ok(Answer { status: 503, retry_after: Some(_), .. }) => {}
                    other => panic!("{}: {other:?}", saga["gid"]),
                }
            }
        })
        .await;
    assert_alive(host);
    accepted.into_inner().unwrap()
}

/// Waits until a flood that is over has left most places.
async fn settled(host: &Host) {
    let live = || async {
        let (_, metrics) = host.get("/api/metrics").await.unwrap();
        let live = metrics.lines().find_map(|line| line.strip_prefix("wasaga_sagas_live ")).unwrap();
        (live.parse::<u64>().unwrap() < 2048).then_some(())
    };
    poll(live, || "sagas that wait keep the places of live ones".into()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a storm: make test-faults"]
async fn a_dead_service_leaves_the_places_of_others_alone() {
    a_dead_service(&json!({})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a storm: make test-faults"]
async fn a_dead_service_with_a_long_timeout_leaves_the_places_of_others_alone() {
    a_dead_service(&json!({ "request_timeout": 30 })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a storm: make test-faults"]
async fn a_dead_service_with_a_timeout_of_a_day_leaves_the_places_of_others_alone() {
    a_dead_service(&json!({ "request_timeout": 86400 })).await;
}

async fn a_dead_service(more: &Value) {
    need_files(8000);
    let world = World::new(SETTINGS);
    let host = world.start();
    let dead = Participant::dead().await;
    let probe = Probe::start(&host, "honest");
    let accepted = flood(&host, |number| saga_with(&format!("dead-{number}"), &dead.url, &json!({}), more));
    let accepted = unless_it_ends(&host, accepted).await;
    settled(&host).await;
    let later = Probe::start_beside_flood(&host, "later");
    // Long enough for retries to come back.
    unless_it_ends(&host, later.wait_for(1000)).await;
    dead.come_back();
    unless_it_ends(&host, all_succeed(&host, accepted)).await;
    later.end_unharmed(1000).await;
    probe.end_unharmed(1000).await;
}

/// A plugin that waits, with more sagas than there are places.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a storm: make test-faults"]
async fn a_stuck_plugin_leaves_the_places_of_others_alone() {
    let world = World::with_chaos("", &["stuck"]);
    let host = world.start();
    let probe = Probe::start(&host, "honest");
    let asleep = json!({ "try": "sleep", "ms": 300 });
    let accepted = flood(&host, |number| saga(&format!("stuck-{number}"), "wasm://stuck/try", &asleep));
    let accepted = unless_it_ends(&host, accepted).await;
    settled(&host).await;
    let later = Probe::start_beside_flood(&host, "later");
    unless_it_ends(&host, all_succeed(&host, accepted)).await;
    later.end_unharmed(500).await;
    probe.end_unharmed(500).await;
}

/// Two plugins that wait, each with more sagas than it may have guests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a storm: make test-faults"]
async fn plugins_that_wait_do_not_keep_those_out_that_compute() {
    const WAITING: usize = 72;
    let world = World::with_chaos("", &["first", "second"]);
    let host = world.start();
    let mut client = Client::new(&host.address);
    let asleep = json!({ "try": "sleep", "ms": 10_000 });
    let mut gids = Vec::new();
    for (plugin, number) in
        ["first", "second"].into_iter().flat_map(|plugin| (0..WAITING).map(move |number| (plugin, number)))
    {
        let gid = format!("{plugin}-{number}");
        let saga = saga_with(&gid, &format!("wasm://{plugin}/try"), &asleep, &json!({ "request_timeout": 60 }));
        assert_eq!(client.submit(&saga).await.unwrap().status, 200);
        gids.push(gid);
    }
    let probe = Probe::start(&host, "honest");
    probe.wait_for(50).await;
    // They were submitted first, so honest sagas that had waited for a place would have waited for them.
    for gid in &gids {
        assert_eq!(client.status(gid).await.as_deref(), Some("submitted"), "{gid} had a place before honest sagas");
    }
    all_succeed(&host, gids).await;
    probe.end_unharmed(50).await;
}

/// One client whose sagas wait at many services, each of which has a share of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a storm: make test-faults"]
async fn a_flooding_client_leaves_the_places_of_others_alone() {
    const SERVICES: usize = 200;
    need_files(8000);
    let world = World::new(SETTINGS);
    let host = world.start();
    let dead = Participant::dead().await;
    let probe = Probe::start(&host, "honest");
    let accepted = flood(&host, |number| {
        // Each address of the loopback network is another destination, and the service listens on all of them.
        let url = dead.url.replace("127.0.0.1", &format!("127.0.1.{}", 1 + number % SERVICES));
        saga_with(&format!("flood-{number}"), &url, &json!({}), &json!({ "request_timeout": 30 }))
    });
    let accepted = unless_it_ends(&host, accepted).await;
    unless_it_ends(&host, probe.wait_for(500)).await;
    dead.come_back();
    unless_it_ends(&host, all_succeed(&host, accepted)).await;
    probe.end_unharmed(500).await;
}
