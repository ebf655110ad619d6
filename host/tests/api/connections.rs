//! Connections over loopback: kept, limited, and ended in order.

use std::{
    io::{Error, ErrorKind},
    time::Duration,
};

use axum::{Extension, Router, routing::get};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use wasaga::api::{
    self, Connections,
    serve::{self, Peer, serve, serve_http2},
};

use crate::host::{Host, saga};

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a test watches for what must not happen.
const GLANCE: Duration = Duration::from_millis(100);

struct Server {
    host: Host,
    connections: Connections,
    address: std::net::SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

async fn server(settings: serve::Settings) -> Server {
    let host = Host::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let connections = Connections::new(settings);
    let accepting = serve(listener, host.router.clone().into(), connections.clone(), stop.clone().cancelled_owned());
    let ending = connections.clone();
    let serving = tokio::spawn(async move {
        accepting.await;
        ending.close();
        ending.ended().await;
    });
    Server { host, connections, address, stop, serving }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

const PING: &str = "GET /api/ping HTTP/1.1\r\nHost: h\r\n\r\n";
const PONG: &str = r#"{"msg":"pong"}"#;

/// Reads one answer whose body is known.
async fn answer(stream: &mut TcpStream, body: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(body.as_bytes()) {
        let mut piece = [0; 4096];
        let bytes = timeout(PATIENCE, stream.read(&mut piece)).await.unwrap().unwrap();
        assert!(bytes > 0, "closed after {:?}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&piece[..bytes]);
    }
    String::from_utf8(text).unwrap()
}

/// Waits until the other side has closed the connection; whatever came before is returned.
async fn closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    match timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap() {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
        Ok(_) | Err(Error { .. }) => rest,
    }
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let server = server(serve::Settings::default()).await;
    let mut stream = server.connect().await;
    for _ in 0..3 {
        stream.write_all(PING.as_bytes()).await.unwrap();
        let text = answer(&mut stream, PONG).await;
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("content-length: 14\r\n"), "{text}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_finish_a_header_is_disconnected() {
    let settings = serve::Settings { header_timeout: GLANCE, ..serve::Settings::default() };
    let server = server(settings).await;
    let mut silent = server.connect().await;
    let mut halting = server.connect().await;
    halting.write_all(b"GET /api/ping HTTP/1.1\r\nHost:").await.unwrap();
    let mut idle = server.connect().await;
    idle.write_all(PING.as_bytes()).await.unwrap();
    answer(&mut idle, PONG).await;
    for stream in [&mut silent, &mut halting, &mut idle] {
        closed(stream).await;
    }
}

#[tokio::test]
async fn a_header_that_is_too_large_is_refused() {
    let server = server(serve::Settings::default()).await;
    let mut stream = server.connect().await;
    let header = format!("GET /api/ping HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    // The answer may come, and the connection go, before all of it is written.
    let _ = stream.write_all(header.as_bytes()).await;
    let text = closed(&mut stream).await;
    assert!(text.is_empty() || text.starts_with(b"HTTP/1.1 431 "), "{}", text.escape_ascii());

    let mut other = server.connect().await;
    other.write_all(PING.as_bytes()).await.unwrap();
    answer(&mut other, PONG).await;
}

#[tokio::test]
async fn a_new_connection_gets_the_place_of_the_one_that_is_idle_longest() {
    let server = server(serve::Settings { connections_max: 3, ..serve::Settings::default() }).await;
    let mut waiting = server.connect().await;
    let body = saga("s", &["http://a/hang"], r#","wait_result":true"#);
    waiting.write_all(post("/api/dtmsvr/submit", &body).as_bytes()).await.unwrap();
    server.host.until("s", "submitted").await;
    let mut idle = server.connect().await;
    idle.write_all(PING.as_bytes()).await.unwrap();
    answer(&mut idle, PONG).await;
    let mut halting = server.connect().await;
    halting.write_all(b"GET /api/ping HTTP/1.1\r\nHost:").await.unwrap();

    // More than there are places, and none of them says anything.
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(server.connect().await);
    }
    assert_eq!(closed(&mut halting).await, b"");
    idle.write_all(PING.as_bytes()).await.unwrap();
    answer(&mut idle, PONG).await;
    let mut new = server.connect().await;
    new.write_all(PING.as_bytes()).await.unwrap();
    answer(&mut new, PONG).await;
    assert!(server.connections.counts().displaced >= 20, "{:?}", server.connections.counts());

    server.host.engine.force_stop("s").await.unwrap();
    answer(&mut waiting, r#"{"dtm_result":"FAILURE","message":"force stopped FAILURE"}"#).await;
}

#[tokio::test]
async fn slow_headers_keep_no_client_waiting() {
    let server = server(serve::Settings { connections_max: 100, ..serve::Settings::default() }).await;
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut stream = server.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nX:").await.unwrap();
        slow.push(stream);
    }
    // A fifth of `header_timeout`, within which none of them ends of its own.
    for _ in 0..10 {
        let mut honest = server.connect().await;
        honest.write_all(PING.as_bytes()).await.unwrap();
        answer(&mut honest, PONG).await;
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_while_all_have_requests() {
    let server = server(serve::Settings { connections_max: 1, ..serve::Settings::default() }).await;
    let mut first = server.connect().await;
    let body = saga("s", &["http://a/hang"], r#","wait_result":true"#);
    first.write_all(post("/api/dtmsvr/submit", &body).as_bytes()).await.unwrap();
    server.host.until("s", "submitted").await;

    let mut second = server.connect().await;
    second.write_all(PING.as_bytes()).await.unwrap();
    let mut byte = [0];
    assert!(timeout(GLANCE, second.peek(&mut byte)).await.is_err(), "answered beyond the limit");
    server.host.engine.force_stop("s").await.unwrap();
    answer(&mut first, r#"{"dtm_result":"FAILURE","message":"force stopped FAILURE"}"#).await;
    answer(&mut second, PONG).await;
}

/// A fair share for each client needs the client's address.
#[tokio::test]
async fn a_request_has_the_address_of_its_client() {
    let router = Router::new().route("/", get(async |Extension(Peer(address))| address.to_string()));
    for listen in ["127.0.0.1:0", "[::]:0"] {
        let listener = TcpListener::bind(listen).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Connections::new(serve::Settings::default());
        tokio::spawn(serve(listener, router.clone().into(), connections, std::future::pending()));
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        answer(&mut stream, "\r\n\r\n127.0.0.1").await;
    }
}

/// RFC 9113 section 6.8. The stream under way would end first; this connection has none.
#[tokio::test]
async fn at_shutdown_a_connection_of_http_2_is_told_so() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const SETTINGS: u8 = 4;
    const GO_AWAY: u8 = 7;
    let host = Host::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (connections, stop) = (Connections::new(serve::Settings::default()), CancellationToken::new());
    let accepting =
        serve_http2(listener, host.router.clone().into(), connections.clone(), stop.clone().cancelled_owned());
    let accepting = tokio::spawn(accepting);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    let mut frame = async || {
        let mut head = [0; 9];
        timeout(PATIENCE, stream.read_exact(&mut head)).await.unwrap().ok()?;
        let mut body = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        stream.read_exact(&mut body).await.ok()?;
        Some(head[3])
    };
    assert_eq!(frame().await, Some(SETTINGS));
    stop.cancel();
    accepting.await.unwrap();
    connections.close();
    let mut kinds = Vec::new();
    while let Some(kind) = frame().await {
        kinds.push(kind);
    }
    assert!(kinds.contains(&GO_AWAY), "{kinds:?}");
    timeout(PATIENCE, connections.ended()).await.unwrap();
}

#[tokio::test]
async fn a_body_over_the_limit_gets_its_answer_through() {
    let server = server(serve::Settings::default()).await;
    let mut stream = server.connect().await;
    let body = " ".repeat(api::Limits::default().body_bytes_max * 2);
    stream.write_all(post("/api/dtmsvr/submit", &body).as_bytes()).await.unwrap();
    let message = r#"{"message":"the body has more than 4194304 bytes, the limit: send less, or raise the limit"}"#;
    let text = answer(&mut stream, message).await;
    assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
}

#[tokio::test]
async fn at_shutdown_requests_are_answered_and_idle_connections_closed() {
    let server = server(serve::Settings::default()).await;
    let mut idle = server.connect().await;
    idle.write_all(PING.as_bytes()).await.unwrap();
    answer(&mut idle, PONG).await;
    let mut late = server.connect().await;
    late.write_all(PING.as_bytes()).await.unwrap();
    answer(&mut late, PONG).await;
    let mut halting = server.connect().await;
    halting.write_all(b"GET /api/ping HTTP/1.1\r\nHost:").await.unwrap();
    let mut waiting = server.connect().await;
    let body = saga("s", &["http://a/hang"], r#","wait_result":true"#);
    waiting.write_all(post("/api/dtmsvr/submit", &body).as_bytes()).await.unwrap();
    server.host.until("s", "submitted").await;
    // Waits to be accepted, perhaps.
    let mut new = server.connect().await;

    server.stop.cancel();
    poll_refused(server.address).await;
    for stream in [&mut late, &mut new] {
        stream.write_all(PING.as_bytes()).await.unwrap();
        let text = answer(stream, PONG).await;
        assert!(text.contains("connection: close\r\n"), "{text}");
        assert_eq!(closed(stream).await, b"");
    }
    for stream in [&mut idle, &mut halting] {
        assert_eq!(closed(stream).await, b"");
    }
    assert!(!server.serving.is_finished(), "a request is still under way");

    server.host.engine.force_stop("s").await.unwrap();
    let text = answer(&mut waiting, r#"{"dtm_result":"FAILURE","message":"force stopped FAILURE"}"#).await;
    assert!(text.starts_with("HTTP/1.1 409 ") && text.contains("connection: close"), "{text}");
    timeout(PATIENCE, server.serving).await.unwrap().unwrap();
}

/// Waits until nobody listens on an address.
async fn poll_refused(address: std::net::SocketAddr) {
    let refused = async { while TcpStream::connect(address).await.is_ok() {} };
    timeout(PATIENCE, refused).await.expect("still listening");
}
