//! Secrets of sagas are sent to their branches and shown to nobody.

use std::sync::Arc;

use axum::{body::Body, http::Method};
use futures_util::{FutureExt, future::BoxFuture};
use serde_json::{Value, json};
use wasaga::{
    api::Limits,
    branch::{self, Branch, Call, Containment, Directory, NotFound, Outcome},
    engine::Settings,
    hidden::Headers,
    saga::{BranchOp, Definition, Pin},
};

use crate::host::Host;

/// A branch that repeats all it is sent, in the way that its address names.
struct Repeats;

impl Branch for Repeats {
    fn call<'a>(&'a self, call: &'a Call, _: &'a branch::Host) -> BoxFuture<'a, Outcome> {
        let headers = call.saga.options().branch_headers.iter();
        let headers: serde_json::Map<_, _> = headers.map(|(name, value)| (name.clone(), json!(value))).collect();
        let text = json!({ "headers": headers, "address": call.target() }).to_string();
        let outcome = match call.target().rsplit('/').next().unwrap() {
            "reject" => Outcome::rejected(text),
            "fail" => Outcome::unknown(format!("error for {} with {text}", call.target())),
            _ => Outcome::succeeded(Some(text)),
        };
        async { outcome }.boxed()
    }

    fn containment(&self) -> Containment {
        Containment::Contained
    }
}

impl Directory for Repeats {
    fn find(&self, _: &Definition, _: BranchOp, _: Option<&Pin>) -> Result<Arc<dyn Branch>, NotFound> {
        Ok(Arc::new(Self))
    }
}

fn host() -> Host {
    let settings = Settings { hidden_headers: Headers::new(["X-Api-Key".to_owned()]), ..Settings::default() };
    Host::start_on(Arc::new(Repeats), settings, Limits::default())
}

const SECRETS: [&str; 4] = ["hunter2-word", "TOPSECRET-token", "s3ss1on-id-1", "api-key-value"];

/// A saga with all secrets, whose last step does this.
fn submission(gid: &str, last: &str, more: &Value) -> Value {
    let mut saga = json!({
        "gid": gid,
        "trans_type": "saga",
        "steps": [
            {"action": "http://user:hunter2-word@a/try", "compensate": "http://user:hunter2-word@a/cancel"},
            {"action": format!("http://user:hunter2-word@b/{last}"), "compensate": ""},
        ],
        "payloads": ["{}", "{}"],
        "query_prepared": "http://user:hunter2-word@q/",
        "branch_headers": {
            "authorization": "Bearer TOPSECRET-token",
            "Cookie": "a=1; session=s3ss1on-id-1",
            "x-api-key": "api-key-value",
            "X-Plain": "shown",
        },
    });
    saga.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    saga
}

fn assert_hidden(place: &str, body: &str) {
    for secret in SECRETS {
        assert!(!body.contains(secret), "{place} shows {secret}: {body}");
    }
    assert!(body.contains("[hidden]"), "{place}: {body}");
}

#[tokio::test]
async fn a_saga_is_shown_without_its_secrets() {
    let host = host();
    let wait = json!({"wait_result": true});
    for last in ["try", "reject", "fail"] {
        host.submit(submission(last, last, &wait).to_string()).await;
        for path in [
            format!("/api/dtmsvr/query?gid={last}"),
            format!("/api/dtmsvr/all?gid={last}"),
            format!("/api/v1/sagas/{last}"),
            format!("/api/v1/sagas/{last}/log"),
        ] {
            let answer = host.get(&path).await;
            assert_eq!(answer.status, 200);
            assert_hidden(&path, &answer.body);
        }
    }
    assert_hidden("all", &host.get("/api/dtmsvr/all").await.body);
    let shown = host.query("reject").await;
    let headers = &shown["transaction"]["branch_headers"];
    assert_eq!((&headers["authorization"], &headers["X-Plain"]), (&json!("[hidden]"), &json!("shown")));
    assert_eq!(shown["transaction"]["steps"][0]["action"], "http://[hidden]@a/try");
    let options: Value = serde_json::from_str(shown["transaction"]["options"].as_str().unwrap()).unwrap();
    assert_eq!(&options["branch_headers"], headers);
    let destinations = host.get("/api/v1/destinations").await.body + &host.get("/api/metrics").await.body;
    assert!(SECRETS.iter().all(|secret| !destinations.contains(secret)));
}

