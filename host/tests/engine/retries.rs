//! Retries, limits and timers, in paused time.
//!
//! 1. Between failed attempts the wait doubles from the interval to the cap, plus up to a quarter at random.
//! 2. Attempts are counted over restarts; an external attempt that started is never forgotten.
//! 3. `ongoing` waits as long as asked, within bounds, and is no failure.
//! 4. `retry_limit` waits between attempts, turns the saga back, and does not apply to compensations, which are tried
//!    for ever.
//! 5. `timeout_to_fail` turns back a saga whatever it is doing, but an attempt that may have an effect is awaited.

use std::time::Duration;

use wasaga::saga::{AbortReason, Policy, Status, Timestamp, state::Reason};
use wasaga_testkit::engine::{Host, Plan, Setup, settle};

use crate::stage::{Attempt, Stage};

const SECOND: Duration = Duration::from_secs(1);

/// Whether the wait from `from` until now is this one, give or take the jitter and the timer's millisecond.
fn is_backoff(host: &Host, from: Timestamp, wait: Duration) -> bool {
    let waited = from.until(host.engine.now());
    wait <= waited && waited <= wait + wait / 4 + Duration::from_millis(3)
}

/// Fails every attempt it is given, and checks the waits between them; returns the next attempt.
async fn fail_with_waits(
    host: &Host,
    mut attempt: Attempt,
    next: impl AsyncFn(u32) -> Attempt,
    waits: &[Duration],
) -> (Attempt, Vec<Duration>) {
    let mut waited = Vec::new();
    for wait in waits {
        let (number, from) = (attempt.call.attempt, host.engine.now());
        attempt.fail();
        attempt = next(number + 1).await;
        assert!(is_backoff(host, from, *wait), "{:?} before attempt {}", from.until(host.engine.now()), number + 1);
        waited.push(from.until(host.engine.now()));
    }
    (attempt, waited)
}

fn doubling(first: u64, cap: u64, count: u32) -> Vec<Duration> {
    (0..count).map(|n| Duration::from_secs((first << n).min(cap.max(first)))).collect()
}

