//! Each limit of outgoing HTTP holds, whatever guest and server do.

use super::*;

/// The outcome of an attempt that asks the server and then cannot go on: the error says what the host did not allow.
async fn asked(server: &Server, limits: Limits, path: &str, members: Value) -> (Value, Registry) {
    let plugins = granted(vec![allowed(&server.url("/"), &["GET", "POST"], true)], limits);
    let answers = fetch(&plugins, &[with(get(server, path), members)]).await;
    (answers[0]["error"].clone(), plugins)
}

async fn still_works(server: &Server, plugins: &Registry) {
    assert_eq!(fetch(plugins, &[get(server, "/hello")]).await[0]["body"], "hello");
}

#[tokio::test]
async fn size_of_an_answer() {
    let server = Server::start().await;
    let limits = Limits { http_response_bytes: 19_999, ..Limits::default() };
    let (error, plugins) = asked(&server, limits.clone(), "/large", json!({})).await;
    assert_eq!(error, "ErrorCode::HttpResponseBodySize(Some(19999))");
    still_works(&server, &plugins).await;
    let (error, plugins) = asked(&server, limits, "/endless", json!({})).await;
    assert_eq!(error, "HTTP response body size exceeds limit: 19999 bytes");
    still_works(&server, &plugins).await;
    let (error, _) =
        asked(&server, Limits { http_response_bytes: 20_000, ..Limits::default() }, "/large", json!({})).await;
    assert_eq!(error, Value::Null);
}

#[tokio::test]
async fn size_of_the_head_of_an_answer() {
    let server = Server::start().await;
    let (error, plugins) = asked(&server, Limits::default(), "/head", json!({})).await;
    assert_eq!(error, "ErrorCode::HttpProtocolError");
    still_works(&server, &plugins).await;
}

#[tokio::test]
async fn size_of_a_request() {
    let server = Server::start().await;
    let limits = Limits { http_request_bytes: 10_000, ..Limits::default() };
    let post = |bytes: u32| json!({"method": "POST", "body": bytes});
    assert_eq!(asked(&server, limits.clone(), "/length", post(10_000)).await.0, Value::Null);
    let (error, plugins) = asked(&server, limits.clone(), "/length", post(10_001)).await;
    assert_eq!(error, "ErrorCode::HttpRequestBodySize(Some(10000))");
    still_works(&server, &plugins).await;
    let requests = server.requests();
    let declared = json!({"method": "POST", "headers": [["content-length", "10001"]], "unfinished": true});
    let (error, _) = asked(&server, limits, "/length", declared).await;
    assert_eq!(error, "ErrorCode::HttpRequestBodySize(Some(10000))");
    assert_eq!(server.requests(), requests, "what says that it is too large is not begun");
}

#[tokio::test]
async fn time_for_the_head_of_an_answer() {
    let mut server = Server::start().await;
    let limits = Limits { http_first_byte_timeout: Duration::from_millis(100), ..Limits::default() };
    // The host's limit, of which a guest cannot ask for more; then the guest's own.
    for (limits, ms) in [(limits, 60_000), (Limits::default(), 100)] {
        let (error, _) = asked(&server, limits, "/silence", json!({"first_byte_ms": ms})).await;
        assert_eq!(error, "ErrorCode::HttpResponseTimeout");
        server.asked().await;
        assert!(matches!(server.next().await, Event::GivenUp));
    }
}

#[tokio::test]
async fn time_between_the_pieces_of_an_answer() {
    let server = Server::start().await;
    let limits = Limits { http_between_bytes_timeout: Duration::from_millis(100), ..Limits::default() };
    for (limits, ms) in [(limits, 60_000), (Limits::default(), 100)] {
        let (error, _) = asked(&server, limits, "/stall", json!({"between_bytes_ms": ms})).await;
        assert_eq!(error, "connection read timeout");
    }
}

#[tokio::test]
async fn time_for_a_connection() {
    // Accepts, but says nothing about TLS.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    let entry = || vec![allowed(&format!("https://{authority}/"), &["GET"], true)];
    let limits = Limits { http_connect_timeout: Duration::from_millis(100), ..Limits::default() };
    for (limits, ms) in [(limits, 60_000), (Limits::default(), 100)] {
        let request = json!({"scheme": "https", "authority": authority, "path": "/", "connect_ms": ms});
        let answers = fetch(&granted(entry(), limits), &[request]).await;
        assert_eq!(answers[0]["error"], "ErrorCode::ConnectionTimeout");
    }
}

