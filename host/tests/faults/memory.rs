//! A small budget of memory: large sagas, unfinished bodies, lists of large sagas.

use std::{collections::BTreeSet, sync::Mutex};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
    task::JoinSet,
};
use wasaga_testkit::process::{Host, poll};

use crate::{
    client::{Answer, Client, FLOODING, connect, saga, submit_until_accepted},
    participant::Participant,
    probe::Probe,
    world::{World, all_succeed, unless_it_ends},
};

const BUDGET: u64 = 256 << 20;
/// A fraction of what the sagas and bodies below would take.
const SETTINGS: &str = "[memory]\nbudget_bytes = 268435456\n[saga.retry]\nretry_interval_max = \"2s\"\n";

/// Bytes of memory that the host had at most so far.
fn peak_bytes(host: &Host) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// The limits of the store's own memory, which is beside the budget: its cache, what is not yet in the cache, and the group
/// of commits that is being written. 64 MiB each.
const STORE: u64 = 3 * (64 << 20);

/// The budget, a fifth for what nobody counts, the store, and what a host has that does nothing.
fn assert_within_budget(host: &Host, idle: u64) {
    let (peak, most) = (peak_bytes(host), idle + BUDGET + BUDGET / 5 + STORE);
    assert!(peak <= most, "{} MB at most, of {} MB", peak >> 20, most >> 20);
}

/// A saga whose payloads have three million bytes.
fn large(gid: &str, url: &str) -> Value {
    let mut saga = saga(gid, url, &json!({}));
    saga["steps"] = json!(vec![&saga["steps"][0]; 3]);
    saga["payloads"] = json!(vec![json!("x".repeat(1_000_000)).to_string(); 3]);
    saga
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a storm: make test-faults"]
async fn sagas_beyond_the_budget_are_refused_and_leave_nothing() {
    let world = World::new(SETTINGS);
    let host = world.start();
    let idle = peak_bytes(&host);
    let dead = Participant::dead().await;
    let (accepted, refused) = (Mutex::new(BTreeSet::new()), Mutex::new(BTreeSet::new()));
    let storm = stream::iter(0..48).for_each_concurrent(None, async |first| {
        let mut client = Client::from(FLOODING, &host.address);
        for number in (first..300).step_by(48) {
            let gid = format!("large-{number}");
            let set = match client.submit(&large(&gid, &dead.url)).await {
                Ok(Answer { status: 200, .. }) => &accepted,
                Ok(Answer { status: 503, retry_after: Some(_), .. }) => &refused,
                other => panic!("{gid}: {other:?}"),
            };
            set.lock().unwrap().insert(gid);
        }
    });
    unless_it_ends(&host, storm).await;
    let (accepted, refused) = (accepted.into_inner().unwrap(), refused.into_inner().unwrap());
    assert!(!accepted.is_empty() && !refused.is_empty(), "{} and {} of 300", accepted.len(), refused.len());
    let mut client = Client::new(&host.address);
    for gid in &refused {
        assert_eq!(client.status(gid).await, None, "{gid} was refused and is stored");
    }
    assert_within_budget(&host, idle);
    dead.come_back();
    unless_it_ends(&host, all_succeed(&host, accepted)).await;
}

/// Each of them is nearly as long as allowed, and none of them is ever finished.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a storm: make test-faults"]
async fn unfinished_bodies_keep_nobody_out() {
    let world = World::new(SETTINGS);
    let host = world.start();
    let idle = peak_bytes(&host);
    let probe = Probe::start(&host, "honest");
    let head = b"POST /api/dtmsvr/submit HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4194304\r\n\r\n";
    let (begun, bodies_begun) = watch::channel(0);
    let mut bodies = JoinSet::new();
    for _ in 0..100 {
        let (address, begun) = (host.address.clone(), begun.clone());
        bodies.spawn(async move {
            let mut stream = connect(Some(FLOODING), &address).await.unwrap();
            stream.write_all(head).await.unwrap();
            begun.send_modify(|number| *number += 1);
            // The host may read no further, or refuse it before it has read all.
            if stream.write_all(&vec![b'"'; 4_194_000]).await.is_ok() {
                let _ = stream.read(&mut [0]).await;
            }
        });
    }
    let all_begun = poll(|| async { (*bodies_begun.borrow() == 100).then_some(()) }, || "no bodies".into());
    unless_it_ends(&host, all_begun).await;
    unless_it_ends(&host, probe.wait_for(500)).await;
    probe.end_unharmed(500).await;
    assert_within_budget(&host, idle);
}

/// Lists of sagas that are as large as allowed, asked for again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a storm: make test-faults"]
async fn lists_of_large_sagas_keep_nobody_out() {
    let world = World::new(SETTINGS);
    let host = world.start();
    let idle = peak_bytes(&host);
    let mut client = Client::new(&host.address);
    let gids: Vec<String> = (0..32).map(|number| format!("listed-{number}")).collect();
    for gid in &gids {
        submit_until_accepted(&mut client, &large(gid, "")).await;
    }
    unless_it_ends(&host, all_succeed(&host, gids)).await;
    let probe = Probe::start(&host, "honest");
    let lists = stream::iter(0..8).for_each_concurrent(None, async |_| {
        let mut listed = 0;
        while listed < 3 {
            match host.get("/api/dtmsvr/all?limit=32").await.unwrap() {
                (200, _) => listed += 1,
                (503, _) => tokio::task::yield_now().await,
                other => panic!("{other:?}"),
            }
        }
    });
    unless_it_ends(&host, lists).await;
    unless_it_ends(&host, probe.wait_for(100)).await;
    probe.end_unharmed(100).await;
    assert_within_budget(&host, idle);
}
