//! `api_test.go`, `metrics_test.go`, `cron_test.go` and what else of DTM's tests is about the API and not about sagas.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use wasaga::branch::http::Settings;

use crate::{
    participant::Answer,
    world::{OUT_IN, World},
};

const ALL: &str = "/api/dtmsvr/all";

/// The gids on a page of `all`, and where the next one begins.
async fn page(world: &World, query: &str) -> (Vec<String>, String) {
    let answer = world.get(&format!("{ALL}?{query}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let page = answer.json();
    let gids = page["transactions"].as_array().unwrap().iter().map(|saga| saga["gid"].as_str().unwrap().to_owned());
    (gids.collect(), page["next_position"].as_str().unwrap().to_owned())
}

#[tokio::test(start_paused = true)]
async fn api_version() {
    let answer = World::new().await.get("/api/dtmsvr/version").await;
    assert_eq!(answer.status, 200);
    assert!(answer.json()["version"].as_str().unwrap().starts_with('v'));
}

#[tokio::test(start_paused = true)]
async fn api_query() {
    let world = World::new().await;
    world.submit_and_settle(&world.saga("g", &OUT_IN[..1], json!({}))).await;
    let view = world.query("g").await;
    assert_eq!((view["transaction"]["gid"].as_str(), view["branches"].as_array().unwrap().len()), (Some("g"), 2));
    for path in ["/api/dtmsvr/query", "/api/dtmsvr/query?gid="] {
        assert_eq!(world.get(path).await.parts(), (500, r#"{"message":"no gid specified"}"#));
    }
    let unknown = world.get("/api/dtmsvr/query?gid=1").await;
    assert_eq!(unknown.parts(), (200, r#"{"branches":[],"transaction":null}"#));
}

/// The order, which DTM leaves to its store, is newest first.
#[tokio::test(start_paused = true)]
async fn api_all() {
    let world = World::new().await;
    for number in 0..3 {
        world.submit_and_settle(&world.transfer(&format!("g{number}"), json!({}))).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    world.participant.always("TransOut", 500, "");
    world.submit_and_settle(&world.transfer("waiting", json!({}))).await;
    let listed = ["waiting", "g2", "g1", "g0"];

    let (mut position, mut positions, mut found) = (String::new(), BTreeSet::new(), Vec::new());
    for _ in &listed {
        let (gids, next) = page(&world, &format!("limit=1&position={position}")).await;
        assert!(gids.len() == 1 && !next.is_empty() && positions.insert(next.clone()), "{gids:?} {next}");
        (found, position) = ([found, gids].concat(), next);
    }
    assert_eq!(found, listed);
    assert_eq!(page(&world, &format!("limit=1&position={position}")).await, (vec![], String::new()));
    assert_eq!(page(&world, "limit=1000").await, (listed.map(str::to_owned).to_vec(), String::new()));

    // One by its gid, whatever else is asked for.
    let (gids, next) = page(&world, "gid=g1&status=failed&limit=5&position=7").await;
    assert_eq!((gids, next.as_str()), (vec!["g1".to_owned()], "7"));
    let nobody = world.get(&format!("{ALL}?gid=nobody&position=7")).await;
    assert_eq!(nobody.parts(), (200, r#"{"next_position":"7","transactions":null}"#));

    let created = world.query("g1").await["transaction"]["create_time"].as_str().unwrap().to_owned();
    let ms = created.parse::<jiff::Timestamp>().unwrap().as_millisecond();
    for (query, gids) in [
        ("status=submitted".to_owned(), vec!["waiting"]),
        ("status=succeed&transType=saga".to_owned(), vec!["g2", "g1", "g0"]),
        ("status=failed".to_owned(), vec![]),
        ("transType=tcc".to_owned(), vec![]),
        (format!("createTimeStart={ms}"), vec!["waiting", "g2", "g1"]),
        (format!("createTimeEnd={ms}"), vec!["g1", "g0"]),
        (format!("createTimeStart={ms}&createTimeEnd={ms}"), vec!["g1"]),
        (format!("createTimeStart={}&createTimeEnd={}", ms + 1, ms + 9), vec![]),
    ] {
        assert_eq!(page(&world, &query).await.0, gids, "{query}");
    }
    let wrong = world.get(&format!("{ALL}?limit=x")).await;
    assert_eq!(wrong.parts(), (500, r#"{"message":"convert to int error: x"}"#));
}

/// Deviation: there are no topics, so the admin pages see none.
#[tokio::test(start_paused = true)]
async fn api_scan_kv() {
    let answer = World::new().await.get("/api/dtmsvr/scanKV?cat=topics&limit=1&position=").await;
    assert_eq!(answer.parts(), (200, r#"{"kv":[],"next_position":""}"#));
}

#[tokio::test(start_paused = true)]
async fn api_query_kv() {
    let answer = World::new().await.get("/api/dtmsvr/queryKV?cat=topics&key=none").await;
    assert_eq!(answer.parts(), (200, r#"{"kv":[]}"#));
}

#[tokio::test(start_paused = true)]
async fn dtm_metrics() {
    let world = World::new().await;
    world.participant.switch("TransIn", Answer::Error);
    let saga = world.transfer("g", json!({}));
    world.submit_and_settle(&saga).await;
    world.next_retry("g").await;
    world.submit(&saga).await.assert_failure("current status 'succeed', cannot sumbmit. FAILURE");
    let many = world.saga("many", &[("", ""); 30], json!({}));
    world.submit_and_settle(&many).await;
    world.submit_and_settle(&world.saga("called", &[OUT_IN[0]; 30], json!({}))).await;
    let unknown = world.get("/api/dtmsvr/query?gid=x&y=/..").await;
    assert_eq!(unknown.status, 200);

    let answer = world.get("/api/metrics").await;
    assert_eq!(answer.status, 200);
    for line in [
        r#"dtm_server_process_total{type="http",api="submit",status="ok"} 3"#,
        r#"dtm_server_process_total{type="http",api="submit",status="fail"} 1"#,
        r#"dtm_server_response_duration_count{type="http",api="submit"} 4"#,
        r#"dtm_server_response_duration_bucket{le="+Inf",type="http",api="submit"} 4"#,
        r#"dtm_transaction_process_total{model="saga",status="ok"} 3"#,
        r#"dtm_transaction_process_total{model="saga",status="fail"} 1"#,
        r#"dtm_transaction_handled_duration_count{model="saga"} 4"#,
        r#"dtm_transaction_handled_duration_bucket{le="0.5",model="saga"} 3"#,
        r#"dtm_branch_process_total{model="saga",branchid="01",branchtype="action",status="ok"} 2"#,
        r#"dtm_branch_process_total{model="saga",branchid="02",branchtype="action",status="fail"} 1"#,
        r#"dtm_branch_process_total{model="saga",branchid="20",branchtype="action",status="ok"} 1"#,
        r#"dtm_branch_process_total{model="saga",branchid="more",branchtype="action",status="ok"} 10"#,
        concat!(r#"dtm_server_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
        "# EOF",
    ] {
        assert!(answer.body.lines().any(|found| found == line), "no {line} in\n{}", answer.body);
    }
    assert!(!answer.body.contains(r#"branchid="21""#) && !answer.body.contains("gid"), "{}", answer.body);
}

/// Deviation: prepared sagas wait for their submission and not for a retry, and do not count.
#[tokio::test(start_paused = true)]
async fn api_reset_cron_time() {
    let world = World::new().await;
    world.participant.always("TransOut", 500, "");
    for (gid, retry_interval) in [("soon", 10), ("c", 1000), ("a", 4000), ("b", 3000)] {
        world.submit_and_settle(&world.transfer(gid, json!({ "retry_interval": retry_interval }))).await;
    }
    let prepared = world.transfer("prepared", json!({}));
    world.post("/api/dtmsvr/prepare", &prepared.to_string()).await.assert_success();
    world.submit_and_settle(&world.saga("done", &[], json!({}))).await;
    world.participant.always("TransOut", 200, "");
    let reset = async |query: &str, has_remaining, succeed_count| {
        let answer = world.get(&format!("/api/dtmsvr/resetCronTime{query}")).await;
        let body = format!(r#"{{"has_remaining":{has_remaining},"succeed_count":{succeed_count}}}"#);
        assert_eq!(answer.parts(), (200, body.as_str()), "{query}");
        world.settle().await;
    };

    reset("?timeout=6000&limit=10", false, 0).await;
    reset("?timeout=500&limit=0", true, 0).await;
    reset("?timeout=500&limit=2", true, 2).await;
    for (gid, status) in [("a", "succeed"), ("b", "succeed"), ("soon", "submitted"), ("c", "submitted")] {
        assert_eq!(world.statuses(gid).await.0, status, "{gid}");
    }
    reset("?limit=1", true, 1).await;
    world.assert_saga("c", "succeed", "PSPS").await;
    reset("?timeout=105", false, 0).await;
    reset("?timeout=0", false, 1).await;
    world.assert_saga("soon", "succeed", "PSPS").await;
    reset("", false, 0).await;
    world.assert_saga("prepared", "prepared", "PPPP").await;
    let wrong = world.get("/api/dtmsvr/resetCronTime?timeout=x").await;
    assert_eq!(wrong.parts(), (500, r#"{"message":"convert to int error: x"}"#));
}

/// Deviation: DTM's default of `timeout` is longer than any wait under default settings.
#[tokio::test(start_paused = true)]
async fn api_reset_cron_time_without_parameters() {
    let world = World::new().await;
    world.participant.always("TransOut", 500, "");
    for gid in ["a", "b", "c"] {
        world.submit_and_settle(&world.transfer(gid, json!({}))).await;
    }
    // Their waits grow to the longest that there is.
    world.pass(Duration::from_mins(10)).await;
    world.participant.always("TransOut", 200, "");
    let answer = world.get("/api/dtmsvr/resetCronTime").await;
    assert_eq!(answer.parts(), (200, r#"{"has_remaining":false,"succeed_count":3}"#));
    world.settle().await;
    for gid in ["a", "b", "c"] {
        world.assert_saga(gid, "succeed", "PSPS").await;
    }
}

#[tokio::test(start_paused = true)]
async fn api_force_stopped_normal() {
    let world = World::new().await;
    world.participant.always("TransIn", 500, "");
    world.submit_and_settle(&world.transfer("g", json!({}))).await;
    world.post("/api/dtmsvr/forceStop", r#"{"gid":"g"}"#).await.assert_success();
    world.assert_saga("g", "failed", "PSPP").await;
    world.pass(Duration::from_hours(1)).await;
    assert_eq!(world.participant.names(), ["TransOut", "TransIn"], "nothing is called any more");
}

#[tokio::test(start_paused = true)]
async fn api_force_stopped_abnormal() {
    let world = World::new().await;
    world.submit_and_settle(&world.transfer("g", json!({}))).await;
    let answer = world.post("/api/dtmsvr/forceStop", r#"{"gid":"g"}"#).await;
    answer.assert_failure("global transaction force stop error. status: succeed. error: FAILURE");
    let answer = world.post("/api/dtmsvr/forceStop", r#"{"gid":"nobody"}"#).await;
    assert_eq!(answer.parts(), (500, r#"{"message":"no TransGlobal with gid: nobody found"}"#));
}

/// Deviation: the saga is really retried now. With DTM's default store only the shown time changes.
#[tokio::test(start_paused = true)]
async fn api_reset_next_cron_time() {
    let world = World::new().await;
    world.participant.switch("TransOut", Answer::Error);
    world.submit_and_settle(&world.transfer("g", json!({ "retry_interval": 1000 }))).await;
    let before = tokio::time::Instant::now();
    world.post("/api/dtmsvr/resetNextCronTime", r#"{"gid":"g"}"#).await.assert_success();
    world.settle().await;
    world.assert_saga("g", "succeed", "PSPS").await;
    assert!(before.elapsed() < Duration::from_secs(1));
    // A success for a finished saga too.
    world.post("/api/dtmsvr/resetNextCronTime", r#"{"gid":"g"}"#).await.assert_success();
    let answer = world.post("/api/dtmsvr/resetNextCronTime", r#"{"gid":"nobody"}"#).await;
    assert_eq!(answer.parts(), (500, r#"{"message":"no TransGlobal with gid: nobody found"}"#));
}

/// All values are strings, for Go's client reads them into a map of strings.
#[tokio::test(start_paused = true)]
async fn must_gen_gid() {
    let world = World::new().await;
    let mut gids = BTreeSet::new();
    for _ in 0..1000 {
        let answer = world.get("/api/dtmsvr/newGid").await;
        assert_eq!((answer.status, answer.content_type.as_str()), (200, "application/json; charset=utf-8"));
        let Value::Object(body) = answer.json() else { panic!("{answer:?}") };
        assert!(body.values().all(Value::is_string) && body["dtm_result"] == "SUCCESS");
        assert!(gids.insert(body["gid"].as_str().unwrap().to_owned()) && !gids.contains(""));
    }
}

/// What is a panic inside DTM is an answer with a message, and the server goes on.
#[tokio::test(start_paused = true)]
async fn base_http() {
    let world = World::new().await;
    let answer = world.post("/api/dtmsvr/submit", r#"{"gid":"g","trans_type":"no such type"}"#).await;
    assert_eq!(answer.parts(), (400, r#"{"message":"trans_type is \"no such type\": it must be \"saga\""}"#));
    for (method, path) in [("GET", "/api/dtmsvr/submit"), ("POST", "/api/dtmsvr/query"), ("GET", "/not_found")] {
        let answer = world.call(method, path, "", "").await;
        assert_eq!((answer.parts(), answer.content_type.as_str()), ((404, "404 page not found"), "text/plain"));
    }
    for method in ["GET", "POST", "PUT"] {
        assert_eq!(world.call(method, "/api/ping", "", "").await.parts(), (200, r#"{"msg":"pong"}"#));
    }
}

async fn assert_refused(world: &World, method: &str, path: &str, endpoint: &str) {
    let answer = world.call(method, path, r#"{"gid":"g","trans_type":"tcc","branch_id":"01"}"#, "").await;
    let message = format!(
        "{endpoint} belongs to other transaction modes (msg, tcc, xa, workflow), but Wasaga runs sagas only: \
         send that to DTM, or write the transaction as a saga"
    );
    assert_eq!((answer.status, answer.json()), (501, json!({ "message": message })), "{path}");
}

/// Deviation: Wasaga has no topics, which only messages use, and says so.
#[tokio::test(start_paused = true)]
async fn topic_normal() {
    let world = World::new().await;
    assert_refused(&world, "GET", "/api/dtmsvr/subscribe?topic=t&url=u", "subscribe").await;
    assert_refused(&world, "GET", "/api/dtmsvr/unsubscribe?topic=t&url=u", "unsubscribe").await;
    assert_refused(&world, "DELETE", "/api/dtmsvr/topic/t", "topic").await;
}

/// Deviation: as above. Nor can a branch of another mode be registered.
#[tokio::test(start_paused = true)]
async fn concurrent_update_topic() {
    let world = World::new().await;
    let subscribe = || assert_refused(&world, "GET", "/api/dtmsvr/subscribe?topic=t&url=u", "subscribe");
    tokio::join!(subscribe(), subscribe(), subscribe());
    for endpoint in ["registerBranch", "registerXaBranch", "registerTccBranch", "prepareWorkflow"] {
        assert_refused(&world, "POST", &format!("/api/dtmsvr/{endpoint}"), endpoint).await;
    }
    world.assert_unknown("g").await;
}

/// Deviation: there is no webhook. A saga that has failed too often is marked `stuck`, and goes on.
#[tokio::test(start_paused = true)]
async fn msg_webhook() {
    let world = World::with(&Settings::default(), |settings| settings.policy.stuck_after = 2).await;
    for _ in 0..3 {
        world.participant.switch("TransOut", Answer::Error);
    }
    world.submit_and_settle(&world.transfer("g", json!({}))).await;
    for is_stuck in [None, None, Some(true)] {
        assert_eq!(world.query("g").await["transaction"]["stuck"].as_bool(), is_stuck);
        world.next_retry("g").await;
    }
    world.assert_saga("g", "succeed", "PSPS").await;
    assert!(world.query("g").await["transaction"].get("stuck").is_none());
}
