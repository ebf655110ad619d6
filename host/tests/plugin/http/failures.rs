//! A request that fails leaves a line that says why, and so does the attempt that ends for it: languages drop the error code.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{tls::self_signed, *};

/// A server that reads a request and answers with these bytes, then closes the connection. Returns its authority.
async fn answering(bytes: impl Into<Vec<u8>>) -> String {
    let (tcp, bytes) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), bytes.into());
    let authority = tcp.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let bytes = bytes.clone();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&bytes).await;
            });
        }
    });
    authority
}

/// An address at which nothing listens.
async fn nobody() -> String {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    tcp.local_addr().unwrap().to_string()
}

/// What log and attempt say of a request that fails.
async fn said(scheme: &str, authority: &str) -> (Vec<String>, String) {
    let limits = Limits { http_first_byte_timeout: Duration::from_millis(300), ..Limits::default() };
    let http = vec![allowed(&format!("{scheme}://{authority}/"), &["GET"], true)];
    let grants = Arc::new(Grants::new("chaos", &grants::Settings { http, ..Default::default() }).unwrap());
    let grants = BTreeMap::from([("chaos".to_owned(), grants)]);
    // The guest stays on this thread, whose lines are read.
    let plugins = chaos(&Settings { limits, grants, tick: PATIENCE, ..Settings::default() });
    let request = json!({"scheme": scheme, "authority": authority, "path": "/x?y"});
    let payload = json!({"try": "fetch", "requests": [request], "or": "be unavailable"});
    let error = std::sync::OnceLock::new();
    let run = async {
        error.set(unknown(attempt(&plugins, Some(Door::open()), &payload).await)).unwrap();
        Outcome::succeeded(None)
    };
    let lines = logging::lines_of(tracing::Level::WARN, run).await;
    (lines.iter().map(|line| line.message().to_owned()).collect(), error.into_inner().unwrap())
}

async fn assert_said(scheme: &str, authority: &str, why: &str) {
    let (lines, error) = said(scheme, authority).await;
    let text = format!("GET {scheme}://{authority}/x failed: {why}");
    assert!(lines.len() == 1 && lines[0].starts_with(&text), "not {text:?}: {lines:?} {error:?}");
    assert!(error.starts_with(&text), "not {text:?}: {error:?}");
}

#[tokio::test]
async fn connections_and_answers_that_fail() {
    assert_said("http", &nobody().await, "the connection was refused").await;
    assert_said("http", &answering("").await, "the connection was closed before an answer came").await;
    assert_said("http", &answering("SSH-2.0-OpenSSH\r\n").await, "its answer is not HTTP/1.1").await;
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
    assert_said("http", &answering(cut).await, "the connection was closed before its answer was complete").await;
    let headers = |count: usize, bytes: usize| {
        let header = format!("x: {}\r\n", "y".repeat(bytes));
        format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", header.repeat(count))
    };
    let too_much = "the head of its answer has more than 65536 bytes or 1024 headers";
    assert_said("http", &answering(headers(1_100, 1)).await, too_much).await;
    assert_said("http", &answering(headers(1, 1_000_000)).await, too_much).await;
    let plugins =
        |authority: &str| granted(vec![allowed(&format!("http://{authority}/"), &["GET"], true)], Limits::default());
    let many = answering(headers(990, 1)).await;
    let request = json!({"scheme": "http", "authority": many, "path": "/"});
    assert_eq!(fetch(&plugins(&many), &[request]).await[0]["status"], 200);
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    assert_said("http", &silent.local_addr().unwrap().to_string(), "no answer within 300ms (http_first_byte_timeout)")
        .await;
}

#[tokio::test]
async fn names_and_certificates_that_are_wrong() {
    assert_said("http", "no-such-host.invalid", "its name cannot be resolved").await;
    let (port, _) = self_signed().await;
    let untrusted = "its certificate is not trusted: its issuer is none that this machine trusts";
    assert_said("https", &format!("localhost:{port}"), untrusted).await;
    assert_said("https", &answering("HTTP/1.1 400 no TLS\r\n\r\n").await, "it does not speak TLS").await;
}
