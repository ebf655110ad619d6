//! The real program, told to stop while clients misbehave.

use std::{io::Write, net::TcpStream};

use wasaga_testkit::process::{Host, transfer};

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
