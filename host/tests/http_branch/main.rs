//! HTTP branches against real servers on the loopback interface: what is sent, and how each answer is understood.

mod authorities;
mod destinations;
mod http2;

use std::{
    convert::Infallible,
    future::pending,
    io,
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::Request,
    response::{IntoResponse, Response},
    serve::{Listener, ListenerExt},
};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, StatusCode, header::AUTHORIZATION};
use rcgen::KeyPair;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self,
        pki_types::{CertificateDer, PrivateKeyDer},
    },
    server::TlsStream,
};
use wasaga::{
    branch::{
        Branch, Call, Outcome,
        http::{self as http_branch, Client, Error, Settings},
    },
    saga::{Definition, Op, Options, Verdict},
};
use wasaga_testkit::{branch_call, branch_host};

/// One request as it arrived.
#[derive(Clone, Debug)]
struct Seen {
    method: String,
    /// Path and query, undecoded.
    target: String,
    headers: HeaderMap,
    body: Bytes,
}

/// A service that answers by a function and remembers what it was asked.
struct Participant {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
}

impl Participant {
    async fn start(answer: impl Fn(&Seen) -> Response + Send + Sync + 'static) -> Self {
        Self::listen("127.0.0.1:0", answer).await.unwrap()
    }

    async fn listen(at: &str, answer: impl Fn(&Seen) -> Response + Send + Sync + 'static) -> io::Result<Self> {
        let listener = TcpListener::bind(at).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let connections = Arc::new(AtomicUsize::new(0));
        let accepted = connections.clone();
        let counted = listener.tap_io(move |_| _ = accepted.fetch_add(1, Ordering::Relaxed));
        let seen = serve(counted, answer);
        Ok(Self { url, seen, connections })
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

/// Serves until the test ends.
fn serve<L>(listener: L, answer: impl Fn(&Seen) -> Response + Send + Sync + 'static) -> Arc<Mutex<Vec<Seen>>>
where
    L: Listener<Addr = SocketAddr>,
{
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (log, answer) = (seen.clone(), Arc::new(answer));
    let router = Router::new().fallback(move |request: Request| async move {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let target = parts.uri.path_and_query().unwrap().to_string();
        let seen = Seen { method: parts.method.to_string(), target, headers: parts.headers, body };
        log.lock().unwrap().push(seen.clone());
        answer(&seen)
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    seen
}

fn success() -> Response {
    r#"{"dtm_result":"SUCCESS"}"#.into_response()
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap()
}

fn client() -> Client {
    Client::new(&Settings::default()).unwrap()
}

/// The action of the second step of a saga.
fn call(payload: &str) -> Call {
    call_of("g1", payload, &[])
}

fn call_of(gid: &str, payload: &str, headers: &[(&str, &str)]) -> Call {
    let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    branch_call(gid, &["first", payload], Options { branch_headers: headers, ..Options::default() })
}

async fn run(url: &str, call: &Call) -> Outcome {
    client().branch(url).unwrap().call(call, &branch_host()).await
}

fn error_of(outcome: Outcome) -> String {
    match outcome {
        Outcome::Ended { verdict: Verdict::Unknown { error }, .. } => error,
        other => panic!("not unknown: {other:?}"),
    }
}

#[tokio::test]
async fn a_payload_is_posted_verbatim_with_dtms_parameters() {
    let service = Participant::start(|_| success()).await;
    let outcome = run(&format!("{}/pay", service.url), &call(" {\"amount\": 1}\n")).await;
    assert!(matches!(outcome, Outcome::Ended { verdict: Verdict::Succeeded { output: None }, .. }), "{outcome:?}");
    let seen = &service.seen()[0];
    assert_eq!(seen.method, "POST");
    assert_eq!(seen.target, "/pay?branch_id=02&gid=g1&op=action&trans_type=saga");
    assert_eq!(seen.body, " {\"amount\": 1}\n");
    assert_eq!(seen.headers["content-type"], "application/json");
    assert_eq!(seen.headers["user-agent"], concat!("wasaga/", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn an_empty_payload_is_a_get_without_a_body() {
    let service = Participant::start(|_| success()).await;
    let mut call = call("");
    call.branch_op.op = Op::Compensate;
    run(&service.url, &call).await;
    let seen = &service.seen()[0];
    assert_eq!(seen.method, "GET");
    assert_eq!(seen.target, "/?branch_id=02&gid=g1&op=compensate&trans_type=saga");
    assert!(seen.body.is_empty() && !seen.headers.contains_key("content-length"));
    assert_eq!(seen.headers["content-type"], "application/json");
}

#[tokio::test]
async fn parameters_follow_the_query_that_is_there() {
    let added = "branch_id=02&gid=g1&op=action&trans_type=saga";
    let service = Participant::start(|_| success()).await;
    for query in ["uid=1", "gid=mine&x", "a=%2f%2F+b&&c=;,:@!$()*[]{}|~", "a=1&"] {
        run(&format!("{}/p/%7e/x?{query}#fragment", service.url), &call("1")).await;
        assert_eq!(service.seen().last().unwrap().target, format!("/p/%7e/x?{query}&{added}"));
    }
    run(&format!("{}/p?", service.url), &call("1")).await;
    assert_eq!(service.seen().last().unwrap().target, format!("/p?{added}"));
}

#[tokio::test]
async fn a_gid_of_any_characters_arrives() {
    let service = Participant::start(|_| success()).await;
    run(&service.url, &call_of("a b&op=x/ü?#+%", "1", &[])).await;
    let target = "/?branch_id=02&gid=a+b%26op%3Dx%2F%C3%BC%3F%23%2B%25&op=action&trans_type=saga";
    assert_eq!(service.seen()[0].target, target);
}

#[tokio::test]
async fn branch_headers_are_sent_and_override_ours_but_not_the_framing() {
    let service = Participant::start(|_| success()).await;
    let headers = [
        ("content-Type", "text/plain"),
        ("X-Token", "tökèn"),
        ("user-agent", "me"),
        ("Content-Length", "1"),
        ("Transfer-Encoding", "chunked"),
        ("Host", "elsewhere"),
    ];
    run(&service.url, &call_of("g1", "payload", &headers)).await;
    let seen = &service.seen()[0];
    assert_eq!(seen.headers.get_all("content-type").iter().collect::<Vec<_>>(), ["text/plain"]);
    assert_eq!(seen.headers["x-token"].as_bytes(), "tökèn".as_bytes());
    assert_eq!(seen.headers["user-agent"], "me");
    assert_eq!(seen.headers["host"], service.url.trim_start_matches("http://"));
    assert_eq!(seen.body, "payload");
}

#[test]
fn wrong_branch_headers_are_refused_and_values_not_repeated() {
    let of = |name: &str, value: &str| http_branch::headers(&[(name.into(), value.into())]);
    for name in ["", "a b", "a:b", "é", "a\n"] {
        assert!(matches!(of(name, "v"), Err(Error::HeaderName { name: given }) if given == name), "{name:?}");
    }
    for value in ["secret\r\nX: y", "secret\0", "\u{7f}"] {
        let error = of("token", value).unwrap_err();
        assert!(matches!(error, Error::HeaderValue { .. }) && !error.to_string().contains("secret"), "{error}");
    }
    let many: Vec<_> = (0..=Definition::BRANCH_HEADERS_MAX).map(|i| (format!("h{i}"), String::new())).collect();
    assert!(matches!(http_branch::headers(&many), Err(Error::TooManyHeaders { headers: 65 })));
    assert_eq!(http_branch::headers(&many[1..]).unwrap().len(), Definition::BRANCH_HEADERS_MAX);
}

#[tokio::test]
async fn wrong_branch_headers_never_panic_and_send_nothing() {
    let service = Participant::start(|_| success()).await;
    let error = error_of(run(&service.url, &call_of("g1", "1", &[("a b", "v")])).await);
    assert_eq!(error, r#"branch_headers: "a b" cannot be the name of a header"#);
    assert!(service.seen().is_empty());
}

#[test]
fn addresses_are_checked_at_the_door() {
    let of = |url: &str| client().branch(url);
    for url in
        ["", "ftp://h/", "wasm://a/try", "h:80/x", "//h/x", "http:h/x", "http:/h/x", " http://h/", "javascript:x"]
    {
        assert!(matches!(of(url), Err(Error::Scheme)), "{url:?}");
    }
    for url in ["http://", "http:///x", "https://?x", "http://#x", "http://\\x"] {
        assert!(matches!(of(url), Err(Error::NoHost)), "{url:?}");
    }
    for url in ["http://h:65536/", "http://h:x/", "http://[::1/", "http://a b/", "http://user@/x", "http://:80/"] {
        assert!(matches!(of(url), Err(Error::Malformed(_))), "{url:?}");
    }
    assert!(matches!(of("http://h/a\nb"), Err(Error::ControlCharacter)));
    let long = |bytes: usize| format!("http://h/{}", "x".repeat(bytes - 9));
    assert!(matches!(of(&long(http_branch::URL_BYTES_MAX + 1)), Err(Error::TooLong { bytes: 8001 })));
    for url in [&long(http_branch::URL_BYTES_MAX), "HTTP://h", "https://u:p@h:1/x?y#z", "http://[::1]:80/", "http://é/"]
    {
        assert!(of(url).is_ok(), "{url:?}");
    }
}

#[test]
fn a_user_agent_that_cannot_be_sent_is_an_error() {
    let settings = Settings { user_agent: "a\nb".into(), ..Settings::default() };
    assert!(matches!(Client::new(&settings), Err(Error::UserAgent(_))));
}

#[tokio::test]
async fn answers_are_understood_as_dtm_understands_them() {
    let body = Arc::new(Mutex::new((0, String::new())));
    let script = body.clone();
    let service = Participant::start(move |_| {
        let (code, body) = script.lock().unwrap().clone();
        (status(code), body).into_response()
    })
    .await;
    let rows: &[(u16, &str, &str)] = &[
        (200, "", "succeeded"),
        (200, r#"{"dtm_result":"SUCCESS"}"#, "succeeded"),
        (200, "failure, ongoing", "succeeded"),
        (200, r#"{"dtm_result":"FAILURE"}"#, "rejected"),
        (200, "no FAILURE", "rejected"),
        (200, r#"{"dtm_result":"ONGOING"}"#, "ongoing"),
        (200, "FAILURE and ONGOING", "ongoing"),
        (409, "", "rejected"),
        (409, "no stock", "rejected"),
        (409, "ONGOING", "ongoing"),
        (425, "", "ongoing"),
        (425, "FAILURE", "ongoing"),
        (500, "FAILURE", "rejected"),
        (500, "ONGOING", "ongoing"),
        (404, "a FAILURE", "rejected"),
        (500, "oops", "HTTP 500: oops"),
        (201, "made", "HTTP 201: made"),
        (202, "", "HTTP 202: "),
        (204, "", "HTTP 204: "),
        (304, "", "HTTP 304: "),
        (400, "bad", "HTTP 400: bad"),
        (404, "gone", "HTTP 404: gone"),
        (503, "busy", "HTTP 503: busy"),
    ];
    let branch = client().branch(&service.url).unwrap();
    for (code, text, expected) in rows {
        *body.lock().unwrap() = (*code, (*text).into());
        let found = match branch.call(&call("1"), &branch_host()).await {
            Outcome::Ended { verdict: Verdict::Succeeded { output }, .. } => {
                assert_eq!(output, None);
                "succeeded".to_owned()
            }
            Outcome::Ended { verdict: Verdict::Rejected { reason }, .. } => {
                assert_eq!(&reason, text);
                "rejected".to_owned()
            }
            Outcome::Ended { verdict: Verdict::Ongoing { retry_after }, .. } => {
                assert_eq!(retry_after, None);
                "ongoing".to_owned()
            }
            Outcome::Ended { verdict: Verdict::Unknown { error }, .. } => error,
            Outcome::Stale => panic!("a service reads nothing of the host"),
        };
        assert_eq!(&found, expected, "{code} {text}");
    }
}

#[tokio::test]
async fn a_body_that_is_not_utf8_is_read_as_far_as_possible() {
    let service = Participant::start(|_| b"\xff\xc3FAILURE\xf0\x9f".to_vec().into_response()).await;
    let outcome = run(&service.url, &call("1")).await;
    assert!(
        matches!(&outcome, Outcome::Ended { verdict: Verdict::Rejected { reason }, .. } if reason == "��FAILURE�"),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(pending::<Response>);
    tokio::spawn(async move { axum::serve(listener, router).await });
    let call = Call { timeout: Duration::from_millis(200), ..call("1") };
    assert_eq!(error_of(run(&url, &call).await), "no complete answer within 200ms");
}

#[tokio::test]
async fn the_timeout_covers_the_body() {
    let service = Participant::start(|_| {
        let never_ends = stream::iter([Ok::<_, Infallible>("begun")]).chain(stream::pending());
        Body::from_stream(never_ends).into_response()
    })
    .await;
    let call = Call { timeout: Duration::from_millis(200), ..call("1") };
    assert_eq!(error_of(run(&service.url, &call).await), "no complete answer within 200ms");
}

#[tokio::test]
async fn an_endless_body_is_cut_and_no_success() {
    let service = Participant::start(|seen| {
        let chunk = if seen.body == "words" { "FAILURE " } else { "SUCCESS " };
        Body::from_stream(stream::repeat(Ok::<_, Infallible>(chunk.repeat(1000)))).into_response()
    })
    .await;
    let client = Client::new(&Settings { response_bytes_max: 100_000, ..Settings::default() }).unwrap();
    let branch = client.branch(&service.url).unwrap();
    let error = error_of(branch.call(&call("1"), &branch_host()).await);
    assert_eq!(error, "the answer is longer than the limit of 100000 bytes (response_bytes_max)");
    let Outcome::Ended { verdict: Verdict::Rejected { reason }, .. } =
        branch.call(&call("words"), &branch_host()).await
    else {
        panic!("not rejected")
    };
    assert_eq!(reason, format!("{}…", "FAILURE ".repeat(128)));
}

#[tokio::test]
async fn a_body_of_just_the_limit_is_whole() {
    let service = Participant::start(|seen| "x".repeat(seen.body.len()).into_response()).await;
    let client = Client::new(&Settings { response_bytes_max: 10, ..Settings::default() }).unwrap();
    let branch = client.branch(&service.url).unwrap();
    assert!(branch.call(&call("0123456789"), &branch_host()).await.has_succeeded());
    assert!(matches!(
        branch.call(&call("0123456789x"), &branch_host()).await,
        Outcome::Ended { verdict: Verdict::Unknown { .. }, .. }
    ));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_unknown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        assert!(connection.read(&mut [0; 4096]).await.unwrap() > 0);
        connection.write_all(b"HTTP/1.1 409 Conflict\r\ncontent-length: 100\r\n\r\nFAILURE").await.unwrap();
    });
    let error = error_of(run(&url, &call("1")).await);
    assert!(error.contains("body"), "{error}");
}

#[tokio::test]
async fn a_refused_connection_is_unknown_and_the_error_names_no_credentials() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = error_of(run(&format!("http://user:secret@{address}/?token=secret"), &call("1")).await);
    assert!(error.contains("Connection refused") && !error.contains("secret"), "{error}");
}

#[tokio::test]
async fn redirects_are_followed_as_by_gos_client() {
    for (code, method, body) in
        [(301, "GET", ""), (302, "GET", ""), (303, "GET", ""), (307, "POST", "pay"), (308, "POST", "pay")]
    {
        let service = Participant::start(move |seen| match seen.target.split('?').next() {
            Some("/old") => (status(code), [("location", "/new?x=1")]).into_response(),
            _ => success(),
        })
        .await;
        let outcome = run(&format!("{}/old", service.url), &call_of("g1", "pay", &[("X-Token", "t")])).await;
        assert!(outcome.has_succeeded(), "{code}: {outcome:?}");
        let seen = service.seen();
        assert_eq!(seen[0].method, "POST");
        let last = seen.last().unwrap();
        assert_eq!((last.method.as_str(), &*last.target, &*last.body), (method, "/new?x=1", body.as_bytes()), "{code}");
        assert_eq!(last.headers["x-token"], "t");
        assert!(!last.headers.contains_key("referer"));
    }
}

#[tokio::test]
async fn a_redirect_to_another_host_gets_no_headers_of_the_saga() {
    let target = Participant::start(|_| success()).await;
    let location = target.url.clone();
    let service = Participant::start(move |_| (status(307), [("location", &location)]).into_response()).await;
    let url = service.url.replace("http://", "http://user:secret@");
    let headers = [("Cookie", "c=secret"), ("X-Token", "t"), ("User-Agent", "me"), ("Content-Type", "text/plain")];
    run(&url, &call_of("g1", "1", &headers)).await;
    assert_eq!(service.seen()[0].headers[AUTHORIZATION], "Basic dXNlcjpzZWNyZXQ=");
    assert_eq!(service.seen()[0].headers["cookie"], "c=secret");
    let seen = &target.seen()[0];
    assert!(!seen.headers.contains_key(AUTHORIZATION) && !seen.headers.contains_key("cookie"), "{seen:?}");
    assert!(!seen.headers.contains_key("x-token"), "{seen:?}");
    assert_eq!(seen.headers["user-agent"], Settings::default().user_agent);
    assert_eq!(seen.headers["content-type"], "application/json");
    assert_eq!(seen.body, "1", "what is to be done goes along, as under DTM");
}

#[tokio::test]
async fn redirect_loops_and_odd_redirects_are_unknown() {
    let service = Participant::start(|seen| match seen.target.split('?').next().unwrap() {
        "/loop" => (status(307), [("location", "/loop")]).into_response(),
        "/not_found" => status(302).into_response(),
        path => (status(302), [("location", path.trim_start_matches('/'))]).into_response(),
    })
    .await;
    let error = error_of(run(&format!("{}/loop", service.url), &call("1")).await);
    assert!(error.contains("too many redirects"), "{error}");
    assert_eq!(service.seen().len(), 11);
    assert_eq!(error_of(run(&format!("{}/not_found", service.url), &call("1")).await), "HTTP 302: ");
    let error = error_of(run(&format!("{}/ftp://user:secret@h/x", service.url), &call("1")).await);
    assert_eq!(error, "the redirect cannot be followed: ftp: addresses are not called");
}

#[tokio::test]
async fn connections_are_reused() {
    let service = Participant::start(|_| success()).await;
    let client = client();
    for _ in 0..20 {
        client.branch(&service.url).unwrap().call(&call("1"), &branch_host()).await;
    }
    assert_eq!(service.seen().len(), 20);
    assert_eq!(service.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_ipv6_address_is_a_host() {
    match Participant::listen("[::1]:0", |_| success()).await {
        Ok(service) => {
            assert!(service.url.starts_with("http://[::1]:"));
            assert!(run(&service.url, &call("1")).await.has_succeeded());
        }
        Err(error) => eprintln!("not tested, this machine has no IPv6 loopback: {error}"),
    }
}

/// Accepts TLS connections; failed handshakes are the client's business.
struct TlsListener(TcpListener, TlsAcceptor);

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (tcp, address) = self.0.accept().await.unwrap();
            if let Ok(tls) = self.1.accept(tcp).await {
                return (tls, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

/// A server with this certificate.
fn tls_config(certificate: CertificateDer<'static>, key: &KeyPair) -> rustls::ServerConfig {
    rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap()
}

/// A service with this certificate; its address.
async fn tls_service(certificate: CertificateDer<'static>, key: &KeyPair) -> String {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = tcp.local_addr().unwrap().port();
    serve(TlsListener(tcp, TlsAcceptor::from(Arc::new(tls_config(certificate, key)))), |_| success());
    format!("https://localhost:{port}")
}

/// A server whose certificate for `localhost` is trusted through its PEM only. Returns its address and that PEM.
async fn self_signed() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    (tls_service(made.cert.der().clone(), &made.signing_key).await, made.cert.pem())
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    let (url, _) = self_signed().await;
    let error = error_of(run(&url, &call("1")).await);
    assert!(error.contains("no authority that is trusted") && error.contains("ca_file"), "{error}");
}

/// Runs an ignored test of this file in a process of its own, where the only root certificates are those in `roots`.
fn alone_with_roots(test: &str, roots: &Path) {
    let tests = std::env::current_exe().unwrap();
    let output = Command::new(tests)
        .args(["--exact", test, "--ignored"])
        .env("SSL_CERT_FILE", roots)
        .env("SSL_CERT_DIR", roots.with_file_name("none"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn a_certificate_among_the_roots_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    alone_with_roots("https_with_the_servers_certificate_as_root", &folder.path().join("roots.pem"));
}

#[tokio::test]
#[ignore = "needs its own environment: run by a_certificate_among_the_roots_is_trusted"]
async fn https_with_the_servers_certificate_as_root() {
    let (url, pem) = self_signed().await;
    std::fs::write(std::env::var_os("SSL_CERT_FILE").unwrap(), pem).unwrap();
    let outcome = run(&url, &call("1")).await;
    assert!(outcome.has_succeeded(), "{outcome:?}");
}

#[test]
fn a_machine_without_root_certificates_still_calls_http() {
    let folder = tempfile::tempdir().unwrap();
    alone_with_roots("http_without_any_root", &folder.path().join("roots.pem"));
}

#[tokio::test]
#[ignore = "needs its own environment: run by a_machine_without_root_certificates_still_calls_http"]
async fn http_without_any_root() {
    let service = Participant::start(|_| success()).await;
    assert!(run(&service.url, &call("1")).await.has_succeeded());
    let (url, _) = self_signed().await;
    let error = error_of(run(&url, &call("1")).await);
    assert!(error.contains("no authority that is trusted") && error.contains("ca_file"), "{error}");
}
