//! Sagas and plans of real plugins: money in accounts, and a component that misbehaves as its payload says.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, http::Method};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use wasaga::{
    api::Limits,
    branch::{grpc, http},
    directory::Branches,
    engine::Settings,
    plugin::{
        self, Grants, Registry, Runtime, grants,
        grants::{rule::Allowed, secret::Source},
    },
    saga::Policy,
};

use wasaga_testkit::component_file;

use crate::host::Host;

const SECRET: &str = "hunter2-\u{e9}";

/// A host with the plugins `account` and `chaos`.
struct World {
    host: Host,
    _dir: TempDir,
}

impl World {
    /// Chaos knows a secret, and may ask the given address.
    fn new(url: Option<String>, engine: Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (folder, name) in [("plugins", "account"), ("fixtures", "chaos")] {
            std::fs::copy(component_file(folder, name), dir.path().join(name).with_extension("wasm")).unwrap();
        }
        std::fs::write(dir.path().join("token"), SECRET).unwrap();
        let granted = grants::Settings {
            secrets: [("token".to_owned(), Source::File(dir.path().join("token")))].into(),
            http: url.map(|url| Allowed { url, methods: vec!["POST".into()], private: true }).into_iter().collect(),
            shared: ["ledger".to_owned()].into(),
            ..Default::default()
        };
        let grants = BTreeMap::from([("chaos".to_owned(), Arc::new(Grants::new("chaos", &granted).unwrap()))]);
        let runtime = Runtime::new(&plugin::Settings { grants, ..Default::default() }).unwrap();
        let plugins = Arc::new(Registry::load(&runtime, dir.path(), Vec::new()));
        let services = http::Settings::default();
        let branches = Branches::new(plugins, http::Client::new(&services).unwrap(), grpc::Client::new(&services));
        Self { host: Host::start_on(Arc::new(branches), engine, Limits::default()), _dir: dir }
    }

    async fn plan(&self, body: &Value) -> Value {
        let answer = self.host.send(Method::POST, "/api/v1/sagas/plan", body.to_string()).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert!(!answer.body.contains("hunter2"), "{}", answer.body);
        answer.json()
    }

