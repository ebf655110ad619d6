//! The real program with few file descriptors, among more connections than it can have.

use std::{fs::File, net::TcpStream};

use wasaga_testkit::process::transfer;

use crate::child::{Process, free_address};

/// More than the smaller limit, and less than a test may open itself.
const SILENT: usize = 500;

async fn serves_among_silent_connections(limit: &str) {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let nofile = format!("--nofile={limit}");
    let data = dir.path().join("data");
    let host = Process::spawn(&["prlimit", &nofile], &data, free_address(), &[], File::create(&log).unwrap());
    host.answers("/readyz", 200).await;
    let mut silent = Vec::new();
    for number in 0..SILENT {
        silent.push(TcpStream::connect(host.address).unwrap());
        if number.is_multiple_of(10) {
            let saga = transfer(&format!("s-{number}"), [1, 1], true);
            let answer = host.post("/api/dtmsvr/submit", saga).await;
            assert_eq!(answer.as_ref().map(|(status, ..)| *status), Some(200), "{answer:?}");
        }
    }
    let (_, _, metrics) = host.get("/api/metrics").await.unwrap();
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(metrics.contains("wasaga_connections_displaced_total"), "{metrics}");
    assert!(text.contains("the limit of open files is 256, which is enough for 96 connections of clients"), "{text}");
    assert!(!text.contains("ERROR"), "{text}");
    host.signal("-TERM");
    assert!(host.ended().await.success());
}

#[tokio::test]
async fn a_host_with_few_descriptors_serves_among_silent_connections() {
    serves_among_silent_connections("256:256").await;
}

/// The soft limit is raised to the hard one.
#[tokio::test]
async fn a_low_soft_limit_makes_no_difference() {
    serves_among_silent_connections("64:256").await;
}
