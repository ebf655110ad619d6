//! Plugins are replaced while sagas run on them.
//!
//! 1. Whatever happens, no saga fails for it, and none mixes versions: also when the host is killed in between.
//! 2. A version is given up only when it is on disk that no saga needs it.

mod durable;
mod load;

use wasaga_testkit::component;

/// `chaos` in another version.
fn chaos(version: u32) -> Vec<u8> {
    let mut bytes = component("fixtures", "chaos");
    let (old, new) = (b"version-00000000", format!("version-{version:08}"));
    let at = bytes.windows(old.len()).position(|window| window == old).expect("chaos has its version in it");
    bytes[at..at + old.len()].copy_from_slice(new.as_bytes());
    bytes
}
