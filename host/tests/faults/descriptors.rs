//! Few open files: calls that are not answered, and connections that say nothing, by the thousand.

use std::time::Duration;

use serde_json::json;
use tokio::{io::AsyncReadExt, task::JoinSet, time::timeout};
use wasaga_testkit::process::Host;

use crate::{
    client::{Client, FLOODING, connect, saga, submit_all},
    participant::Participant,
    probe::Probe,
    world::{World, all_succeed, assert_alive, need_files, unless_it_ends, with_files},
};

/// Short waits, so that all sagas are called again soon after the service is back.
const SETTINGS: &str = "[saga.retry]\nretry_interval_max = \"2s\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a storm: make test-faults"]
async fn a_dead_service_takes_no_files_that_others_need_of_1024_that_may_be_raised() {
    a_dead_service(1024, 4096, 1500).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a storm: make test-faults"]
async fn a_dead_service_takes_no_files_that_others_need_of_1024() {
    a_dead_service(1024, 1024, 1500).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a storm: make test-faults"]
async fn a_dead_service_takes_no_files_that_others_need_of_256() {
    a_dead_service(256, 256, 500).await;
}

/// More sagas than files, all on one dead service; killed and started again in the middle of it, the host calls all of
/// them again.
async fn a_dead_service(soft: u32, hard: u32, sagas: usize) {
    need_files(4000);
    let world = World::new(SETTINGS);
    let start = || Host::run(with_files(&world.command(), soft, hard));
    let dead = Participant::dead().await;
    let host = start();
    let probe = Probe::start(&host, "first");
    let all: Vec<_> = (0..sagas).map(|number| saga(&gid(number), &dead.url, &json!({}))).collect();
    unless_it_ends(&host, submit_all(&host.address, &all)).await;
    unless_it_ends(&host, probe.wait_for(500)).await;
    probe.end_unharmed(500).await;
    host.signal_kill();

    let host = start();
    let probe = Probe::start(&host, "second");
    unless_it_ends(&host, probe.wait_for(1000)).await;
    dead.come_back();
    unless_it_ends(&host, all_succeed(&host, (0..sagas).map(gid))).await;
    probe.end_unharmed(1000).await;
    assert_alive(&host);
    let ledger = dead.ledger();
    assert!((0..sagas).all(|number| ledger[&gid(number)].answered > 0));
}

fn gid(number: usize) -> String {
    format!("dead-{number}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a storm: make test-faults"]
async fn silent_connections_keep_nobody_out_with_1024_files_that_may_be_raised() {
    silent_connections(1024, 4096, 1100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a storm: make test-faults"]
async fn silent_connections_keep_nobody_out_with_1024_files() {
    silent_connections(1024, 1024, 1100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a storm: make test-faults"]
async fn silent_connections_keep_nobody_out_with_256_files() {
    silent_connections(256, 256, 1100).await;
}

/// Connections that are made at once. Many more would be dropped by the system before the host sees them.
const BATCH: usize = 50;

/// Clients that connect and say nothing, from an address of their own.
async fn silent_connections(soft: u32, hard: u32, connections: usize) {
    need_files(4000);
    let world = World::new("");
    let host = Host::run(with_files(&world.command(), soft, hard));
    let probe = Probe::start(&host, "honest");
    unless_it_ends(&host, probe.wait_for(20)).await;
    let mut silent = JoinSet::new();
    for _ in 0..connections / BATCH {
        for _ in 0..BATCH {
            let address = host.address.clone();
            silent.spawn(async move {
                // Held until the host closes it.
                let mut stream = connect(Some(FLOODING), &address).await?;
                stream.read(&mut [0]).await
            });
        }
        // A later one that is answered shows that all of them have been accepted. A host that is out of files answers none.
        let _ = timeout(Duration::from_secs(1), Client::new(&host.address).ask("GET", "/api/ping", "")).await;
    }
    unless_it_ends(&host, probe.wait_for(1000)).await;
    probe.end_unharmed(1000).await;
    assert_alive(&host);
}
