//! Many guests at once.

use std::sync::Arc;

use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use wasaga::{branch::Place, plugin::Limits};

use super::*;

#[tokio::test]
async fn an_attempt_that_is_given_up_leaves_its_place_at_once() {
    let branch = branch(&CHAOS, "chaos", Op::Action);
    let (places, place) = one_place();
    let sleeper = tokio::spawn(async move {
        let host = Host { place: Some(place), ..host() };
        branch.call(&call(Op::Action, r#"{"try":"sleep","ms":60000}"#), &host).await
    });
    // The only thread runs the sleeper until it sleeps.
    tokio::task::yield_now().await;
    assert_eq!(places.available_permits(), 0);
    sleeper.abort();
    assert!(sleeper.await.unwrap_err().is_cancelled());
    assert_eq!(places.available_permits(), 1);
}

/// A place, and what tells whether it is free.
fn one_place() -> (Arc<Semaphore>, Place) {
    let places = Arc::new(Semaphore::new(1));
    let place = Place::new(places.clone().try_acquire_owned().unwrap());
    (places, place)
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
async fn a_cancelled_guest_keeps_its_place_until_it_is_gone() {
    let registry = chaos(&Settings { slots: 4, busy_guests: 1, ..Settings::default() });
    let branch = branch(&registry, "chaos", Op::Action);
    let places = Arc::new(Semaphore::new(4));
    let mut calls = JoinSet::new();
    for _ in 0..60 {
        let (branch, places) = (branch.clone(), places.clone());
        calls.spawn(async move {
            let place = Some(Place::new(places.acquire_owned().await.unwrap()));
            let host = Host { place, ..host() };
            let timeout = Duration::from_millis(20);
            branch.call(&Call { timeout, ..call(Op::Action, r#"{"try":"spin"}"#) }, &host).await
        });
    }
    while let Some(outcome) = calls.join_next().await {
        let error = unknown(outcome.unwrap());
        assert!(error.contains("request_timeout"), "{error}");
    }
    assert_eq!(output(try_(&registry, "chaos", &json!({"try": "count"})).await), json!(1));
}
