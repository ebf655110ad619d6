//! A gated attempt is contained until it is let out, and external from then on.
//!
//! 1. That it started is on disk before it is let out, and with it all that it can have read; a crash right after does
//!    not forget it: the next attempt is another, a roll-back compensates it.
//! 2. One that never asks is as a contained one: no entry, no commit of its own, dropped and not compensated.
//! 3. One that is no longer wanted is not let out, whatever ended it: time, a roll-back, a person, a panic, the end of
//!    the host.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use wasaga::{
    branch::{self, Call},
    saga::{BranchOp, Event, Op, Status},
    store::{Batch, Store},
};
use wasaga_testkit::engine::{Host, Plan, Setup, settle, until};

use crate::stage::{Attempt, Stage, leave};

fn put(key: &str) -> Batch {
    let mut effects = Batch::new();
    effects.put(format!("k{key}"), b"1");
    effects
}

fn starts(log: &[Event]) -> Vec<BranchOp> {
    log.iter().filter(|event| matches!(event, Event::Started { .. })).filter_map(Event::branch_op).collect()
}

fn action(step: usize) -> BranchOp {
    BranchOp { step, op: Op::Action }
}

/// Asks, and checks that it is answered only when everything is on disk.
async fn leave_when_durable(host: &Host, attempt: &Attempt) {
    host.disk.hold();
    let mut leaving = Box::pin(attempt.leave());
    assert!((&mut leaving).now_or_never().is_none());
    settle().await;
    assert!((&mut leaving).now_or_never().is_none(), "let out with nothing on disk");
    host.disk.release();
    leaving.await.unwrap();
    assert!(host.store.barrier().is_durable(), "let out before what it can have read is on disk");
}

#[tokio::test]
async fn an_attempt_gets_egress_when_its_start_and_all_before_it_is_on_disk() {
    let stage = Stage::new();
    let host = Setup::new(stage.clone()).start();
    host.submit(&Plan::new("g").contained().gated()).await;
    stage.action(0, 1).await.effects(put("0"));
    let attempt = stage.action(1, 1).await;
    let commits = host.store.commits();
    assert!(starts(&host.find("g").await.log).is_empty());
    leave_when_durable(&host, &attempt).await;
    assert_eq!(starts(&host.find("g").await.log), [action(1)]);
    assert_eq!(host.store.commits(), commits + 1);
    // What others commit meanwhile it may have read when it leaves again.
    host.disk.hold();
    host.store.local().commit(put("other")).unwrap();
    let mut again = Box::pin(attempt.leave());
    assert!((&mut again).now_or_never().is_none(), "let out before what it can have read is on disk");
    host.disk.release();
    again.await.unwrap();
    assert_eq!(host.store.commits(), commits + 1, "it starts once");
    attempt.effects(put("1"));
    let saga = host.until_status("g", Status::Succeed).await.saga;
    assert_eq!(saga.steps()[1].action.attempts, 1, "counted once");
}

/// Several requests of one attempt, side by side.
#[tokio::test]
async fn an_attempt_with_two_requests_at_once_starts_once() {
    let stage = Stage::new();
    let host = Setup::new(stage.clone()).start();
    host.submit(&Plan::new("g").gated()).await;
    let attempt = stage.action(0, 1).await;
    host.disk.hold();
    let mut leaving = Box::pin(async { tokio::join!(attempt.leave(), attempt.leave()) });
    assert!((&mut leaving).now_or_never().is_none());
    settle().await;
    assert!((&mut leaving).now_or_never().is_none());
    host.disk.release();
    assert_eq!(leaving.await, (Ok(()), Ok(())));
    assert_eq!(starts(&host.find("g").await.log), [action(0)]);
    attempt.succeed();
    host.until_status("g", Status::Succeed).await;
}

