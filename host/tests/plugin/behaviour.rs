//! The contract, seen from both sides.

use super::*;

static SERVICES: LazyLock<Registry> = LazyLock::new(|| load(&Settings::default(), &target("plugins")));

#[tokio::test]
async fn service_a_accepts_everything() {
    for payload in [json!({"amount": 100}), json!("not an object"), Value::Null] {
        assert_eq!(output(try_(&SERVICES, "service-a", &payload).await), Value::Null);
        assert_eq!(output(cancel(&SERVICES, "service-a", &payload, None).await), Value::Null);
    }
}

#[tokio::test]
async fn service_b_rejects_large_amounts_and_bad_requests() {
    assert_eq!(output(try_(&SERVICES, "service-b", &json!({"amount": 500})).await), Value::Null);
    for amount in [501, u64::MAX] {
        assert_eq!(rejected(try_(&SERVICES, "service-b", &json!({"amount": amount})).await), "simulated failure");
    }
    for payload in [json!({"amount": "100"}), json!({"amount": 1.5}), json!({}), json!([1])] {
        assert_eq!(rejected(try_(&SERVICES, "service-b", &payload).await), "invalid request", "{payload}");
    }
    let not_json = call(Op::Action, "amount=100");
    assert_eq!(rejected(branch(&SERVICES, "service-b", Op::Action).call(&not_json, &host()).await), "invalid request");
    assert_eq!(output(cancel(&SERVICES, "service-b", &json!({"amount": 501}), None).await), Value::Null);
}

#[tokio::test]
async fn every_field_of_a_call_arrives() {
    let payload = json!({"try": "echo", "cancel": "echo"});
    let expected = json!({
        "gid": "gid-1",
        "branch-id": "02",
        "attempt": 3,
        "payload": payload.to_string(),
        "headers": [["x-test", "1"]],
        "results": [["01", r#"{"seat":7}"#]],
        "idempotency-key": "gid-1-02-action",
    });
    assert_eq!(output(try_(&CHAOS, "chaos", &payload).await), expected);

    for tried in [None, Some(""), Some("7")] {
        let said: Value = serde_json::from_str(&unknown(cancel(&CHAOS, "chaos", &payload, tried).await)).unwrap();
        assert_eq!(said["tried"], json!(tried));
        assert_eq!(said["call"]["idempotency-key"], "gid-1-02-compensate");
    }
}

#[tokio::test]
async fn failures_become_outcomes() {
    let outcome = try_(&CHAOS, "chaos", &json!({"try": "reject", "text": "no seat left"})).await;
    assert_eq!(rejected(outcome), "no seat left");
    let outcome = try_(&CHAOS, "chaos", &json!({"try": "be unavailable", "text": "bank is down"})).await;
    assert_eq!(unknown(outcome), "bank is down");
    for (ms, expected) in [(json!(1500), Some(Duration::from_millis(1500))), (Value::Null, None)] {
        for outcome in [
            try_(&CHAOS, "chaos", &json!({"try": "go on", "ms": ms})).await,
            cancel(&CHAOS, "chaos", &json!({"cancel": "go on", "ms": ms}), None).await,
        ] {
            assert!(
                matches!(outcome, Outcome::Ended { verdict: Verdict::Ongoing { retry_after }, .. } if retry_after == expected),
                "{outcome:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_compensation_is_never_rejected() {
    let error = unknown(cancel(&CHAOS, "chaos", &json!({"cancel": "reject", "text": "too late"}), None).await);
    assert!(error.contains("never fails") && error.contains("too late"), "{error}");
}

#[tokio::test]
async fn an_output_is_json_or_nothing() {
    assert_eq!(output(try_(&CHAOS, "chaos", &json!({"try": "output", "text": "[1]"})).await), json!([1]));
    let empty = try_(&CHAOS, "chaos", &json!({"try": "output", "text": ""})).await;
    assert!(matches!(empty, Outcome::Ended { verdict: Verdict::Succeeded { output: None }, .. }), "{empty:?}");
    let error = unknown(try_(&CHAOS, "chaos", &json!({"try": "output", "text": "done!"})).await);
    assert!(error.contains("output is not JSON"), "{error}");
}

#[tokio::test]
async fn a_trap_is_unknown_and_says_what_the_guest_wrote() {
    let error = unknown(try_(&CHAOS, "chaos", &json!({"try": "trap"})).await);
    assert!(error.contains("unreachable"), "{error}");
    let error = unknown(try_(&CHAOS, "chaos", &json!({"try": "panic", "text": "seat map is gone"})).await);
    assert!(error.contains("it wrote:") && error.contains("seat map is gone"), "{error}");
    let error = unknown(cancel(&CHAOS, "chaos", &json!({"cancel": "exit"}), None).await);
    assert!(error.contains("instead of returning"), "{error}");
}

#[tokio::test]
async fn of_many_lines_the_first_and_the_last_are_told() {
    let lines: Vec<String> = (1..=9).map(|n| format!("line {n}")).collect();
    let payload = json!({ "try": "print", "stream": "error", "text": lines.join("\n"), "then": "trap" });
    let error = unknown(try_(&CHAOS, "chaos", &payload).await);
    assert!(error.ends_with("it wrote: line 1 | ... | line 6 | line 7 | line 8 | line 9"), "{error}");
}

#[tokio::test]
async fn attempts_share_no_memory() {
    for _ in 0..3 {
        assert_eq!(output(try_(&CHAOS, "chaos", &json!({"try": "count"})).await), json!(1));
        unknown(try_(&CHAOS, "chaos", &json!({"try": "trap"})).await);
    }
}

#[tokio::test]
async fn there_is_nothing_to_see_and_nowhere_to_go() {
    let seen = output(try_(&CHAOS, "chaos", &json!({"try": "look around"})).await);
    assert_eq!(seen, json!({"environment": 0, "arguments": 0, "directories": 0, "file": false, "input": 0}));
    let reached = output(try_(&CHAOS, "chaos", &json!({"try": "connect"})).await);
    for how in ["name", "tcp", "udp"] {
        let answer = reached[how].as_str().unwrap();
        assert!(answer.starts_with("Err("), "{how}: {answer}");
    }
}
