//! The commands, on plugins that are as they should be, and on some that are not.

use std::fs;

use serde_json::{Value, json};

use super::{component, wasaga};
use crate::common::Host;

#[test]
fn a_new_plugin_says_how_to_build_it() {
    let dir = tempfile::tempdir().unwrap();
    for lang in ["rust", "javascript", "python", "go", "c"] {
        let name = format!("my-{lang}");
        let said = wasaga(dir.path(), &["new", &name, "--lang", lang]);
        assert!(said.is_good, "{}", said.text);
        said.must_hold(&["README.md", &format!("wasaga plugin push {name}.wasm")]);
        assert!(dir.path().join(&name).join("wit/deps/keyvalue/store.wit").is_file());
        let again = wasaga(dir.path(), &["new", &name, "--lang", lang]);
        assert!(!again.is_good);
        again.must_hold(&["exists already"]);
    }
    let cargo = fs::read_to_string(dir.path().join("my-rust/Cargo.toml")).unwrap();
    assert!(cargo.contains("name = \"my-rust\"") && cargo.contains("[workspace]"), "{cargo}");
    assert!(wasaga(dir.path(), &["new", "short", "--lang", "js"]).is_good);
    for (name, lang, words) in
        [("Stock", "rust", "lowercase"), ("../up", "rust", "lowercase"), ("x", "cobol", "python")]
    {
        let refused = wasaga(dir.path(), &["new", name, "--lang", lang]);
        assert!(!refused.is_good);
        refused.must_hold(&[words]);
        assert!(!dir.path().join(name).exists());
    }
}

#[test]
fn a_check_tells_all_about_a_plugin() {
    let file = component("plugins", "rust");
    let said = wasaga(file.parent().unwrap(), &["check", "rust.wasm"]);
    assert!(said.is_good, "{}", said.text);
    said.must_hold(&[
        "wasaga:saga/branch@0.1.0: try, cancel",
        "wasi:keyvalue/store@0.2.0-draft2",
        "contained: it imports nothing that leaves the host",
        "sha256",
        "KiB",
        " ms;",
        "It is a plugin. `wasaga plugin push rust.wasm`",
    ]);
}

#[test]
fn a_check_knows_the_grants() {
    let (dir, file) = (tempfile::tempdir().unwrap(), component("fixtures", "chaos"));
    let file = file.to_str().unwrap();
    wasaga(dir.path(), &["check", file]).must_hold(&[
        "contained: it imports wasi:http/outgoing-handler but is granted no address",
        "[plugins.grants.chaos]",
        "http: the addresses",
        "config, secrets",
    ]);
    let settings = "[plugins.grants.chaos]\nhttp = [{ url = \"https://a.example/v1/\", methods = [\"POST\"] }]\n";
    fs::write(dir.path().join("wasaga.toml"), settings).unwrap();
    let said = wasaga(dir.path(), &["check", file, "--config", "wasaga.toml"]);
    assert!(said.is_good, "{}", said.text);
    said.must_hold(&["external: it imports wasi:http/outgoing-handler and is granted https://a.example/v1/ (POST)"]);
    fs::write(dir.path().join("wasaga.toml"), "[plugins]\nlimit = 3\n").unwrap();
    let refused = wasaga(dir.path(), &["check", file, "--config", "wasaga.toml"]);
    assert!(!refused.is_good);
    refused.must_hold(&["wasaga.toml", "limit"]);
}

#[test]
fn a_test_shows_what_a_branch_does_in_every_case() {
    let dir = tempfile::tempdir().unwrap();
    let file = component("plugins", "rust");
    let payload = r#"{"amount":100,"customer":"Zoë"}"#;
    let said = wasaga(dir.path(), &["test", file.to_str().unwrap(), "--payload", payload]);
    assert!(said.is_good, "{}", said.text);
    said.must_hold(&[
        r#"try: succeeded, {"amount":100,"customer":"Zoë"}; default/plugin-test/01 is now {"amount":100,"customer":"Zoë"}"#,
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
    let file = component("fixtures", "chaos");
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

#[tokio::test]
async fn a_plugin_is_pushed_to_a_running_host_and_listed() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::start_on(&dir.path().join("data"), &dir.path().join("plugins"), &[]);
    let url = format!("http://{}", host.address);
    let file = component("plugins", "rust");
    let push = |args: &[&str]| wasaga(dir.path(), &[&["push"], args, &["--host", &url]].concat());
    let said = push(&[file.to_str().unwrap()]);
    assert!(said.is_good, "{}", said.text);
    said.must_hold(&["rust is new: sha256:", "contained", "wasm://rust/try"]);
    let body = json!({
        "gid": "g", "trans_type": "saga", "wait_result": true,
        "steps": [{ "action": "wasm://rust/try", "compensate": "wasm://rust/cancel" }],
        "payloads": [{ "amount": 1 }],
    });
    assert_eq!(host.submit(body.to_string()).await.unwrap().0, 200);

    push(&[component("plugins", "service-a").to_str().unwrap(), "--name", "rust"]).must_hold(&["rust is replaced"]);
    fs::write(dir.path().join("bad.wasm"), "(module)").unwrap();
    let refused = push(&["bad.wasm"]);
    assert!(!refused.is_good);
    refused.must_hold(&["bad.wasm is not taken", "not WebAssembly", "wasm32-wasip2"]);
    fs::write(dir.path().join("Bad Name.wasm"), "").unwrap();
    push(&["Bad Name.wasm"]).must_hold(&["lowercase", "--name"]);

    let list = wasaga(dir.path(), &["list", "--host", &url]);
    assert!(list.is_good, "{}", list.text);
    list.must_hold(&["rust ", "contained", "sha256"]);

    assert!(host.terminate().success());
    let nobody = wasaga(dir.path(), &["list", "--host", &url]);
    assert!(!nobody.is_good);
    nobody.must_hold(&["no host answers", "make run", "--host"]);
}
