//! `POST /api/v1/sagas/plan`: what it answers, byte for byte, and that it stores and calls nothing.

use std::{
    future::ready,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Body,
    http::{Method, Uri},
};
use futures_util::{FutureExt, future::BoxFuture};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use wasaga::{
    api::Limits,
    branch::{self, Branch, Call, Containment, DataKey, Directory, NotFound, Outcome, grpc, http},
    directory::Branches,
    engine::{Settings, plan},
    plugin::keyvalue_keys,
    saga::{BranchOp, Definition, Digest, Op, Pin, Pins, Verdict},
    store::Batch,
};

use wasaga_testkit::no_plugins;

use crate::host::{Answer, Host, TUTORIAL, saga};

async fn plan(host: &Host, body: impl Into<Body>) -> Answer {
    host.send(Method::POST, "/api/v1/sagas/plan", body).await
}

async fn assert_nothing_stored(host: &Host) {
    assert_eq!(host.get("/api/dtmsvr/all").await.body, r#"{"next_position":"","transactions":[]}"#);
    assert_eq!(host.engine.counts().submitted, 0);
    assert_eq!(host.branches.calls(), [""; 0]);
}

/// A plugin that puts the payload into its own bucket, and takes it out again; it refuses `"no"`.
struct Chest;

const PIN: [u8; 32] = [0xab; 32];

impl Branch for Chest {
    fn call<'a>(&'a self, call: &'a Call, _: &'a branch::Host) -> BoxFuture<'a, Outcome> {
        let own = [keyvalue_keys::prefix("box", "things"), b"one".to_vec()].concat();
        let shared = [keyvalue_keys::prefix("", "log"), b"\xe2\x82\xac".to_vec()].concat();
        let mut effects = Batch::new();
        match call.branch_op.op {
            Op::Action if &*call.payload() == b"no" => {
                return ready(Outcome::rejected("it is full")).boxed();
            }
            Op::Action => {
                effects.put(own, call.payload());
                effects.put(shared, b"\xff");
            }
            Op::Compensate => effects.delete(own),
        }
        ready(Outcome::Ended { verdict: Verdict::Succeeded { output: Some(r#"{"kept":1}"#.into()) }, effects }).boxed()
    }

    fn containment(&self) -> Containment {
        Containment::Contained
    }
}

impl Directory for Chest {
    fn describe(&self, key: &[u8]) -> Option<DataKey> {
        let place = keyvalue_keys::place(key)?;
        let [owner, bucket, key] = [place.owner, place.bucket, place.key].map(ToOwned::to_owned);
        Some(DataKey { owner, bucket, key })
    }

    fn find(&self, _: &Definition, _: BranchOp, _: Option<&Pin>) -> Result<Arc<dyn Branch>, NotFound> {
        Ok(Arc::new(Self))
    }

    fn pin(&self, _: &Definition, branch_ops: &[BranchOp]) -> Result<Pins, (BranchOp, NotFound)> {
        let mut pins = Pins::default();
        for branch_op in branch_ops {
            pins.set(*branch_op, Pin { plugin: "box".into(), digest: Digest(PIN) });
        }
        Ok(pins)
    }
}

fn boxed(payloads: &str) -> String {
    let count = serde_json::from_str::<Vec<Value>>(payloads).unwrap().len();
    let steps = vec![r#"{"action":"wasm://box/try","compensate":"wasm://box/cancel"}"#; count].join(",");
    format!(r#"{{"gid":"b","trans_type":"saga","steps":[{steps}],"payloads":{payloads}}}"#)
}

#[tokio::test]
async fn an_answer_tells_steps_changes_and_failures() {
    let host = Host::start_on(Arc::new(Chest), Settings::default(), Limits::default());
    let answer = plan(&host, boxed(r#"["a thing"]"#)).await;
    assert_eq!(answer.parts().0, 200, "{}", answer.body);
    let component = json!({"plugin": "box", "sha256": "ab".repeat(32)});
    let own =
        |before, after| json!({"plugin": "box", "bucket": "things", "key": "one", "before": before, "after": after});
    let unreadable = json!({"bytes": 1, "base64": "/w==", "is_cut": false});
    let shared = json!({"shared": true, "bucket": "log", "key": "€", "before": null, "after": unreadable});
    let put = json!([shared, own(Value::Null, json!("a thing"))]);
    assert_eq!(
        answer.json(),
        json!({
            "gid": "b",
            "outcome": "succeed",
            "steps": [{
                "branch_id": "01", "target": "wasm://box/try", "component": component, "outcome": "succeeded",
                "output": {"kept": 1}, "changes": put, "requests": [],
            }],
            "compensations": [],
            "not_needed": [],
            "changes": put,
            "unknown_changes_of": [],
            "failures": [{
                "failing_branch": "01", "succeeded_before": [], "compensated": [],
                "not_needed": [{"branch_id": "01", "why": "its action had no effect"}],
                "data_is_restored": true, "left": [], "unknown_changes_of": [],
            }],
        })
    );
    assert_nothing_stored(&host).await;

    let answer = plan(&host, boxed(r#"["a thing","no"]"#)).await.json();
    assert_eq!(answer["outcome"], "failed");
    assert_eq!(
        answer["steps"][1],
        json!({
            "branch_id": "02", "target": "wasm://box/try", "component": component, "outcome": "rejected",
            "reason": "it is full", "changes": [], "requests": [],
        })
    );
    assert_eq!(answer["compensations"][0]["changes"], json!([own(json!("a thing"), Value::Null)]));
    assert_eq!((&answer["changes"], &answer["failures"][0]["failing_branch"]), (&json!([shared]), &json!("01")));

    let answer = plan(&host, boxed(r#"["a thing","b thing"]"#)).await.json();
    let second = &answer["failures"][1];
    assert_eq!((&second["succeeded_before"], &second["data_is_restored"]), (&json!(["01"]), &json!(false)));
    assert_eq!((&second["left"], &second["compensated"][0]["branch_id"]), (&json!([shared]), &json!("01")));
}

#[tokio::test]
async fn services_are_not_called() {
    let host = Host::start();
    let answer = plan(&host, TUTORIAL).await.json();
    assert_eq!(
        answer["steps"][0],
        json!({
            "branch_id": "01", "target": "http://service-a:8081/try", "outcome": "not_called",
            "why": "nothing is sent in a plan", "assumed": "succeeds", "changes": [], "requests": [],
        })
    );
    assert_eq!((&answer["outcome"], &answer["unknown_changes_of"]), (&json!("succeed"), &json!(["01", "02"])));
    assert_nothing_stored(&host).await;
}

/// What a plan announces is what is sent when the saga runs, and not before.
#[tokio::test]
async fn requests_are_announced_as_they_would_be_sent() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let service = Router::new().fallback(move |method: Method, uri: Uri| async move {
        log.lock().unwrap().push(format!("{method} {uri}"));
        r#"{"dtm_result":"SUCCESS","result":1}"#
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, service).await });

    let settings = http::Settings::default();
    let branches = Branches::new(no_plugins(), http::Client::new(&settings).unwrap(), grpc::Client::new(&settings));
    let host = Host::start_on(Arc::new(branches), Settings::default(), Limits::default());
    let steps = [("/a?x=1", "{}"), ("/b", ""), ("/c?method=pay", "{}")].map(|(path, payload)| {
        (json!({"action": format!("http://user:secret@{address}{path}"), "compensate": ""}), json!(payload))
    });
    let (steps, payloads): (Vec<_>, Vec<_>) = steps.into_iter().unzip();
    let mut body = json!({"gid": "s", "trans_type": "saga", "wait_result": true, "steps": steps, "payloads": payloads});
    for protocol in ["", "json-rpc"] {
        body["protocol"] = json!(protocol);
        body["gid"] = json!(format!("s{protocol}"));
        let planned = plan(&host, body.to_string()).await.json();
        assert_eq!(*seen.lock().unwrap(), [""; 0], "nothing has been sent");
        let announced: Vec<_> =
            planned["steps"].as_array().unwrap().iter().map(|step| step["requests"].clone()).collect();
        assert_eq!(host.submit(body.to_string()).await.status.as_u16(), 200);
        let sent: Vec<_> = std::mem::take(&mut *seen.lock().unwrap())
            .iter()
            .map(|line| json!([line.replacen(' ', &format!(" http://{address}"), 1)]))
            .collect();
        assert_eq!(announced, sent);
    }

    body["protocol"] = json!("grpc");
    body["steps"] = json!([{"action": format!("{address}/busi.Busi/TransOut"), "compensate": ""}]);
    let planned = plan(&host, body.to_string()).await.json();
    assert_eq!(planned["steps"][0]["requests"], json!([format!("gRPC {address}/busi.Busi/TransOut")]));
}

#[tokio::test]
async fn a_gid_may_be_left_out_or_taken() {
    let host = Host::start();
    let anonymous = r#"{"trans_type":"saga","steps":[],"payloads":[]}"#;
    let gid = plan(&host, anonymous).await.json()["gid"].as_str().unwrap().to_owned();
    assert_eq!(gid.len(), 22);
    assert!(host.query(&gid).await["transaction"].is_null());
    assert!(plan(&host, saga("g", &[], "")).await.json().get("existing").is_none());
    host.submit(saga("g", &["http://a/try"], r#","wait_result":true"#)).await;
    let taken = plan(&host, saga("g", &["http://a/other"], "")).await.json();
    assert_eq!((&taken["gid"], &taken["existing"]), (&json!("g"), &json!("succeed")));
    assert_eq!(host.branches.calls().len(), 1);
}

#[tokio::test]
async fn what_is_wrong_is_answered_as_a_submission_is() {
    let limits = Limits { body_bytes_max: 300, ..Limits::default() };
    let host = Host::start_with(Settings::default(), limits);
    for body in [
        "",
        "[]",
        r#"{"gid":";","trans_type":"saga"}"#,
        r#"{"gid":"g","trans_type":"msg"}"#,
        r#"{"gid":"g","trans_type":"saga","steps":[{}]}"#,
        r#"{"gid":"g","trans_type":"saga","custom_data":"{"}"#,
        r#"{"gid":"g","trans_type":"saga","steps":[{"action":"wasm://nobody/try"}],"payloads":[""]}"#,
        &" ".repeat(301),
    ] {
        let (planned, submitted) = (plan(&host, body.to_owned()).await, host.submit(body.to_owned()).await);
        assert_eq!(planned.parts(), submitted.parts());
        assert!(planned.status.is_client_error(), "{body}");
    }
    assert_nothing_stored(&host).await;
}

#[tokio::test]
async fn a_saga_may_be_called_plan() {
    let host = Host::start();
    let path = "/api/v1/sagas/plan";
    let unknown = host.get(path).await;
    assert_eq!(
        (unknown.status.as_u16(), unknown.body),
        (404, host.get("/api/v1/sagas/none").await.body.replace("none", "plan"))
    );
    host.submit(saga("plan", &["http://a/try"], r#","wait_result":true"#)).await;
    assert_eq!(host.get(path).await.json()["gid"], "plan");
    assert!(host.get(&format!("{path}/log")).await.body.starts_with("saga \"plan\" with"));
    assert_eq!(plan(&host, saga("other", &["http://a/try"], "")).await.json()["gid"], "other");
    let put = host.send(Method::PUT, path, "").await;
    assert_eq!((put.status.as_u16(), &*put.body), (404, "404 page not found"));
}

#[tokio::test]
async fn limits_have_their_statuses() {
    let limited = |plan| Host::start_with(Settings { plan, ..Settings::default() }, Limits::default());
    let steps = vec!["http://a/try"; 51];
    let long = plan(&limited(plan::Settings::default()), saga("g", &steps, "")).await;
    let message = r#"{"message":"the saga has 51 steps, plans are made for at most 50 (saga.plan.steps_max)"}"#;
    assert_eq!(long.parts(), (400, message));

    let busy = plan(&limited(plan::Settings { at_once: 0, ..plan::Settings::default() }), TUTORIAL).await;
    let message = r#"{"message":"0 plans are being made already, the limit (saga.plan.at_once): try again in 1 s"}"#;
    assert_eq!((busy.parts(), &busy.headers["retry-after"]), ((503, message), &"1".parse().unwrap()));

    let settings =
        Settings { plan: plan::Settings { data_bytes_max: 100, ..plan::Settings::default() }, ..Settings::default() };
    let host = Host::start_on(Arc::new(Chest), settings, Limits::default());
    let message =
        r#"{"message":"the plan reads and writes more than 100 bytes of data, the limit (saga.plan.data_bytes_max)"}"#;
    assert_eq!(plan(&host, boxed(r#"["a thing"]"#)).await.parts(), (422, message));
}

#[tokio::test]
async fn a_stopping_host_plans_nothing() {
    let host = Host::start();
    host.engine.stop(std::time::Duration::ZERO).await;
    let answer = plan(&host, TUTORIAL).await;
    assert_eq!(answer.parts(), (503, r#"{"message":"the host is stopping: try again when it is back"}"#));
}

#[tokio::test]
async fn a_saga_is_shown_with_what_its_plugins_gave() {
    let host = Host::start_on(Arc::new(Chest), Settings::default(), Limits::default());
    assert_eq!(host.submit(boxed(r#"["a thing","no"]"#)).await.status, 200);
    host.until("b", "failed").await;
    let mut view = host.get("/api/v1/sagas/b").await.json();
    let component = json!({"plugin": "box", "sha256": "ab".repeat(32)});
    let operation = |target: &str, mut rest: Value| {
        let known = json!({"target": target, "component": component});
        rest.as_object_mut().unwrap().extend(known.as_object().unwrap().clone());
        rest
    };
    for moment in moments(&mut view) {
        assert!(moment.as_str().is_some_and(|moment| moment.ends_with('Z')), "{moment}");
    }
    assert_eq!(
        view,
        json!({
            "gid": "b", "status": "failed", "is_stuck": false, "request_timeout_s": 3.0,
            "reason": "url:wasm://box/try return failed: it is full FAILURE",
            "steps": [
                {
                    "branch_id": "01", "may_have_effect": false,
                    "action":
                        operation("wasm://box/try", json!({"state": "succeeded", "attempts": 1, "output": {"kept": 1}})),
                    "compensation":
                        operation("wasm://box/cancel", json!({"state": "succeeded", "attempts": 1, "output": {"kept": 1}})),
                },
                {
                    "branch_id": "02", "may_have_effect": false,
                    "action":
                        operation("wasm://box/try", json!({"state": "rejected", "attempts": 1, "reason": "it is full"})),
                    "compensation": operation("wasm://box/cancel", json!({"state": "not_needed", "attempts": 0})),
                },
            ],
        })
    );
    let unknown = host.get("/api/v1/sagas/nobody").await;
    assert_eq!((unknown.status.as_u16(), unknown.body.contains("nobody")), (404, true), "{}", unknown.body);
}

/// Removes all times from a saga's view.
fn moments(view: &mut Value) -> Vec<Value> {
    match view {
        Value::Object(members) => {
            let mut found: Vec<_> =
                ["created_at", "updated_at", "retry_at"].iter().filter_map(|name| members.remove(*name)).collect();
            found.extend(members.values_mut().flat_map(moments));
            found
        }
        Value::Array(items) => items.iter_mut().flat_map(moments).collect(),
        _ => Vec::new(),
    }
}
