//! Clients, timers and failures that meet a saga at a bad time.
//!
//! 1. A panic, in a branch or in the directory, concerns one saga: no permit is lost, no client hangs, and it continues.
//! 2. Sagas that end, wait and wake while others submit, query, retry and stop them run once, and what was shown of one
//!    is never taken back.
//! 3. A store that has failed is noticed, whichever task finds out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use wasaga::{
    engine::{ControlError, Error, Filter, SubmitError, Submitted},
    saga::{Status, state::Reason},
};
use wasaga_testkit::engine::{Host, Plan, Setup, until};

use crate::{
    stage::Stage,
    world::{Troubles, World},
};

#[tokio::test(start_paused = true)]
async fn a_branch_that_panics_is_called_again() {
    for step in ["contained", "external"] {
        for is_concurrent in [false, true] {
            let stage = Stage::new();
            let host = Setup::paused(stage.clone()).with(|settings| settings.live_max = 1).start();
            let plan = Plan::new("g").step(step, step).step(step, step).after(1, &[0]);
            let plan = if is_concurrent { plan.concurrent() } else { plan };
            let (saga, ()) = tokio::join!(host.settle(&plan.clone().wait()), async {
                stage.action(0, 1).await.succeed();
                stage.action(1, 1).await.panic();
            });
            let action = &saga.steps()[1].action;
            assert_eq!((saga.status(), action.failures), (Status::Submitted, 1));
            assert!(action.last_error.as_deref().is_some_and(|error| error.contains("panicked")));
            stage.action(1, 2).await.reject();
            if step == "external" {
                stage.compensation(1, 1).await.panic();
                stage.compensation(1, 2).await.succeed();
            }
            stage.compensation(0, 1).await.panic();
            stage.compensation(0, 2).await.succeed();
            host.until_status("g", Status::Failed).await;
            host.until_idle().await;
            // The place is free.
            host.submit(&Plan::new("h").contained()).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_saga_whose_driver_panics_is_set_aside_and_can_go_on() {
    for step in ["contained", "external"] {
        let stage = Stage::new();
        let host = Setup::paused(stage.clone()).with(|settings| settings.live_max = 1).start();
        let plan = Plan::new("g").external().step(step, step).step("contained:trap", "contained");
        let mut client = Box::pin(host.engine.submit(plan.clone().wait().now(&host.engine)));
        assert!((&mut client).now_or_never().is_none());
        stage.action(0, 1).await.succeed();
        let second = stage.action(1, 1).await;
        stage.trap("contained:trap");
        second.succeed();
        let told = client.await;
        assert!(matches!(told, Err(SubmitError::Engine(Error::Gone))), "{told:?}");
        assert_eq!((host.engine.counts().live, host.engine.counts().open), (0, 1));

        // Its place is free, it can be looked at, and a new submission continues it from what is stored.
        host.submit(&Plan::new("other").contained()).await;
        stage.action(0, 1).await.succeed();
        host.until_status("other", Status::Succeed).await;
        host.until_idle().await;
        assert_eq!(host.find("g").await.saga.status(), Status::Submitted);
        stage.open("contained:trap");
        host.submit(&plan).await;
        // What was not on disk is done again, as after a crash.
        if step == "contained" {
            stage.action(0, 2).await.succeed();
            stage.action(1, 1).await.succeed();
        } else {
            stage.action(1, 2).await.succeed();
        }
        stage.action(2, 1).await.succeed();
        host.until_status("g", Status::Succeed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_saga_whose_driver_panics_goes_on_at_the_next_start() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.submit(&Plan::new("g").contained().step("contained:trap", "contained")).await;
    let first = stage.action(0, 1).await;
    stage.trap("contained:trap");
    first.succeed();
    host.until_idle().await;
    stage.open("contained:trap");
    let host = host.stop(Duration::ZERO).await.start();
    stage.action(0, 1).await.succeed();
    stage.action(1, 1).await.succeed();
    host.until_status("g", Status::Succeed).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_one_saga_is_woken_does_not_keep_the_others_asleep() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).with(|settings| settings.live_max = 1).start();
    for gid in ["one", "two", "three"] {
        host.submit(&Plan::new(gid).contained()).await;
        stage.action(0, 1).await.fail();
        host.until_idle().await;
    }
    host.store.trap(b"o");
    for _ in 0..2 {
        stage.action(0, 2).await.succeed();
    }
    host.until_idle().await;
    assert_eq!(host.engine.counts().open, 1);
    let host = host.stop(Duration::ZERO).await.start();
    stage.action(0, 2).await.succeed();
    host.until_idle().await;
    assert_eq!(host.engine.counts().open, 0);
}

/// Watches one saga until it has ended: what is shown only ever grows.
async fn watch(host: &Host, gid: &str, may_be_unknown: bool) {
    let mut shown = Vec::new();
    loop {
        match host.engine.find(gid).await.unwrap() {
            Some(record) => {
                assert!(record.log.starts_with(&shown), "{gid}: {shown:#?}\nbecame\n{:#?}", record.log);
                if record.saga.status().is_finished() {
                    return;
                }
                shown = record.log;
            }
            None => assert!(may_be_unknown && shown.is_empty(), "{gid} has vanished"),
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sagas_run_once_and_only_forward_whatever_others_do_to_them() {
    const SAGAS: usize = 1500;
    let troubles = Troubles { rejected: 5, unknown: 10, ongoing: 20, panicking: 2, slow: 50 };
    let world = World::new(11, troubles);
    let setup = Setup::new(world.map()).with(|settings| {
        settings.policy.retry_interval = Duration::from_millis(1);
        settings.policy.retry_interval_max = Duration::from_millis(4);
        settings.policy.ongoing_min = Duration::from_millis(1);
    });
    let host = Arc::new(world.begin_life(&setup));
    let is_over = Arc::new(AtomicBool::new(false));
    let lister = {
        let (host, is_over) = (host.clone(), is_over.clone());
        tokio::spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                host.engine.list(&Filter { limit: 50, ..Filter::default() }).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    };
    let seed = wasaga_testkit::seed(0);
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let (host, mut random) = (host.clone(), fastrand::Rng::with_seed(seed.wrapping_add(client)));
            tokio::spawn(async move {
                for n in 0..SAGAS / 8 {
                    let plan =
                        Plan::new(format!("{client}-{n}")).contained().external().step("contained-pure", "").gated();
                    let plan = if random.bool() { plan.concurrent() } else { plan };
                    meddle(&host, plan, &mut random).await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    until(async || (host.engine.counts().open == 0).then_some(())).await;
    until(async || (host.engine.counts().live == 0).then_some(())).await;
    is_over.store(true, Ordering::Relaxed);
    lister.await.unwrap();
    for client in 0..8 {
        for n in 0..SAGAS / 8 {
            let record = host.find(&format!("{client}-{n}")).await;
            if record.saga.reason() != Some(&Reason::ForceStopped) && !was_stopped(&record.log) {
                world.check_end(&record);
            }
        }
    }
    world.check();
}

fn was_stopped(log: &[wasaga::saga::Event]) -> bool {
    matches!(log.last(), Some(wasaga::saga::Event::ForceStopped { .. }))
}

/// Submits a saga, several times at once, and does to it what comes to mind until it has ended.
async fn meddle(host: &Arc<Host>, plan: Plan, random: &mut fastrand::Rng) {
    let gid = plan.gid.clone();
    let submissions: Vec<_> = (0..random.usize(1..4))
        .map(|_| {
            let plan = if random.bool() { plan.clone().wait() } else { plan.clone() };
            let host = host.clone();
            tokio::spawn(async move { host.engine.submit(plan.now(&host.engine)).await })
        })
        .collect();
    let stop_after = (random.u8(0..10) == 0).then(|| random.usize(0..30));
    let watcher = {
        let (host, gid) = (host.clone(), gid.clone());
        tokio::spawn(async move { watch(&host, &gid, true).await })
    };
    for moment in 0.. {
        let answer = match random.u8(0..4) {
            _ if stop_after == Some(moment) => host.engine.force_stop(&gid).await,
            0 => host.engine.retry_now(&gid).await,
            1 => match host.engine.submit(plan.now(&host.engine)).await {
                Ok(Submitted::Accepted) | Err(SubmitError::Status(_)) => Ok(()),
                other => panic!("{other:?}"),
            },
            2 => {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Ok(())
            }
            _ => {
                tokio::task::yield_now().await;
                Ok(())
            }
        };
        match answer {
            Ok(()) | Err(ControlError::NotFound) => {}
            Err(ControlError::Finished(_)) => break,
            Err(other @ ControlError::Engine(_)) => panic!("{other:?}"),
        }
        // Left alone in the end, or retry requests would keep it from ever waiting.
        if moment > 40 {
            break;
        }
    }
    for submission in submissions {
        match submission.await.unwrap() {
            Ok(_) | Err(SubmitError::Status(_)) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    watcher.await.unwrap();
}

#[tokio::test]
async fn a_failed_store_is_noticed_whoever_finds_out() {
    for finder in ["submit", "wait", "prepare", "force_stop", "retry_now", "find", "list"] {
        let stage = Stage::new();
        let host = Setup::new(stage.clone()).start();
        let plan = Plan::new("g").external();
        host.engine.prepare(plan.now(&host.engine)).await.unwrap();
        let engine = host.engine.clone();
        let noticed = tokio::spawn(async move { engine.store_failed().await });
        host.disk.cut();
        if matches!(finder, "find" | "list") {
            // Reading needs the disk only for what is not on it yet.
            let _ = wasaga::store::Store::commit(host.store.local(), {
                let mut batch = wasaga::store::Batch::new();
                batch.put(b"klost", b"");
                batch
            });
        }
        let other = Plan::new("other").external();
        match finder {
            "submit" => assert!(host.engine.submit(other.now(&host.engine)).await.is_err()),
            "wait" => assert!(host.engine.submit(other.wait().now(&host.engine)).await.is_err()),
            "prepare" => assert!(host.engine.prepare(other.now(&host.engine)).await.is_err()),
            "force_stop" => assert!(host.engine.force_stop("g").await.is_err()),
            "retry_now" => assert!(host.engine.retry_now("g").await.is_err()),
            "find" => assert!(host.engine.find("g").await.is_err()),
            _ => assert!(host.engine.list(&Filter { limit: 1, ..Filter::default() }).await.is_err()),
        }
        tokio::time::timeout(Duration::from_secs(10), noticed).await.expect(finder).unwrap();
        assert!(stage.is_quiet().await, "called though its start is not on disk");
    }
}

/// The sync fails after the last driver has left: only a client can find out.
#[tokio::test]
async fn a_store_that_fails_when_nothing_runs_is_noticed_by_the_next_client() {
    let stage = Stage::new();
    let host = Setup::new(stage.clone()).start();
    host.disk.hold();
    let engine = host.engine.clone();
    let definition = Plan::new("g").contained().now(&engine);
    let client = tokio::spawn(async move { engine.submit(definition).await });
    stage.action(0, 1).await.succeed();
    host.until_idle().await;
    host.disk.cut();
    assert!(client.await.unwrap().is_err());
    let more = Plan::new("more").contained().now(&host.engine);
    assert!(host.engine.submit(more).await.is_err());
    tokio::time::timeout(Duration::from_secs(10), host.engine.store_failed()).await.unwrap();
}
