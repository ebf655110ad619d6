//! Names of plugins, which are those of their files, and digests of components.

use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::{egress::rules, saga::Digest};

/// Bytes of a plugin's name: as many as a label of a host name may have.
const NAME_BYTES_MAX: usize = 63;

/// The name would not work in an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    #[error("{}: rename the file", name_rule())]
    Malformed,
    /// `http://NAME/try` belongs to the plugin, so it would take what is meant for this machine or another one.
    #[error(
        "a plugin cannot be named like an IP address, such as 127.0.0.1, 127.1 or 2130706433, nor localhost or NAME.localhost: \
         calls of services at that address would go to the plugin; choose another name"
    )]
    Address,
}

/// The plugin's name: the file's name without `.wasm`.
pub fn name(path: &Path) -> Result<&str, InvalidName> {
    let name = path.file_stem().and_then(|stem| stem.to_str()).ok_or(InvalidName::Malformed)?;
    check(name)?;
    Ok(name)
}

/// Checks the name of a plugin that is new to the host. Sagas may be pinned to plugins that were named by the first rule
/// alone, [`is_name`].
pub fn check(name: &str) -> Result<(), InvalidName> {
    if !is_name(name) {
        return Err(InvalidName::Malformed);
    }
    if rules::is_localhost(name) || rules::is_ipv4_address(name) {
        return Err(InvalidName::Address);
    }
    Ok(())
}

/// Whether a name consists of what a plugin's name may consist of.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_address() {
        for name in [
            "127.0.0.1",
            "169.254.169.254",
            "127.1",
            "127.0.0.1.",
            "1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "017700000001",
            "0",
            "localhost",
            "localhost.",
            "api.localhost",
        ] {
            assert_eq!(check(name), Err(InvalidName::Address), "{name}");
        }
        for name in ["service-a", "bank-v1.2", "a.1", "4you", "localhost-1", "my_plugin", "0xg", "1.2.3.4.5"] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        for name in ["", "Bank", "-a", "a b", "::1"] {
            assert_eq!(check(name), Err(InvalidName::Malformed), "{name}");
        }
    }
}
