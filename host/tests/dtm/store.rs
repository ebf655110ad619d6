//! `store_test.go`, as far as it shows from outside: what is stored, when, and what survives.

use std::time::Duration;

use serde_json::json;

use crate::{
    participant::{Answer, SUCCESS},
    world::World,
};

/// A saga is stored with all its branches, compensation before action, or not at all; a gid is taken once.
#[tokio::test(start_paused = true)]
async fn store_save() {
    let world = World::new().await;
    let saga = world.transfer("g", json!({}));
    world.post("/api/dtmsvr/prepare", &saga.to_string()).await.assert_success();
    let world = world.crash().await;
    let view = world.query("g").await;
    let rows: Vec<_> = view["branches"].as_array().unwrap().iter().map(|row| (&row["branch_id"], &row["op"])).collect();
    let expected = [("01", "compensate"), ("01", "action"), ("02", "compensate"), ("02", "action")];
    assert_eq!(rows.len(), expected.len());
    assert!(rows.iter().zip(expected).all(|((id, op), (wanted_id, wanted_op))| **id == wanted_id && **op == wanted_op));
    let other = world.saga("g", &[("TransOut", "")], json!({}));
    assert_eq!(world.submit(&other).await.status, 409);
    assert_eq!(world.query("g").await, view);
}

/// A status is left once: of those that want to end a saga, one does.
#[tokio::test(start_paused = true)]
async fn store_change_status() {
    let world = World::new().await;
    world.participant.always("TransOut", 500, "");
    world.submit_and_settle(&world.transfer("g", json!({}))).await;
    let stop = || world.post("/api/dtmsvr/forceStop", r#"{"gid":"g"}"#);
    let (one, other) = tokio::join!(stop(), stop());
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409]);
    let view = world.query("g").await;
    stop().await.assert_failure("global transaction force stop error. status: failed. error: FAILURE");
    assert_eq!(world.query("g").await, view);
}

/// Deviation: there is no lease that can run out under a slow call; a saga in hand is never taken up a second time.
#[tokio::test(start_paused = true)]
async fn store_lock_trans() {
    let world = World::new().await;
    let mut gate = world.participant.hold("TransOut");
    world.submit(&world.transfer("g", json!({ "request_timeout": 3600 }))).await.assert_success();
    gate.arrived().await;
    for _ in 0..60 {
        tokio::time::advance(Duration::from_secs(4)).await;
        world.submit(&world.transfer("g", json!({ "request_timeout": 3600 }))).await.assert_success();
    }
    assert_eq!(world.participant.names(), ["TransOut"]);
    gate.answer(SUCCESS);
    world.settle().await;
    // And a finished one never.
    world.assert_saga("g", "succeed", "PSPS").await;
    world.pass(Duration::from_hours(24)).await;
    let world = world.restart().await;
    world.pass(Duration::from_hours(24)).await;
    assert_eq!(world.participant.names(), ["TransOut", "TransIn"]);
}

/// When a retry is due survives, and so does that it was asked for earlier.
#[tokio::test(start_paused = true)]
async fn store_reset_cron_time() {
    let world = World::new().await;
    world.participant.switch("TransOut", Answer::Error);
    world.participant.switch("TransOut", Answer::Error);
    world.submit_and_settle(&world.transfer("g", json!({ "retry_interval": 1000 }))).await;
    let world = world.crash().await;
    world.pass(Duration::from_secs(990)).await;
    assert_eq!(world.participant.count("TransOut"), 1);
    // The power goes before the retry that was asked for is made.
    let answer = world.get("/api/dtmsvr/resetCronTime?timeout=0").await;
    assert_eq!(answer.json()["succeed_count"], 1);
    let world = world.crash().await;
    world.settle().await;
    assert_eq!(world.participant.count("TransOut"), 2);
}

#[tokio::test(start_paused = true)]
async fn store_reset_trans_global_cron_time() {
    let world = World::new().await;
    world.participant.switch("TransOut", Answer::Error);
    world.submit_and_settle(&world.transfer("g", json!({ "retry_interval": 1000 }))).await;
    world.post("/api/dtmsvr/resetNextCronTime", r#"{"gid":"g"}"#).await.assert_success();
    let world = world.crash().await;
    world.settle().await;
    world.assert_saga("g", "succeed", "PSPS").await;
}

/// What branches have answered survives a crash at every sync; only the call that was cut off is repeated.
#[tokio::test(start_paused = true)]
async fn store_update_branches() {
    for sync in 1.. {
        let world = World::new().await;
        world.host.disk.cut_at_sync(sync);
        let answer = world.submit(&world.saga("g", &[("TransOut", ""); 5], json!({}))).await;
        world.settle().await;
        if answer.status != 200 {
            assert!(world.participant.calls().is_empty());
            continue;
        }
        let was_cut = world.host.disk.is_cut();
        let calls = world.participant.calls().len();
        let world = world.crash().await;
        world.settle().await;
        world.assert_saga("g", "succeed", "PSPSPSPSPS").await;
        let repeated = world.participant.calls().len() - 5;
        assert!(repeated <= 1 && repeated <= calls, "sync {sync}: {repeated} of {calls} repeated");
        if !was_cut {
            assert!(sync > 6 && repeated == 0, "{sync}");
            break;
        }
    }
}

/// Deviation: branch results are always written together with what follows from them, never later.
#[tokio::test(start_paused = true)]
async fn update_branch_async() {
    let world = World::new().await;
    world.participant.always("TransIn", 409, "");
    for (gid, wait_result) in [("async", false), ("wait", true)] {
        world.submit(&world.transfer(gid, json!({ "wait_result": wait_result }))).await;
        world.settle().await;
    }
    let world = world.crash().await;
    for gid in ["async", "wait"] {
        world.assert_saga(gid, "failed", "SSSF").await;
    }
}
