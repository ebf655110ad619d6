//! The account: what a bank promises, and nothing of what makes it exactly-once, which is the host's.

use wasaga::store::Store;

use super::*;

static PLUGINS: LazyLock<Registry> = LazyLock::new(|| load(&Settings::default(), &target("plugins")));

async fn run(op: Op, payload: &Value, tried: Option<&str>) -> Outcome {
    let call = Call { tried: tried.map(Into::into), ..call(op, &payload.to_string()) };
    branch(&PLUGINS, "account", op).call(&call, &host()).await
}

/// Commits what a call did, and returns its output.
fn commit(outcome: Outcome) -> Value {
    match outcome {
        Outcome::Ended { verdict: Verdict::Succeeded { output }, effects } => {
            store().commit(effects).unwrap();
            output.map_or(Value::Null, |output| serde_json::from_str(&output).unwrap())
        }
        other => panic!("not succeeded: {other:?}"),
    }
}

async fn balance(account: &str) -> i64 {
    let answer = commit(run(Op::Action, &json!({"account": account}), None).await);
    assert_eq!(answer["account"], account);
    answer["balance"].as_i64().unwrap()
}

async fn change(payload: Value) -> i64 {
    commit(run(Op::Action, &payload, None).await)["balance"].as_i64().unwrap()
}

async fn take_back(payload: Value) {
    assert_eq!(commit(run(Op::Compensate, &payload, Some("{}")).await), Value::Null);
}

async fn refused(payload: &Value, words: &str) {
    let reason = rejected(run(Op::Action, payload, None).await);
    assert!(reason.contains(words), "{payload}: no {words:?} in {reason:?}");
    // And a compensation has nothing to do, whatever it is told.
    for tried in [None, Some("")] {
        if tried.is_none() || words.starts_with("invalid") {
            let Outcome::Ended { verdict: Verdict::Succeeded { .. }, effects } =
                run(Op::Compensate, payload, tried).await
            else {
                panic!()
            };
            assert!(!effects.has_writes());
        }
    }
}

#[tokio::test]
async fn money_moves_and_comes_back() {
    assert_eq!(change(json!({"account": "alice", "open": 100})).await, 100);
    assert_eq!(change(json!({"account": "alice", "amount": -30})).await, 70);
    assert_eq!(change(json!({"account": "alice", "amount": 5})).await, 75);
    take_back(json!({"account": "alice", "amount": -30})).await;
    assert_eq!(balance("alice").await, 105);
    assert_eq!(change(json!({"account": "alice", "amount": -105})).await, 0);
}

#[tokio::test]
async fn what_cannot_be_done_is_rejected() {
    change(json!({"account": "bob", "open": 10})).await;
    change(json!({"account": "rich", "open": i64::MAX})).await;
    refused(&json!({"account": "bob", "amount": -11}), "bob: insufficient funds").await;
    refused(&json!({"account": "nobody", "amount": 1}), "nobody: there is no such account").await;
    refused(&json!({"account": "nobody"}), "no such account").await;
    refused(&json!({"account": "bob", "open": 1}), "there is such an account already").await;
    refused(&json!({"account": "rich", "amount": 1}), "overflow").await;
    refused(&json!({"account": "bob", "amount": i64::MIN}), "insufficient").await;
    assert_eq!(balance("bob").await, 10);
}

#[tokio::test]
async fn bad_requests_are_rejected() {
    change(json!({"account": "carol", "open": 10})).await;
    for payload in [
        json!({"account": "carol", "amount": 0}),
        json!({"account": "carol", "amount": 1.5}),
        json!({"account": "carol", "amount": 1.0}),
        json!({"account": "carol", "amount": "1"}),
        json!({"account": "carol", "amount": 1_u64 << 63}),
        json!({"account": "carol", "ammount": 1}),
        json!({"account": "carol", "amount": 1, "open": 1}),
        json!({"account": "dave", "open": -1}),
        json!({"account": "", "open": 1}),
        json!({"account": "d".repeat(129), "open": 1}),
        json!({"account": 7, "amount": 1}),
        json!({"amount": 1}),
        json!(["carol", 1]),
        json!(["carol", 1, null]),
        json!(["carol", null, 1]),
        json!(["carol", null, null]),
        json!("carol"),
    ] {
        refused(&payload, "invalid request").await;
    }
    assert_eq!(balance("carol").await, 10);
}

#[tokio::test]
async fn a_compensation_never_fails_and_no_money_is_lost() {
    change(json!({"account": "erin", "open": 0})).await;
    change(json!({"account": "erin", "amount": 50})).await;
    change(json!({"account": "erin", "amount": -50})).await;
    take_back(json!({"account": "erin", "amount": 50})).await;
    assert_eq!(balance("erin").await, -50, "overdrawn");
    refused(&json!({"account": "erin", "amount": -1}), "insufficient").await;
    assert_eq!(change(json!({"account": "erin", "amount": 20})).await, -30);

    change(json!({"account": "frank", "open": 100})).await;
    take_back(json!({"account": "frank", "open": 100})).await;
    refused(&json!({"account": "frank"}), "no such account").await;
    // What others have left stays.
    change(json!({"account": "frank", "open": 100})).await;
    change(json!({"account": "frank", "amount": 7})).await;
    take_back(json!({"account": "frank", "open": 100})).await;
    assert_eq!(balance("frank").await, 7);
    // Asking is nothing to take back.
    take_back(json!({"account": "frank"})).await;
    assert_eq!(balance("frank").await, 7);
}
