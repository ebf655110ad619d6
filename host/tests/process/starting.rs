//! The real program while it starts: what it answers, and what keeps it from starting.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;
use wasaga_testkit::process::{Host, poll, transfer};

use crate::child::{Process, free_address, settings};

/// A data folder whose opening waits until [`go_on`]: its file `FORMAT` is a pipe to which nobody writes.
fn slow_data(dir: &Path) -> (std::path::PathBuf, String) {
    let data = dir.join("data");
    assert!(Host::start(&data).terminate().success());
    let format = fs::read_to_string(data.join("FORMAT")).unwrap();
    fs::remove_file(data.join("FORMAT")).unwrap();
    assert!(Command::new("mkfifo").arg(data.join("FORMAT")).status().unwrap().success());
    (data, format)
}

fn go_on(data: &Path, format: &str) {
    fs::write(data.join("FORMAT"), format).unwrap();
}

/// The status of a gRPC call.
async fn grpc_status(port: u16) -> String {
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let call = client.post(format!("http://127.0.0.1:{port}/dtmgimp.Dtm/NewGid")).header("te", "trailers");
    let answer = call.header("content-type", "application/grpc").body(vec![0; 5]).send().await.unwrap();
    answer.headers().get("grpc-status").map_or("none", |status| status.to_str().unwrap()).to_owned()
}

#[tokio::test]
async fn while_it_starts_a_host_is_alive_and_says_how_far_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (data, format) = slow_data(dir.path());
    let host = Process::spawn(&[], &data, free_address(), &[], Stdio::null());
    assert_eq!(host.answers("/healthz", 200).await, r#"{"alive":true}"#);
    // It is alive before it opens anything.
    let opening = async || {
        let (status, wait, body) = host.get("/readyz").await?;
        let body: Value = serde_json::from_str(&body).unwrap();
        (body["detail"] == "opening the data").then_some((status, wait, body))
    };
    let (status, wait, body) = poll(opening, || "it does not say that it opens the data".to_owned()).await;
    assert_eq!((status, wait.as_deref()), (503, Some("1")));
    assert_eq!((&body["ready"], &body["state"]), (&false.into(), &"starting".into()));
    let saga = transfer("early", [1, 1], true);
    for (status, wait, body) in [
        host.get("/api/ping").await.unwrap(),
        host.get("/api/metrics").await.unwrap(),
        host.post("/api/dtmsvr/submit", saga.clone()).await.unwrap(),
        // Longer than what the system takes before the host reads.
        host.post("/api/dtmsvr/submit", " ".repeat(8 << 20)).await.unwrap(),
    ] {
        assert_eq!((status, wait.as_deref()), (503, Some("1")), "{body}");
        assert!(body.contains("the host is starting"), "{body}");
    }
    assert_eq!(grpc_status(host.address.port() + 1).await, "14", "UNAVAILABLE");

    go_on(&data, &format);
    assert!(host.answers("/readyz", 200).await.starts_with(r#"{"ready":true,"state":"ready""#));
    assert_eq!(host.get("/healthz").await.unwrap().0, 200);
    assert_eq!(host.get("/api/ping").await.unwrap().0, 200);
    assert_eq!(host.get("/").await.unwrap().0, 404);
    assert_eq!(host.post("/api/dtmsvr/submit", saga).await.unwrap().0, 200);
    assert_eq!(grpc_status(host.address.port() + 1).await, "none", "an answer, whose status is in its trailer");
}

#[tokio::test]
async fn a_host_that_is_told_to_stop_while_it_starts_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (data, format) = slow_data(dir.path());
    let host = Process::spawn(&[], &data, free_address(), &[], Stdio::null());
    host.answers("/healthz", 200).await;
    host.signal("-TERM");
    assert!(host.ended().await.success());
    fs::remove_file(data.join("FORMAT")).unwrap();
    go_on(&data, &format);
    assert!(Host::start(&data).terminate().success());
}

#[tokio::test]
async fn an_address_in_use_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let address = free_address();
    let other = TcpListener::bind(address).unwrap();
    let log = dir.path().join("log");
    let host = Process::spawn(&[], &dir.path().join("data"), address, &[], File::create(&log).unwrap());
    let text = "is in use: trying again for 10s (listen_patience)";
    let is_logged = || async { fs::read_to_string(&log).unwrap().contains(text).then_some(()) };
    poll(is_logged, || format!("no {text:?} in the log")).await;
    drop(other);
    host.answers("/readyz", 200).await;
}

#[tokio::test]
async fn an_address_that_stays_in_use_ends_the_start_and_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let address = free_address();
    let _other = TcpListener::bind(address).unwrap();
    let flag = settings(dir.path(), "listen_patience = \"100ms\"\n");
    let log = File::create(dir.path().join("log")).unwrap();
    let host = Process::spawn(&[], &dir.path().join("data"), address, &[&flag], log);
    assert_eq!(host.ended().await.code(), Some(1));
    let text = fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(text.contains(&format!("wasaga: cannot listen on {address}: ")), "{text}");
    assert!(!dir.path().join("data").exists());
}

#[tokio::test]
async fn a_second_host_on_the_same_data_ends_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let first = Host::start(&data);
    let log = File::create(dir.path().join("log")).unwrap();
    let second = Process::spawn(&[], &data, free_address(), &[], log);
    assert_eq!(second.ended().await.code(), Some(1));
    let text = fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(text.contains("is in use by another process"), "{text}");
    assert_eq!(first.submit(transfer("s", [1, 1], true)).await.unwrap().0, 200);
}
