//! A gallery of files that are no plugins, beside one that is.

use std::fs;

use sha2::{Digest as _, Sha256};
use wasaga::{
    plugin::{ComponentError, Limits, PublishError},
    saga::Digest,
};

use super::*;

/// `service-a` with one name replaced everywhere by another of the same length.
fn renamed(from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = component("plugins", "service-a");
    let mut found = false;
    for at in 0..bytes.len() - from.len() {
        if bytes[at..].starts_with(from.as_bytes()) {
            bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
            found = true;
        }
    }
    assert!(found, "{from} is not in the component");
    bytes
}

/// Loads a folder with this file and a good one.
async fn beside_a_good_one(file: &str, bytes: &[u8]) -> Registry {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(file), bytes).unwrap();
    fs::write(dir.path().join("good.wasm"), component("plugins", "service-a")).unwrap();
    let settings = Settings { limits: Limits { component_bytes: 1 << 20, ..Limits::default() }, ..Settings::default() };
    let registry = load(&settings, dir.path());
    assert_eq!(output(try_(&registry, "good", &json!({})).await), Value::Null, "the good one works");
    assert_eq!(registry.refused().len(), 1, "the other one is refused");
    assert_eq!(registry.refused()[0].file, dir.path().join(file));
    registry
}

/// What is wrong with the file, and the words that tell it to people.
macro_rules! assert_refused {
    ($file:literal, $bytes:expr, $fault:pat, $($words:literal),+) => {
        let registry = beside_a_good_one($file, $bytes).await;
        let refused = &registry.refused()[0];
        assert!(matches!(refused.error, PublishError::Component($fault)), "{refused:?}");
        let message = refused.to_string();
        $(assert!(message.contains($words), "no {:?} in {message:?}", $words);)+
    };
}

#[tokio::test]
async fn files_that_are_something_else() {
    assert_refused!("bad.wasm", b"", ComponentError::Empty, "empty", "again");
    assert_refused!("bad.wasm", b"(component)", ComponentError::NotWasm, "not WebAssembly", "wasm32-wasip2");
    assert_refused!(
        "bad.wasm",
        b"\0asm\x01\0\0\0",
        ComponentError::CoreModule { .. },
        "core module",
        "wasm32-wasip2",
        "cargo component"
    );
    assert_refused!(
        "bad.wasm",
        &vec![0; 1 << 21],
        ComponentError::TooLarge { limit: 1_048_576 },
        "1048576",
        "component_bytes"
    );
}

#[tokio::test]
async fn a_module_that_could_become_a_component() {
    let module = |words: &str| [b"\0asm\x01\0\0\0", words.as_bytes()].concat();
    for (words, mend) in [
        ("component-type:branch", "`wasm-tools component new IN.wasm -o OUT.wasm`"),
        ("component-type:branch wasi_snapshot_preview1", "--adapt wasi_snapshot_preview1.reactor.wasm"),
        ("wasi_snapshot_preview1", "`cargo component build --release`"),
    ] {
        let registry = beside_a_good_one("bad.wasm", &module(words)).await;
        let message = registry.refused()[0].to_string();
        assert!(message.contains(mend), "{message}");
    }
}

#[tokio::test]
async fn a_file_that_was_cut_short() {
    let whole = component("plugins", "service-a");
    assert_refused!("bad.wasm", &whole[..whole.len() / 2], ComponentError::Invalid { .. }, "cut short", "again");
    assert_refused!("bad.wasm", &whole[..6], ComponentError::Invalid { .. }, "cut short");
}

#[tokio::test]
async fn another_world() {
    let nothing = b"\0asm\x0d\0\x01\0";
    assert_refused!("bad.wasm", nothing, ComponentError::WrongWorld { .. }, "wasaga:saga/branch@0.1.0", "nothing");
    let other = renamed("saga/branch@", "saga/brunch@");
    assert_refused!(
        "bad.wasm",
        &other,
        ComponentError::WrongWorld { .. },
        "wasaga:saga/brunch@0.1.0",
        "wasaga:saga/plugin"
    );
    let newer = renamed("branch@0.1.0", "branch@0.2.0");
    assert_refused!("bad.wasm", &newer, ComponentError::OtherVersion { .. }, "branch@0.1.0", "branch@0.2.0");
}

#[tokio::test]
async fn another_interface_under_the_right_name() {
    let no_cancel = renamed("cancel", "undone");
    assert_refused!("bad.wasm", &no_cancel, ComponentError::MissingFunction { function: "cancel" }, "`cancel`");
    let field = renamed("attempt", "attemqt");
    assert_refused!("bad.wasm", &field, ComponentError::WrongType { .. }, "wit", "attempt");
    let case = renamed("unavailable", "unavoidable");
    assert_refused!("bad.wasm", &case, ComponentError::WrongType { .. }, "wit", "unavailable");
}

#[tokio::test]
async fn an_import_that_the_host_does_not_offer() {
    let import = renamed("wasi:cli/stdout@", "wasi:cli/strout@");
    assert_refused!(
        "bad.wasm",
        &import,
        ComponentError::UnknownImport { .. },
        "wasi:cli/strout@",
        "wasaga:saga/plugin"
    );
}

#[tokio::test]
async fn a_name_that_no_address_can_hold() {
    let good = component("plugins", "service-a");
    assert_refused!("Bad.wasm", &good, ComponentError::Name(_), "lowercase");
    assert_refused!("a b.wasm", &good, ComponentError::Name(_), "rename");
}

#[test]
fn a_folder_where_a_component_should_be() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("folder.wasm")).unwrap();
    let message = load(&Settings::default(), dir.path()).refused()[0].to_string();
    assert!(message.ends_with("folder.wasm: cannot be read: it is not a regular file"), "{message}");
}

#[test]
fn a_folder_that_is_not_there() {
    let registry = load(&Settings::default(), Path::new("/nonexistent/plugins"));
    assert_eq!(registry.plugins().len(), 0);
    let message = registry.refused()[0].to_string();
    assert!(message.starts_with("/nonexistent/plugins: cannot be read"), "{message}");
}

#[test]
fn a_plugin_knows_what_it_is() {
    let plugin = CHAOS.plugin("chaos").unwrap();
    let bytes = component("fixtures", "chaos");
    assert_eq!((plugin.name(), plugin.size()), ("chaos", bytes.len() as u64));
    assert_eq!(plugin.digest(), Digest(Sha256::digest(&bytes).into()));
    assert!(plugin.imports().any(|import| import.starts_with("wasi:keyvalue/store@")));
}
