//! `saga_options_test.go`: retries, time-outs, waiting for the result, headers.

use std::time::Duration;

use serde_json::json;

use crate::{
    participant::Answer,
    world::{OUT_IN, World},
};

#[tokio::test(start_paused = true)]
async fn saga_options_retry_ongoing() {
    let world = World::new().await;
    world.participant.switch("TransOut", Answer::Ongoing);
    world.submit_and_settle(&world.saga("g", &OUT_IN[..1], json!({ "retry_interval": 150 }))).await;
    world.pass(Duration::from_secs(149)).await;
    world.assert_saga("g", "submitted", "PP").await;
    world.pass(Duration::from_secs(2)).await;
    world.assert_saga("g", "succeed", "PS").await;
}

/// Deviation: the first retry comes after `retry_interval`, up to a quarter later, and the wait doubles from there.
/// DTM doubles before it waits, so its first retry comes after twice the interval that the client asked for.
#[tokio::test(start_paused = true)]
async fn saga_options_retry_error() {
    let world = World::new().await;
    world.participant.switch("TransOut", Answer::Error);
    world.submit_and_settle(&world.saga("g", &OUT_IN[..1], json!({ "retry_interval": 150 }))).await;
    world.assert_saga("g", "submitted", "PP").await;
    world.pass(Duration::from_secs(149)).await;
    world.assert_saga("g", "submitted", "PP").await;
    world.pass(Duration::from_secs(39)).await;
    world.assert_saga("g", "succeed", "PS").await;
}