#[tokio::test(start_paused = true)]
async fn waits_double_up_to_the_cap_with_jitter() {
    for step in ["contained", "external"] {
        let stage = Stage::new();
        let host = Setup::paused(stage.clone()).start();
        host.submit(&Plan::new("g").step(step, step).step(step, step)).await;
        let first = stage.action(0, 1).await;
        let (last, waited) =
            fail_with_waits(&host, first, async |n| stage.action(0, n).await, &doubling(1, 60, 12)).await;
        let at_cap: std::collections::BTreeSet<_> = waited.iter().skip(6).collect();
        assert!(at_cap.len() > 1, "no jitter: {waited:?}");
        last.succeed();
        // Another step begins anew, and so does a compensation.
        let second = stage.action(1, 1).await;
        let (last, _) = fail_with_waits(&host, second, async |n| stage.action(1, n).await, &doubling(1, 60, 3)).await;
        last.reject();
        let step = usize::from(step == "external");
        let back = stage.compensation(step, 1).await;
        let (last, _) =
            fail_with_waits(&host, back, async |n| stage.compensation(step, n).await, &doubling(1, 60, 9)).await;
        last.succeed();
        if step == 1 {
            stage.compensation(0, 1).await.succeed();
        }
        host.until_status("g", Status::Failed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_saga_sets_its_own_interval_beyond_the_cap_too() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    for (interval, waits) in [(10, doubling(10, 60, 5)), (100, doubling(100, 60, 5))] {
        let plan = Plan::new(format!("g{interval}")).external();
        host.submit(&plan.with(|options| options.retry_interval_s = interval)).await;
        let first = stage.action(0, 1).await;
        let (last, _) = fail_with_waits(&host, first, async |n| stage.action(0, n).await, &waits).await;
        last.succeed();
        host.until_idle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn absurd_numbers_are_survived() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let plan = Plan::new("g").external().external().with(|options| {
        options.retry_interval_s = u64::MAX;
        options.timeout_to_fail_s = u64::MAX;
        options.request_timeout_s = u64::MAX;
        options.retry_limit = u64::MAX;
    });
    host.submit(&plan).await;
    let first = stage.action(0, 1).await;
    assert_eq!(first.call.timeout, Duration::from_mins(5));
    first.fail();
    host.until_idle().await;
    host.engine.retry_now("g").await.unwrap();
    stage.action(0, 2).await.ongoing(Some(Duration::MAX));
    host.until_idle().await;
    host.engine.retry_now("g").await.unwrap();
    stage.action(0, 3).await.succeed();
    stage.action(1, 1).await.succeed();
    host.until_status("g", Status::Succeed).await;
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_set_to_retry_at_once_does_not_spin() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).with(|settings| settings.policy.retry_interval = Duration::ZERO).start();
    host.submit(&Plan::new("g").contained()).await;
    for number in 1..=5 {
        stage.action(0, number).await.fail();
        assert!(stage.is_quiet().await, "tried again at once");
    }
}

#[tokio::test(start_paused = true)]
async fn bounds_set_the_wrong_way_round_are_survived() {
    let stage = Stage::new();
    let setup = Setup::paused(stage.clone()).with(|settings| settings.policy.ongoing_max = Duration::from_millis(1));
    let host = setup.start();
    host.submit(&Plan::new("g").contained()).await;
    stage.action(0, 1).await.ongoing(Some(SECOND));
    stage.action(0, 2).await.succeed();
    host.until_status("g", Status::Succeed).await;
}

#[tokio::test(start_paused = true)]
async fn attempts_and_backoff_survive_a_restart() {
    for step in ["contained", "external"] {
        let stage = Stage::new();
        let mut host = Setup::paused(stage.clone()).start();
        host.submit(&Plan::new("g").step(step, step)).await;
        let mut attempt = stage.action(0, 1).await;
        for (number, wait) in (1..).zip(doubling(1, 60, 8)) {
            let from = host.engine.now();
            attempt.fail();
            host.until_idle().await;
            // In peace, or all at once: what waits is on disk.
            host = if number % 2 == 0 { host.stop(Duration::ZERO).await } else { host.kill().await }.start();
            attempt = stage.action(0, number + 1).await;
            assert!(is_backoff(&host, from, wait), "{:?} before attempt {}", from.until(host.engine.now()), number + 1);
        }
        attempt.succeed();
        let saga = host.until_status("g", Status::Succeed).await.saga;
        let action = &saga.steps()[0].action;
        assert_eq!((action.attempts, action.failures, saga.retries()), (9, 8, 8));
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_a_crash_cut_off_is_counted_if_it_may_have_had_an_effect() {
    let stage = Stage::new();
    let mut host = Setup::paused(stage.clone()).start();
    host.submit(&Plan::new("external").external()).await;
    for number in 1..=5 {
        let _cut_off = stage.action(0, number).await;
        host = host.kill().await.start();
    }
    stage.action(0, 6).await.succeed();
    assert_eq!(host.until_status("external", Status::Succeed).await.saga.steps()[0].action.attempts, 6);

    host.submit(&Plan::new("contained").contained()).await;
    for _ in 1..=5 {
        let _cut_off = stage.action(0, 1).await;
        host = host.kill().await.start();
    }
    stage.action(0, 1).await.succeed();
    host.until_status("contained", Status::Succeed).await;
}

#[tokio::test(start_paused = true)]
async fn ongoing_waits_as_asked_within_bounds_and_is_no_failure() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let policy = Policy::default();
    host.submit(&Plan::new("g").external()).await;
    let mut attempt = stage.action(0, 1).await;
    let asked = [
        (None, policy.retry_interval),
        (Some(Duration::ZERO), policy.ongoing_min),
        (Some(Duration::from_millis(700)), Duration::from_millis(700)),
        (Some(Duration::from_hours(48)), policy.ongoing_max),
        (None, policy.retry_interval),
    ];
    for (number, (asked, wait)) in (2..).zip(asked.into_iter().cycle().take(20)) {
        let from = host.engine.now();
        attempt.ongoing(asked);
        attempt = stage.action(0, number).await;
        let waited = from.until(host.engine.now());
        assert!(wait <= waited && waited <= wait + Duration::from_millis(3), "{waited:?} instead of {wait:?}");
    }
    let saga = host.find("g").await.saga;
    assert_eq!(saga.steps()[0].action.failures, 0);
    assert!(!saga.is_stuck(&policy));
    // A failure now is the first one.
    let (last, _) = fail_with_waits(&host, attempt, async |n| stage.action(0, n).await, &doubling(1, 60, 2)).await;
    last.succeed();
    host.until_status("g", Status::Succeed).await;
}

#[tokio::test(start_paused = true)]
async fn a_retry_limit_waits_between_attempts_and_then_turns_back() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.submit(&Plan::new("g").contained().external().with(|options| options.retry_limit = 3)).await;
    // The counter is the saga's: one failure here, and "ongoing" counts too.
    let first = stage.action(0, 1).await;
    let (first, _) = fail_with_waits(&host, first, async |n| stage.action(0, n).await, &[SECOND]).await;
    first.succeed();
    let second = stage.action(1, 1).await;
    let (second, _) = fail_with_waits(&host, second, async |n| stage.action(1, n).await, &[SECOND]).await;
    second.ongoing(None);
    stage.action(1, 3).await.fail();
    // No limit for compensations, whatever they answer.
    for number in 1..=30 {
        let back = stage.compensation(1, number).await;
        if number % 3 == 0 { back.reject() } else { back.fail() }
    }
    stage.compensation(1, 31).await.succeed();
    stage.compensation(0, 1).await.succeed();
    let saga = host.until_status("g", Status::Failed).await.saga;
    assert_eq!(saga.reason(), Some(&Reason::Aborted(AbortReason::RetryLimit)));
    assert_eq!(saga.retries(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_retry_limit_reached_by_contained_attempts_leaves_nothing_to_take_back() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let plan = Plan::new("g").contained().with(|options| options.retry_limit = 1);
    host.submit(&plan).await;
    stage.action(0, 1).await.fail();
    stage.action(0, 2).await.fail();
    host.until_status("g", Status::Failed).await;
    assert!(stage.is_quiet().await, "compensated what has had no effect");
}

fn timed(gid: &str) -> Plan {
    Plan::new(gid).with(|options| {
        options.timeout_to_fail_s = 100;
        options.retry_interval_s = 1000;
    })
}

/// How long ago the saga was created.
fn age(host: &Host, gid_created: Timestamp) -> Duration {
    gid_created.until(host.engine.now())
}

#[tokio::test(start_paused = true)]
async fn time_runs_out_while_the_saga_waits() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let start = host.engine.now();
    host.submit(&timed("g").contained().external()).await;
    stage.action(0, 1).await.succeed();
    stage.action(1, 1).await.fail();
    let back = stage.compensation(1, 1).await;
    assert!(age(&host, start) >= 100 * SECOND && age(&host, start) < 101 * SECOND);
    assert_eq!(back.call.tried, None);
    back.succeed();
    stage.compensation(0, 1).await.succeed();
    let saga = host.until_status("g", Status::Failed).await.saga;
    assert_eq!(saga.reason(), Some(&Reason::Aborted(AbortReason::Timeout)));
}

#[tokio::test(start_paused = true)]
async fn time_runs_out_while_the_host_is_down() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.submit(&timed("g").contained().external()).await;
    stage.action(0, 1).await.succeed();
    let _cut_off = stage.action(1, 1).await;
    let setup = host.kill().await;
    tokio::time::sleep(200 * SECOND).await;
    let host = setup.start();
    stage.compensation(1, 1).await.succeed();
    stage.compensation(0, 1).await.succeed();
    host.until_status("g", Status::Failed).await;
}

#[tokio::test(start_paused = true)]
async fn an_external_attempt_that_runs_when_time_runs_out_is_awaited_and_compensated() {
    for end in ["succeeds", "fails", "is ongoing", "is rejected"] {
        let stage = Stage::new();
        let host = Setup::paused(stage.clone()).start();
        host.submit(&timed("g").external().external()).await;
        let late = stage.action(0, 1).await;
        tokio::time::sleep(150 * SECOND).await;
        assert!(stage.is_quiet().await, "compensated while the action runs");
        assert_eq!(host.find("g").await.saga.status(), Status::Aborting);
        assert!(!late.is_given_up());
        match end {
            "succeeds" => late.output("late"),
            "fails" => late.fail(),
            "is ongoing" => late.ongoing(None),
            _ => late.reject(),
        }
        let from = host.engine.now();
        let back = stage.compensation(0, 1).await;
        assert_eq!(host.engine.now(), from, "the compensation waits for nothing");
        assert_eq!(back.call.tried.as_deref(), (end == "succeeds").then_some("late"));
        back.succeed();
        let saga = host.until_status("g", Status::Failed).await.saga;
        assert_eq!(saga.reason(), Some(&Reason::Aborted(AbortReason::Timeout)), "the first reason stands");
        assert!(stage.is_quiet().await, "the second step was never reached");
    }
}

#[tokio::test(start_paused = true)]
async fn a_contained_attempt_that_runs_when_time_runs_out_is_dropped() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let start = host.engine.now();
    host.submit(&timed("g").contained().contained()).await;
    stage.action(0, 1).await.succeed();
    let mut late = stage.action(1, 1).await;
    late.given_up().await;
    assert!(age(&host, start) >= 100 * SECOND && age(&host, start) < 101 * SECOND);
    late.succeed();
    stage.compensation(0, 1).await.succeed();
    let saga = host.until_status("g", Status::Failed).await.saga;
    assert_eq!(saga.steps()[1].action.attempts, 0);
    assert!(stage.is_quiet().await, "compensated what has had no effect");
}

#[tokio::test(start_paused = true)]
async fn time_that_runs_out_after_everything_is_done_changes_nothing() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.submit(&timed("g").external().external()).await;
    stage.action(0, 1).await.succeed();
    tokio::time::sleep(99 * SECOND).await;
    stage.action(1, 1).await.succeed();
    host.until_status("g", Status::Succeed).await;
    tokio::time::sleep(99 * SECOND).await;
    assert!(stage.is_quiet().await);
    assert_eq!(host.find("g").await.saga.status(), Status::Succeed);
    assert_eq!(host.engine.counts().open, 0);
}