#[tokio::test]
async fn a_crash_after_it_was_let_out_does_not_forget_it() {
    for goes_on in [true, false] {
        let stage = Stage::new();
        let host = Setup::new(stage.clone()).start();
        let plan = Plan::new("g").contained().gated().with(|options| options.retry_limit = 1);
        host.submit(&plan).await;
        stage.action(0, 1).await.effects(put("0"));
        let first = stage.action(1, 1).await;
        leave_when_durable(&host, &first).await;
        let host = host.kill().await.start();
        assert!(first.leave().await.is_err(), "its host is gone");
        // It is unknown how far the first one got: the second starts outside, and its number is its own.
        let second = stage.action(1, 2).await;
        assert_eq!(starts(&host.find("g").await.log), [action(1), action(1)]);
        let commits = host.store.commits();
        second.leave().await.unwrap();
        assert_eq!(host.store.commits(), commits);
        if goes_on {
            second.effects(put("1"));
            host.until_status("g", Status::Succeed).await;
        } else {
            second.reject();
            let back = stage.compensation(1, 1).await;
            assert_eq!(back.call.tried, None);
            back.succeed();
            let mut undo = Batch::new();
            undo.delete(b"k0");
            stage.compensation(0, 1).await.effects(undo);
            host.until_status("g", Status::Failed).await;
            assert!(host.store.rows(b"k").is_empty());
        }
    }
}

