//! What a person can do to a saga: stop it by force.
//!
//! 1. A stopped saga has ended: nothing of it is called any more, what runs is given up, and its end changes nothing.
//! 2. It can be stopped whatever it does, on a full host too; not twice, and not after its end.

use std::time::Duration;

use futures_util::FutureExt;
use wasaga::{
    engine::ControlError,
    saga::{Event, Status, state::Reason},
    store::Batch,
};
use wasaga_testkit::engine::{Host, Plan, Setup, settle, settled};

use crate::stage::Stage;

/// Stops it, and checks that it stays so.
async fn stop(host: Host, gid: &str, stage: &Stage) -> Host {
    let open = host.engine.counts().open;
    let gone = |answer| matches!(answer, Err(ControlError::Finished(Status::Failed)));
    host.engine.force_stop(gid).await.unwrap();
    assert!(gone(host.engine.force_stop(gid).await));
    assert!(gone(host.engine.retry_now(gid).await));
    host.until_idle().await;
    assert_eq!(host.engine.counts().open, open - 1);
    let stopped = host.find(gid).await;
    assert_eq!(stopped.saga.status(), Status::Failed);
    assert!(matches!(stopped.log.last(), Some(Event::ForceStopped { .. })));
    let host = host.stop(Duration::ZERO).await.start();
    tokio::time::sleep(Duration::from_hours(1000)).await;
    assert!(stage.is_quiet().await, "{gid} is called after it was stopped");
    assert_eq!(host.find(gid).await, stopped);
    assert!(gone(host.engine.force_stop(gid).await));
    host
}

#[tokio::test(start_paused = true)]
async fn a_saga_is_stopped_whatever_it_does() {
    let stage = Stage::new();
    let mut host = Setup::paused(stage.clone()).start();

    host.engine.prepare(Plan::new("prepared").external().now(&host.engine)).await.unwrap();
    host = stop(host, "prepared", &stage).await;
    assert_eq!(host.find("prepared").await.saga.reason(), Some(&Reason::ForceStopped));

    host.submit(&Plan::new("waiting").external().external()).await;
    stage.action(0, 1).await.fail();
    host.until_idle().await;
    host = stop(host, "waiting", &stage).await;

    for step in ["contained", "external"] {
        host.submit(&Plan::new(format!("running {step}")).contained().step(step, step)).await;
        stage.action(0, 1).await.succeed();
        let attempt = stage.action(1, 1).await;
        host = stop(host, &format!("running {step}"), &stage).await;
        assert!(attempt.is_given_up());
        attempt.succeed();
    }

    host.submit(&Plan::new("going back").external().external()).await;
    stage.action(0, 1).await.succeed();
    stage.action(1, 1).await.reject();
    let attempt = stage.compensation(1, 1).await;
    host = stop(host, "going back", &stage).await;
    assert!(attempt.is_given_up());
    assert_eq!(host.find("going back").await.saga.reason(), Some(&Reason::Rejected { step: 1 }));
}

#[tokio::test(start_paused = true)]
async fn effects_that_come_after_the_stop_are_not_committed() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.submit(&Plan::new("g").contained()).await;
    let late = stage.action(0, 1).await;
    let mut effects = Batch::new();
    effects.put(b"k late", b"1");
    // The attempt ended before the stop, but the driver has not read its outcome yet.
    late.effects(effects);
    host.engine.force_stop("g").await.unwrap();
    host.until_idle().await;
    assert_eq!(host.store.rows(b"k"), []);
    assert_eq!(host.find("g").await.saga.status(), Status::Failed);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_learns_of_the_stop() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let plan = Plan::new("g").external().wait();
    let (saga, ()) = tokio::join!(host.settle(&plan), async {
        let _running = stage.action(0, 1).await;
        host.engine.force_stop("g").await.unwrap();
    });
    assert_eq!((saga.status(), saga.reason()), (Status::Failed, Some(&Reason::ForceStopped)));
}

