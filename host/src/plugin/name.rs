//! Names of plugins, which are those of their files, and digests of components.

use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::saga::Digest;

/// Bytes of a plugin's name: as many as a label of a host name may have.
const NAME_BYTES_MAX: usize = 63;

/// The name would not work in an address.
#[derive(Debug, thiserror::Error)]
#[error("{}: rename the file", name_rule())]
pub struct InvalidName;

/// The plugin's name: the file's name without `.wasm`.
pub fn name(path: &Path) -> Result<&str, InvalidName> {
    path.file_stem().and_then(|stem| stem.to_str()).filter(|name| is_name(name)).ok_or(InvalidName)
}

/// Whether a plugin can have this name.
pub fn is_name(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= NAME_BYTES_MAX && name.starts_with(letter) && name.chars().all(|c| letter(c) || "-_.".contains(c))
}

/// The rule that [`is_name`] checks, for people.
pub fn name_rule() -> String {
    format!(
        "a plugin's name must consist of lowercase letters, digits, '-', '_' and '.', start with a letter or digit and have \
         at most {NAME_BYTES_MAX} characters"
    )
}

/// SHA-256 of a component.
pub fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}
