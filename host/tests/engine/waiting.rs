//! `wait_result`: a client is held until there is something to tell, and never holds the saga.
//!
//! 1. Told: the end; or that it has come to wait for a retry; or, after `wait_max`, how it stands.
//! 2. A client that goes away changes nothing.

use std::time::Duration;

use futures_util::FutureExt;
use wasaga::{
    engine::Submitted,
    saga::{Status, state::Reason},
};
use wasaga_testkit::engine::{Plan, Setup, settle, settled, until};

use crate::stage::Stage;

#[tokio::test(start_paused = true)]
async fn the_client_learns_how_it_ended() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let plan = Plan::new("g").external().external().wait();
    let (saga, ()) = tokio::join!(host.settle(&plan), async {
        stage.action(0, 1).await.output("1");
        stage.action(1, 1).await.reject();
        stage.compensation(1, 1).await.succeed();
        stage.compensation(0, 1).await.succeed();
    });
    assert_eq!(saga.status(), Status::Failed);
    assert_eq!(saga.reason(), Some(&Reason::Rejected { step: 1 }));
    assert_eq!(*saga, host.find("g").await.saga);
}

#[tokio::test(start_paused = true)]
async fn the_client_learns_at_once_that_it_waits_for_a_retry() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let plan = Plan::new("g").contained().external().wait();
    let start = host.engine.now();
    let (saga, ()) = tokio::join!(host.settle(&plan), async {
        stage.action(0, 1).await.succeed();
        stage.action(1, 1).await.fail();
    });
    assert_eq!(saga.status(), Status::Submitted);
    assert_eq!(host.engine.now(), start, "held for longer than there was to wait for");
    // It continues by itself, and a client that asks again gets the result of the next attempt.
    let (saga, ()) = tokio::join!(host.settle(&plan), async { stage.action(1, 2).await.reject() });
    let _ = saga;
    let back = stage.compensation(1, 1).await;
    back.succeed();
    stage.compensation(0, 1).await.succeed();
    host.until_status("g", Status::Failed).await;
}

#[tokio::test(start_paused = true)]
async fn a_wait_is_not_over_while_another_attempt_runs() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let plan = Plan::new("g").external().external().concurrent().wait();
    let mut client = Box::pin(host.settle(&plan));
    assert!((&mut client).now_or_never().is_none());
    let [first, second] = [stage.next().await, stage.next().await];
    first.fail();
    settle().await;
    assert!((&mut client).now_or_never().is_none(), "told while an attempt runs");
    second.succeed();
    assert_eq!(client.await.status(), Status::Submitted);
}

#[tokio::test(start_paused = true)]
async fn the_client_is_not_held_longer_than_allowed() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).with(|settings| settings.wait_max = Duration::from_secs(5)).start();
    let plan = Plan::new("g").contained().contained().wait();
    let start = host.engine.now();
    let (saga, second) = tokio::join!(host.settle(&plan), async {
        stage.action(0, 1).await.succeed();
        stage.action(1, 1).await
    });
    assert_eq!(start.until(host.engine.now()), Duration::from_secs(5));
    assert_eq!(saga.status(), Status::Submitted);
    assert!(saga.steps()[0].action.has_succeeded());
    second.succeed();
    host.until_status("g", Status::Succeed).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_changes_nothing() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let plan = Plan::new("g").contained().external().wait();
    let mut client = Box::pin(host.engine.submit(plan.now(&host.engine)));
    assert!((&mut client).now_or_never().is_none());
    let first = stage.action(0, 1).await;
    drop(client);
    first.succeed();
    stage.action(1, 1).await.succeed();
    host.until_status("g", Status::Succeed).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_may_join_a_saga_that_others_submitted() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let plan = Plan::new("g").external();
    host.submit(&plan).await;
    let attempt = stage.action(0, 1).await;
    let waiting = plan.clone().wait();
    let mut one = Box::pin(host.engine.submit(waiting.now(&host.engine)));
    let mut other = Box::pin(host.engine.submit(waiting.now(&host.engine)));
    assert!((&mut one).now_or_never().is_none() && (&mut other).now_or_never().is_none());
    attempt.succeed();
    for answer in [one.await.unwrap(), other.await.unwrap()] {
        assert_eq!(settled(answer).status(), Status::Succeed);
    }
}

#[tokio::test(start_paused = true)]
async fn clients_that_gave_up_are_forgotten() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).with(|settings| settings.wait_max = Duration::from_millis(1)).start();
    let plan = Plan::new("g").external().wait();
    let (answer, attempt) = tokio::join!(host.settle(&plan), stage.action(0, 1));
    assert_eq!(answer.status(), Status::Submitted);
    for _ in 0..1000 {
        assert!(matches!(host.engine.submit(plan.now(&host.engine)).await, Ok(Submitted::Waited(_))));
    }
    attempt.succeed();
    until(async || (host.engine.counts().live == 0).then_some(())).await;
    assert_eq!(host.find("g").await.log.len(), 3);
}
