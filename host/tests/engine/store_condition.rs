//! What the engine does when the store has failed, or the disk is nearly full.
//!
//! 1. A failure of the store is noticed at once, without a commit: submissions are refused, nothing is started, and the sagas
//!    under way are no longer driven.
//! 2. While the disk is nearly full new sagas are refused and nothing of them is stored; those that exist go on.

use std::time::Duration;

use wasaga::{
    engine::{Error, SubmitError, Submitted},
    saga::Status,
    store::{Condition, Store as _},
};
use wasaga_testkit::engine::{Host, Plan, Setup, until};

use crate::stage::Stage;

/// Fails the store by the sync of its next checkpoint, of which the engine hears nothing else.
async fn fail_checkpoint(host: &Host) {
    host.disk.fail_handles();
    tokio::time::timeout(Duration::from_secs(30), host.engine.store_failed()).await.expect("the engine knows");
}

#[tokio::test]
async fn a_failure_without_a_commit_ends_everything_at_once() {
    let stage = Stage::new();
    let host = Setup::new(stage.clone()).start();
    host.submit(&Plan::new("outside").external()).await;
    let outside = stage.next().await;
    let waits = Plan::new("inside").contained().wait().now(&host.engine);
    let waiting = tokio::spawn({
        let engine = host.engine.clone();
        async move { engine.submit(waits).await }
    });
    let inside = stage.next().await;
    let commits = host.store.commits();
    fail_checkpoint(&host).await;
    assert!(matches!(host.engine.store_condition(), Condition::Failed(_)));

    // Neither of them is driven any more.
    let answer = waiting.await.unwrap();
    assert!(matches!(&answer, Err(SubmitError::Engine(Error::Store(_)))), "{answer:?}");
    host.until_idle().await;
    assert!(outside.is_given_up() && inside.is_given_up());

    let more = Plan::new("more").contained();
    for plan in [more.clone(), more.clone().wait()] {
        let refused = host.engine.submit(plan.now(&host.engine)).await;
        assert!(matches!(&refused, Err(SubmitError::StoreFailed(_))), "{refused:?}");
    }
    let refused = host.engine.prepare(more.now(&host.engine)).await;
    assert!(matches!(&refused, Err(SubmitError::StoreFailed(_))), "{refused:?}");
    assert_eq!(host.store.commits(), commits, "nothing was asked of the store");
    assert!(stage.is_quiet().await, "nothing was started");

    // The next start drives what was acknowledged.
    let host = host.kill().await.start();
    assert_eq!(stage.next().await.call.saga.gid().as_str(), "outside");
    assert!(host.engine.find("inside").await.unwrap().is_none());
}

#[tokio::test]
async fn a_nearly_full_disk_refuses_new_sagas_and_lets_others_end() {
    let stage = Stage::new();
    let host = Setup::new(stage.clone()).start();
    let running = Plan::new("running").external().contained();
    host.submit(&running).await;
    let first = stage.next().await;
    host.engine.prepare(Plan::new("prepared").contained().now(&host.engine)).await.unwrap();
    let commits = host.store.commits();

    host.disk.leave(Some(1000));
    until(async || matches!(host.store.condition(), Condition::Short(_)).then_some(())).await;
    let new = Plan::new("new").contained();
    for answer in [
        host.engine.submit(new.now(&host.engine)).await.map(drop),
        host.engine.submit(new.clone().wait().now(&host.engine)).await.map(drop),
        host.engine.prepare(new.now(&host.engine)).await,
    ] {
        let told = answer.expect_err("it is new");
        assert!(matches!(&told, SubmitError::Full { shortage, .. } if shortage.free == 1000), "{told:?}");
        assert!(told.to_string().contains("1000 bytes are left"), "{told}");
    }
    assert_eq!((host.store.commits(), host.engine.counts().open), (commits, 2), "nothing of it was stored");

    // What exists goes on, is submitted again, and is read.
    assert!(matches!(host.engine.submit(running.now(&host.engine)).await.unwrap(), Submitted::Accepted));
    first.succeed();
    stage.action(1, 1).await.succeed();
    host.until_status("running", Status::Succeed).await;
    host.submit(&Plan::new("prepared").contained()).await;
    stage.action(0, 1).await.succeed();
    host.until_status("prepared", Status::Succeed).await;

    host.disk.leave(None);
    until(async || matches!(host.store.condition(), Condition::Sound).then_some(())).await;
    host.submit(&new).await;
    stage.action(0, 1).await.succeed();
    host.until_status("new", Status::Succeed).await;
}
