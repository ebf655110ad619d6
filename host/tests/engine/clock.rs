//! The wall clock goes back, or forward, while no host runs, in paused time.
//!
//! 1. A wait that was recorded ahead of the clock begins anew: a retry, and `timeout_to_fail`, come after their own wait at
//!    the latest, or after the host's longest one if the clock has gone back by less than that.
//! 2. It begins anew once, and not at every start.
//! 3. Waits that were not recorded ahead of the clock stay, however long, and cost nothing.
//! 4. When the clock goes forward, what has become due is due.

use std::time::Duration;

use wasaga::{
    engine::Clock,
    saga::{AbortReason, Policy, Status, Timestamp, render, state::Reason},
};
use wasaga_testkit::engine::{Host, Plan, Setup, settle};

use crate::stage::Stage;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);

/// Give or take the timer's millisecond.
const SOON: Duration = Duration::from_millis(5);

/// The host is killed, and starts when the clock has gone back by this much.
async fn back(host: Host, by: Duration) -> Host {
    let now = host.engine.now();
    restart_at(host, Timestamp(now.0 - u64::try_from(by.as_millis()).unwrap())).await
}

async fn restart_at(host: Host, wall: Timestamp) -> Host {
    let mut setup = host.kill().await;
    setup.clock = Clock::at(wall);
    setup.start()
}

fn is_about(wait: Duration, waited: Duration) -> bool {
    wait <= waited + SOON && waited <= wait + SOON
}

fn waited(host: &Host, from: Timestamp) -> Duration {
    from.until(host.engine.now())
}

