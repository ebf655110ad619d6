//! Where a host sends calls for its clients depends on where it listens.

use std::{net::TcpListener, process::Command};

use serde_json::{Value, json};
use wasaga_testkit::process::{Host, plugins, program};

use crate::child::settings;

fn host(dir: &std::path::Path, listen: [&str; 2], text: &str) -> Host {
    let mut command = Command::new(program());
    command.args(["--listen", listen[0], "--grpc-listen", listen[1], &settings(dir, text), "--data"]);
    command.arg(dir.join("data")).arg("--plugins").arg(plugins());
    Host::run(command)
}

fn saga(gid: &str, protocol: &str, action: &str) -> String {
    let steps = json!([{ "action": action }]);
    json!({ "gid": gid, "trans_type": "saga", "steps": steps, "payloads": ["{}"], "protocol": protocol }).to_string()
}

async fn message(host: &Host, body: String) -> (u16, String) {
    // A host that listens on every address is asked on one.
    let (status, answer) = host.submit(body).await.unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    (status, answer["message"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_host_that_others_reach_calls_nothing_private_unless_it_is_told_to() {
    // Never accepts; the saga waits for it.
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = service.local_addr().unwrap();
    for listen in [["0.0.0.0:0", "off"], ["127.0.0.1:0", "0.0.0.0:0"]] {
        let dir = tempfile::tempdir().unwrap();
        let refusing = host(dir.path(), listen, "");
        for (protocol, action) in [("", format!("http://{at}/x")), ("grpc", format!("{at}/a.B/C"))] {
            let (status, said) = message(&refusing, saga("g", protocol, &action)).await;
            assert_eq!(status, 400, "{said}");
            assert!(said.contains(&format!(r#"add "{at}" to allow under [http]"#)), "{said}");
        }
        let (_, all) = refusing.get("/api/dtmsvr/all").await.unwrap();
        assert_eq!(all, r#"{"next_position":"","transactions":[]}"#, "nothing is stored");
        drop(refusing);
        let told = host(dir.path(), listen, &format!("[http]\nallow = [\"{at}\"]\n"));
        assert_eq!(message(&told, saga("g", "", &format!("http://{at}/x"))).await.0, 200);
    }
    let dir = tempfile::tempdir().unwrap();
    let local = host(dir.path(), ["127.0.0.1:0", "[::1]:0"], "");
    assert_eq!(message(&local, saga("g", "", &format!("http://{at}/x"))).await.0, 200);
    let (status, said) = message(&local, saga("m", "", "http://169.254.169.254/latest/meta-data")).await;
    assert!(status == 400 && said.contains(r#"add "169.254.169.254:80" to allow"#), "{said}");
}

/// A saga that was taken under other settings is not lost: it goes on once they allow it.
#[tokio::test]
async fn a_saga_whose_destination_is_refused_later_waits_until_it_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let retry = "[saga.retry]\nretry_interval = \"20ms\"\nretry_interval_max = \"50ms\"\n";
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = service.local_addr().unwrap();
    let first = host(dir.path(), ["127.0.0.1:0", "off"], retry);
    assert_eq!(message(&first, saga("g", "", &format!("http://{at}/x"))).await.0, 200);
    drop(first);
    let refusing = host(dir.path(), ["127.0.0.1:0", "off"], &format!("{retry}[http]\ndeny = [\"127.0.0.0/8\"]\n"));
    refusing.wait_for_log(&["in deny under [http]", &at.to_string()]).await;
    let off = {
        drop(refusing);
        host(dir.path(), ["127.0.0.1:0", "off"], &format!("{retry}[http]\nhttp_branches = false\n"))
    };
    off.wait_for_log(&["http_branches = true under [http]"]).await;
    drop(off);
    service.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(service).unwrap();
    let router = axum::Router::new().fallback(|| async { "SUCCESS" });
    tokio::spawn(async move { axum::serve(listener, router).await });
    let again = host(dir.path(), ["127.0.0.1:0", "off"], retry);
    assert_eq!(again.wait_for_end("g").await["transaction"]["status"], "succeed");
}

#[test]
fn a_ca_file_that_cannot_be_read_ends_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let flag = settings(dir.path(), "[http]\nca_file = \"/no/such/authorities.pem\"\n");
    let mut command = Command::new(program());
    command.args(["--listen", "127.0.0.1:0", &flag, "--data"]).arg(dir.path().join("data"));
    let output = command.arg("--plugins").arg(plugins()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("/no/such/authorities.pem"), "{said}");
}
