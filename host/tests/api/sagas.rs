//! What a client that does everything right is answered.

use axum::{
    body::Body,
    http::{Method, Request, StatusCode},
};
use serde_json::json;
use tower::ServiceExt;

use crate::host::{Host, JSON, TUTORIAL, saga, statuses};

const SUCCESS: (u16, &str) = (200, r#"{"dtm_result":"SUCCESS"}"#);

#[tokio::test]
async fn the_tutorials_saga_is_rolled_back() {
    let host = Host::start();
    assert_eq!(host.submit(TUTORIAL).await.parts(), SUCCESS);

    let found = host.until("saga-golang-demo-001", "failed").await;
    assert_eq!(statuses(&found), ["succeed", "succeed", "succeed", "failed"]);
    assert_eq!(
        found["transaction"]["rollback_reason"],
        "url:http://service-b:8082/try return failed: simulated failure FAILURE"
    );
    assert_eq!(
        host.branches.calls(),
        [
            r#"http://service-a:8081/try {"amount":100}"#,
            r#"http://service-b:8082/try {"amount":600}"#,
            r#"http://service-b:8082/cancel {"amount":600}"#,
            r#"http://service-a:8081/cancel {"amount":100}"#,
        ]
    );
    assert_eq!(
        host.submit(TUTORIAL).await.parts(),
        (409, r#"{"dtm_result":"FAILURE","message":"current status 'failed', cannot sumbmit. FAILURE"}"#)
    );
}

#[tokio::test]
async fn the_log_is_the_saga_in_words() {
    let host = Host::start();
    host.submit(TUTORIAL).await;
    host.until("saga-golang-demo-001", "failed").await;
    let log = host.get("/api/v1/sagas/saga-golang-demo-001/log").await;
    assert_eq!((log.status, log.content_type()), (StatusCode::OK, "text/plain; charset=utf-8"));
    let lines: Vec<_> = log.body.lines().map(|line| line.split_once(" ms  ").map_or(line, |(_, line)| line)).collect();
    assert_eq!(
        lines,
        [
            "saga \"saga-golang-demo-001\" with 2 steps",
            "submitted  -> submitted",
            "01 action     started",
            "01 action     succeeded",
            "02 action     started",
            "02 action     rejected: simulated failure  -> aborting",
            "02 compensate started",
            "02 compensate succeeded",
            "01 compensate started",
            "01 compensate succeeded  -> failed",
        ]
    );
}

#[tokio::test]
async fn a_client_may_wait_for_the_result() {
    let host = Host::start();
    let wait = r#","wait_result":true"#;
    let good = TUTORIAL.replace("600", "100").replace("saga\",", r#"saga","wait_result":true,"#);
    assert_eq!(host.submit(good).await.parts(), SUCCESS);
    assert_eq!(statuses(&host.query("saga-golang-demo-001").await), ["prepared", "succeed", "prepared", "succeed"]);
    assert_eq!(host.submit(saga("empty", &[], wait)).await.parts(), SUCCESS);

    for (action, message) in [
        ("reject", r"url:http://b/reject return failed: no \u003cway\u003e FAILURE"),
        ("reject-in-dtms-words", "url:http://b/reject-in-dtms-words return failed: no. FAILURE FAILURE"),
    ] {
        let answer = host.submit(saga(action, &["http://a/try", &format!("http://b/{action}")], wait)).await;
        assert_eq!(answer.parts(), (409, &*format!(r#"{{"dtm_result":"FAILURE","message":"{message}"}}"#)));
    }

    let answer = host.submit(saga("unknown", &["http://a/fail"], wait)).await;
    assert_eq!(
        answer.parts(),
        (409, r#"{"dtm_result":"FAILURE","message":"wait result not return success: FAILURE","status":"submitted"}"#)
    );
}

#[tokio::test]
async fn a_prepared_saga_waits_to_be_submitted() {
    let host = Host::start();
    let body = saga("p", &["http://a/try"], "");
    assert_eq!(host.post("prepare", body.clone()).await.parts(), SUCCESS);
    assert_eq!(host.post("prepare", body.clone()).await.parts(), SUCCESS);
    assert_eq!(host.query("p").await["transaction"]["status"], "prepared");
    assert_eq!(host.branches.calls(), [""; 0]);

    assert_eq!(host.submit(body.clone()).await.parts(), SUCCESS);
    host.until("p", "succeed").await;
    assert_eq!(
        host.post("prepare", body).await.parts(),
        (409, r#"{"dtm_result":"FAILURE","message":"current status 'succeed', cannot prepare. FAILURE"}"#)
    );
}

#[tokio::test]
async fn submitting_again_attaches_to_the_saga_or_is_refused() {
    let host = Host::start();
    let body = saga("again", &["http://a/try", "http://b/hang"], "");
    assert_eq!(host.submit(body.clone()).await.parts(), SUCCESS);
    assert_eq!(host.submit(body).await.parts(), SUCCESS);
    assert_eq!(
        host.submit(saga("again", &["http://other/try"], "")).await.parts(),
        (
            409,
            r#"{"dtm_result":"FAILURE","message":"the gid belongs to an unfinished saga with another definition: choose another gid. FAILURE"}"#
        )
    );
    let calls = host.branches.calls();
    assert!(calls.iter().filter(|call| call.contains("//a/")).count() <= 1, "{calls:?}");
}

#[tokio::test]
async fn any_content_type_will_do() {
    let host = Host::start();
    for (gid, content_type) in ["text/plain", "application/x-www-form-urlencoded", "?"].into_iter().enumerate() {
        let request = Request::post("/api/dtmsvr/submit")
            .header("content-type", content_type)
            .body(Body::from(saga(&gid.to_string(), &[], "")))
            .unwrap();
        let answer = host.router.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{content_type}");
    }
}

#[tokio::test]
async fn sagas_cannot_be_aborted() {
    let host = Host::start();
    host.submit(saga("s", &["http://a/hang"], "")).await;
    for trans_type in ["saga", "tcc"] {
        let answer = host.post("abort", format!(r#"{{"gid":"s","trans_type":"{trans_type}"}}"#)).await;
        assert_eq!(
            answer.parts(),
            (
                409,
                r#"{"dtm_result":"FAILURE","message":"trans type: 'saga' current status 'submitted', cannot abort. FAILURE"}"#
            )
        );
    }
    assert_eq!(host.query("s").await["transaction"]["status"], "submitted");
}

#[tokio::test]
async fn an_unfinished_saga_can_be_stopped_by_force() {
    let host = Host::start();
    host.submit(saga("s", &["http://a/hang"], "")).await;
    assert_eq!(host.post("forceStop", r#"{"gid":"s"}"#).await.parts(), SUCCESS);
    let found = host.until("s", "failed").await;
    assert_eq!(statuses(&found), ["prepared", "prepared"]);
    assert!(found["transaction"]["rollback_time"].is_string());
    assert_eq!(
        host.post("forceStop", r#"{"gid":"s"}"#).await.parts(),
        (
            409,
            r#"{"dtm_result":"FAILURE","message":"global transaction force stop error. status: failed. error: FAILURE"}"#
        )
    );
}

#[tokio::test]
async fn a_retry_can_be_asked_for_now() {
    let host = Host::start();
    let body = saga("r", &["http://a/fail"], r#","wait_result":true,"retry_interval":3600"#);
    host.submit(body).await;
    let waiting = host.query("r").await;
    assert_eq!(waiting["transaction"]["next_cron_interval"].as_u64().map(|s| (3600..=4500).contains(&s)), Some(true));
    assert_eq!(host.post("resetNextCronTime", r#"{"gid":"r"}"#).await.parts(), SUCCESS);
    while host.query("r").await["branches"][1]["attempts"] != 2 {
        tokio::task::yield_now().await;
    }

    host.submit(saga("done", &[], r#","wait_result":true"#)).await;
    assert_eq!(host.post("resetNextCronTime", r#"{"gid":"done"}"#).await.parts(), SUCCESS);
}

#[tokio::test]
async fn small_endpoints() {
    let host = Host::start();
    let version = host.get("/api/dtmsvr/version").await;
    assert_eq!(version.parts(), (200, concat!(r#"{"version":"v"#, env!("CARGO_PKG_VERSION"), r#""}"#)));
    for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
        assert_eq!(host.send(method, "/api/ping", "").await.parts(), (200, r#"{"msg":"pong"}"#));
    }

    let (one, other) = (host.get("/api/dtmsvr/newGid").await, host.get("/api/dtmsvr/newGid").await);
    let gid = one.json()["gid"].as_str().unwrap().to_owned();
    assert_eq!(one.parts(), (200, &*format!(r#"{{"dtm_result":"SUCCESS","gid":"{gid}"}}"#)));
    assert!(gid.len() == 22 && *gid < *other.json()["gid"].as_str().unwrap(), "{gid}");
}

#[tokio::test]
async fn metrics_count_sagas_and_syncs() {
    let host = Host::start();
    let wait = r#","wait_result":true"#;
    host.submit(saga("1", &["http://a/try"], wait)).await;
    host.submit(saga("2", &["http://a/reject"], wait)).await;
    host.submit(saga("3", &["http://a/fail"], wait)).await;
    let metrics = host.get("/api/metrics").await;
    assert_eq!(metrics.content_type(), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    for line in [
        "# TYPE wasaga_sagas_submitted counter",
        "wasaga_sagas_submitted_total 3",
        r#"wasaga_sagas_finished_total{status="succeed"} 1"#,
        r#"wasaga_sagas_finished_total{status="failed"} 1"#,
        "wasaga_sagas_open 1",
        "wasaga_sagas_live 0",
        "wasaga_conflicts_total 0",
        "# EOF",
    ] {
        assert!(metrics.body.lines().any(|found| found == line), "no {line:?} in\n{}", metrics.body);
    }
    for name in ["commits", "syncs", "bytes"] {
        let prefix = format!("wasaga_journal_{name}_total ");
        let value = metrics.body.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap();
        assert!(value.parse::<u64>().unwrap() > 0, "{name} {value}");
    }
}

#[tokio::test]
async fn what_is_no_endpoint_is_404_whatever_the_method() {
    let host = Host::start();
    for (method, path) in [
        (Method::GET, "/"),
        (Method::GET, "/api/dtmsvr/submit"),
        (Method::POST, "/api/dtmsvr/query?gid=x"),
        (Method::DELETE, "/api/dtmsvr/newGid"),
        (Method::POST, "/api/dtmsvr/cron"),
        (Method::POST, "/api/metrics"),
    ] {
        let answer = host.send(method.clone(), path, "{}").await;
        let found = (answer.status.as_u16(), answer.content_type(), &*answer.body);
        assert_eq!(found, (404, "text/plain", "404 page not found"), "{method} {path}");
    }
    let missing = host.get("/api/v1/sagas/no%2Fsuch/log").await;
    assert_eq!(missing.parts(), (404, r#"{"message":"no saga has the gid \"no/such\""}"#));
    assert_eq!(missing.content_type(), JSON);
}

/// As by DTM: 307, so that the client sends the same method and body to the address without the slash.
#[tokio::test]
async fn an_address_of_dtms_api_with_a_slash_at_its_end_is_sent_on() {
    let host = Host::start();
    for (path, without) in
        [("/api/dtmsvr/submit/", "/api/dtmsvr/submit"), ("/api/dtmsvr/query/?gid=a%2Fb", "/api/dtmsvr/query?gid=a%2Fb")]
    {
        let answer = host.send(Method::POST, path, "{}").await;
        assert_eq!(answer.status.as_u16(), 307, "{path}");
        assert_eq!(answer.headers["location"], without);
    }
    assert_eq!(host.get("/api/v1/sagas/").await.status.as_u16(), 404);
}

/// Characters count, not bytes: a gid of the longest ones is stored, found and shown.
#[tokio::test]
async fn a_gid_of_128_long_characters_is_stored_and_found() {
    let host = Host::start();
    let gid = "\u{1f600}".repeat(128);
    let encoded = "%F0%9F%98%80".repeat(128);
    assert_eq!(host.submit(saga(&gid, &[], r#","wait_result":true"#)).await.status.as_u16(), 200);
    assert_eq!(host.query(&encoded).await["transaction"]["gid"], gid);
    assert_eq!(host.get(&format!("/api/v1/sagas/{encoded}")).await.status.as_u16(), 200);
    assert_eq!(host.submit(saga(&format!("{gid}x"), &[], "")).await.status.as_u16(), 400);
}

/// What clients send for reasons of their own: a byte order mark, and PHP's empty map.
#[tokio::test]
async fn a_byte_order_mark_and_an_empty_list_of_headers_are_taken() {
    let host = Host::start();
    let body = format!("\u{feff}{}", saga("g", &[], r#","branch_headers":[],"wait_result":true"#));
    let answer = host.submit(body).await;
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.body);
}

#[tokio::test]
async fn gids_are_found_as_they_are_stored() {
    let host = Host::start();
    host.submit(saga(r"a;b\nc", &[], r#","wait_result":true"#)).await;
    assert_eq!(host.query("abc").await["transaction"]["gid"], "abc");
    assert_eq!(host.query("a%3Bb%0Ac").await["transaction"]["gid"], "abc");
    assert_eq!(host.query("nobody").await, json!({ "branches": [], "transaction": null }));
}
