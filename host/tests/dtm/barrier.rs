//! `saga_barrier*_test.go`: participants that keep DTM's barrier, which needs gid, branch and operation in every call.
//!
//! DTM's tests keep the barrier in three kinds of databases. To the server all are the same; here the participant keeps
//! it in memory, by DTM's rules.

use serde_json::{Value, json};

use crate::{
    participant::{Answer, BALANCE},
    world::World,
};

const UNCHANGED: (i64, i64) = (BALANCE, BALANCE);
const MOVED: (i64, i64) = (BALANCE - 30, BALANCE + 30);

fn steps(kind: &str) -> [[String; 2]; 2] {
    ["TransOut", "TransIn"].map(|name| [format!("Saga{kind}{name}"), format!("Saga{kind}{name}Com")])
}

/// A transfer between accounts behind a barrier.
fn transfer(world: &World, kind: &str, is_reversed: bool, more: Value) -> Value {
    let steps = steps(kind);
    let mut steps: Vec<_> = steps.iter().map(|[action, compensate]| (action.as_str(), compensate.as_str())).collect();
    if is_reversed {
        steps.reverse();
    }
    world.saga("g", &steps, more)
}

/// Every call is made twice, for the answer to the first one is lost; money moves once.
async fn succeeds(kind: &str) {
    let world = World::new().await;
    for [action, _] in steps(kind) {
        world.participant.switch(&action, Answer::Lost);
    }
    world.submit_and_settle(&transfer(&world, kind, false, json!({}))).await;
    world.next_retry("g").await;
    world.next_retry("g").await;
    assert_eq!(world.participant.calls().len(), 4);
    world.assert_saga("g", "succeed", "PSPS").await;
    assert_eq!(world.participant.balances(), MOVED);
}

/// The second step is refused.
async fn is_rolled_back(kind: &str) {
    let world = World::new().await;
    let refused = json!({ "amount": 30, "trans_in_result": "FAILURE" }).to_string();
    let saga = transfer(&world, kind, false, json!({ "payloads": [refused, refused] }));
    world.submit_and_settle(&saga).await;
    world.assert_saga("g", "failed", "SSSF").await;
    assert_eq!(world.participant.balances(), UNCHANGED);
    // The failing step is compensated too, and its barrier finds that there is nothing to take back.
    assert_eq!(world.participant.count(&format!("Saga{kind}TransInCom")), 1);
}

/// Money comes in before it goes out, and there is too little.
async fn is_rolled_back_for_want_of_money(kind: &str) {
    let world = World::new().await;
    let too_much = json!({ "amount": BALANCE + 1 }).to_string();
    let saga = transfer(&world, kind, true, json!({ "payloads": [too_much, too_much] }));
    world.submit_and_settle(&saga).await;
    world.assert_saga("g", "failed", "SSSF").await;
    assert_eq!(world.participant.balances(), UNCHANGED);
    assert!(world.rollback_reason("g").await.contains("Insufficient balance"));
}

#[tokio::test(start_paused = true)]
async fn saga_barrier_normal() {
    succeeds("B").await;
}

#[tokio::test(start_paused = true)]
async fn saga_barrier_rollback() {
    is_rolled_back("B").await;
}

#[tokio::test(start_paused = true)]
async fn saga_barrier2_normal() {
    succeeds("B2").await;
}

#[tokio::test(start_paused = true)]
async fn saga_barrier_redis_normal() {
    succeeds("Redis").await;
}

#[tokio::test(start_paused = true)]
async fn saga_barrier_redis_rollback() {
    is_rolled_back_for_want_of_money("Redis").await;
}

#[tokio::test(start_paused = true)]
async fn saga_barrier_mongo_normal() {
    succeeds("Mongo").await;
}

#[tokio::test(start_paused = true)]
async fn saga_barrier_mongo_rollback() {
    is_rolled_back_for_want_of_money("Mongo").await;
}
