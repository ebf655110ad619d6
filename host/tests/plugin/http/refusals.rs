//! What no grant covers does not leave the host.

use wasaga::plugin::grants::secret::Source;

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
    assert_eq!(branch(&plugins, "chaos", Op::Action).containment(), Containment::Contained);
    let reason = plugins.plugin("chaos").unwrap().classification().reason.clone();
    assert!(reason.contains("granted no address: [plugins.grants.chaos] http"), "{reason}");
    assert_eq!(error(&fetch(&plugins, &[get(&server, "/hello")]).await[0]), "ErrorCode::HttpRequestDenied");
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_refusal_says_in_log_and_error_what_would_allow_it() {
    let server = Server::start().await;
    let plugins = knowing("hunter2", vec![allowed(&server.url("/api/"), &["GET"], true)]);
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

/// Wherever the guest puts it: hosts are shown in small letters, users not at all.
#[tokio::test]
async fn refusals_show_no_secrets() {
    let server = Server::start().await;
    let plugins = knowing("HunTer2", vec![allowed(&server.url("/api/"), &["GET"], true)]);
    let authority = server.authority();
    for change in [
        json!({"authority": "HunTer2.example"}),
        json!({"authority": "hunter2.example"}),
        json!({"authority": format!("me:HunTer2@{authority}")}),
        json!({"authority": format!("me:unknown-to-the-host@{authority}")}),
        json!({"path": "/Hun%54er2"}),
        json!({"method": "HunTer2"}),
        json!({"method": "HunTer2", "path": "/api/"}),
    ] {
        let request = with(get(&server, "/"), change.clone());
        let payload =
            json!({"try": "leave requests", "requests": [request], "then": "be unavailable", "text": "no bank"});
        let lines = logging::messages_of(&plugins, payload.clone()).await;
        let text = unknown(attempt(&plugins, Some(Door::open()), &payload).await);
        assert_eq!(lines.len(), 1);
        for text in lines.iter().chain([&text]) {
            assert!(text.contains(" is refused: ") || text.starts_with("the host refused "), "{text}");
            let shown = text.to_lowercase();
            assert!(!shown.contains("ter2") && !shown.contains("unknown-to-the-host"), "{change}: {text}");
        }
    }
}

/// They are the host's words, but the guest has it say them.
#[tokio::test]
async fn refusals_are_as_short_and_as_few_as_what_the_guest_writes_itself() {
    let server = Server::start().await;
    let limits = Limits { log_bytes: 8 << 10, ..Limits::default() };
    let plugins = granted(vec![allowed(&server.url("/api/"), &["GET"], true)], limits);
    let long = format!("/{}", "x".repeat(8_000));
    let lines =
        logging::messages_of(&plugins, json!({"try": "fetch", "requests": vec![get(&server, &long); 33]})).await;
    let (note, refusals) = lines.split_last().unwrap();
    assert!(note.ends_with("were dropped (limit log_bytes)"), "{note}");
    assert!(refusals.iter().all(|line| line.len() < 1000), "{refusals:?}");
    assert!((5..20).contains(&refusals.len()), "{} lines", refusals.len());
}

#[tokio::test]
async fn refusals_of_a_dry_run_are_logged_for_debugging_only() {
    let server = Server::start().await;
    let plugins = granted(vec![allowed(&server.url("/api/"), &["GET"], true)], Limits::default());
    let payload = json!({"try": "fetch", "requests": [get(&server, "/hello")]}).to_string();
    let (call, host) = (call(Op::Action, &payload), Host { is_dry_run: true, ..host() });
    let branch = branch(&plugins, "chaos", Op::Action);
    let lines = logging::lines_of(tracing::Level::DEBUG, branch.call(&call, &host)).await;
    let refusal = lines.iter().find(|line| line.message().contains(" is refused: ")).unwrap();
    assert_eq!((refusal.level, &*refusal.fields["is_dry_run"]), (tracing::Level::DEBUG, "true"));
}

/// The misbehaving plugin, which knows a secret.
fn knowing(secret: &str, http: Vec<Allowed>) -> Registry {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, secret).unwrap();
    let secrets = BTreeMap::from([("token".to_owned(), Source::File(file))]);
    granted_with(&grants::Settings { http, secrets, ..Default::default() }, Limits::default())
}

#[tokio::test]
async fn departures_show_no_secrets() {
    let server = Server::start().await;
    let plugins = knowing("hello", vec![allowed(&server.url("/"), &["GET"], true)]);
    let door = Door::open();
    let payload = json!({"try": "leave requests", "requests": [get(&server, "/hello")], "then": "sleep", "ms": 60_000});
    let attempt = attempt(&plugins, Some(door.clone()), &payload);
    tokio::select! {
        outcome = attempt => panic!("{outcome:?}"),
        asked = timeout(PATIENCE, door.knocked.notified()) => asked.unwrap(),
    }
    assert_eq!(door.asked(), [format!("GET {}", server.url("/[secret token]"))]);
}