#[tokio::test]
async fn a_crash_before_its_start_is_on_disk_takes_it_back_and_it_was_not_let_out() {
    let stage = Stage::new();
    let host = Setup::new(stage.clone()).start();
    host.submit(&Plan::new("g").gated().with(|options| options.timeout_to_fail_s = 3600)).await;
    let first = stage.action(0, 1).await;
    host.disk.hold();
    let mut leaving = Box::pin(first.leave());
    assert!((&mut leaving).now_or_never().is_none());
    assert_eq!(host.store.commits(), 2, "written, but not on disk");
    let host = host.kill().await.start();
    assert!(leaving.await.is_err());
    let second = stage.action(0, 1).await;
    assert!(starts(&host.find("g").await.log).is_empty());
    second.reject();
    host.until_status("g", Status::Failed).await;
    assert!(stage.is_quiet().await, "there is nothing to compensate");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_without_egress_costs_nothing_and_needs_no_compensation() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    for is_rejected in [false, true] {
        let plan = Plan::new(format!("{is_rejected}")).gated().gated().gated().wait();
        let commits = host.store.commits();
        let (saga, ()) = tokio::join!(host.settle(&plan), async {
            for step in 0..2 {
                stage.action(step, 1).await.succeed();
            }
            let last = stage.action(2, 1).await;
            if is_rejected {
                last.reject();
                for step in [1, 0] {
                    stage.compensation(step, 1).await.succeed();
                }
            } else {
                last.succeed();
            }
        });
        assert_eq!(saga.status(), if is_rejected { Status::Failed } else { Status::Succeed });
        assert_eq!(host.store.commits(), commits + 1, "one commit for the whole saga");
        assert!(starts(&host.find(&plan.gid).await.log).is_empty());
        assert!(saga.steps().iter().all(|step| !step.reached && step.action.attempts == 1));
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_left_and_meets_a_conflict_is_followed_by_another_that_started() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.submit(&Plan::new("g").gated()).await;
    let first = stage.action(0, 1).await;
    first.leave().await.unwrap();
    host.store.conflict_next(1);
    first.effects(put("0"));
    let second = stage.action(0, 2).await;
    assert_eq!(starts(&host.find("g").await.log), [action(0), action(0)]);
    second.fail();
    // That one has ended; it is known that the third begins inside.
    let third = stage.action(0, 3).await;
    assert_eq!(starts(&host.find("g").await.log).len(), 2);
    third.reject();
    stage.compensation(0, 1).await.succeed();
    let saga = host.until_status("g", Status::Failed).await.saga;
    assert_eq!((saga.steps()[0].action.attempts, saga.steps()[0].action.failures), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn attempts_that_leave_are_counted_once_however_they_end() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.submit(&Plan::new("g").gated()).await;
    for attempt in 1..=6 {
        let running = stage.action(0, attempt).await;
        if attempt % 2 == 0 {
            running.leave().await.unwrap();
        }
        match attempt {
            1 | 2 => running.fail(),
            3 | 4 => running.ongoing(None),
            _ => running.panic(),
        }
    }
    stage.action(0, 7).await.reject();
    // A compensation leaves in the same way.
    stage.compensation(0, 1).await.fail();
    let back = stage.compensation(0, 2).await;
    back.leave().await.unwrap();
    back.fail();
    stage.compensation(0, 3).await.succeed();
    let record = host.until_status("g", Status::Failed).await;
    let step = &record.saga.steps()[0];
    assert_eq!((step.action.attempts, step.compensation.attempts, step.reached), (7, 3, true));
    assert_eq!(starts(&record.log).len(), 4);
}

/// Ends an attempt in one way or another, and hands over how it was called.
async fn end(attempt: Attempt, how: &str) -> (Call, branch::Host) {
    let late = (attempt.call.clone(), attempt.host.clone());
    match how {
        "fails" => attempt.fail_because("it took longer than it may"),
        "succeeds" => attempt.succeed(),
        "panics" => attempt.panic(),
        "conflicts" => attempt.effects(put("0")),
        other => panic!("{other}"),
    }
    settle().await;
    late
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_has_ended_is_not_let_out_late() {
    for has_left in [false, true] {
        for how in ["fails", "succeeds", "panics", "conflicts"] {
            let stage = Stage::new();
            let host = Setup::paused(stage.clone()).start();
            host.submit(&Plan::new("g").gated().gated()).await;
            let attempt = stage.action(0, 1).await;
            if has_left {
                attempt.leave().await.unwrap();
            }
            host.store.conflict_next(1);
            let late = end(attempt, how).await;
            let log = host.find("g").await.log;
            assert!(leave(&late.0, &late.1).await.is_err(), "{how}");
            // Nor by the next attempt's right, which has the same number after a conflict.
            let next = stage.next().await;
            assert!(leave(&late.0, &late.1).await.is_err(), "{how}");
            next.leave().await.unwrap();
            assert!(leave(&late.0, &late.1).await.is_err(), "{how}");
            assert!(host.find("g").await.log.starts_with(&log));
        }
    }
}

/// Turns a saga back while the action of its first step is in flight.
async fn turn_back(host: &Host, stage: &Stage, how: &str, has_left: bool) -> Attempt {
    let plan = Plan::new("g").gated().contained().concurrent();
    let plan = if how == "time" { plan.with(|options| options.timeout_to_fail_s = 10) } else { plan };
    host.submit(&plan).await;
    let (one, other) = (stage.next().await, stage.next().await);
    let (gated, contained) = if one.call.branch_op.step == 0 { (one, other) } else { (other, one) };
    if has_left {
        gated.leave().await.unwrap();
    }
    match how {
        "time" => {
            contained.succeed();
            tokio::time::sleep(Duration::from_secs(11)).await;
        }
        "sibling" => contained.reject(),
        "person" => host.engine.force_stop("g").await.unwrap(),
        other => panic!("{other}"),
    }
    settle().await;
    gated
}

#[tokio::test(start_paused = true)]
async fn a_roll_back_drops_the_attempt_that_is_inside_and_keeps_it_there() {
    for how in ["time", "sibling", "person"] {
        let stage = Stage::new();
        let host = Setup::paused(stage.clone()).start();
        let mut gated = turn_back(&host, &stage, how, false).await;
        gated.given_up().await;
        assert!(gated.leave().await.is_err(), "{how}");
        if how == "time" {
            stage.compensation(1, 1).await.succeed();
        }
        let record = host.until_status("g", Status::Failed).await;
        assert!(starts(&record.log).is_empty() && stage.is_quiet().await, "{how}: {:?}", record.log);
    }
}

#[tokio::test(start_paused = true)]
async fn a_roll_back_waits_for_the_attempt_that_is_outside_and_compensates_it() {
    for how in ["time", "sibling"] {
        for ends in ["fails", "succeeds", "panics"] {
            let stage = Stage::new();
            let host = Setup::paused(stage.clone()).start();
            let gated = turn_back(&host, &stage, how, true).await;
            assert!(!gated.is_given_up());
            gated.leave().await.unwrap();
            if how == "time" {
                stage.compensation(1, 1).await.succeed();
            }
            assert!(stage.is_quiet().await, "compensated while its action runs");
            let late = end(gated, ends).await;
            let back = stage.compensation(0, 1).await;
            assert_eq!(back.call.tried.is_some(), ends == "succeeds");
            assert!(leave(&late.0, &late.1).await.is_err());
            back.succeed();
            host.until_status("g", Status::Failed).await;
        }
    }
    // A person who stops it does not wait.
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let mut gated = turn_back(&host, &stage, "person", true).await;
    gated.given_up().await;
    assert!(gated.leave().await.is_err());
}

/// The roll-back comes while the attempt's start is on its way to the disk: it is held back, but it has started.
#[tokio::test]
async fn a_roll_back_that_meets_an_attempt_on_its_way_out_holds_it_back_and_compensates_it() {
    let stage = Stage::new();
    let host = Setup::new(stage.clone()).start();
    host.submit(&Plan::new("g").gated().contained().concurrent()).await;
    let (one, other) = (stage.next().await, stage.next().await);
    let (gated, contained) = if one.call.branch_op.step == 0 { (one, other) } else { (other, one) };
    host.disk.hold();
    let mut leaving = Box::pin(gated.leave());
    assert!((&mut leaving).now_or_never().is_none());
    contained.reject();
    settle().await;
    host.disk.release();
    assert!(leaving.await.is_err());
    assert!(stage.is_quiet().await && !gated.is_given_up());
    gated.fail();
    stage.compensation(0, 1).await.succeed();
    host.until_status("g", Status::Failed).await;
}

#[tokio::test]
async fn an_attempt_whose_driver_has_gone_is_not_let_out() {
    // The driver panics while another step's attempt runs.
    let stage = Stage::new();
    let host = Setup::new(stage.clone()).start();
    let plan = Plan::new("g").gated().contained().step("contained:trap", "").concurrent().after(2, &[1]);
    host.submit(&plan).await;
    let (one, other) = (stage.next().await, stage.next().await);
    let (gated, contained) = if one.call.branch_op.step == 0 { (one, other) } else { (other, one) };
    stage.trap("contained:trap");
    contained.succeed();
    host.until_idle().await;
    assert!(gated.leave().await.is_err());
    assert!(starts(&host.find("g").await.log).is_empty());

    // The host gives it up.
    let stage = Stage::new();
    let host = Setup::new(stage.clone()).start();
    host.submit(&Plan::new("g").gated()).await;
    let gated = stage.action(0, 1).await;
    host.engine.stop(Duration::ZERO).await;
    assert!(gated.leave().await.is_err());
    assert!(starts(&host.find("g").await.log).is_empty());
}

/// A host that stops lets what runs come to its end, which may be outside.
#[tokio::test]
async fn an_attempt_may_leave_in_the_grace_of_a_host_that_stops() {
    let stage = Stage::new();
    let host = Setup::new(stage.clone()).start();
    host.submit(&Plan::new("g").gated()).await;
    let gated = stage.action(0, 1).await;
    let engine = host.engine.clone();
    let stopping = tokio::spawn(async move { engine.stop(Duration::from_secs(30)).await });
    settle().await;
    gated.leave().await.unwrap();
    gated.succeed();
    stopping.await.unwrap();
    assert_eq!(host.find("g").await.saga.status(), Status::Succeed);
}

#[tokio::test]
async fn a_store_that_fails_lets_nobody_out_and_is_noticed() {
    let stage = Stage::new();
    let host = Setup::new(stage.clone()).start();
    host.submit(&Plan::new("g").gated()).await;
    let gated = stage.action(0, 1).await;
    host.store.fail_from(host.store.commits() + 1);
    assert!(gated.leave().await.is_err());
    tokio::time::timeout(Duration::from_secs(10), host.engine.store_failed()).await.unwrap();
}

#[tokio::test]
async fn only_gated_attempts_have_a_way_out_and_it_does_not_keep_the_host() {
    let stage = Stage::new();
    let host = Setup::new(stage.clone()).start();
    host.submit(&Plan::new("g").contained().external().gated()).await;
    for step in 0..2 {
        let attempt = stage.action(step, 1).await;
        assert!(attempt.host.egress.is_none());
        attempt.succeed();
    }
    let gated = stage.action(2, 1).await;
    let store = Arc::downgrade(&host.store);
    host.stop(Duration::ZERO).await;
    until(async || store.upgrade().is_none().then_some(())).await;
    assert!(gated.leave().await.is_err());
}
