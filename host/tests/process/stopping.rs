//! The real program, told to stop while clients misbehave.

use std::{
    io::{BufRead, BufReader, PipeReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Barrier},
    thread,
};

use serde_json::json;
use wasaga_testkit::process::{Host, PATIENCE, transfer};

use crate::child::{Process, free_address, settings};

/// Without a bound, a connection that never ends its request would keep the host alive for the 100 s of its limit.
#[tokio::test]
async fn a_client_that_never_ends_its_request_does_not_keep_the_host_alive() {
    let data = tempfile::tempdir().unwrap();
    let config = data.path().join("wasaga.toml");
    std::fs::write(&config, "stop_grace = \"100ms\"\n").unwrap();
    let host = Host::start_with(&data.path().join("data"), &["--config", config.to_str().unwrap()]);
    host.submit(transfer("before", [100, 100], true)).await.unwrap();
    let mut half = TcpStream::connect(&host.address).unwrap();
    half.write_all(b"POST /api/dtmsvr/submit HTTP/1.1\r\nHost: ").unwrap();
    // The host has accepted what came before this answer.
    host.get("/api/ping").await.unwrap();
    assert!(host.terminate().success());
}

/// A service that takes calls and never answers.
fn silent_service() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/act", listener.local_addr().unwrap());
    (listener, url)
}

#[tokio::test]
async fn idle_connections_do_not_use_up_the_grace_period() {
    let dir = tempfile::tempdir().unwrap();
    let flag = settings(dir.path(), "stop_grace = \"10m\"\n");
    let host = Process::spawn(&[], &dir.path().join("data"), free_address(), &[&flag], Stdio::null());
    host.answers("/readyz", 200).await;
    let _silent = TcpStream::connect(host.address).unwrap();
    host.signal("-TERM");
    assert!(host.ended().await.success());
}

/// One after another on a kept connection, until the host says that it closes it. Returns how many were answered.
fn ask_until_closed(address: SocketAddr, number: usize, began: &Barrier) -> usize {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answered = 0;
    loop {
        let body = transfer(&format!("kept-{number}-{answered}"), [1, 1], answered % 2 == 0);
        let head =
            format!("POST /api/dtmsvr/submit HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        let mut reader = BufReader::new(&stream);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            assert!(reader.read_line(&mut line).unwrap() > 0, "request {answered} of {number} is not answered");
            if line == "\r\n" {
                break;
            }
            head.push(line.to_lowercase());
        }
        let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.trim().parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        // 409: the client waited for a result, and the saga goes on at the next start.
        assert!(["200", "409", "503"].contains(&&head[0][9..12]), "{head:?} {}", body.escape_ascii());
        answered += 1;
        if answered == 3 {
            began.wait();
        }
        if head.iter().any(|line| line == "connection: close\r\n") {
            return answered;
        }
        assert!(head[0].contains(" 200 "), "refused without an end of the connection: {head:?}");
    }
}

#[tokio::test]
async fn requests_on_kept_connections_are_answered_until_they_are_told_to_close() {
    const CLIENTS: usize = 16;
    let dir = tempfile::tempdir().unwrap();
    let host = Process::spawn(&[], &dir.path().join("data"), free_address(), &[], Stdio::null());
    host.answers("/readyz", 200).await;
    let began = Arc::new(Barrier::new(CLIENTS + 1));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (began, address) = (began.clone(), host.address);
            thread::spawn(move || ask_until_closed(address, number, &began))
        })
        .collect();
    tokio::task::spawn_blocking(move || began.wait()).await.unwrap();
    host.signal("-TERM");
    assert!(host.ended().await.success());
    for client in clients {
        assert!(client.join().unwrap() >= 3);
    }
}

/// Asks on a connection until the host is not ready any more.
fn not_ready(mut stream: &TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    loop {
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"}") {
            let mut piece = [0; 1024];
            let bytes = stream.read(&mut piece).unwrap();
            assert!(bytes > 0, "closed after {}", answer.escape_ascii());
            answer.extend_from_slice(&piece[..bytes]);
        }
        let answer = String::from_utf8(answer).unwrap();
        if answer.starts_with("HTTP/1.1 503 ") {
            return answer;
        }
    }
}

#[tokio::test]
async fn a_second_signal_ends_the_host_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let flag = settings(dir.path(), "stop_grace = \"10m\"\n[saga]\nrequest_timeout = \"10m\"\n");
    let (service, url) = silent_service();
    let host = Process::spawn(&[], &dir.path().join("data"), free_address(), &[&flag], Stdio::null());
    host.answers("/readyz", 200).await;
    let saga = json!({ "gid": "s", "trans_type": "saga", "steps": [{ "action": url }], "payloads": ["{}"] });
    assert_eq!(host.post("/api/dtmsvr/submit", saga.to_string()).await.unwrap().0, 200);
    let _call = tokio::task::spawn_blocking(move || service.accept()).await.unwrap().unwrap();
    let kept = TcpStream::connect(host.address).unwrap();
    host.signal("-TERM");
    assert!(not_ready(&kept).contains(r#"{"ready":false,"state":"stopping""#));
    host.signal("-TERM");
    assert_eq!(host.ended().await.code(), Some(1));
}

/// A host whose log goes to a pipe that is full.
fn unread(dir: &Path, before: &[&str], flags: &[&str]) -> (Process, PipeReader) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    // The size of a pipe, on Linux.
    writer.write_all(&vec![b'\n'; 64 << 10]).unwrap();
    (Process::spawn(before, &dir.join("data"), free_address(), flags, writer), reader)
}

#[tokio::test]
async fn a_host_stops_although_nobody_reads_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let (host, _reader) = unread(dir.path(), &[], &[]);
    host.answers("/readyz", 200).await;
    host.signal("-TERM");
    assert!(host.ended().await.success());
}

#[tokio::test]
async fn a_host_whose_store_has_failed_ends_although_nobody_reads_its_log() {
    let dir = tempfile::tempdir().unwrap();
    // A file that may not grow is an error of the write, and not a signal that kills.
    let (host, _reader) = unread(dir.path(), &["sh", "-c", "trap '' XFSZ; exec \"$0\" \"$@\""], &[]);
    host.answers("/readyz", 200).await;
    assert_eq!(host.post("/api/dtmsvr/submit", transfer("before", [1, 1], true)).await.unwrap().0, 200);
    let limit = ["--pid", &host.id().to_string(), "--fsize=1:1"].map(str::to_owned);
    assert!(Command::new("prlimit").args(limit).status().unwrap().success());
    // The answer may be lost with the host.
    let answer = host.post("/api/dtmsvr/submit", transfer("after", [1, 1], true)).await;
    assert!(answer.is_none_or(|(status, ..)| status >= 500));
    assert_eq!(host.ended().await.code(), Some(1));

    let host = Host::start(&dir.path().join("data"));
    assert_eq!(host.query("before").await["transaction"]["status"], "succeed");
}
