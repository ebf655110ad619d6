//! What an answer means, where host or saga have chosen otherwise than DTM. (What it means by default: `beyond`.)

use std::time::Duration;

use serde_json::{Value, json};
use wasaga::branch::http::Settings;

use crate::{
    participant::Answer,
    world::{OUT_IN, World},
};

fn custom(data: &str) -> Value {
    json!({ "custom_data": data })
}

/// Statuses and bodies, and the letter of the action's row when `any_2xx_succeeds` and when not: S succeeded, F
/// rejected, P neither.
const ANSWERS: [(u16, &str, &str, &str); 14] = [
    (200, "null", "S", "S"),
    (200, "a FAILURE of our own, ONGOING", "S", "P"),
    (200, r#"{"dtm_result":"FAILURE"}"#, "F", "F"),
    (200, r#"{"dtm_result":"ONGOING"}"#, "P", "P"),
    (200, r#"{"message":"FAILURE"}"#, "S", "F"),
    (201, "", "S", "P"),
    (202, r#"{"dtm_result":"ONGOING"}"#, "P", "P"),
    (204, "", "S", "P"),
    (201, r#"{"dtm_result":"FAILURE"}"#, "F", "F"),
    (404, "FAILURE", "P", "F"),
    (409, "", "F", "F"),
    (425, "", "P", "P"),
    (500, "FAILURE", "P", "F"),
    (500, r#"{"dtm_result":"FAILURE"}"#, "F", "F"),
];

async fn assert_means(world: &World, more: &Value, any_2xx: bool) {
    for (number, (status, body, mapped, dtm)) in ANSWERS.into_iter().enumerate() {
        let gid = format!("g{number}");
        world.participant.always("TransOut", status, body);
        world.submit(&world.saga(&gid, &[("TransOut", "")], more.clone())).await.assert_success();
        world.settle().await;
        let rows = world.statuses(&gid).await.1;
        assert_eq!(&rows[1..], if any_2xx { mapped } else { dtm }, "{status} {body} {any_2xx}");
    }
}

#[tokio::test(start_paused = true)]
async fn any_2xx_succeeds_where_it_is_set() {
    let settings = Settings { any_2xx_succeeds: true, ..Settings::default() };
    assert_means(&World::new().await, &json!({}), false).await;
    assert_means(&World::new().await, &custom(r#"{"any_2xx_succeeds":true}"#), true).await;
    assert_means(&World::with(&settings, |_| {}).await, &json!({}), true).await;
    // The saga knows better than the host.
    assert_means(&World::with(&settings, |_| {}).await, &custom(r#"{"any_2xx_succeeds":false}"#), false).await;
    assert_means(&World::with(&settings, |_| {}).await, &custom(r#"{"any_2xx_succeeds":null}"#), true).await;
}

/// The tutorial's claim, that the failing branch must answer 5xx, becomes true.
#[tokio::test(start_paused = true)]
async fn a_5xx_is_a_rejection_at_once_where_it_is_set() {
    for (settings, more) in [
        (Settings::default(), custom(r#"{"rejects_5xx_after":1}"#)),
        (Settings { rejects_5xx_after: 1, ..Settings::default() }, json!({})),
        (Settings { rejects_5xx_after: 9, ..Settings::default() }, custom(r#"{"rejects_5xx_after":1}"#)),
    ] {
        let world = World::with(&settings, |_| {}).await;
        world.participant.always("TransIn", 503, "simulated failure");
        world.submit_and_settle(&world.transfer("g", more)).await;
        world.assert_saga("g", "failed", "SSSF").await;
        let url = world.participant.url("TransIn");
        let reason = format!("url:{url} return failed: HTTP 503: simulated failure FAILURE");
        assert_eq!(world.rollback_reason("g").await, reason);
    }
    let world = World::with(&Settings { rejects_5xx_after: 1, ..Settings::default() }, |_| {}).await;
    world.participant.always("TransIn", 503, "");
    world.submit_and_settle(&world.transfer("g", custom(r#"{"rejects_5xx_after":0}"#))).await;
    world.assert_saga("g", "submitted", "PSPP").await;
}

/// Counted are the attempts of this action, also those that had no answer; the choice survives a crash.
#[tokio::test(start_paused = true)]
async fn a_5xx_is_a_rejection_after_n_attempts_where_it_is_set() {
    let mut world = World::new().await;
    world.participant.switch("TransIn", Answer::Raw(404, ""));
    world.participant.always("TransIn", 500, "");
    world.submit_and_settle(&world.transfer("g", custom(r#"{"rejects_5xx_after":3}"#))).await;
    world.assert_saga("g", "submitted", "PSPP").await;
    world.next_retry("g").await;
    world.assert_saga("g", "submitted", "PSPP").await;
    world = world.crash().await;
    world.next_retry("g").await;
    world.assert_saga("g", "failed", "SSSF").await;
    assert_eq!(world.participant.count("TransIn"), 3);
}

/// A compensation is tried until it succeeds, and what is not 5xx is not counted among the rejections.
#[tokio::test(start_paused = true)]
async fn compensations_and_4xx_are_retried_all_the_same() {
    let world = World::new().await;
    for _ in 0..5 {
        world.participant.switch("TransOut", Answer::Raw(404, ""));
        world.participant.switch("TransOutRevert", Answer::Raw(500, ""));
    }
    world.participant.always("TransIn", 500, "");
    world.submit_and_settle(&world.transfer("g", custom(r#"{"rejects_5xx_after":1,"any_2xx_succeeds":true}"#))).await;
    world.pass(Duration::from_mins(10)).await;
    world.assert_saga("g", "failed", "SSSF").await;
    assert_eq!((world.participant.count("TransOut"), world.participant.count("TransOutRevert")), (6, 6));
}

/// It is part of what the saga is: submitted again without it, it is another saga.
#[tokio::test(start_paused = true)]
async fn the_choice_is_part_of_the_saga() {
    let world = World::new().await;
    world.participant.always("TransOut", 404, "");
    let chosen = world.saga("g", &OUT_IN, custom(r#"{"rejects_5xx_after":3}"#));
    world.submit_and_settle(&chosen).await;
    assert_eq!(world.submit(&world.transfer("g", json!({}))).await.status, 409);
    world.submit(&chosen).await.assert_success();
}
