//! Stopping the host in peace.
//!
//! 1. Nothing starts any more; what runs may end within the grace period, and is recorded.
//! 2. Longer attempts are cancelled, and waiting clients are answered. The next start continues from there.
//! 3. A client that calls while the host stops is refused or answered, and every promise to a client is kept.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use wasaga::{
    engine::SubmitError,
    saga::{Event, Status},
};
use wasaga_testkit::engine::{Plan, Setup, settle, settled, until};

use crate::{
    stage::{Attempt, Stage},
    world::{Troubles, World},
};

const GRACE: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn what_runs_may_end_and_is_recorded_but_nothing_starts() {
    for step in ["contained", "external"] {
        let stage = Stage::new();
        let host = Setup::paused(stage.clone()).start();
        let plan = Plan::new("g").step(step, step).step(step, step).concurrent().after(1, &[0]).wait();
        let client = host.engine.clone();
        let definition = plan.now(&client);
        let client = tokio::spawn(async move { client.submit(definition).await });
        let first = stage.action(0, 1).await;
        let (setup, ()) = tokio::join!(host.stop(GRACE), async {
            settle().await;
            first.output("1");
            assert!(stage.is_quiet().await, "an attempt has started");
        });
        let saga = settled(client.await.unwrap().unwrap());
        assert!(saga.steps()[0].action.has_succeeded(), "the client learns how it stands");

        let host = setup.start();
        let second = stage.action(1, 1).await;
        assert_eq!(second.call.results.len(), 1);
        second.succeed();
        host.until_status("g", Status::Succeed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_compensation_starts_while_the_host_stops() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.submit(&Plan::new("g").external()).await;
    let first = stage.action(0, 1).await;
    let (setup, ()) = tokio::join!(host.stop(GRACE), async {
        settle().await;
        first.reject();
        assert!(stage.is_quiet().await, "a compensation has started");
    });
    let host = setup.start();
    stage.compensation(0, 1).await.succeed();
    host.until_status("g", Status::Failed).await;
}

#[tokio::test(start_paused = true)]
async fn a_long_attempt_is_cancelled_and_repeated_at_the_next_start() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let plan = Plan::new("g").contained().contained().external().concurrent();
    let client = host.engine.clone();
    let definition = plan.clone().wait().now(&client);
    let client = tokio::spawn(async move { client.submit(definition).await });
    let mut attempts = vec![stage.next().await, stage.next().await, stage.next().await];
    attempts.sort_by_key(|attempt| attempt.call.branch_op.step);
    attempts.remove(0).succeed();
    settle().await;
    let setup = host.stop(GRACE).await;
    assert!(attempts.iter().all(Attempt::is_given_up));
    assert_eq!(settled(client.await.unwrap().unwrap()).status(), Status::Submitted);

    let host = setup.start();
    let mut again = [stage.next().await, stage.next().await];
    again.sort_by_key(|attempt| attempt.call.branch_op.step);
    let numbers = again.each_ref().map(|attempt| (attempt.call.branch_op.step, attempt.call.attempt));
    assert_eq!(numbers, [(1, 1), (2, 2)], "of the external attempt it is known that it had started");
    again.into_iter().for_each(Attempt::succeed);
    let record = host.until_status("g", Status::Succeed).await;
    let succeeded = record.log.iter().filter(|event| matches!(event, Event::Succeeded { .. }));
    assert_eq!(succeeded.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_taken_on_while_the_host_stops() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.engine.prepare(Plan::new("prepared").contained().now(&host.engine)).await.unwrap();
    host.submit(&Plan::new("running").contained()).await;
    let running = stage.action(0, 1).await;
    let mut stop = Box::pin(host.engine.stop(GRACE));
    assert!((&mut stop).now_or_never().is_none());
    let commits = host.store.commits();
    for gid in ["new", "prepared", "running"] {
        let plan = Plan::new(gid).contained();
        for plan in [plan.clone(), plan.clone().wait()] {
            let refused = host.engine.submit(plan.now(&host.engine)).await;
            assert!(matches!(refused, Err(SubmitError::Stopping)), "{refused:?}");
        }
        let refused = host.engine.prepare(plan.now(&host.engine)).await;
        assert!(matches!(refused, Err(SubmitError::Stopping)), "{refused:?}");
    }
    assert_eq!(host.store.commits(), commits);
    // A person may still look, and stop what hangs.
    assert_eq!(host.find("running").await.saga.status(), Status::Submitted);
    host.engine.force_stop("running").await.unwrap();
    stop.await;
    assert!(running.is_given_up());
    assert_eq!(host.find("running").await.saga.status(), Status::Failed);
}

#[tokio::test(start_paused = true)]
async fn sagas_that_wait_are_still_there_at_the_next_start() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    for n in 0..5 {
        host.submit(&Plan::new(format!("g{n}")).external()).await;
        stage.action(0, 1).await.fail();
    }
    host.until_idle().await;
    let setup = host.stop(GRACE).await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert!(stage.is_quiet().await);
    let host = setup.start();
    assert_eq!(host.engine.counts().open, 5);
    for _ in 0..5 {
        stage.action(0, 2).await.succeed();
    }
    host.until_idle().await;
    assert_eq!(host.engine.counts().open, 0);
}

/// Many submit while the host stops, again and again: everybody is answered, and what was promised is kept.
#[test]
fn a_client_is_answered_while_the_host_stops() {
    let world = World::new(1, Troubles::default());
    let mut setup = Setup::new(world.map()).with(|settings| settings.wait_max = Duration::from_hours(1));
    let mut promised = Vec::new();
    for round in 0..60 {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        setup = runtime.block_on(async {
            let host = world.begin_life(&setup);
            let start = Arc::new(tokio::sync::Barrier::new(5));
            let clients: Vec<_> = (0..4)
                .map(|client| {
                    let (engine, start) = (host.engine.clone(), start.clone());
                    tokio::spawn(async move {
                        start.wait().await;
                        let mut taken = Vec::new();
                        loop {
                            let n = taken.len();
                            let plan = Plan::new(format!("{round}-{}", if n % 5 == 0 { n } else { n * 4 + client }));
                            let plan = plan.contained().external();
                            let plan = if n % 2 == 0 { plan.wait() } else { plan };
                            match engine.submit(plan.now(&engine)).await {
                                // "Status": another client has submitted it, and it has ended.
                                Ok(_) | Err(SubmitError::Status(_)) => taken.push(plan.gid),
                                Err(SubmitError::Stopping) => return taken,
                                Err(other) => panic!("{other:?}"),
                            }
                        }
                    })
                })
                .collect();
            start.wait().await;
            for _ in 0..round * 20 {
                tokio::task::yield_now().await;
            }
            host.engine.stop(if round % 2 == 0 { Duration::ZERO } else { GRACE }).await;
            for client in clients {
                let answered = tokio::time::timeout(Duration::from_secs(10), client).await;
                promised.extend(answered.expect("a client hangs").unwrap());
            }
            let setup = host.setup.clone();
            world.end_life(host).await;
            setup
        });
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let host = world.begin_life(&setup);
        until(async || (host.engine.counts().open == 0).then_some(())).await;
        assert!(promised.len() > 100, "only {} were taken on", promised.len());
        for gid in &promised {
            world.check_end(&host.find(gid).await);
        }
        world.check();
        world.end_life(host).await;
    });
}
