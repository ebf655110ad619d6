//! What a contained attempt changes is committed with its outcome, or not at all.
//!
//! 1. A crash shows both or neither, and takes back a suffix of what was committed, never a part from the middle.
//! 2. A conflict means that the attempt had no effect: it is made again, and is no failure. At once, unless conflicts
//!    do not end or something has left the host.
//! 3. Effects that can never be committed are a failed attempt; the saga goes on.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use wasaga::{
    saga::{BranchOp, Event, Op, Status},
    store::{Batch, Store},
};
use wasaga_testkit::engine::{Host, Plan, Setup, settle, until};

use crate::{
    stage::Stage,
    world::{Troubles, World},
};

fn put(key: &str) -> Batch {
    let mut effects = Batch::new();
    effects.put(format!("k{key}"), b"1");
    effects
}

fn keys(host: &Host) -> Vec<String> {
    host.store.rows(b"k").into_iter().map(|(key, _)| String::from_utf8(key.to_vec()).unwrap()).collect()
}

fn has_succeeded(host_log: &[Event], step: usize, op: Op) -> bool {
    host_log
        .iter()
        .any(|event| matches!(event, Event::Succeeded { .. }) && event.branch_op() == Some(BranchOp { step, op }))
}

#[tokio::test]
async fn a_crash_shows_an_effect_with_its_outcome_or_neither() {
    for cut_after in 0..=2 {
        let stage = Stage::new();
        let host = Setup::new(stage.clone()).start();
        host.submit(&Plan::new("g").contained().contained().contained()).await;
        let mut reached = 0;
        for step in 0..2 {
            let attempt = stage.action(step, 1).await;
            if step == cut_after {
                host.disk.hold();
            }
            let commits = host.store.commits();
            attempt.effects(put(&step.to_string()));
            until(async || (host.store.commits() > commits).then_some(())).await;
            if step < cut_after {
                host.store.barrier().durable().await.unwrap();
                reached += 1;
            }
        }
        let _third = stage.action(2, 1).await;
        assert_eq!(keys(&host), ["k0", "k1"], "visible before it is durable");
        let host = host.kill().await.start();
        assert_eq!(keys(&host).len(), reached);
        let log = host.find("g").await.log;
        for step in 0..2 {
            assert_eq!(has_succeeded(&log, step, Op::Action), step < reached);
        }
        for step in reached..3 {
            stage.action(step, 1).await.effects(put(&step.to_string()));
        }
        host.until_status("g", Status::Succeed).await;
        assert_eq!(keys(&host), ["k0", "k1", "k2"]);
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_conflict_the_attempt_runs_again_at_once_and_has_not_failed() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let start = host.engine.now();
    host.submit(&Plan::new("g").contained().contained().with(|options| options.retry_limit = 1)).await;
    // Not committed yet when the conflict comes; it must not be lost with it.
    stage.action(0, 1).await.output("first");
    host.store.conflict_next(8);
    for _ in 0..=8 {
        let attempt = stage.action(1, 1).await;
        assert_eq!(attempt.call.results.len(), 1);
        attempt.effects(put("1"));
    }
    let record = host.until_status("g", Status::Succeed).await;
    let action = &record.saga.steps()[1].action;
    assert_eq!((action.attempts, action.failures, record.saga.retries()), (1, 0, 0));
    assert_eq!(record.saga.outputs().next(), Some((0, "first")));
    assert_eq!(start.until(record.saga.updated_at()).as_millis(), 0, "it waited");
    assert_eq!(keys(&host), ["k1"]);
}

#[tokio::test(start_paused = true)]
async fn conflicts_without_an_end_are_met_with_pauses_and_nobody_is_told() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let start = host.engine.now();
    let mut client = Box::pin(host.settle(&Plan::new("g").contained().wait()));
    assert!((&mut client).now_or_never().is_none());
    let commits = host.store.commits();
    for conflict in 0..30 {
        let attempt = stage.action(0, 1).await;
        // Both ways to find out are one.
        if conflict % 2 == 0 {
            attempt.outdated();
        } else {
            host.store.conflict_next(1);
            attempt.effects(put("0"));
        }
        settle().await;
        assert!((&mut client).now_or_never().is_none());
        assert_eq!(host.engine.counts().live, 1);
    }
    let waited = start.until(host.engine.now());
    assert!(waited > Duration::from_secs(5) && waited < Duration::from_secs(20), "{waited:?}");
    stage.action(0, 1).await.effects(put("0"));
    let saga = client.await;
    assert_eq!((saga.status(), saga.steps()[0].action.failures), (Status::Succeed, 0));
    assert_eq!(host.store.commits(), commits + 15 + 1, "nothing is written for a conflict");
    assert_eq!(host.engine.counts().conflicts, 30);
    let attempts = host.engine.counters().attempts(BranchOp { step: 0, op: Op::Action }).unwrap().read();
    assert_eq!(attempts, [1, 0], "a conflict is neither a success nor a failure");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_has_been_outside_is_not_repeated_without_a_pause() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.submit(&Plan::new("g").gated().with(|options| options.retry_limit = 1)).await;
    let mut last = Duration::ZERO;
    for attempt in 1..=4 {
        let before = host.engine.now();
        let running = stage.action(0, attempt).await;
        let pause = before.until(host.engine.now());
        assert!(attempt == 1 || pause >= Duration::from_millis(50), "{pause:?}");
        if attempt > 2 {
            assert!(pause * 3 > last, "pauses grow: {last:?}, then {pause:?}");
        }
        last = pause;
        running.leave().await.unwrap();
        if attempt % 2 == 0 {
            running.outdated();
        } else {
            host.store.conflict_next(1);
            running.effects(put("0"));
        }
        settle().await;
    }
    stage.action(0, 5).await.effects(put("0"));
    let saga = host.until_status("g", Status::Succeed).await.saga;
    assert_eq!((saga.steps()[0].action.failures, saga.retries()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_pause_keeps_neither_other_steps_nor_a_roll_back_nor_a_stop_waiting() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    for gid in ["other steps", "roll-back"] {
        host.submit(&Plan::new(gid).gated().contained().contained().concurrent().after(2, &[1])).await;
        let (one, other) = (stage.next().await, stage.next().await);
        let (gated, contained) = if one.call.branch_op.step == 0 { (one, other) } else { (other, one) };
        gated.leave().await.unwrap();
        gated.outdated();
        settle().await;
        let start = host.engine.now();
        contained.succeed();
        let third = stage.action(2, 1).await;
        if gid == "roll-back" {
            third.reject();
            for step in [1, 0] {
                stage.compensation(step, 1).await.succeed();
            }
            host.until_status(gid, Status::Failed).await;
            assert!(start.until(host.engine.now()) < Duration::from_millis(50), "shorter than any pause");
        } else {
            third.succeed();
            assert_eq!(start.until(host.engine.now()), Duration::ZERO);
            stage.action(0, 2).await.succeed();
            host.until_status(gid, Status::Succeed).await;
        }
    }
    host.submit(&Plan::new("stop").gated()).await;
    let gated = stage.action(0, 1).await;
    gated.leave().await.unwrap();
    gated.outdated();
    settle().await;
    let start = host.engine.now();
    let host = host.stop(Duration::from_mins(1)).await.start();
    assert!(start.until(host.engine.now()) < Duration::from_millis(50));
    stage.action(0, 2).await.succeed();
    host.until_status("stop", Status::Succeed).await;
}

#[tokio::test(start_paused = true)]
async fn a_precondition_that_does_not_hold_is_a_conflict() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.submit(&Plan::new("g").contained()).await;
    let read_before = |was: Option<&'static [u8]>| {
        let mut effects = put("mine");
        effects.expect(b"kshared", was.map(Bytes::from_static));
        effects
    };
    let first = stage.action(0, 1).await;
    host.store.local().commit(put("shared")).unwrap();
    first.effects(read_before(None));
    let second = stage.action(0, 1).await;
    assert_eq!(keys(&host), ["kshared"]);
    // Reads alone are checked too.
    let mut only_reads = Batch::new();
    only_reads.expect(b"kshared", None);
    second.effects(only_reads);
    stage.action(0, 1).await.effects(read_before(Some(b"1")));
    host.until_status("g", Status::Succeed).await;
    assert_eq!(keys(&host), ["kmine", "kshared"]);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_meets_a_compensation_and_an_external_plugin_as_well() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.submit(&Plan::new("g").contained().external()).await;
    stage.action(0, 1).await.effects(put("0"));
    // An external attempt has started, whatever becomes of its local effects: the next one is another.
    let attempt = stage.action(1, 1).await;
    host.store.conflict_next(1);
    attempt.effects(put("1"));
    stage.action(1, 2).await.reject();
    let mut undo = Batch::new();
    undo.delete(b"k1");
    let attempt = stage.compensation(1, 1).await;
    host.store.conflict_next(1);
    attempt.effects(undo.clone());
    stage.compensation(1, 2).await.effects(undo);
    let mut undo = Batch::new();
    undo.delete(b"k0");
    let attempt = stage.compensation(0, 1).await;
    host.store.conflict_next(1);
    attempt.effects(undo.clone());
    stage.compensation(0, 1).await.effects(undo);
    let saga = host.until_status("g", Status::Failed).await.saga;
    assert_eq!(saga.steps()[1].action.failures, 0);
    assert!(keys(&host).is_empty());
}

