//! Which addresses belong to plugins.

use std::fs;

use wasaga::plugin::{Route, address};

use super::*;

fn registry() -> Registry {
    let dir = tempfile::tempdir().unwrap();
    for name in ["service-a", "service-b"] {
        fs::write(dir.path().join(name).with_extension("wasm"), component("plugins", name)).unwrap();
    }
    fs::write(dir.path().join("broken.wasm"), "").unwrap();
    fs::write(dir.path().join("notes.txt"), "not looked at").unwrap();
    let route = |prefix: &str, plugin: &str| Route { prefix: prefix.into(), plugin: plugin.into() };
    let routes = vec![
        route("http://gateway/", "service-a"),
        route("http://gateway/b", "service-b"),
        route("http://old-host:8080", "gone"),
    ];
    Registry::load(&Runtime::new(&Settings::default()).unwrap(), dir.path(), routes)
}

static REGISTRY: LazyLock<Registry> = LazyLock::new(registry);

/// Which of the two services answers: only the second one rejects.
async fn owner(target: &str) -> Option<&'static str> {
    let branch = REGISTRY.resolve(target, Op::Action).unwrap()?;
    match branch.call(&call(Op::Action, r#"{"amount":501}"#), &host()).await {
        Outcome::Ended { verdict: Verdict::Succeeded { .. }, .. } => Some("service-a"),
        Outcome::Ended { verdict: Verdict::Rejected { .. }, .. } => Some("service-b"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_plugin_is_addressed_by_its_name() {
    assert_eq!(owner("wasm://service-a/try").await, Some("service-a"));
    assert_eq!(owner("wasm://service-b/try").await, Some("service-b"));
    assert!(REGISTRY.resolve("wasm://service-b/cancel", Op::Compensate).unwrap().is_some());
}

#[tokio::test]
async fn the_host_of_an_address_may_be_a_plugins_name() {
    assert_eq!(owner("http://service-a:8081/try").await, Some("service-a"));
    assert_eq!(owner("https://service-b/try?x=1").await, Some("service-b"));
    assert!(REGISTRY.resolve("http://service-b:8082/cancel", Op::Compensate).unwrap().is_some());
}

#[tokio::test]
async fn names_of_hosts_ignore_case() {
    for target in ["http://SERVICE-A:8081/try", "HTTPS://Service-a/try", "wasm://SERVICE-A/try", "http://GATEWAY/try"] {
        assert_eq!(owner(target).await, Some("service-a"), "{target}");
    }
    assert_eq!(owner("http://service-a/Try").await, None);
}

#[tokio::test]
async fn a_prefix_belongs_to_a_plugin_and_the_longest_wins() {
    assert_eq!(owner("http://gateway/try").await, Some("service-a"));
    assert_eq!(owner("http://gateway/b/try").await, Some("service-b"));
}

#[tokio::test]
async fn everything_else_is_http() {
    for target in [
        "http://service-c:8081/try",
        "http://service-a:8081/api/TransOut",
        "http://service-a",
        "http://example.org/service-a/try",
        "http://gatewayx/try",
        "ftp://service-a/try",
        "grpc.service/try",
        "",
    ] {
        assert_eq!(owner(target).await, None, "{target}");
    }
}

fn error(target: &str, op: Op) -> address::Error {
    REGISTRY.resolve(target, op).err().expect("should not be resolved")
}

#[test]
fn an_unknown_plugin_is_an_error_that_names_those_there_are() {
    for target in ["wasm://service-c/try", "wasm:///try", "http://old-host:8080/try"] {
        let error = error(target, Op::Action);
        assert!(matches!(error, address::Error::UnknownPlugin { .. }), "{error:?}");
        let message = error.to_string();
        assert!(message.contains(target) && message.contains("service-a, service-b"), "{message}");
    }
}

#[test]
fn a_plugin_that_was_refused_says_why() {
    for target in ["wasm://broken/try", "http://broken:80/try"] {
        let message = error(target, Op::Action).to_string();
        assert!(message.contains(target) && message.contains("broken.wasm: the file is empty"), "{message}");
    }
}

#[test]
fn an_unknown_operation_is_an_error() {
    for target in [
        "wasm://service-a",
        "wasm://service-a/",
        "wasm://service-a/tyr",
        "wasm://service-a/try/x",
        "http://gateway/charge",
    ] {
        let error = error(target, Op::Action);
        assert!(matches!(error, address::Error::UnknownOperation { .. }), "{target}: {error:?}");
        assert!(error.to_string().contains("/try for an action, in /cancel for a compensation"), "{error}");
    }
}

#[test]
fn the_wrong_operation_is_an_error() {
    let error = |target, op| error(target, op).to_string();
    assert_eq!(
        error("wasm://service-a/cancel", Op::Action),
        "wasm://service-a/cancel cannot be a step's action: use /try"
    );
    assert_eq!(
        error("http://service-a:8081/try", Op::Compensate),
        "http://service-a:8081/try cannot be a step's compensate: use /cancel"
    );
}
