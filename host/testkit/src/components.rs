//! The components that `make plugins fixtures` builds.

use std::path::{Path, PathBuf};

/// The folder of built components: `plugins` or `fixtures`.
///
/// # Panics
/// If it has not been built.
pub fn component_dir(folder: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target").join(folder);
    dir.canonicalize().unwrap_or_else(|error| panic!("{}: {error}: run `make plugins fixtures`", dir.display()))
}

/// The file of a built component.
///
/// # Panics
/// If it has not been built.
pub fn component_file(folder: &str, name: &str) -> PathBuf {
    let file = component_dir(folder).join(name).with_extension("wasm");
    assert!(file.is_file(), "{} is missing: run `make plugins fixtures`", file.display());
    file
}

/// The bytes of a built component.
///
/// # Panics
/// If it has not been built.
pub fn component(folder: &str, name: &str) -> Vec<u8> {
    let file = component_file(folder, name);
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}