#[tokio::test(start_paused = true)]
async fn a_retry_waits_no_longer_than_the_longest_wait_however_far_the_clock_goes_back() {
    let jumps = [1, 20, 73, 74, 75, 76, 80, 3600, 6 * 3600, 10 * 365 * 86_400];
    for (step, jump) in ["contained", "external"].into_iter().flat_map(|step| jumps.map(|jump| (step, jump * SECOND))) {
        let stage = Stage::new();
        let host = Setup::paused(stage.clone()).start();
        host.submit(&Plan::new("g").step(step, step)).await;
        stage.action(0, 1).await.fail();
        host.until_idle().await;
        let host = back(host, jump).await;
        let from = host.engine.now();
        let own = SECOND + SECOND / 4 + SOON;
        let longest = if jump < Policy::default().backoff_max() { jump + own } else { own };
        stage.action(0, 2).await.succeed();
        let waited = waited(&host, from);
        assert!(waited <= longest.min(Policy::default().backoff_max() + own), "{step}, {jump:?}: {waited:?}");
        assert!(jump < 80 * SECOND || waited >= SECOND, "{step}, {jump:?}: {waited:?} is no backoff");
        let saga = host.until_status("g", Status::Succeed).await.saga;
        assert_eq!((saga.retries(), saga.steps()[0].action.attempts), (1, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_compensation_is_retried_too() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.submit(&Plan::new("g").external().external()).await;
    stage.action(0, 1).await.succeed();
    stage.action(1, 1).await.reject();
    stage.compensation(1, 1).await.succeed();
    stage.compensation(0, 1).await.fail();
    host.until_idle().await;
    let host = back(host, 6 * HOUR).await;
    let from = host.engine.now();
    stage.compensation(0, 2).await.succeed();
    assert!(waited(&host, from) <= 2 * SECOND);
    host.until_status("g", Status::Failed).await;
}

#[tokio::test(start_paused = true)]
async fn a_long_wait_begins_anew_once() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.submit(&Plan::new("g").external()).await;
    stage.action(0, 1).await.ongoing(Some(HOUR));
    host.until_idle().await;
    tokio::time::sleep(HOUR / 6).await;
    // By less than the wait, and by more.
    let mut host = host;
    for jump in [HOUR / 2, 6 * HOUR] {
        host = back(host, jump).await;
        settle().await;
    }
    let from = host.engine.now();
    // Starts without a jump do not delay it; nor does one as the clock catches up with what was recorded.
    for _ in 0..3 {
        tokio::time::sleep(HOUR / 4).await;
        host = host.kill().await.start();
        settle().await;
    }
    stage.action(0, 2).await.succeed();
    let waited = waited(&host, from);
    assert!(is_about(HOUR, waited), "{waited:?}");
    host.until_status("g", Status::Succeed).await;
}

#[tokio::test(start_paused = true)]
async fn a_timeout_begins_anew_once() {
    for (jump, is_running) in [(HOUR / 4, false), (6 * HOUR, false), (HOUR / 4, true), (6 * HOUR, true)] {
        let stage = Stage::new();
        let host = Setup::paused(stage.clone()).start();
        host.submit(&Plan::new("g").contained().with(|options| {
            options.timeout_to_fail_s = 3600;
            options.request_timeout_s = 86_400;
        }))
        .await;
        let attempt = stage.action(0, 1).await;
        if !is_running {
            attempt.ongoing(Some(20 * HOUR));
            host.until_idle().await;
        }
        let mut host = back(host, jump).await;
        let from = host.engine.now();
        let mut running = Vec::new();
        for _ in 0..3 {
            if is_running {
                running.push(stage.action(0, 1).await);
            }
            tokio::time::sleep(HOUR / 4).await;
            host = host.kill().await.start();
            settle().await;
        }
        if is_running {
            running.push(stage.action(0, 1).await);
        }
        let saga = host.until_status("g", Status::Failed).await.saga;
        assert_eq!(saga.reason(), Some(&Reason::Aborted(AbortReason::Timeout)));
        let waited = waited(&host, from);
        assert!(HOUR <= waited + SOON && waited <= HOUR + 2 * SECOND, "{jump:?}, {is_running}: {waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_steps_of_a_concurrent_saga_keep_their_own_waits() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.submit(&Plan::new("g").external().external().external().concurrent()).await;
    let (first, second, _cut_off) = (stage.next().await, stage.next().await, stage.next().await);
    first.ongoing(Some(2 * HOUR));
    second.ongoing(Some(HOUR));
    settle().await;
    // What is shown is on disk.
    host.find("g").await;
    let host = back(host, 6 * HOUR).await;
    let from = host.engine.now();
    stage.action(2, 2).await.succeed();
    assert!(waited(&host, from) <= SOON, "what ran is repeated at once");
    stage.action(1, 2).await.succeed();
    assert!(is_about(HOUR, waited(&host, from)));
    stage.action(0, 2).await.succeed();
    assert!(is_about(2 * HOUR, waited(&host, from)));
    host.until_status("g", Status::Succeed).await;
}

#[tokio::test(start_paused = true)]
async fn long_waits_that_were_not_recorded_ahead_stay_and_cost_nothing() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.submit(&Plan::new("ongoing").external()).await;
    stage.next().await.ongoing(Some(24 * HOUR));
    host.submit(&Plan::new("interval").external().with(|options| options.retry_interval_s = 7200)).await;
    stage.next().await.fail();
    host.submit(&Plan::new("timeout").external().with(|options| options.timeout_to_fail_s = 86_400)).await;
    stage.next().await.ongoing(Some(23 * HOUR));
    host.until_idle().await;
    let before = host.find("ongoing").await;
    tokio::time::sleep(HOUR).await;
    // Back, but not behind what was recorded.
    let host = back(host, HOUR / 2).await;
    settle().await;
    assert_eq!(host.store.commits(), 0);
    assert_eq!(host.find("ongoing").await, before);
    let from = host.engine.now();
    assert_eq!(stage.action(0, 2).await.call.saga.gid().as_str(), "interval");
    assert!(waited(&host, from) < 2 * HOUR);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_first_finds_the_waits_begun_anew() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let plan = Plan::new("g").external().external().concurrent();
    host.submit(&plan).await;
    for _ in 0..2 {
        stage.next().await.ongoing(Some(HOUR));
    }
    host.until_idle().await;
    let host = back(host, 6 * HOUR).await;
    // Before any other task of the host has run.
    host.engine.retry_now("g").await.unwrap();
    for _ in 0..2 {
        stage.next().await.succeed();
    }
    host.until_status("g", Status::Succeed).await;
}

#[tokio::test(start_paused = true)]
async fn people_see_what_was_recorded_and_when_it_goes_on() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.submit(&Plan::new("g").external()).await;
    stage.action(0, 1).await.fail();
    host.until_idle().await;
    let before = host.find("g").await;
    let host = back(host, 6 * HOUR).await;
    settle().await;
    let after = host.find("g").await;
    assert_eq!(after.saga.definition(), before.saga.definition());
    assert_eq!(after.log[..before.log.len()], before.log[..]);
    let action = &after.saga.steps()[0].action;
    assert_eq!(action.last_error, before.saga.steps()[0].action.last_error);
    assert!(action.retry_at.unwrap() <= host.engine.now().after(2 * SECOND));
    let text = render::log(after.saga.definition(), &after.log).unwrap();
    assert!(text.lines().last().unwrap().contains("the clock went back before this, tried again in 1"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn many_waits_begin_anew_in_batches() {
    const SAGAS: usize = 600;
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    for n in 0..SAGAS {
        host.submit(&Plan::new(format!("g{n}")).external()).await;
        stage.next().await.ongoing(Some(HOUR));
    }
    host.until_idle().await;
    let host = back(host, 6 * HOUR).await;
    let from = host.engine.now();
    for _ in 0..SAGAS {
        stage.next().await.succeed();
        assert!(waited(&host, from) <= HOUR + SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_has_gone_forward_makes_all_due_that_it_has_passed() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.submit(&Plan::new("retry").external()).await;
    stage.next().await.ongoing(Some(HOUR));
    host.submit(&Plan::new("timeout").contained().with(|options| options.timeout_to_fail_s = 3600)).await;
    stage.next().await.ongoing(Some(20 * HOUR));
    host.submit(&Plan::new("later").external()).await;
    stage.next().await.ongoing(Some(20 * HOUR));
    host.until_idle().await;
    let wall = host.engine.now().after(6 * HOUR);
    let host = restart_at(host, wall).await;
    let from = host.engine.now();
    stage.action(0, 2).await.succeed();
    host.until_status("retry", Status::Succeed).await;
    host.until_status("timeout", Status::Failed).await;
    assert!(waited(&host, from) <= SECOND);
    assert!(stage.is_quiet().await);
}
