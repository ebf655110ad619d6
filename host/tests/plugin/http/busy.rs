//! The same from the threads for guests that compute for long.

use std::thread;

use bytes::Bytes;
use wasaga::store::{self, Batch, Range, Read};

use super::*;

/// What may ask the server, and whose guests begin on those threads, as they have been long so far.
async fn busy(server: &Server) -> Registry {
    let plugins = granted_all_of(server);
    for _ in 0..40 {
        output(attempt(&plugins, None, &json!({"try": "spin for", "ms": 5})).await);
    }
    let place = Arc::new(Place::default());
    let call = call(Op::Action, r#"{"try":"kv","kv":[["get","k"]]}"#);
    let host = Host { state: place.clone(), ..host() };
    output(branch(&plugins, "chaos", Op::Action).call(&call, &host).await);
    assert_eq!(place.0.lock().unwrap().as_deref(), Some("busy-guests"));
    plugins
}

/// The name of the thread on which a guest reads it.
#[derive(Default)]
struct Place(Mutex<Option<String>>);

impl Read for Place {
    fn get(&self, _key: &[u8]) -> Result<Option<Bytes>, store::Error> {
        *self.0.lock().unwrap() = thread::current().name().map(str::to_owned);
        Ok(None)
    }

    fn scan(&self, _range: &Range, _limit: usize) -> Result<Vec<(Bytes, Bytes)>, store::Error> {
        Ok(Vec::new())
    }

    fn is_current(&self, _batch: &Batch) -> Result<bool, store::Error> {
        Ok(true)
    }
}

#[tokio::test]
async fn what_is_granted_arrives_and_is_answered() {
    let server = Server::start().await;
    let answers = fetch(&busy(&server).await, &[get(&server, "/hello"), get(&server, "/hello")]).await;
    assert_eq!((&answers[0]["body"], &answers[1]["body"]), (&json!("hello"), &json!("hello")));
}

#[tokio::test]
async fn a_guest_that_turns_busy_keeps_what_it_has() {
    let server = Server::start().await;
    let plugins = granted_all_of(&server);
    // The first attempts go there while they run; connections that they leave behind serve those that begin there.
    let attempts = 40;
    for _ in 0..attempts {
        let payload = json!({"try": "fetch", "requests": [get(&server, "/hello")], "afterwards": "spin for", "ms": 10});
        assert_eq!(output(attempt(&plugins, Some(Door::open()), &payload).await)[0]["body"], "hello");
    }
    // One, but for a connection that is not yet back when it could be used again.
    assert!(server.connections() < attempts, "connections are used again");
}

#[tokio::test]
async fn requests_end_with_their_attempt() {
    let server = Server::start().await;
    let plugins = busy(&server).await;
    end_with_their_attempt(server, plugins).await;
}

#[tokio::test]
async fn an_attempt_that_does_not_wait_for_its_requests_has_made_none() {
    let server = Server::start().await;
    makes_none_that_it_does_not_wait_for(&server, &busy(&server).await).await;
}

/// While it still computes: it keeps its permit after the caller has stopped waiting.
#[tokio::test]
async fn a_cancelled_attempt_sends_nothing() {
    let server = Server::start().await;
    let plugins = busy(&server).await;
    let door = Door::new(None);
    let payload = json!({"try": "leave requests", "requests": [get(&server, "/hello")], "then": "spin"});
    let (call, host) = (call(Op::Action, &payload.to_string()), Host { egress: Some(door.clone()), ..host() });
    for _ in 0..5 {
        door.answer.send_replace(None);
        let (branch, call, host) = (branch(&plugins, "chaos", Op::Action), call.clone(), host.clone());
        let attempt = tokio::spawn(async move { branch.call(&call, &host).await });
        door.knocked.notified().await;
        attempt.abort();
        assert!(attempt.await.unwrap_err().is_cancelled());
        door.answer.send_replace(Some(Ok(())));
        tokio::task::yield_now().await;
    }
    fetch(&plugins, &[get(&server, "/length")]).await;
    assert_eq!((door.asked().len(), server.requests()), (5, 1));
}
