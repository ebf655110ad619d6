//! A restart with thousands of sagas that are due at once.

use serde_json::json;

use crate::{
    client::{saga, submit_all},
    participant::Participant,
    probe::Probe,
    world::{World, all_succeed, need_files, unless_it_ends},
};

const SAGAS: usize = 5000;

fn gid(number: usize) -> String {
    format!("due-{number}")
}

/// The service is still dead when the host is back, and all that waited is due.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a storm: make test-faults"]
async fn new_sagas_have_places_that_a_backlog_cannot_take() {
    need_files(8000);
    // Attempts give up soon, so that all sagas have been tried and wait.
    let retries = "[saga.retry]\nretry_interval_max = \"1s\"\n";
    let world = World::new(&format!("[saga]\nrequest_timeout = \"100ms\"\n{retries}"));
    let dead = Participant::dead().await;
    let host = world.start();
    let all: Vec<_> = (0..SAGAS).map(|number| saga(&gid(number), &dead.url, &json!({}))).collect();
    unless_it_ends(&host, submit_all(&host.address, &all)).await;
    host.signal_kill();

    // Now an attempt lasts longer than the rest of the test.
    world.set(&format!("[saga]\nrequest_timeout = \"1m\"\n{retries}"));
    let host = world.start();
    let probe = Probe::start(&host, "new");
    unless_it_ends(&host, probe.wait_for(1000)).await;
    dead.come_back();
    unless_it_ends(&host, all_succeed(&host, (0..SAGAS).map(gid))).await;
    probe.end_unharmed(1000).await;
}
