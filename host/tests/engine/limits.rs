//! How much the host takes on.
//!
//! 1. At most `live_max` sagas are driven, and at most `open_max` are unfinished; more are refused at once, "busy".
//! 2. Places come free again, however a saga leaves. A saga that waits for a retry holds none.
//! 3. The count of open sagas is exact, also when submissions are refused, and over restarts.

use std::time::Duration;

use wasaga::{engine::SubmitError, saga::Status};
use wasaga_testkit::engine::{Plan, Setup, settle, until};

use crate::stage::{Attempt, Stage};

fn is_busy<T>(answer: &Result<T, SubmitError>) -> bool {
    matches!(answer, Err(SubmitError::Busy { retry_after }) if !retry_after.is_zero())
}

#[tokio::test(start_paused = true)]
async fn no_more_sagas_are_driven_than_allowed() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).with(|settings| settings.live_max = 3).start();
    let mut running = Vec::new();
    for n in 0..3 {
        host.submit(&Plan::new(format!("g{n}")).external()).await;
        running.push(stage.next().await);
    }
    let commits = host.store.commits();
    let refused = Plan::new("more").external();
    assert!(is_busy(&host.engine.submit(refused.now(&host.engine)).await));
    assert!(is_busy(&host.engine.submit(refused.clone().wait().now(&host.engine)).await));
    assert_eq!((host.store.commits(), host.engine.counts().open, host.engine.counts().live), (commits, 3, 3));
    assert!(host.engine.find("more").await.unwrap().is_none());

    // A place comes free by an end, by a wait, by force.
    let [first, second, third]: [Attempt; 3] = running.try_into().unwrap();
    first.succeed();
    settle().await;
    host.submit(&Plan::new("4").external()).await;
    let _fourth = stage.next().await;
    assert!(is_busy(&host.engine.submit(refused.now(&host.engine)).await));
    second.fail();
    settle().await;
    host.submit(&Plan::new("5").external()).await;
    let fifth = stage.next().await;
    assert!(is_busy(&host.engine.submit(refused.now(&host.engine)).await));
    host.engine.force_stop("g2").await.unwrap();
    settle().await;
    assert!(third.is_given_up());
    host.submit(&refused).await;
    let _more = stage.next().await;
    // The one that waits is due, but there is no place for it.
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert!(stage.is_quiet().await);
    assert_eq!(host.engine.counts().live, 3);
    fifth.succeed();
    let second = stage.action(0, 2).await;
    assert_eq!(second.call.saga.gid().as_str(), "g1");
}

#[tokio::test(start_paused = true)]
async fn no_more_sagas_are_open_than_allowed() {
    let stage = Stage::new();
    let setup = Setup::paused(stage.clone()).with(|settings| settings.open_max = 2);
    let host = setup.start();
    host.engine.prepare(Plan::new("prepared").external().now(&host.engine)).await.unwrap();
    host.submit(&Plan::new("waiting").external()).await;
    stage.action(0, 1).await.fail();
    host.until_idle().await;
    let more = Plan::new("more").external();
    assert!(is_busy(&host.engine.submit(more.now(&host.engine)).await));
    assert!(is_busy(&host.engine.prepare(more.now(&host.engine)).await));
    let host = host.stop(Duration::ZERO).await.start();
    assert_eq!(host.engine.counts().open, 2);
    assert!(is_busy(&host.engine.submit(more.now(&host.engine)).await));
    stage.action(0, 2).await.succeed();
    host.until_status("waiting", Status::Succeed).await;
    host.until_idle().await;
    host.submit(&more).await;
    let _more = stage.action(0, 1).await;
    host.engine.force_stop("prepared").await.unwrap();
    host.submit(&Plan::new("again").external()).await;
    assert_eq!(host.engine.counts().open, 2);
}

#[tokio::test(start_paused = true)]
async fn refused_submissions_are_not_counted() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let huge = Plan::new("huge").contained().with(|options| {
        options.custom_data = "x".repeat(65 << 20);
    });
    assert!(matches!(host.engine.submit(huge.now(&host.engine)).await, Err(SubmitError::Engine(_))));
    assert!(matches!(host.engine.prepare(huge.now(&host.engine)).await, Err(SubmitError::Engine(_))));
    assert_eq!(host.engine.counts().open, 0);
    let (refused, ()) = tokio::join!(host.engine.submit(huge.clone().wait().now(&host.engine)), async {
        stage.action(0, 1).await.succeed();
    });
    assert!(matches!(refused, Err(SubmitError::Engine(_))), "{refused:?}");
    assert!(host.engine.submit(Plan::new("huge").step("not_found", "").now(&host.engine)).await.is_err());
    assert_eq!((host.engine.counts().open, host.engine.counts().live), (0, 0));
    host.submit(&Plan::new("huge").contained()).await;
    assert_eq!(host.engine.counts().open, 1);
}

/// Ten thousand sagas that are due at once, and sixteen places: all get their turn, none is lost.
#[tokio::test(start_paused = true)]
async fn more_sagas_may_be_due_than_there_are_places() {
    const SAGAS: usize = 10_000;
    const PLACES: usize = 16;
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).with(|settings| settings.live_max = PLACES).start();
    for n in 0..SAGAS {
        let plan = Plan::new(format!("g{n}")).contained().with(|options| options.retry_interval_s = 3600);
        host.submit(&plan).await;
        stage.action(0, 1).await.fail();
        while host.engine.counts().live > 0 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(host.engine.counts().open, SAGAS as u64);
    let host = host.kill().await.start();
    assert_eq!(host.engine.counts().open, SAGAS as u64, "parked sagas are on disk");
    for _ in 0..SAGAS {
        let attempt = stage.action(0, 2).await;
        assert!(host.engine.counts().live <= PLACES as u64);
        attempt.succeed();
    }
    until(async || (host.engine.counts().open == 0).then_some(())).await;
    assert_eq!(host.engine.counts().succeeded, SAGAS as u64);
}

#[tokio::test(start_paused = true)]
async fn the_outputs_of_a_saga_are_limited_together() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.submit(&Plan::new("g").contained().contained()).await;
    stage.action(0, 1).await.output(&"x".repeat(1 << 20));
    stage.action(1, 1).await.output("y");
    host.until_idle().await;
    let second = host.find("g").await.saga.steps()[1].action.clone();
    assert!(second.is_pending() && second.last_error.unwrap().contains("1048576 bytes, the limit"));
    stage.action(1, 2).await.succeed();
    host.until_status("g", Status::Succeed).await;
}