#[tokio::test(start_paused = true)]
async fn time_that_runs_out_between_conflicts_turns_the_saga_back() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.submit(&Plan::new("g").contained().with(|options| options.timeout_to_fail_s = 10)).await;
    let attempt = stage.action(0, 1).await;
    host.store.conflict_next(1);
    attempt.effects(put("0"));
    let mut again = stage.action(0, 1).await;
    again.given_up().await;
    host.until_status("g", Status::Failed).await;
    assert!(keys(&host).is_empty());
}

#[tokio::test(start_paused = true)]
async fn effects_that_are_too_large_are_a_failed_attempt() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.submit(&Plan::new("g").contained()).await;
    host.store.too_large_next(1);
    stage.action(0, 1).await.effects(put("0"));
    host.until_idle().await;
    let saga = host.find("g").await.saga;
    let action = &saga.steps()[0].action;
    assert_eq!((saga.status(), action.failures), (Status::Submitted, 1));
    assert!(action.last_error.as_deref().is_some_and(|error| error.contains("too large")), "{:?}", action.last_error);
    assert!(keys(&host).is_empty());
    stage.action(0, 2).await.effects(put("0"));
    host.until_status("g", Status::Succeed).await;
    settle().await;
    assert_eq!(keys(&host), ["k0"]);
}

/// Many sagas that read and write one counter: none is lost and none counts twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sagas_that_change_the_same_value_do_not_lose_each_others_changes() {
    let world = World::new(7, Troubles { rejected: 10, slow: 30, ..Troubles::default() });
    let host = world.begin_life(&Setup::new(world.map()));
    let clients: Vec<_> = (0..300)
        .map(|n| {
            let plan = Plan::new(format!("g{n}")).contained().contained().contained().wait();
            let plan = if n % 2 == 0 { plan } else { plan.concurrent() };
            let (engine, definition) = (host.engine.clone(), plan.now(&host.engine));
            tokio::spawn(async move { engine.submit(definition).await.map(|_| plan.gid) })
        })
        .collect();
    for client in clients {
        let gid: String = client.await.unwrap().unwrap();
        world.check_end(&host.find(&gid).await);
    }
    world.check();
}
