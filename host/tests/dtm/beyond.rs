//! What DTM's tests do not look at, but its code does and clients may depend on: 25 cases, numbered as in README.md.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::{
    participant::{Answer, SUCCESS},
    world::{OUT_IN, World},
};

const CONCURRENT: &str = r#"{"concurrent":true}"#;

/// Deviation: an object or an array is taken for its own text. DTM answers 500, so no client of it can mind.
#[tokio::test(start_paused = true)]
async fn case_01_a_payload_may_be_an_object() {
    let world = World::new().await;
    let saga = world.transfer("g", json!({ "payloads": [{ "amount": 1 }, [2, "b"]] }));
    world.submit_and_settle(&saga).await;
    world.assert_saga("g", "succeed", "PSPS").await;
    let bodies: Vec<_> = world.participant.calls().into_iter().map(|call| call.body).collect();
    assert_eq!(bodies, [r#"{"amount":1}"#, r#"[2,"b"]"#]);
    // Anything else is refused as under DTM.
    let answer = world.submit(&world.transfer("h", json!({ "payloads": [7, true] }))).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    world.assert_unknown("h").await;
}

/// Deviation: 400 with a message that says what is missing, where DTM gives 500 and a runtime error.
#[tokio::test(start_paused = true)]
async fn case_02_fewer_payloads_than_steps() {
    let world = World::new().await;
    let answer = world.submit(&world.transfer("g", json!({ "payloads": ["{}"] }))).await;
    assert_eq!(answer.status, 400);
    assert_eq!(
        answer.json()["message"],
        "step 1 (counted from 0) has no payload: send one payload a step, \"\" for none"
    );
    assert!(answer.json().get("dtm_result").is_none());
    world.assert_unknown("g").await;
    assert!(world.participant.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn case_03_empty_steps() {
    let world = World::new().await;
    world.submit(&world.saga("g", &[], json!({ "wait_result": true }))).await.assert_success();
    world.assert_saga("g", "succeed", "").await;
}

#[tokio::test(start_paused = true)]
async fn case_04_resubmit_while_aborting_or_failed() {
    let world = World::new().await;
    let saga = world.transfer("g", json!({}));
    world.participant.switch("TransIn", Answer::Failure(""));
    world.participant.switch("TransInRevert", Answer::Error);
    world.submit_and_settle(&saga).await;
    world.submit(&saga).await.assert_failure("current status 'aborting', cannot sumbmit. FAILURE");
    world.next_retry("g").await;
    world.submit(&saga).await.assert_failure("current status 'failed', cannot sumbmit. FAILURE");
}

/// Deviation: steps or options other than the prepared ones are refused. DTM silently drops the steps, and uses the
/// options for the first round only.
#[tokio::test(start_paused = true)]
async fn case_05_submit_after_prepare() {
    let world = World::new().await;
    let saga = world.transfer("g", json!({}));
    for _ in 0..2 {
        world.post("/api/dtmsvr/prepare", &saga.to_string()).await.assert_success();
        world.pass(Duration::from_hours(1)).await;
        world.assert_saga("g", "prepared", "PPPP").await;
    }
    let other = world.saga("g", &OUT_IN[..1], json!({}));
    let refusal = "the gid belongs to an unfinished saga with another definition: choose another gid. FAILURE";
    world.submit(&other).await.assert_failure(refusal);
    assert!(world.participant.calls().is_empty());

    world.submit_and_settle(&saga).await;
    world.assert_saga("g", "succeed", "PSPS").await;
    let answer = world.post("/api/dtmsvr/prepare", &saga.to_string()).await;
    answer.assert_failure("current status 'succeed', cannot prepare. FAILURE");
}

/// Deviation: refused whatever `trans_type` the request claims; DTM believes a request that lies.
#[tokio::test(start_paused = true)]
async fn case_06_abort_of_a_saga() {
    let world = World::new().await;
    world.participant.always("TransOut", 500, "");
    world.submit_and_settle(&world.transfer("g", json!({}))).await;
    for mode in ["saga", "tcc"] {
        let body = json!({ "gid": "g", "trans_type": mode, "rollback_reason": "no" }).to_string();
        let answer = world.post("/api/dtmsvr/abort", &body).await;
        answer.assert_failure("trans type: 'saga' current status 'submitted', cannot abort. FAILURE");
    }
    let answer = world.post("/api/dtmsvr/abort", r#"{"gid":"h","trans_type":"saga"}"#).await;
    assert_eq!(answer.parts(), (500, r#"{"message":"no TransGlobal with gid: h found"}"#));
}

#[tokio::test(start_paused = true)]
async fn case_07_branch_answers_201_or_204() {
    let world = World::new().await;
    world.participant.switch("TransOut", Answer::Raw(201, "null"));
    world.participant.switch("TransOut", Answer::Raw(204, ""));
    world.submit_and_settle(&world.transfer("g", json!({}))).await;
    for _ in 0..2 {
        world.assert_saga("g", "submitted", "PPPP").await;
        world.next_retry("g").await;
    }
    world.assert_saga("g", "succeed", "PSPS").await;
    assert_eq!(world.participant.count("TransOut"), 3);
}

#[tokio::test(start_paused = true)]
async fn case_08_branch_answers_500_with_failure_in_its_body() {
    let world = World::new().await;
    world.participant.switch("TransIn", Answer::Raw(500, "a FAILURE somewhere"));
    world.submit_and_settle(&world.transfer("g", json!({}))).await;
    world.assert_saga("g", "failed", "SSSF").await;
}

#[tokio::test(start_paused = true)]
async fn case_09_branch_answers_409_with_ongoing_in_its_body() {
    let world = World::new().await;
    world.participant.switch("TransIn", Answer::Raw(409, "FAILURE? ONGOING"));
    world.submit_and_settle(&world.transfer("g", json!({}))).await;
    world.assert_saga("g", "submitted", "PSPP").await;
    world.next_retry("g").await;
    world.assert_saga("g", "succeed", "PSPS").await;
}

#[tokio::test(start_paused = true)]
async fn case_10_branch_answers_200_with_failure_in_its_body() {
    let world = World::new().await;
    world.participant.switch("TransIn", Answer::Raw(200, r#"{"dtm_result":"FAILURE"}"#));
    world.submit_and_settle(&world.transfer("g", json!({}))).await;
    world.assert_saga("g", "failed", "SSSF").await;
}

#[tokio::test(start_paused = true)]
async fn case_11_compensation_answers_409() {
    let world = World::new().await;
    world.participant.switch("TransIn", Answer::Failure(""));
    for _ in 0..20 {
        world.participant.switch("TransInRevert", Answer::Failure("never"));
    }
    world.submit_and_settle(&world.transfer("g", json!({ "retry_limit": 2 }))).await;
    world.assert_saga("g", "aborting", "PSPF").await;
    world.pass(Duration::from_hours(1)).await;
    world.assert_saga("g", "failed", "SSSF").await;
    assert_eq!(world.participant.count("TransInRevert"), 21);
}

#[tokio::test(start_paused = true)]
async fn case_12_get_when_the_payload_is_empty() {
    let world = World::new().await;
    world.participant.switch("TransIn", Answer::Failure(""));
    world.submit_and_settle(&world.transfer("g", json!({ "payloads": ["{}", ""] }))).await;
    let calls = world.participant.calls();
    let seen: Vec<_> = calls.iter().map(|call| (&*call.name, call.method.clone(), &*call.body)).collect();
    let expected = [
        ("TransOut", Method::POST, "{}"),
        ("TransIn", Method::GET, ""),
        ("TransInRevert", Method::GET, ""),
        ("TransOutRevert", Method::POST, "{}"),
    ];
    assert_eq!(seen, expected);
}

#[tokio::test(start_paused = true)]
async fn case_13_query_and_content_type() {
    let world = World::new().await;
    let headers = json!({ "content-type": "application/x-pay", "x-tenant": "t" });
    let saga = world.saga("g", &[("TransOut?uid=1&op=pay", "TransOutRevert")], json!({ "branch_headers": headers }));
    world.submit_and_settle(&saga).await;
    let call = &world.participant.calls()[0];
    let query: Vec<_> = call.query.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let added = [("branch_id", "01"), ("gid", "g"), ("op", "action"), ("trans_type", "saga")];
    assert_eq!(query, [[("uid", "1"), ("op", "pay")].as_slice(), &added].concat());
    let types: Vec<_> = call.headers.get_all("content-type").iter().collect();
    assert_eq!(types, ["application/x-pay"]);
    assert_eq!(call.headers["x-tenant"], "t");

    world.submit_and_settle(&world.saga("h", &OUT_IN[..1], json!({}))).await;
    assert_eq!(world.participant.calls()[1].headers["content-type"], "application/json");
}

/// Deviation: the compensation of a step that is still running waits for it to end. DTM calls it at once, and the two
/// race.
#[tokio::test(start_paused = true)]
async fn case_14_concurrent_without_orders_one_fails() {
    let world = World::new().await;
    let mut slow = world.participant.hold("TransOut");
    let mut back = world.participant.hold("TransInRevert");
    world.participant.switch("TransIn", Answer::Failure(""));
    world.submit(&world.transfer("g", json!({ "custom_data": CONCURRENT }))).await.assert_success();
    slow.arrived().await;
    back.arrived().await;
    assert_eq!(world.participant.count("TransOutRevert"), 0);
    slow.answer(SUCCESS);
    back.answer(SUCCESS);
    world.settle().await;
    world.assert_saga("g", "failed", "SSSF").await;
    assert_eq!(world.participant.count("TransOutRevert"), 1);
}

#[tokio::test(start_paused = true)]
async fn case_15_concurrent_without_custom_data_is_sequential() {
    let world = World::new().await;
    world.participant.switch("TransOut", Answer::Error);
    world.submit_and_settle(&world.transfer("g", json!({ "concurrent": true }))).await;
    world.assert_saga("g", "submitted", "PPPP").await;
    assert_eq!(world.participant.names(), ["TransOut"]);
    assert_eq!(world.query("g").await["transaction"]["concurrent"], true);
}

#[tokio::test(start_paused = true)]
async fn case_16_wait_result_with_a_passing_error() {
    let world = World::new().await;
    world.participant.switch("TransIn", Answer::Error);
    world.submit(&world.transfer("g", json!({ "wait_result": true }))).await.assert_unfinished();
    world.assert_saga("g", "submitted", "PSPP").await;
    world.next_retry("g").await;
    world.assert_saga("g", "succeed", "PSPS").await;
}

/// Deviation: a rejection and the turn to aborting are one event, so there is nothing between them, and the reason is
/// never `fail message lost`. The power goes at every sync in turn.
#[tokio::test(start_paused = true)]
async fn case_17_crash_between_failure_and_aborting() {
    for sync in 1.. {
        let mut world = World::new().await;
        world.participant.always("TransIn", 409, "no FAILURE");
        world.host.disk.cut_at_sync(sync);
        let answer = world.submit(&world.transfer("g", json!({}))).await;
        world.settle().await;
        let was_cut = world.host.disk.is_cut();
        world = world.crash().await;
        if answer.status == 200 {
            world.pass(Duration::from_secs(1)).await;
            world.assert_saga("g", "failed", "SSSF").await;
            let reason = format!("url:{} return failed: no FAILURE FAILURE", world.participant.url("TransIn"));
            assert_eq!(world.rollback_reason("g").await, reason);
        } else {
            world.assert_unknown("g").await;
            assert!(world.participant.calls().is_empty());
        }
        if !was_cut {
            assert!(sync > 4, "the crashes came too late to tell anything: {sync}");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn case_18_crash_after_an_action_was_sent() {
    for name in ["TransOut", "TransIn"] {
        let mut world = World::new().await;
        let mut gate = world.participant.hold(name);
        world.submit(&world.transfer("g", json!({}))).await.assert_success();
        gate.arrived().await;
        world = world.crash().await;
        world.settle().await;
        world.assert_saga("g", "succeed", "PSPS").await;
        for action in ["TransOut", "TransIn"] {
            assert_eq!(world.participant.count(action), 1 + usize::from(action == name), "{action}");
        }
    }
}

/// Deviation: a step that was never called is not compensated. DTM cannot know that, and sends the participant a
/// compensation without an action.
#[tokio::test(start_paused = true)]
async fn case_19_timeout_before_the_next_step_was_sent() {
    let world = World::new().await;
    let mut gate = world.participant.hold("TransOut");
    world.submit(&world.transfer("g", json!({ "timeout_to_fail": 60 }))).await.assert_success();
    gate.arrived().await;
    // A host that stops lets the call end and starts no other.
    let (stopped, ()) = tokio::join!(world.stop(), async { gate.answer(SUCCESS) });
    tokio::time::sleep(Duration::from_mins(1)).await;
    let world = stopped.start();
    world.settle().await;
    world.assert_saga("g", "failed", "SSPP").await;
    assert_eq!(world.rollback_reason("g").await, "Timeout after 60 seconds");
    assert_eq!(world.participant.names(), ["TransOut", "TransOutRevert"]);
}

/// Deviation: the first wait is the interval and not twice that, the longest is a minute (or the interval, if the
/// client asks for more), and up to a quarter is added at random, so that sagas that failed together do not come back
/// together. The attempts are counted per operation and not per saga, and "ongoing" waits for the interval.
#[tokio::test(start_paused = true)]
async fn case_20_backoff() {
    let world = World::new().await;
    for _ in 0..7 {
        world.participant.switch("TransOut", Answer::Error);
    }
    world.participant.switch("TransIn", Answer::Ongoing);
    world.participant.switch("TransIn", Answer::Ongoing);
    world.submit(&world.transfer("g", json!({ "retry_interval": 10 }))).await.assert_success();
    world.pass(Duration::from_mins(10)).await;
    world.assert_saga("g", "succeed", "PSPS").await;
    let at: Vec<_> = world.participant.calls().into_iter().map(|call| call.at).collect();
    let waits: Vec<_> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let (errors, ongoing) = waits.split_at(7);
    for (wait, seconds) in errors.iter().zip([10, 20, 40, 60, 60, 60, 60]) {
        let least = Duration::from_secs(seconds);
        assert!((least..=least + least / 4 + Duration::from_millis(10)).contains(wait), "{waits:?}");
    }
    // The next step begins at once, and "ongoing" waits without growth.
    assert!(ongoing[0] < Duration::from_millis(10), "{waits:?}");
    for wait in &ongoing[1..] {
        assert!((10_000..10_010).contains(&wait.as_millis()), "{waits:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn case_21_null_unknown_and_duplicate_keys() {
    let world = World::new().await;
    let steps = world.transfer("", json!({}))["steps"].to_string();
    let body = format!(
        r#"{{"gid":"x","gid":"g","trans_type":"saga","subType":"a","subType":"b","steps":{steps},"payloads":["{{}}",null],
            "custom_data":null,"query_prepared":null,"protocol":null,"wait_result":null,"timeout_to_fail":null,
            "request_timeout":null,"retry_interval":null,"retry_limit":null,"branch_headers":null,"concurrent":null,
            "passthrough_headers":[],"rollback_reason":null,"unknown":{{"deep":[1,{{}}]}}}}"#
    );
    world.post("/api/dtmsvr/submit", &body).await.assert_success();
    world.settle().await;
    world.assert_saga("g", "succeed", "PSPS").await;
    world.assert_unknown("x").await;
}

/// Deviation: the call in flight is given up, where DTM lets it run on and loses its result.
#[tokio::test(start_paused = true)]
async fn case_22_force_stop_during_a_round() {
    let world = World::new().await;
    let mut gate = world.participant.hold("TransOut");
    world.submit(&world.transfer("g", json!({}))).await.assert_success();
    gate.arrived().await;
    world.post("/api/dtmsvr/forceStop", r#"{"gid":"g"}"#).await.assert_success();
    gate.answer(SUCCESS);
    world.pass(Duration::from_hours(1)).await;
    world.assert_saga("g", "failed", "PPPP").await;
    assert_eq!(world.participant.names(), ["TransOut"]);
    let view = world.query("g").await;
    assert!(view["transaction"]["rollback_time"].is_string() && view["transaction"].get("finish_time").is_none());
}

#[tokio::test(start_paused = true)]
async fn case_23_query_of_an_unknown_gid() {
    let world = World::new().await;
    let answer = world.get("/api/dtmsvr/query?gid=nobody").await;
    assert_eq!(answer.parts(), (200, r#"{"branches":[],"transaction":null}"#));
}

#[tokio::test(start_paused = true)]
async fn case_24_semicolons_and_line_breaks_in_a_gid() {
    let world = World::new().await;
    world.submit_and_settle(&world.transfer("a;b\nc\rd", json!({}))).await;
    world.assert_saga("abcd", "succeed", "PSPS").await;
    assert_eq!(world.participant.calls()[0].param("gid"), "abcd");
}

/// Deviation, from a bug of DTM's: there, an action that fails while the saga is being rolled back is sent again.
#[tokio::test(start_paused = true)]
async fn case_25_no_retry_of_an_action_once_aborting() {
    let world = World::new().await;
    let mut slow = world.participant.hold("TransOut");
    let mut back = world.participant.hold("TransInRevert");
    world.participant.switch("TransIn", Answer::Failure(""));
    let options: Value = json!({ "custom_data": CONCURRENT, "retry_limit": 5 });
    world.submit(&world.transfer("g", options)).await.assert_success();
    slow.arrived().await;
    back.arrived().await;
    back.answer(SUCCESS);
    slow.answer(Answer::Error);
    world.settle().await;
    world.pass(Duration::from_hours(1)).await;
    world.assert_saga("g", "failed", "SPSF").await;
    assert_eq!(world.participant.count("TransOut"), 1);
}
