//! A saga that is retried for ever has a log that does not grow for ever.
//!
//! 1. However often it is tried, retried on request and restarted, what is stored of it stays small, and every count exact.
//! 2. The short log replaces the long one in one commit: a crash shows one of them.

use std::time::Duration;

use wasaga::saga::{Event, Saga, Status};
use wasaga_testkit::engine::{Host, Plan, Setup};

use crate::stage::Stage;

/// What the store holds of all logs, in bytes.
fn stored_bytes(host: &Host) -> usize {
    host.store.rows(b"s").iter().map(|(key, value)| key.len() + value.len()).sum()
}

/// About the longest log of a saga with one step whose errors are short.
const BYTES_MAX: usize = 16 << 10;

fn steady() -> Plan {
    Plan::new("g").external().with(|options| options.branch_headers = vec![("a".into(), "b".into())])
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_attempts_leave_a_small_log_and_exact_counts() {
    const ATTEMPTS: u32 = 10_000;
    let stage = Stage::new();
    let mut host = Setup::paused(stage.clone()).start();
    host.submit(&steady()).await;
    let mut failures = 0;
    for number in 1..=ATTEMPTS {
        let attempt = stage.action(0, number).await;
        match number % 10 {
            0 => attempt.fail(),
            _ => attempt.ongoing(Some(Duration::ZERO)),
        }
        failures += u32::from(number % 10 == 0);
        if number % 500 == 0 {
            host.until_idle().await;
            assert!(stored_bytes(&host) < BYTES_MAX, "{} bytes after {number} attempts", stored_bytes(&host));
            host = if number % 1000 == 0 { host.kill().await } else { host.stop(Duration::ZERO).await }.start();
            let saga = host.find("g").await.saga;
            let action = &saga.steps()[0].action;
            assert_eq!((action.attempts, action.failures, saga.retries()), (number, failures, number.into()));
            assert!(saga.steps()[0].reached && !action.open);
        }
    }
    // The limit that the client did not set, the cap of the backoff, the roll-back: all know what has been.
    stage.action(0, ATTEMPTS + 1).await.reject();
    for number in 1..=1000 {
        stage.compensation(0, number).await.fail();
        if number % 100 == 0 {
            host.until_idle().await;
            assert!(stored_bytes(&host) < BYTES_MAX);
        }
    }
    stage.compensation(0, 1001).await.succeed();
    let record = host.until_status("g", Status::Failed).await;
    let step = &record.saga.steps()[0];
    assert_eq!((step.action.attempts, step.action.failures), (ATTEMPTS + 1, failures));
    assert_eq!((step.compensation.attempts, step.compensation.failures), (1001, 1000));
    assert_eq!(record.saga, Saga::replay(record.saga.definition().clone(), &record.log).unwrap());
    assert!(record.log.len() < 150, "{}", record.log.len());
}

#[tokio::test(start_paused = true)]
async fn a_retry_limit_counts_what_the_log_no_longer_tells() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.submit(&Plan::new("g").contained().with(|options| options.retry_limit = 1000)).await;
    for _ in 1..=1001 {
        stage.next().await.ongoing(Some(Duration::ZERO));
    }
    let record = host.until_status("g", Status::Failed).await;
    assert!(record.log.iter().any(|event| matches!(event, Event::Retried { .. })));
    assert_eq!(record.saga.retries(), 1001);
    assert!(stage.is_quiet().await);
}

/// One step asks again and again while another takes its time: the saga never leaves memory.
#[tokio::test(start_paused = true)]
async fn a_saga_that_never_rests_has_a_small_log_too() {
    for step in ["contained", "external"] {
        let stage = Stage::new();
        let host = Setup::paused(stage.clone()).start();
        host.submit(&Plan::new("g").external().step(step, step).concurrent()).await;
        let (one, other) = (stage.next().await, stage.next().await);
        let (long, mut restless) = if one.call.branch_op.step == 0 { (one, other) } else { (other, one) };
        for number in 2..=2000 {
            restless.ongoing(Some(Duration::ZERO));
            restless = stage.action(1, number).await;
        }
        let record = host.find("g").await;
        assert!(record.log.len() < 200, "{}", record.log.len());
        assert!(stored_bytes(&host) < BYTES_MAX);
        assert_eq!(record.saga.steps()[1].action.attempts, if step == "external" { 2000 } else { 1999 });
        restless.succeed();
        long.succeed();
        host.until_status("g", Status::Succeed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn impatience_leaves_a_small_log_too() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let waiting = steady().with(|options| options.retry_interval_s = 1000);
    host.submit(&waiting).await;
    for number in 1..=300 {
        stage.action(0, number).await.fail();
        host.until_idle().await;
        if number % 2 == 0 { host.engine.retry_now("g").await.unwrap() } else { host.submit(&waiting).await }
    }
    let running = stage.action(0, 301).await;
    host.engine.prepare(Plan::new("prepared").contained().now(&host.engine)).await.unwrap();
    for _ in 0..300 {
        host.engine.retry_now("g").await.unwrap();
        host.engine.retry_now("prepared").await.unwrap();
    }
    assert!(host.find("g").await.log.len() < 200);
    assert!(host.find("prepared").await.log.len() < 200);
    running.succeed();
    assert_eq!(host.until_status("g", Status::Succeed).await.saga.steps()[0].action.attempts, 301);
    assert_eq!(host.find("prepared").await.saga.status(), Status::Prepared);
}

#[tokio::test(start_paused = true)]
async fn a_crash_shows_the_long_log_or_the_short_one() {
    let mut lengths = Vec::new();
    for attempts in 66..=78 {
        for sync in 1..=3 {
            let stage = Stage::new();
            let host = Setup::paused(stage.clone()).start();
            host.submit(&steady()).await;
            for number in 1..attempts {
                stage.action(0, number).await.fail();
            }
            let last = stage.action(0, attempts).await;
            // The failure, the start of the next attempt (and with it, once, the short log), and a short time later.
            host.disk.cut_at_sync(host.disk.syncs() + sync);
            last.fail();
            tokio::time::sleep(Duration::from_mins(5)).await;

            let host = host.kill().await.start();
            let record = host.find("g").await;
            let action = &record.saga.steps()[0].action;
            let (known, started) = (u32::from(sync > 1), u32::from(sync > 2));
            assert_eq!((action.attempts, action.failures), (attempts + started, attempts - 1 + known));
            lengths.push(record.log.len());
            let next = loop {
                let next = stage.next().await;
                if next.call.attempt > action.attempts {
                    break next;
                }
            };
            next.succeed();
            host.until_status("g", Status::Succeed).await;
        }
    }
    let short = lengths.iter().filter(|length| **length < 50).count();
    assert!(short > 3 && lengths.len() - short > 3, "{lengths:?}");
}