#[tokio::test(start_paused = true)]
async fn a_timer_does_not_limit_compensations() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.submit(&timed("g").external()).await;
    stage.action(0, 1).await.reject();
    for number in 1..=5 {
        stage.compensation(0, number).await.fail();
        host.until_idle().await;
    }
    assert!(host.find("g").await.saga.updated_at() > host.find("g").await.saga.definition().created_at());
    stage.compensation(0, 6).await.succeed();
    let saga = host.until_status("g", Status::Failed).await.saga;
    assert_eq!(saga.reason(), Some(&Reason::Rejected { step: 0 }));
}

#[tokio::test(start_paused = true)]
async fn a_saga_that_keeps_failing_is_stuck_until_it_succeeds() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let policy = *host.engine.policy();
    host.submit(&Plan::new("g").external().external()).await;
    for number in 1..=policy.stuck_after + 5 {
        stage.action(0, number).await.fail();
        host.until_idle().await;
        let saga = host.find("g").await.saga;
        assert_eq!(saga.is_stuck(&policy), number > policy.stuck_after);
        assert_eq!(saga.status(), Status::Submitted);
    }
    stage.action(0, policy.stuck_after + 6).await.succeed();
    let second = stage.action(1, 1).await;
    assert!(!host.find("g").await.saga.is_stuck(&policy));
    second.succeed();
    host.until_status("g", Status::Succeed).await;
}