#[tokio::test(start_paused = true)]
async fn a_full_host_can_still_be_told_what_to_stop() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).with(|settings| settings.live_max = 1).start();
    host.submit(&Plan::new("waiting").external()).await;
    stage.action(0, 1).await.fail();
    host.until_idle().await;
    host.submit(&Plan::new("other").external()).await;
    stage.action(0, 1).await.fail();
    host.until_idle().await;
    host.submit(&Plan::new("hanging").external()).await;
    let hanging = stage.action(0, 1).await;
    for gid in ["waiting", "hanging"] {
        let stopped = tokio::time::timeout(Duration::from_secs(5), host.engine.force_stop(gid)).await;
        stopped.expect("a person has to wait for a place").unwrap();
        assert_eq!(host.find(gid).await.saga.status(), Status::Failed);
    }
    settle().await;
    assert!(hanging.is_given_up());
    assert_eq!(host.engine.counts().open, 1);
    // The place is free again.
    stage.action(0, 2).await.succeed();
    host.until_status("other", Status::Succeed).await;
}

#[tokio::test(start_paused = true)]
async fn a_retry_request_returns_before_its_saga_gets_a_place() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).with(|settings| settings.live_max = 1).start();
    host.submit(&Plan::new("g").external().with(|options| options.retry_interval_s = 10_000)).await;
    stage.action(0, 1).await.fail();
    host.until_idle().await;
    host.submit(&Plan::new("long").external()).await;
    let long = stage.action(0, 1).await;
    let retried = tokio::time::timeout(Duration::from_secs(5), host.engine.retry_now("g")).await;
    retried.expect("a person has to wait for a place").unwrap();
    let from = host.engine.now();
    long.succeed();
    stage.action(0, 2).await.succeed();
    assert_eq!(host.engine.now(), from);
    host.until_status("g", Status::Succeed).await;
}

#[tokio::test(start_paused = true)]
async fn what_has_ended_or_never_was_cannot_be_controlled() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    for gid in ["unknown", "", "\0", &"long".repeat(100)] {
        assert!(matches!(host.engine.force_stop(gid).await, Err(ControlError::NotFound)));
        assert!(matches!(host.engine.retry_now(gid).await, Err(ControlError::NotFound)));
        assert!(host.engine.find(gid).await.unwrap().is_none());
    }
    host.submit(&Plan::new("g").contained()).await;
    stage.action(0, 1).await.succeed();
    let end = host.until_status("g", Status::Succeed).await;
    for _ in 0..2 {
        assert!(matches!(host.engine.force_stop("g").await, Err(ControlError::Finished(Status::Succeed))));
        assert!(matches!(host.engine.retry_now("g").await, Err(ControlError::Finished(Status::Succeed))));
    }
    assert_eq!(host.find("g").await, end);
}

#[tokio::test(start_paused = true)]
async fn a_prepared_saga_stays_prepared_after_a_retry_request() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let plan = Plan::new("g").contained();
    host.engine.prepare(plan.now(&host.engine)).await.unwrap();
    host.engine.retry_now("g").await.unwrap();
    let host = host.stop(Duration::ZERO).await.start();
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert!(stage.is_quiet().await);
    assert_eq!(host.find("g").await.saga.status(), Status::Prepared);
    let mut client = Box::pin(host.engine.submit(plan.wait().now(&host.engine)));
    assert!((&mut client).now_or_never().is_none());
    stage.action(0, 1).await.succeed();
    assert_eq!(settled(client.await.unwrap()).status(), Status::Succeed);
}

/// DTM drops line breaks and semicolons from gids, so a gid can be spelt in many ways: they must all mean the one saga,
/// live or not, or a second copy of it would overwrite the first.
#[tokio::test(start_paused = true)]
async fn another_spelling_of_a_gid_means_the_same_saga() {
    let stage = Stage::new();
    let mut host = Setup::paused(stage.clone()).start();
    host.submit(&Plan::new("g").external().external()).await;
    let attempt = stage.action(0, 1).await;
    assert_eq!(host.engine.find("g;").await.unwrap().unwrap().saga.status(), Status::Submitted);
    host.engine.retry_now("\ng").await.unwrap();
    host.engine.force_stop("g;").await.unwrap();
    host.until_idle().await;
    assert!(attempt.is_given_up());
    assert_eq!(host.engine.counts().open, 0);
    assert!(matches!(host.engine.force_stop(";g").await, Err(ControlError::Finished(Status::Failed))));
    let stopped = host.find("g").await;
    host = host.kill().await.start();
    assert_eq!((host.find("g").await, host.engine.counts().open), (stopped, 0));
    assert!(stage.is_quiet().await);
}
