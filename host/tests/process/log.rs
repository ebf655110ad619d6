//! What the program writes to standard error, and which users may read what it writes to disk.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use serde_json::json;
use tempfile::tempdir;
use wasaga_testkit::{
    component_dir,
    process::{Host, plugins, program, transfer},
};

use crate::child::settings;

/// A service that answers every request with this status, and with the request and some more as the body.
fn repeating_service(status: &'static str, more: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut request = Vec::new();
            let mut piece = [0; 4096];
            while !request.ends_with(b"{}") {
                match stream.read(&mut piece) {
                    Ok(read @ 1..) => request.extend_from_slice(&piece[..read]),
                    _ => break,
                }
            }
            let body = [more.as_bytes(), &request].concat();
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    address
}

#[tokio::test]
async fn no_line_of_the_log_is_forged_or_shows_a_secret() {
    let dir = tempdir().unwrap();
    let host = Host::start(&dir.path().join("data"));
    let service = repeating_service("500 No", "\u{1b}[2K\r\nINFO forged gid=\"bank\" \u{202e}");
    let gid = "ok branch=01 op=\"cancel\" \u{2060}x";
    let saga = json!({
        "gid": gid,
        "trans_type": "saga",
        "steps": [{"action": format!("http://user:hunter2-word@{service}/x"), "compensate": ""}],
        "payloads": ["{}"],
        "branch_headers": {"X-Token": "shown", "Cookie": "session=s3ss1on-id-1"},
        "wait_result": true,
    });
    let (_, body) = host.submit(saga.to_string()).await.unwrap();
    assert!(body.contains("ONGOING") || body.contains("FAILURE"), "{body}");
    let line = host.wait_for_log(&["attempt failed"]).await;
    let quoted = r#"gid="ok branch=01 op=\"cancel\" \u{2060}x" branch=01 op="action" attempt=1"#;
    assert!(line.contains(quoted) && line.contains("[hidden]") && line.contains("x-token: shown"), "{line}");
    // Basic authorization of the address, in base64.
    for secret in ["hunter2-word", "s3ss1on-id-1", "dXNlcjpodW50ZXIyLXdvcmQ"] {
        assert!(!line.contains(secret), "{secret}: {line}");
    }
    let log = host.log();
    assert!(log.iter().all(|line| !line.starts_with("INFO forged")), "{log:?}");
    assert!(log.iter().all(|line| !line.contains(['\u{1b}', '\u{202e}', '\r', '\u{2060}'])), "{log:?}");
}

/// A saga of one step whose plugin prints many lines.
fn chatter(gid: &str) -> String {
    let step = json!({"action": "wasm://chaos/try", "compensate": ""});
    let payload = json!({"try": "print", "text": "x\n", "times": 50}).to_string();
    json!({"gid": gid, "trans_type": "saga", "steps": [step], "payloads": [payload], "wait_result": true}).to_string()
}

#[tokio::test]
async fn a_chatty_plugin_is_cut_off_with_notes_and_all_lines_of_the_host_are_there() {
    let dir = tempdir().unwrap();
    let config = settings(dir.path(), "[plugins]\nlog_bytes_per_second = 2600\nlog_burst_bytes = 6500\n");
    let host = Host::start_on(&dir.path().join("data"), &component_dir("fixtures"), &[&config]);
    for number in 0..20 {
        assert_eq!(host.submit(chatter(&format!("g{number}"))).await.unwrap().0, 200);
    }
    host.wait_for_log(&["saga finished", "gid=\"g19\""]).await;
    host.wait_for_log(&["lines of this plugin are dropped from now on", "plugin=\"chaos\""]).await;
    let count = |words: &str| host.log().iter().filter(|line| line.contains(words)).count();
    assert_eq!(count("saga finished"), 20);
    // 100 of 65 bytes at once; a slow machine lets some more through.
    let logged = count("INFO \"x\" ");
    assert!((100..500).contains(&logged), "{logged} of 1000");
    // Half of the burst is there again after 1.25 s.
    let mut number = 20;
    while count("of this plugin were dropped in") == 0 {
        assert_eq!(host.submit(chatter(&format!("g{number}"))).await.unwrap().0, 200);
        number += 1;
        assert!(number < 10_000, "no note");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let note = host.wait_for_log(&["of this plugin were dropped in"]).await;
    assert!(note.contains("WARN") && note.contains("(log_bytes_per_second)"), "{note}");
}

/// The permissions that anybody but the owner has, by the names of files and folders.
fn open_to_others(dir: &Path) -> BTreeMap<String, u32> {
    let mut found = BTreeMap::new();
    let mut paths = vec![dir.to_owned()];
    while let Some(path) = paths.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            paths.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.insert(path.display().to_string(), metadata.permissions().mode() & 0o077);
    }
    found.retain(|_, mode| *mode != 0);
    found
}

#[tokio::test]
async fn the_data_folder_is_private_whatever_the_umask_and_an_older_one_becomes_so() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("data");
    let start = || {
        let mut command = Command::new("sh");
        let script = "umask 000; exec \"$0\" \"$@\"";
        command.args(["-c", script]).arg(program()).args(["--listen", "127.0.0.1:0", "--data"]).arg(&data);
        command.arg("--plugins").arg(plugins());
        Host::run(command)
    };
    let host = start();
    assert_eq!(host.submit(transfer("g", [1, 1], true)).await.unwrap().0, 200);
    assert_eq!(open_to_others(&data), BTreeMap::new(), "while it runs");
    assert!(host.terminate().success());
    assert_eq!(open_to_others(&data), BTreeMap::new(), "when it has ended");
    assert!(Command::new("chmod").args(["-R", "go+rX"]).arg(&data).status().unwrap().success());
    assert!(open_to_others(&data).len() > 5);
    let host = start();
    host.wait_for_log(&["files and folders that others could read are now private"]).await;
    assert_eq!(open_to_others(&data), BTreeMap::new(), "mended");
    assert_eq!(host.query("g").await["transaction"]["status"], "succeed");
}
