//! `saga_test.go`, `saga_compatible_test.go`: forward, back, and again.

use serde_json::json;

use crate::{
    participant::Answer,
    world::{OUT_IN, World},
};

#[tokio::test(start_paused = true)]
async fn saga_normal() {
    let world = World::new().await;
    world.submit_and_settle(&world.transfer("g", json!({}))).await;
    world.assert_saga("g", "succeed", "PSPS").await;
    assert_eq!(world.rollback_reason("g").await, "");
    assert_eq!(world.participant.names(), ["TransOut", "TransIn"]);
}

#[tokio::test(start_paused = true)]
async fn saga_rollback() {
    let world = World::new().await;
    world.participant.switch("TransIn", Answer::Failure("Insufficient balance"));
    world.submit_and_settle(&world.transfer("g", json!({}))).await;
    world.assert_saga("g", "failed", "SSSF").await;
    let reason = format!(
        r#"url:{} return failed: {{"error":"reason:Insufficient balance. FAILURE"}} FAILURE"#,
        world.participant.url("TransIn")
    );
    assert_eq!(world.rollback_reason("g").await, reason);
    assert_eq!(world.participant.names(), ["TransOut", "TransIn", "TransInRevert", "TransOutRevert"]);
}

#[tokio::test(start_paused = true)]
async fn saga_ongoing_succeed() {
    let world = World::new().await;
    world.participant.switch("TransOut", Answer::Ongoing);
    world.submit_and_settle(&world.transfer("g", json!({}))).await;
    world.assert_saga("g", "submitted", "PPPP").await;
    world.next_retry("g").await;
    world.assert_saga("g", "succeed", "PSPS").await;
    assert_eq!(world.rollback_reason("g").await, "");
}

#[tokio::test(start_paused = true)]
async fn saga_failed() {
    let world = World::new().await;
    world.participant.switch("TransIn", Answer::Failure(""));
    world.participant.switch("TransOutRevert", Answer::Error);
    world.submit_and_settle(&world.transfer("g", json!({}))).await;
    world.assert_saga("g", "aborting", "PSSF").await;
    world.next_retry("g").await;
    world.assert_saga("g", "failed", "SSSF").await;
}

/// Deviation: the second submission goes on where the saga stands; DTM calls its first step again even if that has
/// succeeded. Seen by a third step here, for the first one must run again in both.
#[tokio::test(start_paused = true)]
async fn saga_abnormal() {
    let world = World::new().await;
    let saga = world.saga("g", &[OUT_IN[0], OUT_IN[1], OUT_IN[1]], json!({}));
    world.participant.switch("TransOut", Answer::Ongoing);
    world.submit_and_settle(&saga).await;
    world.assert_saga("g", "submitted", "PPPPPP").await;

    world.participant.switch("TransIn", Answer::Ongoing);
    world.submit_and_settle(&saga).await;
    world.assert_saga("g", "submitted", "PSPPPP").await;

    world.submit_and_settle(&saga).await;
    world.assert_saga("g", "succeed", "PSPSPS").await;
    assert_eq!(world.participant.names(), ["TransOut", "TransOut", "TransIn", "TransIn", "TransIn"]);
    world.submit(&saga).await.assert_failure("current status 'succeed', cannot sumbmit. FAILURE");
}

#[tokio::test(start_paused = true)]
async fn saga_empty_url() {
    let world = World::new().await;
    world.submit_and_settle(&world.saga("g", &[("TransOut", ""), ("", "")], json!({}))).await;
    world.assert_saga("g", "succeed", "PSPS").await;
    assert_eq!(world.participant.names(), ["TransOut"]);

    // And on the way back.
    world.participant.switch("TransIn", Answer::Failure(""));
    world.submit_and_settle(&world.saga("h", &[("TransOut", ""), ("", ""), OUT_IN[1]], json!({}))).await;
    world.assert_saga("h", "failed", "SSSSSF").await;
    assert_eq!(world.participant.names(), ["TransOut", "TransOut", "TransIn", "TransInRevert"]);
}

#[tokio::test(start_paused = true)]
async fn saga_compatible_normal() {
    let world = World::new().await;
    let mut saga = world.transfer("g", json!({ "payloads": null }));
    for step in saga["steps"].as_array_mut().unwrap() {
        step["data"] = json!(r#"{"amount":30}"#);
    }
    let answer = world.call("POST", "/api/dtmsvr/submit", saga.to_string(), "text/plain").await;
    answer.assert_success();
    assert_eq!(answer.content_type, "application/json; charset=utf-8");
    world.settle().await;
    world.assert_saga("g", "succeed", "PSPS").await;
    assert!(world.participant.calls().iter().all(|call| call.body == r#"{"amount":30}"#));
}