#[tokio::test(start_paused = true)]
async fn a_saga_tries_at_once_after_a_retry_request() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let plan = Plan::new("g").external().external().concurrent().with(|options| options.retry_interval_s = 1000);
    host.submit(&plan).await;
    for _ in 0..2 {
        stage.next().await.fail();
    }
    host.until_idle().await;
    let from = host.engine.now();
    host.engine.retry_now("g").await.unwrap();
    let (one, other) = (stage.next().await, stage.next().await);
    assert_eq!((one.call.attempt, other.call.attempt, host.engine.now()), (2, 2, from));
    // A retry request for a running attempt starts nothing.
    host.engine.retry_now("g").await.unwrap();
    assert!(stage.is_quiet().await);
    one.reject();
    other.fail();
    let (one, other) = (stage.next().await, stage.next().await);
    assert!(one.call.is_compensation() && other.call.is_compensation());
    let step = one.call.branch_op.step;
    one.fail();
    other.succeed();
    host.until_idle().await;
    let from = host.engine.now();
    host.engine.retry_now("g").await.unwrap();
    stage.compensation(step, 2).await.succeed();
    assert_eq!(host.engine.now(), from);
    host.until_status("g", Status::Failed).await;
    settle().await;
    // The timers of the shortened waits have no effect.
    tokio::time::sleep(5000 * SECOND).await;
    assert!(stage.is_quiet().await);
}
