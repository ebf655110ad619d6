//! Requests that web pages could have made, to the real program.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
};

use serde_json::Value;
use wasaga_testkit::process::{Host, PATIENCE, transfer};

use crate::child::settings;

/// Sends requests over one connection: the first line, headers, and a body. Returns the status and body of each answer.
struct Client(TcpStream);

impl Client {
    fn new(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    fn ask(&mut self, first: &str, headers: &str, body: &str) -> (u16, String) {
        let head = format!("{first}\r\n{headers}\r\nContent-Length: {}\r\n\r\n", body.len());
        self.0.write_all(format!("{head}{body}").as_bytes()).unwrap();
        let mut reader = BufReader::new(&self.0);
        let (mut status, mut length) = (None, 0);
        loop {
            let mut line = String::new();
            assert!(reader.read_line(&mut line).unwrap() > 0, "no answer to {first} {headers}");
            let line = line.trim_end().to_lowercase();
            if line.is_empty() {
                break;
            }
            status = status.or_else(|| line.split(' ').nth(1).map(|status| status.parse().unwrap()));
            if let Some(given) = line.strip_prefix("content-length: ") {
                length = given.parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        (status.unwrap(), String::from_utf8(body).unwrap())
    }
}

#[tokio::test]
async fn a_page_of_another_origin_or_under_another_name_reads_and_submits_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let flag = settings(dir.path(), "[api]\norigins = [\"http://console.example\"]\n");
    let host = Host::start_with(&dir.path().join("data"), &[&flag, "--host-names", "wasaga,wasaga.example"]);
    let (address, mut client) = (host.address.as_str(), Client::new(&host.address));
    let here = format!("Host: {address}");
    let with = |header: &str| format!("{here}\r\n{header}");
    let submit = "POST /api/dtmsvr/submit HTTP/1.1";
    let absolute = |authority: &str| format!("POST http://{authority}/api/dtmsvr/submit HTTP/1.1");
    let saga = |gid: &str| transfer(gid, [1, 1], true);
    for (first, headers, expected) in [
        (submit, "Host: evil.example".to_owned(), 403),
        (submit, format!("Host: {address}.evil.example"), 400),
        (submit, "Host: localhost.evil.example:36789".to_owned(), 403),
        (submit, format!("{here}\r\nHost: evil.example"), 400),
        (submit, format!("{here}\r\n{here}"), 400),
        (&absolute("evil.example"), here.clone(), 403),
        (&absolute(address), "Host: evil.example".to_owned(), 403),
        (submit, with("Origin: http://evil.example"), 403),
        (submit, with("Origin: null"), 403),
        (submit, with("Sec-Fetch-Site: cross-site"), 403),
        ("GET /api/dtmsvr/all HTTP/1.1", "Host: evil.example".to_owned(), 403),
        ("GET /api/dtmsvr/resetCronTime HTTP/1.1", with("Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate"), 403),
        ("OPTIONS /api/v1/plugins/evil HTTP/1.1", with("Origin: http://evil.example"), 403),
        ("PUT /api/v1/plugins/evil HTTP/1.1", with("Origin: http://evil.example"), 403),
        ("POST /api/json-rpc HTTP/1.1", with("Origin: http://evil.example"), 403),
    ] {
        let (status, body) = client.ask(first, &headers, &saga("page"));
        assert_eq!(status, expected, "{first} {headers}: {body}");
        let message = serde_json::from_str::<Value>(&body).unwrap()["message"].as_str().unwrap().to_owned();
        assert!(status == 400 || message.contains("under [api]"), "{message}");
    }
    // Longer than what the system takes before the host reads: the answer comes all the same.
    let (status, _) = client.ask("PUT /api/v1/plugins/evil HTTP/1.1", "Host: evil.example", &" ".repeat(8 << 20));
    assert_eq!(status, 403);
    assert_eq!(host.get("/api/dtmsvr/all").await.unwrap().1, r#"{"next_position":"","transactions":[]}"#);
    assert_eq!(host.get("/api/v1/plugins/evil").await.unwrap().0, 404);

    for (number, (first, headers)) in [
        (submit, here.clone()),
        (submit, "Host: wasaga:36789".to_owned()),
        (submit, "Host: Wasaga.Example.".to_owned()),
        (submit, with(&format!("Origin: http://{address}\r\nSec-Fetch-Site: same-origin"))),
        (submit, with("Origin: http://console.example\r\nSec-Fetch-Site: cross-site")),
        ("POST /api/dtmsvr/submit HTTP/1.0", "Connection: keep-alive".to_owned()),
        (&absolute("wasaga"), here.clone()),
    ]
    .into_iter()
    .enumerate()
    {
        let (status, body) = client.ask(first, &headers, &saga(&format!("own-{number}")));
        assert_eq!(status, 200, "{first} {headers}: {body}");
    }
    assert_eq!(client.ask("GET /readyz HTTP/1.1", "Host: evil.example", "").0, 200);
    let navigation = with("Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate");
    assert_ne!(client.ask("GET /ui/ HTTP/1.1", &navigation, "").0, 403);

    host.wait_for_log(&["WARN", r#"\"evil.example\" is not a known name"#, r#"host_names = [\"evil.example\"]"#]).await;
    let told = host.log().into_iter().filter(|line| line.contains(r#"\"evil.example\" is not a known name"#)).count();
    assert_eq!(told, 1, "{}", host.log().join("\n"));
}

/// gRPC needs HTTP/2 without TLS, which no browser speaks: its clients may call the host as they like.
#[tokio::test]
async fn grpc_is_called_by_any_name() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::start(&dir.path().join("data"));
    let line = host.wait_for_log(&["gRPC on "]).await;
    let address: std::net::SocketAddr = line.rsplit("gRPC on ").next().unwrap().trim().parse().unwrap();
    let client =
        reqwest::Client::builder().no_proxy().http2_prior_knowledge().resolve("wasaga.test", address).build().unwrap();
    let call =
        client.post(format!("http://wasaga.test:{}/dtmgimp.Dtm/NewGid", address.port())).header("te", "trailers");
    let answer = call.header("content-type", "application/grpc").body(vec![0; 5]).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("grpc-status"), "an answer, whose status is in its trailer");
}