    /// The saga as our API shows it, once it is as wanted.
    async fn until(&self, gid: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let reached = async {
            loop {
                let view = self.host.get(&format!("/api/v1/sagas/{gid}")).await.json();
                if is_so(&view) {
                    return view;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), reached)
            .await
            .unwrap_or_else(|_| panic!("{gid} does not get there"))
    }

    async fn balance(&self, account: &str) -> i64 {
        let body =
            saga(&format!("balance-{account}-{}", fastrand::u64(..)), &[("account", json!({"account": account}))]);
        let gid = body["gid"].as_str().unwrap();
        assert_eq!(self.host.submit(body.to_string()).await.status, 200);
        let view = self.until(gid, |view| view["status"] == "succeed").await;
        view["steps"][0]["action"]["output"]["balance"].as_i64().unwrap()
    }
}

/// A saga with a step for each plugin and payload.
fn saga(gid: &str, steps: &[(&str, Value)]) -> Value {
    let addresses = |(plugin, _): &(&str, Value)| json!({"action": format!("wasm://{plugin}/try"), "compensate": format!("wasm://{plugin}/cancel")});
    json!({
        "gid": gid,
        "trans_type": "saga",
        "steps": steps.iter().map(addresses).collect::<Vec<_>>(),
        "payloads": steps.iter().map(|(_, payload)| payload.to_string()).collect::<Vec<_>>(),
    })
}

fn money(account: &str, member: &str, amount: i64) -> (&'static str, Value) {
    ("account", json!({"account": account, member: amount}))
}

#[tokio::test]
async fn a_plan_of_a_transfer_moves_no_money() {
    let world = World::new(None, Settings::default());
    for account in ["alice", "bob"] {
        let opening = saga(&format!("open-{account}"), &[money(account, "open", 100)]);
        assert_eq!(world.host.submit(opening.to_string()).await.status, 200);
        world.host.until(&format!("open-{account}"), "succeed").await;
    }
    let transfer = saga("transfer", &[money("alice", "amount", -30), money("bob", "amount", 30)]);
    let plan = world.plan(&transfer).await;
    assert_eq!(plan["outcome"], "succeed");
    assert_eq!(plan["steps"][0]["output"], json!({"account": "alice", "balance": 70}));
    let changed: Vec<_> = plan["changes"].as_array().unwrap().iter().map(|change| &change["plugin"]).collect();
    assert_eq!(changed, ["account", "account"]);
    let failure = &plan["failures"][1];
    assert_eq!((&failure["failing_branch"], &failure["data_is_restored"]), (&json!("02"), &json!(true)));
    assert_eq!((world.balance("alice").await, world.balance("bob").await), (100, 100));
    // And the saga itself does what was planned.
    assert_eq!(world.host.submit(transfer.to_string()).await.status, 200);
    world.host.until("transfer", "succeed").await;
    assert_eq!((world.balance("alice").await, world.balance("bob").await), (70, 130));
    let refused = world.plan(&saga("more", &[money("bob", "amount", 500), money("alice", "amount", -500)])).await;
    assert_eq!((&refused["outcome"], &refused["steps"][1]["outcome"]), (&json!("failed"), &json!("rejected")));
    assert_eq!(refused["changes"], json!([]));
}

/// A service that counts what reaches it, and its address.
async fn service() -> (Arc<AtomicU32>, String) {
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let router = Router::new().fallback(async move || {
        count.fetch_add(1, Relaxed);
        "done"
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (asked, url)
}

#[tokio::test]
async fn a_plan_of_a_plugin_that_asks_others_sends_nothing() {
    let (asked, url) = service().await;
    let world = World::new(Some(url.clone()), Settings::default());
    let authority = url.trim_start_matches("http://").trim_end_matches('/');
    let request =
        json!({"scheme": "http", "authority": authority, "path": "/pay?with=hunter2-%C3%A9", "method": "POST"});
    let steps = [
        ("chaos", json!({"try": "kv", "kv": [["set", "k", "1"]]})),
        ("chaos", json!({"try": "fetch", "requests": [request]})),
    ];
    let body = saga("g", &steps);
    let plan = world.plan(&body).await;
    assert_eq!(plan["steps"][0]["outcome"], "succeeded");
    let asking = &plan["steps"][1];
    assert_eq!((&asking["outcome"], &asking["assumed"]), (&json!("depends"), &json!("succeeds")));
    assert_eq!(asking["requests"], json!([format!("POST {url}pay")]));
    assert_eq!(plan["unknown_changes_of"], json!(["02"]));
    assert_eq!(asked.load(Relaxed), 0);
    assert_eq!(world.host.engine.counts().submitted, 0);
    assert_eq!(world.host.submit(body.to_string()).await.status, 200);
    world.host.until("g", "succeed").await;
    assert_eq!(asked.load(Relaxed), 1);
}

#[tokio::test]
async fn a_plan_shows_no_secrets() {
    let world = World::new(None, Settings::default());
    let escaped = json!({"token": SECRET}).to_string().replace('é', "\\u00e9");
    let long = format!("{}{SECRET}", "x".repeat((4 << 10) - 3));
    let script = json!([
        ["set", "plain", SECRET],
        ["set", "escaped", escaped],
        ["set", "long", long],
        ["set", format!("key {SECRET}"), "1"],
        ["bucket", "ledger"],
        ["set", "shared", SECRET],
        ["bucket", format!("bucket {SECRET}")],
        ["set", "k", "1"],
    ]);
    let plan = world.plan(&saga("g", &[("chaos", json!({"try": "kv", "kv": script}))])).await;
    assert_eq!(plan["outcome"], "succeed", "{plan}");
    let after = |key: &str| {
        let changes = plan["changes"].as_array().unwrap();
        let change = changes.iter().find(|change| change["key"] == key).unwrap_or_else(|| panic!("no {key} in {plan}"));
        change["after"].clone()
    };
    assert_eq!((after("plain"), after("shared")), (json!("[secret token]"), json!("[secret token]")));
    assert_eq!(after("escaped"), r#"{"token":"[secret token]"}"#);
    assert_eq!(after("key [secret token]"), "1");
    assert!(!after("long").to_string().contains("hun"), "{}", after("long"));
    assert!(plan["changes"].to_string().contains(r#""bucket":"bucket [secret token]""#));
}

/// What the host promises of sagas whose plugins break every rule: the attempt counts for nothing and is made again, the
/// saga goes neither on nor back, and a person is told.
#[tokio::test]
async fn a_saga_outlives_whatever_its_plugin_does() {
    let policy = Policy {
        retry_interval: Duration::from_millis(1),
        retry_interval_max: Duration::from_millis(2),
        stuck_after: 2,
        ..Policy::default()
    };
    let engine = Settings { policy, request_timeout: Duration::from_millis(300), ..Settings::default() };
    let world = World::new(None, engine);
    let kv = |then: &str| json!({"try": "kv", "kv": [["set", "never", "1"]], "then": then, "ms": 60_000});
    for (at, (payload, words)) in [
        (kv("spin"), "request_timeout"),
        (kv("sleep"), "request_timeout"),
        (kv("trap"), "trapped: "),
        (kv("panic"), "panicked"),
        (kv("exit"), "exit code"),
        (kv("allocate"), "memory_bytes"),
        (kv("recurse"), "stack_bytes"),
        (kv("hoard handles"), "(handles)"),
        (kv("be unavailable"), ""),
        (json!({"try": "output", "text": "no json"}), "not JSON"),
        (json!({"try": "output", "text": 100_000}), "output_bytes"),
        (json!({"try": "output", "text": 9 << 20}), "hostcall_bytes"),
        (json!({"try": "output", "text": json!(SECRET).to_string()}), "the secret"),
    ]
    .into_iter()
    .enumerate()
    {
        let gid = format!("g{at}");
        let first = ("chaos", json!({"try": "kv", "kv": [["increment", "done"]], "cancel": "kv"}));
        assert_eq!(world.host.submit(saga(&gid, &[first, ("chaos", payload.clone())]).to_string()).await.status, 200);
        let view = world.until(&gid, |view| view["is_stuck"] == true).await;
        assert_eq!(view["status"], "submitted", "{payload}");
        assert_eq!(view["steps"][0]["action"]["state"], "succeeded");
        assert_eq!(view["steps"][0]["compensation"]["state"], "pending");
        let action = &view["steps"][1]["action"];
        assert_eq!((&action["state"], view["steps"][1]["may_have_effect"].as_bool()), (&json!("pending"), Some(false)));
        assert!(action["attempts"].as_u64().unwrap() > 2, "{payload}: {action}");
        let error = action["error"].as_str().unwrap();
        assert!(error.contains(words) && !error.contains("hunter2"), "{payload}: {error}");
        // It leaves a host that serves others.
        let stopped = world.host.post("forceStop", json!({"gid": gid}).to_string()).await;
        assert_eq!(stopped.status, 200, "{}", stopped.body);
    }
    let look = saga("look", &[("chaos", json!({"try": "kv", "kv": [["get", "never"], ["get", "done"]]}))]);
    assert_eq!(world.host.submit(look.to_string()).await.status, 200);
    let view = world.until("look", |view| view["status"] == "succeed").await;
    assert_eq!(view["steps"][0]["action"]["output"], json!([null, "13"]));
}

/// And of the words that it may say: each does to the saga what the contract says.
#[tokio::test]
async fn a_saga_does_what_its_plugin_says() {
    let policy = Policy {
        retry_interval: Duration::from_millis(1),
        retry_interval_max: Duration::from_millis(2),
        stuck_after: 2,
        ..Policy::default()
    };
    let world = World::new(None, Settings { policy, ..Settings::default() });
    let done = || ("chaos", json!({"try": "kv", "kv": [["increment", "done"]], "cancel": "reject", "text": "never"}));
    let rejects = ("chaos", json!({"try": "reject", "text": "sold out"}));
    assert_eq!(world.host.submit(saga("rejected", &[done(), rejects]).to_string()).await.status, 200);
    // A compensation never fails: what it calls a rejection is a failed attempt.
    let view = world.until("rejected", |view| view["is_stuck"] == true).await;
    assert_eq!((&view["status"], view["reason"].as_str().unwrap().contains("sold out")), (&json!("aborting"), true));
    assert_eq!(view["steps"][1]["compensation"]["state"], "not_needed");
    let error = view["steps"][0]["compensation"]["error"].as_str().unwrap();
    assert!(error.contains("a compensation never fails: never"), "{error}");
    // To go on later is no sign of trouble, however often.
    let goes_on = ("chaos", json!({"try": "go on", "ms": 1}));
    assert_eq!(world.host.submit(saga("ongoing", &[done(), goes_on]).to_string()).await.status, 200);
    let view = world.until("ongoing", |view| view["steps"][1]["action"]["attempts"].as_u64() > Some(4)).await;
    assert_eq!((&view["status"], &view["is_stuck"]), (&json!("submitted"), &json!(false)));
}
