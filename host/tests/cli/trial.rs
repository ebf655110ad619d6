//! What a branch does in all the ways in which it can be called, as `wasaga plugin test` shows it.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use wasaga_testkit::component_file;

use super::wasaga;

#[test]
fn a_test_shows_what_a_branch_does_in_every_case() {
    let dir = tempfile::tempdir().unwrap();
    let file = component_file("plugins", "rust");
    let payload = r#"{"amount":100,"customer":"Zoë"}"#;
    let said = wasaga(dir.path(), &["test", file.to_str().unwrap(), "--payload", payload]);
    assert!(said.is_good, "{}", said.text);
    said.must_hold(&[
        r#"try: succeeded, {"amount":100,"customer":"Zoë"}; default/plugin-test/01 is now {"amount":100,"customer":"Zoë"}"#,
        "          INFO  try amount=100 customer=Zoë\n",
        "          DEBUG wrote plugin-test/01\n",
        "try again: succeeded",
        "cancel: succeeded, no output; default/plugin-test/01 is deleted",
        "ok    all data is as before try",
        "try: unavailable: an attempt may read",
        "cancel: unavailable: an attempt may read",
        "Nothing wrong was seen.",
    ]);
    assert!(!said.text.contains("FAIL"), "{}", said.text);
    let rejected = wasaga(dir.path(), &["test", file.to_str().unwrap(), "--payload", r#"{"amount":501}"#]);
    assert!(!rejected.is_good);
    rejected.must_hold(&["rejected: simulated failure", "--payload"]);
}

#[test]
fn a_test_finds_what_must_not_be() {
    let dir = tempfile::tempdir().unwrap();
    let file = component_file("fixtures", "chaos");
    let test =
        |payload: Value| wasaga(dir.path(), &["test", file.to_str().unwrap(), "--payload", &payload.to_string()]);
    for (payload, words) in [
        (json!({ "cancel": "reject", "text": "no" }), "cancel must succeed after a try that did"),
        (json!({ "cancel": "trap" }), "cancel must succeed where there is nothing to take back"),
        (
            json!({ "try": "kv", "kv": [["set", "a", "1"]] }),
            "an error of the store must become `unavailable`, or a trap",
        ),
    ] {
        let said = test(payload);
        assert!(!said.is_good, "{}", said.text);
        said.must_hold(&["FAIL", words, "must not be so"]);
    }
}

#[test]
fn a_store_that_fails_is_tried_whatever_a_second_try_answers() {
    let dir = tempfile::tempdir().unwrap();
    let test = |file: PathBuf, payload: Value| {
        wasaga(dir.path(), &["test", file.to_str().unwrap(), "--allow-leftovers", "--payload", &payload.to_string()])
    };
    let said = test(component_file("plugins", "account"), json!({ "account": "a", "open": 100 }));
    assert!(said.is_good, "{}", said.text);
    said.must_hold(&["try again: rejected", "        try: unavailable", "        cancel: unavailable", "`note`: 3"]);
    assert!(!said.text.contains("it uses no store"), "{}", said.text);
    // It takes the store's error for a value, and that for a reason.
    let script = json!([["must be", "a", null], ["set", "a", "1"]]);
    let said = test(component_file("fixtures", "chaos"), json!({ "try": "kv", "kv": script }));
    assert!(!said.is_good, "{}", said.text);
    said.must_hold(&["FAIL  an error of the store must become `unavailable`, or a trap", "\n1 of the above"]);
}

#[test]
fn data_that_cancel_leaves_behind_must_be_meant() {
    let dir = tempfile::tempdir().unwrap();
    let file = component_file("fixtures", "chaos");
    // It succeeds in spite of an error of the store, too, which is one more failure in both.
    let payload = json!({ "try": "kv", "kv": [["set", "a", "1"]] }).to_string();
    let test = ["test", file.to_str().unwrap(), "--payload", &payload];
    wasaga(dir.path(), &test).must_hold(&["FAIL  data stays behind: cancel must take back", "\n2 of the above"]);
    let allowed = wasaga(dir.path(), &[&test[..], &["--allow-leftovers"]].concat());
    allowed.must_hold(&["note  data stays behind\n", "\n1 of the above"]);
}

#[test]
fn requests_get_the_answer_that_was_given_and_are_not_sent() {
    let dir = tempfile::tempdir().unwrap();
    let file = component_file("fixtures", "chaos");
    // Sending it would fail: no server listens there.
    let settings =
        "[plugins.grants.pay]\nhttp = [{ url = \"http://127.0.0.1:1/v1/\", methods = [\"POST\"], private = true }]\n";
    fs::write(dir.path().join("wasaga.toml"), settings).unwrap();
    let request = |path: &str| json!({ "method": "POST", "scheme": "http", "authority": "127.0.0.1:1", "path": path, "body": 100_000 });
    let test = |path: &str, more: &[&str]| {
        let payload =
            json!({ "try": "fetch", "requests": [request(path)], "or": "be unavailable", "text": "no answer" });
        let payload = payload.to_string();
        let test = ["test", file.to_str().unwrap(), "--name", "pay", "--config", "wasaga.toml", "--payload", &payload];
        wasaga(dir.path(), &[&test[..], more].concat())
    };
    let held = test("/v1/charges", &[]);
    assert!(!held.is_good, "{}", held.text);
    held.must_hold(&[
        "pay is external",
        "nothing was sent: it would ask for POST http://127.0.0.1:1/v1/charges, and this test makes no requests",
        "--answer 200",
        "POST /api/v1/sagas/plan",
    ]);
    assert!(!held.text.contains("--payload"), "{}", held.text);

    let said = test("/v1/charges", &["--answer", r#"201:{"id": "a:b"}"#]);
    assert!(said.is_good, "{}", said.text);
    said.must_hold(&[
        r#"try: succeeded, [{"body":"{\"id\": \"a:b\"}","headers":[["content-length","13"]],"status":201}]"#,
        "ASKED POST http://127.0.0.1:1/v1/charges; answered 201, and not sent",
        "Nothing wrong was seen.",
    ]);
    test("/v1/charges", &["--answer", "503"]).must_hold(&[r#""status":503"#]);
    // What is not granted gets no answer here either.
    let refused = test("/v2/", &["--answer", "200"]);
    assert!(!refused.is_good && !refused.text.contains("ASKED"), "{}", refused.text);
    refused.must_hold(&["try: unavailable: the host refused POST http://127.0.0.1:1/v2/", "[plugins.grants.pay]"]);
    for wrong in ["99", "200 OK", "", ":body"] {
        let refused = test("/v1/charges", &["--answer", wrong]);
        assert!(!refused.is_good);
        refused.must_hold(&["a status from 200 to 599 is needed"]);
    }
}