#[tokio::test]
async fn answers_and_plans_have_no_secrets() {
    let host = host();
    let refused = host.submit(submission("g", "reject", &json!({"wait_result": true})).to_string()).await;
    assert_eq!(refused.status, 409);
    assert_hidden("submit", &refused.body);
    for last in ["try", "reject", "fail"] {
        let body = submission("p", last, &json!({})).to_string();
        let plan = host.send(Method::POST, "/api/v1/sagas/plan", body).await;
        assert_eq!(plan.status, 200, "{}", plan.body);
        assert_hidden("plan", &plan.body);
    }
}

#[tokio::test]
async fn a_saga_copied_from_an_answer_is_refused() {
    let host = host();
    let mend = "has [hidden], which is shown in place of a secret: send the secret itself";
    for (more, place) in [
        (json!({"branch_headers": {"AUTHORIZATION": "[hidden]"}}), "branch_headers: the value of AUTHORIZATION"),
        (json!({"branch_headers": {"X-API-KEY": "[hidden]"}}), "branch_headers: the value of X-API-KEY"),
        (
            json!({"steps": [{"action": "http://[hidden]@a/try", "compensate": ""}]}),
            "the address of the action of step 0 (counted from 0)",
        ),
        (json!({"query_prepared": "http://[hidden]@q"}), "query_prepared"),
    ] {
        let body = submission("g", "try", &more).to_string();
        for path in ["/api/dtmsvr/submit", "/api/dtmsvr/prepare", "/api/v1/sagas/plan"] {
            let answer = host.send(Method::POST, path, body.clone()).await;
            assert_eq!((answer.status.as_u16(), &answer.json()), (400, &json!({"message": format!("{place} {mend}")})));
        }
        let rpc = json!({"jsonrpc": "2.0", "id": "1", "method": "submit", "params": serde_json::from_str::<Value>(&body).unwrap()});
        let answer = host.send(Method::POST, "/api/json-rpc", rpc.to_string()).await;
        assert_eq!(answer.json()["error"]["message"], format!("{place} {mend}"));
    }
    assert_eq!(host.query("g").await["transaction"], Value::Null);
    let plain = submission("g", "try", &json!({"branch_headers": {"X-Plain": "[hidden]"}, "wait_result": true}));
    assert_eq!(host.submit(plain.to_string()).await.status, 200, "no secret stands there");
}

#[tokio::test]
async fn texts_of_branches_steer_no_terminal() {
    let host = host();
    let body = submission(
        "g",
        "try",
        &json!({"branch_headers": {"X-Plain": "\u{202e}\u{200b}\u{9b}\u{2028}é"}, "wait_result": true}),
    );
    assert_eq!(host.submit(body.to_string()).await.status, 200);
    for path in ["/api/v1/sagas/g", "/api/dtmsvr/query?gid=g"] {
        let answer = host.send(Method::GET, path, Body::empty()).await;
        assert!(answer.body.contains(r"\u202e\u200b\u009b\u2028é"), "{}", answer.body);
        assert!(!answer.body.contains(['\u{202e}', '\u{200b}', '\u{9b}', '\u{2028}']), "{}", answer.body);
        answer.json();
    }
    let log = host.get("/api/v1/sagas/g/log").await.body;
    assert!(log.contains(r"\u{202e}\u{200b}\u{9b}\u{2028}é"), "{log}");
    assert!(!log.contains(['\u{202e}', '\u{200b}', '\u{9b}', '\u{2028}']), "{log}");
}
