//! Plugins are replaced while sagas run on them.
//!
//! 1. Whatever happens, no saga fails for it, and none mixes versions: also when the host is killed in between.
//! 2. A version is given up only when it is on disk that no saga needs it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../support/mod.rs"]
mod support;

mod durable;
mod load;

use std::{fs, path::Path};

/// `chaos` in another version.
fn chaos(version: u32) -> Vec<u8> {
    let mut bytes = component("fixtures", "chaos");
    let (old, new) = (b"version-00000000", format!("version-{version:08}"));
    let at = bytes.windows(old.len()).position(|window| window == old).expect("chaos has its version in it");
    bytes[at..at + old.len()].copy_from_slice(new.as_bytes());
    bytes
}

fn component(folder: &str, name: &str) -> Vec<u8> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let file = target.join(folder).join(name).with_extension("wasm");
    fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}: run `make plugins fixtures`", file.display()))
}