/// Deviation: `timeout_to_fail` is a timer of its own. DTM looks at it when a retry happens to be due.
#[tokio::test(start_paused = true)]
async fn saga_options_timeout() {
    let world = World::new().await;
    world.participant.always("TransOut", 425, r#"{"error":"ONGOING"}"#);
    let options = json!({ "timeout_to_fail": 1800, "retry_interval": 700 });
    world.submit_and_settle(&world.transfer("g", options)).await;
    world.pass(Duration::from_secs(1799)).await;
    world.assert_saga("g", "submitted", "PPPP").await;
    world.pass(Duration::from_secs(1)).await;
    world.assert_saga("g", "failed", "SPPP").await;
    assert_eq!(world.rollback_reason("g").await, "Timeout after 1800 seconds");
    assert_eq!(world.participant.names(), ["TransOut", "TransOut", "TransOut", "TransOutRevert"]);
}

/// The participant takes longer than the 3 s that a call may take without the option.
#[tokio::test(start_paused = true)]
async fn saga_global_trans_with_request_timeout() {
    let world = World::new().await;
    let mut gate = world.participant.hold("TransOutTimeout");
    let options = json!({ "wait_result": true, "request_timeout": 6, "payloads": [null] });
    let submission = world.submit_aside(&world.saga("g", &[("TransOutTimeout", "")], options.clone()));
    gate.arrived().await;
    tokio::time::advance(Duration::from_secs(5)).await;
    gate.answer(Answer::Raw(200, "null"));
    submission.await.unwrap().assert_success();
    world.assert_saga("g", "succeed", "PS").await;

    let mut gate = world.participant.hold("TransOutTimeout");
    let submission = world.submit_aside(&world.saga("h", &[("TransOutTimeout", "")], options));
    gate.arrived().await;
    tokio::time::advance(Duration::from_millis(6001)).await;
    submission.await.unwrap().assert_unfinished();
    world.assert_saga("h", "submitted", "PP").await;
}

#[tokio::test(start_paused = true)]
async fn saga_options_normal_wait() {
    let world = World::new().await;
    world.submit(&world.transfer("g", json!({ "wait_result": true }))).await.assert_success();
    world.assert_saga("g", "succeed", "PSPS").await;
}

#[tokio::test(start_paused = true)]
async fn saga_options_committed_ongoing_wait() {
    let world = World::new().await;
    world.participant.switch("TransOut", Answer::Ongoing);
    world.submit(&world.transfer("g", json!({ "wait_result": true }))).await.assert_unfinished();
    world.assert_saga("g", "submitted", "PPPP").await;
    world.next_retry("g").await;
    world.assert_saga("g", "succeed", "PSPS").await;
}

#[tokio::test(start_paused = true)]
async fn saga_options_rollback_wait() {
    let world = World::new().await;
    world.participant.switch("TransIn", Answer::Failure("Insufficient balance"));
    let answer = world.submit(&world.transfer("g", json!({ "wait_result": true }))).await;
    let reason = world.rollback_reason("g").await;
    assert!(reason.contains("Insufficient balance"), "{reason}");
    answer.assert_failure(&reason);
    world.assert_saga("g", "failed", "SSSF").await;
}

#[tokio::test(start_paused = true)]
async fn saga_headers() {
    let world = World::new().await;
    let options = json!({ "wait_result": true, "branch_headers": { "test_header": "test" } });
    world.submit(&world.saga("g", &[("TransOutHeaderYes", "")], options)).await.assert_success();
    assert_eq!(world.participant.calls()[0].headers["test_header"], "test");
    // Without the header the participant refuses: the test can fail.
    let options = json!({ "wait_result": true });
    world.submit(&world.saga("h", &[("TransOutHeaderYes", "")], options)).await.assert_unfinished();
}

/// The headers survive storage: the retry is made by another process.
#[tokio::test(start_paused = true)]
async fn saga_headers_yes1() {
    let mut world = World::new().await;
    world.participant.switch("TransOutHeaderYes", Answer::Ongoing);
    let options = json!({ "branch_headers": { "test_header": "test" } });
    world.submit_and_settle(&world.saga("g", &[("TransOutHeaderYes", "")], options)).await;
    world.assert_saga("g", "submitted", "PP").await;
    world = world.restart().await;
    world.next_retry("g").await;
    world.assert_saga("g", "succeed", "PS").await;
}

/// Deviation: there is a wait between the attempts, so a client that waits for the result learns after the first
/// failure that the saga goes on. DTM repeats at once, which gives a participant in trouble no time to recover.
#[tokio::test(start_paused = true)]
async fn saga_global_trans_with_retry_limit_yes() {
    let world = World::new().await;
    let steps = [OUT_IN[0], ("TransInRetry", "TransInRevert")];
    let answer = world.submit(&world.saga("g", &steps, json!({ "wait_result": true, "retry_limit": 3 }))).await;
    answer.assert_unfinished();
    for _ in 0..3 {
        world.next_retry("g").await;
    }
    world.assert_saga("g", "succeed", "PSPS").await;
    assert_eq!(world.participant.count("TransInRetry"), 4);
}

/// Deviation: as above, the client learns that it is unfinished; what it then finds is what DTM shows.
#[tokio::test(start_paused = true)]
async fn saga_global_trans_with_retry_limit_no() {
    let world = World::new().await;
    world.participant.always("TransIn", 500, "");
    let answer = world.submit(&world.transfer("g", json!({ "wait_result": true, "retry_limit": 1 }))).await;
    answer.assert_unfinished();
    world.next_retry("g").await;
    world.assert_saga("g", "failed", "SSSP").await;
    assert_eq!(world.rollback_reason("g").await, "RetryCount is greater than RetryLimit, RetryLimit: 1");
    assert_eq!(world.participant.count("TransIn"), 2);
}

/// What a saga has no use for: kept and shown, or ignored, and in no way of its success.
#[tokio::test(start_paused = true)]
async fn options_of_other_modes_do_no_harm() {
    let world = World::new().await;
    let options = json!({
        "query_prepared": world.participant.url("QueryPrepared"),
        "bin_payloads": ["AAAA", 7],
        "retry_count": 5,
        "retry_limit": 3,
        "rollback_reason": "mine",
        "status": "failed",
        "req_extra": { "status": "x" },
        "passthrough_headers": [],
    });
    world.submit_and_settle(&world.transfer("g", options)).await;
    world.assert_saga("g", "succeed", "PSPS").await;
    assert_eq!(world.participant.names(), ["TransOut", "TransIn"]);
    let view = world.query("g").await;
    assert!(view["transaction"].get("rollback_reason").is_none() && view["transaction"].get("retry_count").is_none());
}
