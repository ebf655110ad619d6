//! What the host says of bad input and of services that fail is written for people: no debug output of a library.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};

use serde_json::json;
use wasaga_testkit::process::Host;

/// What debug output of errors looks like, of the standard library and of those that the host uses.
const DEBUG_WORDS: [&str; 26] = [
    "Os {",
    "kind:",
    "Custom {",
    "Error {",
    "Error(",
    "Err(",
    "Some(",
    "None,",
    "Kind(",
    "ErrorKind",
    "InvalidCertificate",
    "UnknownIssuer",
    "CaUsedAsEndEntity",
    "reqwest::",
    "hyper::",
    "hyper_util",
    "h2::",
    "tonic::",
    "rustls::",
    "serde::",
    "serde_json::",
    "postcard::",
    "prost::",
    "wasmtime::",
    "wasmparser",
    "RawValue",
];

fn assert_for_people(text: &str, of: &str) {
    for word in DEBUG_WORDS {
        assert!(!text.contains(word), "{of}: {word:?} in\n{text}");
    }
}

/// A service that answers each connection with these bytes, and closes it.
fn service(answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(answer);
        }
    });
    port
}

/// What comes back for bytes that are no request of a client library.
fn raw(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn bad_requests_are_answered_in_words_for_people() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::start(dir.path());
    let saga = |fields: &str| format!(r#"{{"gid":"g","trans_type":"saga",{fields}}}"#).into_bytes();
    let bodies: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"{".to_vec(),
        b"\xff\xfe{".to_vec(),
        br#"{"gid":"\ud83d","trans_type":"saga"}"#.to_vec(),
        saga(r#""payloads":["\ud83d"]"#),
        saga(r#""payloads":[7]"#),
        saga(r#""steps":{}"#),
        saga(r#""steps":[{"action":"wasm://nobody/try"}],"payloads":[""]"#),
        saga(r#""steps":[{"action":"wasm://account@sha256:1/try"}],"payloads":[""]"#),
        saga(r#""steps":[{"action":"http://a:99999/"}],"payloads":[""]"#),
        saga(r#""steps":[{"action":"http://[::1/"}],"payloads":[""]"#),
        saga(r#""steps":[{"action":"http://a b/"}],"payloads":[""]"#),
        saga(r#""protocol":"grpc","steps":[{"action":"a/b"}],"payloads":[""]"#),
        saga(r#""branch_headers":{"a\n":"b"}"#),
        saga(r#""custom_data":"{\"orders\":{\"x\":1}}""#),
        saga(r#""retry_limit":1e400"#),
    ];
    for body in &bodies {
        for path in
            ["/api/dtmsvr/submit", "/api/dtmsvr/prepare", "/api/json-rpc", "/api/dtmsvr/forceStop", "/api/v1/plan"]
        {
            let (_, text) = host.post(path, body.clone()).await.unwrap();
            assert_for_people(&text, &format!("{path} {}", body.escape_ascii()));
        }
    }
    for path in [
        "/api/dtmsvr/all?limit=x",
        "/api/dtmsvr/all?position=%ff",
        "/api/dtmsvr/query?gid=%ff%00",
        "/api/v1/sagas/%ff",
        "/api/v1/sagas/nobody/log",
    ] {
        let (_, text) = host.get(path).await.unwrap();
        assert_for_people(&text, path);
    }
    for component in [&b""[..], b"no component", b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0\xff", b"(module)", &[0; 5000]]
    {
        let (_, text) = host.put("/api/v1/plugins/broken", component.to_vec()).await.unwrap();
        assert_for_people(&text, "a component");
    }
    assert_for_people(&host.log().join("\n"), "the log");
    host.terminate();
}

#[tokio::test]
async fn failures_of_services_are_told_in_words_for_people() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::start(dir.path());
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let answers: [&'static [u8]; 9] = [
        b"",
        b"HTTP/1.1",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nxyz",
        b"HTTP/1.1 302 Found\r\nLocation: ftp://a/\r\n\r\n",
        b"HTTP/1.1 500 Internal Server Error\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ];
    let mut addresses = vec![
        ("refused", format!("http://127.0.0.1:{closed}/pay")),
        ("refused-tls", format!("https://127.0.0.1:{closed}/pay")),
        ("unknown-host", "http://nobody.invalid/pay".to_owned()),
        ("no-tls", format!("https://127.0.0.1:{}/pay", service(b"HTTP/1.1 400 Bad Request\r\n\r\n"))),
        (
            "no-json",
            format!("http://127.0.0.1:{}/pay?method=m", service(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")),
        ),
    ];
    let kinds =
        ["empty", "cut-head", "garbage", "cut-body", "bad-length", "no-gzip", "odd-redirect", "status", "bad-chunk"];
    addresses.extend(
        kinds
            .into_iter()
            .zip(answers)
            .map(|(kind, answer)| (kind, format!("http://127.0.0.1:{}/pay", service(answer)))),
    );
    let saga = |kind: &str, protocol: &str, address: &str| {
        let gid = format!("g-{kind}-g");
        let body = json!({ "gid": gid, "trans_type": "saga", "protocol": protocol, "request_timeout": 5, "payloads": ["{}"],
            "steps": [{ "action": address, "compensate": "" }] });
        (gid, body.to_string())
    };
    let mut sagas = Vec::new();
    for (kind, address) in &addresses {
        let protocol = if *kind == "no-json" { "json-rpc" } else { "" };
        sagas.push(saga(kind, protocol, address));
    }
    sagas.push(saga("grpc-closed", "grpc", &format!("127.0.0.1:{closed}/s.S/M")));
    sagas.push(saga("grpc-noise", "grpc", &format!("127.0.0.1:{}/s.S/M", service(b"garbage"))));
    for (gid, saga) in &sagas {
        let (status, text) = host.submit(saga.clone()).await.unwrap();
        assert_for_people(&text, gid);
        if status == 200 {
            host.wait_for_log(&[gid]).await;
            for path in ["", "/log"] {
                let (_, text) = host.get(&format!("/api/v1/sagas/{gid}{path}")).await.unwrap();
                assert_for_people(&text, gid);
            }
        }
    }
    assert_for_people(&host.log().join("\n"), "the log");
    host.terminate();
}

/// Not even what is no HTTP at all.
#[tokio::test]
async fn what_is_no_http_is_answered_without_debug_words() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::start(dir.path());
    for request in [
        &b"garbage\r\n\r\n"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /api/dtmsvr/submit HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"POST /api/dtmsvr/submit HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /api/dtmsvr/submit HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
    ] {
        assert_for_people(&raw(&host.address, request), &request.escape_ascii().to_string());
    }
    assert_for_people(&host.log().join("\n"), "the log");
    host.terminate();
    fs::remove_dir_all(dir.path()).unwrap();
}
