//! Many guests at once.

use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use wasaga::plugin::Limits;

use super::*;

#[tokio::test]
async fn calls_beyond_the_pool_wait_for_a_place() {
    let registry = chaos(&Settings { slots: 2, ..Settings::default() });
    let branch = branch(&registry, "chaos", Op::Action);
    let mut calls = JoinSet::new();
    for _ in 0..8 {
        let branch = branch.clone();
        calls.spawn(async move { branch.call(&call(Op::Action, r#"{"try":"sleep","ms":20}"#), &host()).await });
    }
    while let Some(outcome) = calls.join_next().await {
        assert_eq!(output(outcome.unwrap()), Value::Null);
    }
}

/// That the host is full is not the guest's fault, nor a failure of its saga.
#[tokio::test]
async fn waiting_for_a_place_is_no_time_of_the_attempt() {
    let registry = chaos(&Settings { slots: 1, ..Settings::default() });
    let branch = branch(&registry, "chaos", Op::Action);
    let sleeper = tokio::spawn({
        let branch = branch.clone();
        async move { branch.call(&call(Op::Action, r#"{"try":"sleep","ms":1500}"#), &host()).await }
    });
    // The only thread runs the sleeper until it sleeps.
    tokio::task::yield_now().await;
    let late = Call { timeout: Duration::from_secs(1), ..call(Op::Action, "{}") };
    assert_eq!(output(branch.call(&late, &host()).await), Value::Null);
    assert_eq!(output(sleeper.await.unwrap()), Value::Null);
}

#[tokio::test]
async fn an_attempt_that_is_given_up_leaves_its_place_at_once() {
    let registry = chaos(&Settings { slots: 1, ..Settings::default() });
    let branch = branch(&registry, "chaos", Op::Action);
    let sleeper = tokio::spawn({
        let branch = branch.clone();
        async move { branch.call(&call(Op::Action, r#"{"try":"sleep","ms":60000}"#), &host()).await }
    });
    tokio::task::yield_now().await;
    sleeper.abort();
    assert!(sleeper.await.unwrap_err().is_cancelled());
    assert_eq!(output(branch.call(&call(Op::Action, "{}"), &host()).await), Value::Null);
}

/// A folder where chaos goes by two names.
fn twins(settings: &Settings) -> Registry {
    let dir = tempfile::tempdir().unwrap();
    for name in ["slow", "quick"] {
        std::fs::write(dir.path().join(name).with_extension("wasm"), component("fixtures", "chaos")).unwrap();
    }
    load(settings, dir.path())
}

/// However many attempts of one plugin wait for something, others have places; and as many as it has places run.
#[tokio::test]
async fn a_plugin_that_waits_keeps_nobody_else_out() {
    let registry = twins(&Settings { slots: 4, slots_per_plugin: 3, ..Settings::default() });
    let slow = branch(&registry, "slow", Op::Action);
    let mut sleepers: JoinSet<_> = (0..20)
        .map(|_| {
            let slow = slow.clone();
            async move { slow.call(&call(Op::Action, r#"{"try":"sleep","ms":60000}"#), &host()).await }
        })
        .collect();
    for _ in 0..3 {
        tokio::task::yield_now().await;
        assert_eq!(output(try_(&registry, "quick", &json!({"try": "count"})).await), json!(1));
    }
    // Its own later attempts wait for its earlier ones, whatever the version.
    let late = timeout(Duration::from_millis(100), slow.call(&call(Op::Action, "{}"), &host())).await;
    assert!(late.is_err(), "{late:?}");
    sleepers.shutdown().await;
    assert_eq!(output(slow.call(&call(Op::Action, "{}"), &host()).await), Value::Null);
}

/// Whatever the client asks for.
#[tokio::test]
async fn no_attempt_keeps_its_place_for_longer_than_the_host_lets_it() {
    let limits = Limits { attempt_timeout: Duration::from_millis(100), ..Limits::default() };
    let registry = chaos(&Settings { slots: 1, limits, ..Settings::default() });
    let branch = branch(&registry, "chaos", Op::Action);
    let day = Call { timeout: Duration::from_hours(24), ..call(Op::Action, r#"{"try":"sleep","ms":60000}"#) };
    let error = unknown(branch.call(&day, &host()).await);
    assert!(error.contains("100ms") && error.contains("attempt_timeout"), "{error}");
}

/// On a single thread, where nothing but the guest's own yielding lets others run.
#[tokio::test]
async fn a_spinning_guest_stops_nobody() {
    let branch = branch(&CHAOS, "chaos", Op::Action);
    let (done, mut order) = mpsc::unbounded_channel();
    let run = |name: &'static str, payload: &'static str, timeout| {
        let (branch, done) = (branch.clone(), done.clone());
        tokio::spawn(async move {
            let outcome = branch.call(&Call { timeout, ..call(Op::Action, payload) }, &host()).await;
            done.send(name).unwrap();
            outcome
        })
    };
    let spinning = run("spinning", r#"{"try":"spin"}"#, Duration::from_secs(1));
    let short = run("short", r#"{"try":"count"}"#, PATIENCE);
    assert_eq!(order.recv().await, Some("short"));
    assert_eq!(output(short.await.unwrap()), json!(1));
    assert!(unknown(spinning.await.unwrap()).contains("request_timeout"));
}

/// Guests that compute for long share one thread, and all come to an end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_guests_take_turns() {
    let registry = chaos(&Settings { busy_guests: 1, ..Settings::default() });
    let branch = branch(&registry, "chaos", Op::Action);
    let mut calls = JoinSet::new();
    for _ in 0..3 {
        let branch = branch.clone();
        calls.spawn(async move { branch.call(&call(Op::Action, r#"{"try":"spin for","ms":100}"#), &host()).await });
    }
    while let Some(outcome) = calls.join_next().await {
        assert_eq!(output(outcome.unwrap()), Value::Null);
    }
}

/// Busy guests that are given up are gone only when they next let others have their turn. Until then their places in the
/// pool are taken.
#[tokio::test]
async fn a_cancelled_guest_keeps_its_permit_until_it_is_gone() {
    let registry = chaos(&Settings { slots: 4, busy_guests: 1, ..Settings::default() });
    let branch = branch(&registry, "chaos", Op::Action);
    let mut calls = JoinSet::new();
    for _ in 0..60 {
        let branch = branch.clone();
        calls.spawn(async move {
            let timeout = Duration::from_millis(20);
            branch.call(&Call { timeout, ..call(Op::Action, r#"{"try":"spin"}"#) }, &host()).await
        });
    }
    while let Some(outcome) = calls.join_next().await {
        let error = unknown(outcome.unwrap());
        assert!(error.contains("request_timeout"), "{error}");
    }
    assert_eq!(output(try_(&registry, "chaos", &json!({"try": "count"})).await), json!(1));
}
