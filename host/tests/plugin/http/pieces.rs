//! The body of a request is let out as its head was, if something has been read meanwhile that it may tell of.

use wasaga::store::Read;

use super::*;

/// The head of a request leaves; then something is read, and told by its body.
fn stream(server: &Server, script: &Value) -> Value {
    json!({"try": "stream", "request": post(server), "kv": script})
}

fn post(server: &Server) -> Value {
    with(get(server, "/pieces"), json!({"method": "POST"}))
}

fn call_on(state: Arc<dyn Read>, door: &Arc<Door>, payload: &Value) -> (Call, Host) {
    (call(Op::Action, &payload.to_string()), Host { state, egress: Some(door.clone()), is_dry_run: false, place: None })
}

#[tokio::test]
async fn a_body_that_may_tell_of_what_was_read_since_the_head_is_let_out_again() {
    let mut server = Server::start().await;
    let plugins = granted_all_of(&server);
    let (world, door) = (World::new(), Door::open());
    let payload = with(stream(&server, &json!([["get", "k"]])), json!({"requests": [get(&server, "/when")]}));
    let (call, host) = call_on(world.store.clone(), &door, &payload);
    let attempt = tokio::spawn(async move { branch(&plugins, "chaos", Op::Action).call(&call, &host).await });
    server.asked().await;
    server.asked().await;
    // From here on egress is denied, and the guest has not read yet.
    door.answer.send_replace(None);
    server.tell();
    timeout(PATIENCE, async {
        while door.asked().len() < 3 {
            door.knocked.notified().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(door.asked()[2], format!("the body of POST {}", server.url("/pieces")));
    assert!(server.is_quiet().await, "sent without being let out");
    door.answer.send_replace(Some(Ok(())));
    assert_eq!(server.piece().await, "[null]");
    assert_eq!(output(attempt.await.unwrap())["status"], 200);
    assert_eq!(door.asked().len(), 3, "the end of the body tells of nothing more");
}

#[tokio::test]
async fn a_body_that_tells_of_nothing_new_asks_nobody() {
    let mut server = Server::start().await;
    let plugins = granted_all_of(&server);
    let door = Door::open();
    let payload = json!({"try": "kv", "kv": [["get", "k"]], "then": "fetch", "requests":
        [with(get(&server, "/length"), json!({"method": "POST", "body": 100_000}))]});
    let outcome = attempt(&plugins, Some(door.clone()), &payload).await;
    assert!(outcome.has_succeeded(), "{outcome:?}");
    server.asked().await;
    assert_eq!(door.asked().len(), 1);
}

/// What is read after the head was let out changes right afterwards: the server must not learn of it, and sees the
/// request break off. The attempt counts for nothing, and is not made again at once, since its head is out.
#[tokio::test]
async fn a_body_never_tells_what_is_no_longer_so() {
    let mut server = Server::start().await;
    let plugins = granted_all_of(&server);
    let (world, door) = (World::new(), Door::open());
    let state = Meddler::new(&world.store, 1);
    let payload = with(stream(&server, &json!([["get", "k"]])), json!({"requests": [get(&server, "/hello")]}));
    let (call, host) = call_on(state.clone(), &door, &payload);
    let outcome = branch(&plugins, "chaos", Op::Action).call(&call, &host).await;
    assert!(matches!(outcome, Outcome::Stale), "{outcome:?}");
    server.asked().await;
    server.asked().await;
    assert!(matches!(server.next().await, Event::BrokenOff));
    assert_eq!((state.gets(), door.asked().len(), server.requests()), (1, 2, 2));
}

/// An attempt that rests on stale reads, and has let something out, is for the engine to make again.
#[tokio::test]
async fn an_attempt_that_has_been_outside_is_not_made_again_at_once() {
    let server = Server::start().await;
    // An answer that is too large lets the guest go on with its script.
    let limits = Limits { http_response_bytes: 10, ..Limits::default() };
    let plugins = granted(vec![allowed(&server.url("/"), &["GET"], true)], limits);
    let (world, door) = (World::new(), Door::open());
    let state = Meddler::new(&world.store, usize::MAX);
    let payload = json!({"try": "fetch", "requests": [get(&server, "/large")], "or": "kv", "kv": [["get", "k"]],
        "then": "reject"});
    let (call, host) = call_on(state.clone(), &door, &payload);
    let outcome = branch(&plugins, "chaos", Op::Action).call(&call, &host).await;
    assert!(matches!(outcome, Outcome::Stale), "{outcome:?}");
    assert_eq!((state.gets(), server.requests()), (1, 1));
}