/// One plugin, or one attempt of it, may use all; the others then fail with a reason, and work later.
#[tokio::test]
async fn connections_of_all_plugins_together() {
    let server = Server::start().await;
    let http = vec![allowed(&server.url("/"), &["GET"], true)];
    let grants = Arc::new(Grants::new("chaos", &grants::Settings { http, ..Default::default() }).unwrap());
    let plugins = chaos(&Settings {
        limits: Limits { http_connect_timeout: Duration::from_millis(100), ..Limits::default() },
        grants: BTreeMap::from([("chaos".to_owned(), grants)]),
        egress: wasaga::plugin::Egress { requests_max: 1, ..Default::default() },
        ..Settings::default()
    });
    let silence = with(get(&server, "/silence"), json!({"first_byte_ms": 2000}));
    let payload = json!({"try": "fetch", "at_once": true, "requests": [silence, get(&server, "/hello")]});
    let Value::Array(answers) = output(attempt(&plugins, Some(Door::open()), &payload).await) else { panic!() };
    assert_eq!(answers[0]["error"], "ErrorCode::HttpResponseTimeout");
    assert_eq!(answers[1]["error"], "ErrorCode::ConnectionLimitReached");
    still_works(&server, &plugins).await;
}

#[tokio::test]
async fn nobody_there() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    drop(listener);
    let plugins = granted(vec![allowed(&format!("http://{authority}/"), &["GET"], true)], Limits::default());
    let answers = fetch(&plugins, &[json!({"scheme": "http", "authority": authority, "path": "/"})]).await;
    assert_eq!(answers[0]["error"], "ErrorCode::ConnectionRefused");
}

#[tokio::test]
async fn a_bomb_of_requests() {
    let server = Server::start().await;
    let plugins = granted_all_of(&server);
    let Limits { http_requests, http_at_once, .. } = Limits::default();
    let requests = vec![get(&server, "/crowd"); 200];
    let payload = json!({"try": "fetch", "at_once": true, "requests": requests});
    let Value::Array(answers) = output(attempt(&plugins, Some(Door::open()), &payload).await) else { panic!() };
    for (n, answer) in (1..).zip(&answers) {
        if n <= http_requests {
            assert_eq!(answer["status"], 200, "request {n}");
        } else {
            let error = answer["error"].as_str().unwrap();
            assert!(error.contains("32 requests") && error.contains("(http_requests)"), "request {n}: {error}");
        }
    }
    assert_eq!((answers.len(), server.requests()), (200, http_requests));
    assert!(server.at_once_max() <= http_at_once, "{} at once", server.at_once_max());
    still_works(&server, &plugins).await;
}

/// An attempt that has as many requests under way as it may has nobody else wait.
#[tokio::test]
async fn places_for_requests_are_an_attempts_own() {
    let mut server = Server::start().await;
    let plugins = Arc::new(granted_all_of(&server));
    let hanging = json!({"try": "fetch", "at_once": true, "requests": vec![get(&server, "/silence"); 32]});
    let hanging = tokio::spawn({
        let plugins = plugins.clone();
        async move { attempt(&plugins, Some(Door::open()), &hanging).await }
    });
    for _ in 0..Limits::default().http_at_once {
        server.asked().await;
    }
    still_works(&server, &plugins).await;
    assert_eq!(server.requests(), Limits::default().http_at_once + 1, "the others wait for their places");
    hanging.abort();
}

#[tokio::test]
async fn refusals_do_not_flood_the_log() {
    let server = Server::start().await;
    let plugins = granted(vec![allowed(&server.url("/api/"), &["GET"], true)], Limits::default());
    let requests = vec![get(&server, "/hello"); 200];
    let lines = logging::messages_of(&plugins, json!({"try": "fetch", "requests": requests})).await;
    let most = Limits::default().http_requests as usize + 1;
    assert_eq!(lines.len(), most);
    assert!(lines[most - 1].contains("(http_requests)"), "{}", lines[most - 1]);
}

#[tokio::test]
async fn texts_in_requests_that_are_never_made() {
    assert_eq!(output(try_(&CHAOS, "chaos", &json!({"try": "hoard requests"})).await), Value::Null);
}

#[tokio::test]
async fn size_of_a_path() {
    let server = Server::start().await;
    let plugins = granted_all_of(&server);
    let path = |bytes: usize| format!("/hello?{}", "q".repeat(bytes - "/hello?".len()));
    let answers = fetch(&plugins, &[get(&server, &path(8 << 10)), get(&server, &path((8 << 10) + 1))]).await;
    assert_eq!((&answers[0]["body"], &answers[1]["error"]), (&json!("hello"), &json!("path")));
}

#[tokio::test]
async fn errors_name_the_limit() {
    let server = Server::start().await;
    let limits = Limits { http_response_bytes: 10, http_request_bytes: 10, ..Limits::default() };
    let plugins = granted(vec![allowed(&server.url("/"), &["GET", "POST"], true)], limits);
    for (request, limit) in [
        (get(&server, "/large"), "http_response_bytes"),
        (get(&server, "/endless"), "http_response_bytes"),
        (with(get(&server, "/length"), json!({"method": "POST", "body": 11})), "http_request_bytes"),
    ] {
        let payload = json!({"try": "fetch", "requests": [request], "or": "be unavailable"});
        let error = unknown(attempt(&plugins, Some(Door::open()), &payload).await);
        assert!(error.starts_with("the host refused") && error.contains(limit), "{error}");
    }
}
