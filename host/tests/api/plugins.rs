//! Plugins as clients of our own API see and replace them.

use std::sync::Arc;

use axum::http::{Method, Request, header::HOST};
use serde_json::{Value, json};
use tempfile::TempDir;
use wasaga::{
    api::Uploads,
    plugin::{Limits, Registry, Runtime, Settings},
};

use wasaga_testkit::component;

use crate::host::{Answer, Host};

/// A component that does the same and is another.
fn other_version(component: &[u8]) -> Vec<u8> {
    // A custom section: id, length, length of its name, name.
    [component, b"\0\x02\x01v"].concat()
}

struct World {
    host: Host,
    plugins: Arc<Registry>,
    dir: TempDir,
}

impl World {
    fn new(uploads: Uploads) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { component_bytes: 1 << 20, ..Limits::default() };
        let component_store_dir = Some(dir.path().join("component_store"));
        let runtime = Runtime::new(&Settings { limits, component_store_dir, slots: 1, ..Settings::default() }).unwrap();
        let plugins = Arc::new(Registry::load(&runtime, &dir.path().join("plugins"), Vec::new()));
        Self { host: Host::start_with_plugins(plugins.clone(), uploads), plugins, dir }
    }

    async fn put(&self, name: &str, host: &str, body: impl Into<axum::body::Body>) -> Answer {
        self.host.send_to(Method::PUT, host, &format!("/api/v1/plugins/{name}"), body).await
    }
}

const HERE: &str = "127.0.0.1:36789";

#[tokio::test]
async fn a_plugin_is_uploaded_and_replaced_and_listed() {
    let world = World::new(Uploads::Loopback);
    assert_eq!(world.host.get("/api/v1/plugins").await.json()["plugins"], json!([]));
    let first = component("plugins", "service-a");
    let answer = world.put("pay", HERE, first.clone()).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let view = answer.json();
    assert_eq!(
        (&view["name"], &view["bytes"], &view["reach"]),
        (&json!("pay"), &json!(first.len()), &json!("contained"))
    );
    assert_eq!(view["reason"], "imports nothing that leaves the host");
    assert!(view["imports"].as_array().unwrap().contains(&json!("wasi:cli/stdout@0.2.12")), "{view}");
    let old = view["sha256"].clone();
    assert_eq!(view["versions"], json!([{ "sha256": old, "is_current": true, "open_sagas": 0 }]));
    assert_eq!(std::fs::read(world.dir.path().join("plugins/pay.wasm")).unwrap(), first);

    let answer = world.put("pay", "localhost", other_version(&first)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let view = answer.json();
    let held = [wasaga::saga::Pin { plugin: "pay".into(), digest: old.as_str().unwrap().parse().unwrap() }];
    world.plugins.hold(&held);
    let shown = world.host.get("/api/v1/plugins/pay").await.json();
    assert_eq!(
        shown["versions"],
        json!([
            { "sha256": view["sha256"], "is_current": true, "open_sagas": 0 },
            { "sha256": old, "is_current": false, "open_sagas": 1 },
        ])
    );
    assert_eq!(world.host.get("/api/v1/plugins").await.json(), json!({ "plugins": [shown], "refused": [] }));
}

fn refused(answer: &Answer, status: u16, words: &[&str]) {
    let (got, body) = answer.parts();
    assert_eq!(got, status, "{body}");
    let message = serde_json::from_str::<Value>(body).unwrap()["message"].as_str().unwrap().to_owned();
    for word in words {
        assert!(message.contains(word), "no {word:?} in {message:?}");
    }
}

#[tokio::test]
async fn what_is_no_plugin_is_refused_and_changes_nothing() {
    let world = World::new(Uploads::Loopback);
    let good = component("plugins", "service-a");
    assert_eq!(world.put("pay", HERE, good.clone()).await.status, 201);
    let before = world.host.get("/api/v1/plugins").await.body;
    refused(&world.put("pay", HERE, &b"\0asm\x01\0\0\0"[..]).await, 422, &["core module", "wasm32-wasip2"]);
    refused(&world.put("pay", HERE, "").await, 422, &["empty"]);
    refused(&world.put("pay", HERE, vec![0; 2 << 20]).await, 413, &["1048576"]);
    refused(&world.put("Pay", HERE, good.clone()).await, 400, &["lowercase"]);
    refused(&world.put("%2e%2e%2fpay", HERE, good.clone()).await, 400, &["lowercase"]);
    refused(&world.host.get("/api/v1/plugins/nobody").await, 404, &["nobody"]);
    assert_eq!(world.host.get("/api/v1/plugins").await.body, before);
    std::fs::write(world.dir.path().join("plugins/bad.wasm"), "no").unwrap();
    world.plugins.look();
    world.plugins.look();
    let list = world.host.get("/api/v1/plugins").await.json();
    assert_eq!(list["refused"][0]["file"], "bad.wasm");
    assert!(list["refused"][0]["error"].as_str().unwrap().contains("not WebAssembly"), "{list}");
}

#[tokio::test]
async fn a_plugin_cannot_be_named_like_an_address() {
    let world = World::new(Uploads::On);
    for name in ["127.0.0.1", "169.254.169.254", "localhost", "api.localhost", "127.1", "2130706433", "0x7f000001"] {
        let answer = world.put(name, HERE, component("plugins", "service-a")).await;
        refused(&answer, 400, &["named like an IP address", "localhost", "choose another name"]);
    }
    assert!(world.plugins.plugins().is_empty());
    std::fs::create_dir_all(world.dir.path().join("plugins")).unwrap();
    std::fs::write(world.dir.path().join("plugins/localhost.wasm"), component("plugins", "service-a")).unwrap();
    world.plugins.look();
    world.plugins.look();
    let list = world.host.get("/api/v1/plugins").await.json();
    assert!(list["refused"][0]["error"].as_str().unwrap().contains("localhost"), "{list}");
    assert_eq!(list["plugins"], json!([]));
}

#[tokio::test]
async fn only_who_may_replaces_plugins() {
    let good = component("plugins", "service-a");
    for (uploads, host, may) in [
        (Uploads::Off, HERE, false),
        (Uploads::Loopback, "evil.example:36789", false),
        (Uploads::Loopback, "[::1]:36789", true),
        (Uploads::On, "wasaga.example", true),
    ] {
        let world = World::new(uploads);
        let answer = world.put("pay", host, good.clone()).await;
        if may {
            assert_eq!(answer.status, 201, "{uploads:?} {host}");
        } else {
            refused(&answer, 403, &["upload", "[plugins]"]);
            assert!(world.plugins.plugins().is_empty());
        }
    }
    let world = World::new(Uploads::Loopback);
    for (name, value) in [("X-Forwarded-For", "203.0.113.9"), ("Forwarded", "for=203.0.113.9"), ("Via", "1.1 proxy")] {
        let passed_on = Request::put("/api/v1/plugins/pay").header(HOST, HERE).header(name, value);
        let answer = world.host.send_whole(passed_on.body(good.clone().into()).unwrap()).await;
        refused(&answer, 403, &["upload", "proxy"]);
        assert!(world.plugins.plugins().is_empty());
    }
}
