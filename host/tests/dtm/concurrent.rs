//! `saga_concurrent_test.go`: steps side by side, and in an order of the client's own.

use serde_json::{Value, json};

use crate::{participant::Answer, world::World};

/// What DTM's client sends for `SetConcurrent` and `AddBranchOrder`.
fn concurrent(orders: &str) -> Value {
    json!({ "concurrent": true, "custom_data": format!(r#"{{"concurrent":true,"orders":{orders}}}"#) })
}

#[tokio::test(start_paused = true)]
async fn saga_con_normal() {
    let world = World::new().await;
    // Both must be under way before one is answered: they do run side by side.
    let (mut out, mut r#in) = (world.participant.hold("TransOut"), world.participant.hold("TransIn"));
    world.submit(&world.transfer("g", concurrent("{}"))).await.assert_success();
    out.arrived().await;
    r#in.arrived().await;
    out.answer(Answer::Raw(200, "null"));
    r#in.answer(Answer::Raw(200, "null"));
    world.settle().await;
    world.assert_saga("g", "succeed", "PSPS").await;
}

#[tokio::test(start_paused = true)]
async fn saga_con_rollback_normal() {
    let world = World::new().await;
    world.participant.switch("TransOut", Answer::Failure(""));
    world.participant.switch("TransOutRevert", Answer::Ongoing);
    world.submit_and_settle(&world.transfer("g", concurrent("{}"))).await;
    assert_eq!(world.statuses("g").await.0, "aborting");
    world.next_retry("g").await;
    world.assert_saga("g", "failed", "SFSS").await;
}

#[tokio::test(start_paused = true)]
async fn saga_con_rollback_order() {
    let world = World::new().await;
    world.participant.switch("TransOut", Answer::Failure(""));
    world.submit_and_settle(&world.transfer("g", concurrent(r#"{"1":[0]}"#))).await;
    world.assert_saga("g", "failed", "SFPP").await;
    assert_eq!(world.participant.names(), ["TransOut", "TransOutRevert"]);
}

#[tokio::test(start_paused = true)]
async fn saga_con_rollback_order2() {
    let world = World::new().await;
    world.participant.switch("TransIn", Answer::Failure(""));
    world.submit_and_settle(&world.transfer("g", concurrent(r#"{"1":[0]}"#))).await;
    world.assert_saga("g", "failed", "SSSF").await;
    assert_eq!(world.participant.names(), ["TransOut", "TransIn", "TransInRevert", "TransOutRevert"]);
}

#[tokio::test(start_paused = true)]
async fn saga_con_committed_ongoing() {
    let world = World::new().await;
    world.participant.switch("TransOut", Answer::Ongoing);
    world.submit_and_settle(&world.transfer("g", concurrent("{}"))).await;
    world.assert_saga("g", "submitted", "PPPS").await;
    world.next_retry("g").await;
    world.assert_saga("g", "succeed", "PSPS").await;
}
