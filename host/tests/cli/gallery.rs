//! Ten ways to get a plugin wrong, and what the tool and the server say: each message names the mend.

use std::{fs, path::Path};

use serde_json::{Value, json};
use wasaga_testkit::{component_file, process::Host};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::wasaga;

fn read(folder: &str, name: &str) -> Vec<u8> {
    fs::read(component_file(folder, name)).unwrap()
}

/// A good component in which a name is replaced everywhere by another of the same length.
fn renamed(from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = read("plugins", "service-a");
    let places: Vec<usize> =
        (0..bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from.as_bytes())).collect();
    assert!(!places.is_empty(), "{from} is not in the component");
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    bytes
}

/// What a module does that is made into a component of the right world.
fn made_of(start: &str) -> Vec<u8> {
    let params = |count: usize| "i32 ".repeat(count);
    // `try` has the fields of a call as its parameters, `cancel` what `tried` is as well.
    let text = format!(
        r#"(module
            (memory (export "memory") 1)
            (func $start {start})
            (start $start)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 8))
            (func (export "wasaga:saga/branch@0.1.0#try") (param {}) (result i32) (i32.const 0))
            (func (export "wasaga:saga/branch@0.1.0#cancel") (param {}) (result i32) (i32.const 0)))"#,
        params(13),
        params(16),
    );
    let mut module = wat::parse_str(text).unwrap();
    let mut resolve = Resolve::default();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
    let (package, _) = resolve.push_dir(&wit).unwrap();
    let world = resolve.select_world(&[package], Some("contained")).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
}

/// A component with types of components within types of components: libraries read them by recursion.
fn nested_types() -> Vec<u8> {
    let declared = [[0x41, 1, 1].repeat(1_500), vec![0x41, 0]].concat();
    // The length of the section as a number of two bytes; one type.
    let length = declared.len() + 1;
    let section = [7, u8::try_from(length & 0x7f).unwrap() | 0x80, u8::try_from(length >> 7).unwrap(), 1];
    [b"\0asm\x0d\0\x01\0", &section[..], &declared].concat()
}

/// A broken plugin: its name here, its bytes, and what everybody must say about it.
fn broken() -> Vec<(&'static str, Vec<u8>, Vec<&'static str>)> {
    let whole = read("plugins", "service-a");
    vec![
        (
            "core-module",
            wat::parse_str("(module)").unwrap(),
            vec!["core module", "cargo build --release --target wasm32-wasip2"],
        ),
        (
            "wrong-world",
            renamed("saga/branch@", "saga/brunch@"),
            vec!["wasaga:saga/brunch@0.1.0", "world wasaga:saga/plugin"],
        ),
        (
            "other-version",
            renamed("branch@0.1.0", "branch@0.2.0"),
            vec!["branch@0.2.0", "wasaga plugin new NAME --lang"],
        ),
        ("no-cancel", renamed("cancel", "undone"), vec!["no function `cancel`", "add it"]),
        ("unknown-import", renamed("wasi:cli/stdout@", "wasi:cli/strout@"), vec!["wasi:cli/strout@", "leave it out"]),
        (
            "asynchronous",
            wat::parse_str("(component (type (stream u8)))").unwrap(),
            vec!["built for WASI 0.3", "wasm32-wasip2"],
        ),
        ("nested", nested_types(), vec!["nested more than 32 deep", "divide it"]),
        ("truncated", whole[..whole.len() / 2].to_vec(), vec!["cut short or damaged", "copy it again"]),
        ("empty", Vec::new(), vec!["the file is empty", "build or copy it again"]),
        ("huge", vec![0; 200_000_000], vec!["component_bytes", "strip debug sections, or raise the limit"]),
        (
            "start-trap",
            made_of("unreachable"),
            vec!["it traps while it starts", "unreachable", "initialisers of globals"],
        ),
        ("start-spin", made_of("(loop br 0)"), vec!["it traps while it starts", "interrupt"]),
    ]
}

#[tokio::test]
async fn every_message_names_the_mend() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::start_on(&dir.path().join("data"), &dir.path().join("plugins"), &[]);
    for (name, bytes, words) in broken() {
        let file = format!("{name}.wasm");
        fs::write(dir.path().join(&file), &bytes).unwrap();
        let said = wasaga(dir.path(), &["check", &file]);
        assert!(!said.is_good, "{}", said.text);
        said.must_hold(&["It is not a plugin"]);
        said.must_hold(&words);

        let (status, text) = host.put(&format!("/api/v1/plugins/{name}"), bytes).await.unwrap();
        assert!([413, 422].contains(&status), "{status} {text}");
        let message = serde_json::from_str::<Value>(&text).unwrap()["message"].as_str().unwrap().to_owned();
        for word in words {
            assert!(message.contains(word), "no {word:?} in {message:?}");
        }
    }
    let (_, list) = host.get("/api/v1/plugins").await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&list).unwrap()["plugins"], json!([]), "nothing has changed");
}

/// Neither by upload, nor from the folder, nor at the next start.
#[tokio::test]
async fn a_component_that_was_made_to_end_the_host_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (data, plugins) = (dir.path().join("data"), dir.path().join("plugins"));
    let host = Host::start_on(&data, &plugins, &[]);
    let (status, text) = host.put("/api/v1/plugins/nested", nested_types()).await.unwrap();
    assert!(status == 422 && text.contains("nested more than 32 deep"), "{status} {text}");
    let (status, text) = host.put("/api/v1/plugins/a", read("plugins", "service-a")).await.unwrap();
    assert_eq!(status, 201, "{text}");
    fs::write(plugins.join("nested.wasm"), nested_types()).unwrap();
    host.wait_for_log(&["plugin not loaded", "nested.wasm", "nested more than 32 deep"]).await;
    assert!(host.terminate().success());
    let host = Host::start_on(&data, &plugins, &[]);
    host.wait_for_log(&["plugin not loaded", "nested.wasm"]).await;
    let body = json!({
        "gid": "g", "trans_type": "saga", "wait_result": true,
        "steps": [{ "action": "wasm://a/try", "compensate": "wasm://a/cancel" }], "payloads": [{}],
    });
    assert_eq!(host.submit(body.to_string()).await.unwrap().0, 200);
}

#[tokio::test]
async fn a_request_without_a_grant_says_what_would_grant_it() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::start_on(&dir.path().join("data"), &dir.path().join("plugins"), &[]);
    let (status, text) = host.put("/api/v1/plugins/chaos", read("fixtures", "chaos")).await.unwrap();
    assert_eq!(status, 201, "{text}");
    assert!(text.contains("is granted no address: [plugins.grants.chaos] http"), "{text}");
    let payload = json!({
        "try": "fetch",
        "requests": [{ "scheme": "https", "authority": "pay.example", "path": "/charges" }],
        "or": "be unavailable",
        "text": "no answer",
    });
    let body = json!({
        "gid": "g", "trans_type": "saga", "wait_result": true,
        "steps": [{ "action": "wasm://chaos/try", "compensate": "wasm://chaos/cancel" }],
        "payloads": [payload],
    });
    host.submit(body.to_string()).await.unwrap();
    host.wait_for_log(&["pay.example", "[plugins.grants.chaos]"]).await;
}

#[test]
fn what_starts_well_is_a_plugin() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("good.wasm"), made_of("nop")).unwrap();
    let said = wasaga(dir.path(), &["check", "good.wasm"]);
    assert!(said.is_good, "{}", said.text);
}
