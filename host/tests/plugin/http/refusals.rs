//! What no grant covers does not leave the host.

use wasaga::plugin::secret::Source;

use super::*;

fn error(answer: &Value) -> &str {
    answer["error"].as_str().unwrap_or_else(|| panic!("not refused: {answer}"))
}

#[tokio::test]
async fn requests_that_no_entry_allows() {
    let server = Server::start().await;
    let (authority, port) = (server.authority(), server.address.port());
    let plugins = granted(vec![allowed(&server.url("/api/"), &["GET"], true)], Limits::default());
    let granted = get(&server, "/api/hello");
    for change in [
        json!({"path": "/hello"}),
        json!({"path": "/api"}),
        json!({"path": "/apis/"}),
        json!({"path": "/api/../hello"}),
        json!({"path": "/api/%2e%2e/hello"}),
        json!({"path": "/api/..%2Fhello"}),
        json!({"path": "/api/..;/hello"}),
        json!({"path": "/api//hello"}),
        json!({"path": "//hello"}),
        json!({"path": "/api/%0d%0aX:y"}),
        json!({"path": "?x"}),
        json!({"path": ""}),
        json!({"method": "POST"}),
        json!({"method": "DELETE"}),
        json!({"method": "CONNECT"}),
        json!({"method": "get"}),
        json!({"scheme": "https"}),
        json!({"scheme": null}),
        json!({"authority": format!("127.0.0.1:{}", port ^ 1)}),
        json!({"authority": format!("localhost:{port}")}),
        json!({"authority": format!("user@{authority}")}),
        json!({"authority": format!("127.0.0.1.:{port}")}),
        json!({"authority": format!("2130706433:{port}")}),
        json!({"authority": format!("127.1:{port}")}),
        json!({"authority": "127.0.0.1"}),
    ] {
        let answers = fetch(&plugins, &[with(granted.clone(), change.clone())]).await;
        assert_eq!(error(&answers[0]), "ErrorCode::HttpRequestDenied", "{change}");
    }
    // These are not even requests.
    for change in [
        json!({"path": format!("http://{authority}/api/")}),
        json!({"path": "*"}),
        json!({"path": "/a b"}),
        json!({"scheme": "ftp"}),
        json!({"authority": "a/b"}),
        json!({"headers": [["Host", "elsewhere.example"]]}),
        json!({"headers": [["Connection", "close"]]}),
        json!({"headers": [["Transfer-Encoding", "chunked"]]}),
        json!({"headers": [["Proxy-Authorization", "Basic eA=="]]}),
        json!({"headers": [["x", "a\r\nhost: elsewhere.example"]]}),
        json!({"headers": [["content-length", "+3"]]}),
    ] {
        let answers = fetch(&plugins, &[with(granted.clone(), change.clone())]).await;
        error(&answers[0]);
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn addresses_that_are_not_public_need_the_word_private() {
    let server = Server::start().await;
    let port = server.address.port();
    let hosts = ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1", "0.0.0.0"];
    let entries = hosts.map(|host| allowed(&format!("http://{host}:{port}/"), &["GET"], false)).into();
    let plugins = granted(entries, Limits::default());
    let requests = hosts.map(|host| json!({"scheme": "http", "authority": format!("{host}:{port}"), "path": "/hello"}));
    for (answer, host) in fetch(&plugins, &requests).await.iter().zip(hosts) {
        assert_eq!(error(answer), "ErrorCode::DestinationIpProhibited", "{host}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn an_import_without_a_grant_leads_nowhere() {
    let server = Server::start().await;
    let plugins = chaos(&Settings::default());
    assert_eq!(branch(&plugins, "chaos", Op::Action).reach(), Reach::Contained);
    let reason = plugins.plugin("chaos").unwrap().judgement().reason.clone();
    assert!(reason.contains("granted no address: [plugins.grants.chaos] http"), "{reason}");
    assert_eq!(error(&fetch(&plugins, &[get(&server, "/hello")]).await[0]), "ErrorCode::HttpRequestDenied");
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_refusal_says_in_log_and_error_what_would_allow_it() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "hunter2").unwrap();
    let secrets = BTreeMap::from([("token".to_owned(), Source::File(file))]);
    let http = vec![allowed(&server.url("/api/"), &["GET"], true)];
    let plugins = granted_with(&grants::Settings { http, secrets, ..Default::default() }, Limits::default());
    let request = get(&server, "/of/hunter2?key=unknown-to-the-host");
    let payload = json!({"try": "leave requests", "requests": [request], "then": "be unavailable", "text": "no bank"});
    let lines = logging::messages_of(&plugins, payload.clone()).await;
    let refusal = format!(
        "GET {}: no entry of http allows the address: add {{ url = \"{}\", methods = [\"GET\"] }}; \
         see [plugins.grants.chaos]",
        server.url("/of/[secret token]"),
        server.url("/")
    );
    assert_eq!(lines, [refusal.replacen(": no entry", " is refused: no entry", 1)]);
    let text = unknown(attempt(&plugins, Some(Door::open()), &payload).await);
    assert_eq!(text, format!("the host refused {refusal}; no bank"));
}

#[tokio::test]
async fn departures_show_no_secrets() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "hello").unwrap();
    let secrets = BTreeMap::from([("token".to_owned(), Source::File(file))]);
    let http = vec![allowed(&server.url("/"), &["GET"], true)];
    let plugins = granted_with(&grants::Settings { http, secrets, ..Default::default() }, Limits::default());
    let door = Door::open();
    let payload = json!({"try": "leave requests", "requests": [get(&server, "/hello")], "then": "sleep", "ms": 60_000});
    let attempt = attempt(&plugins, Some(door.clone()), &payload);
    tokio::select! {
        outcome = attempt => panic!("{outcome:?}"),
        asked = timeout(PATIENCE, door.knocked.notified()) => asked.unwrap(),
    }
    assert_eq!(door.asked(), [format!("GET {}", server.url("/[secret token]"))]);
}
