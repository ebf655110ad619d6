//! What the host's settings grant to each plugin, and what follows from it.
//!
//! - [`rule`]: the addresses and methods that a plugin may request
//! - [`secret`]: values that the plugin reads and nobody sees in the host's output
//! - [`redact`]: finds secrets in texts
//! - [`entry`]: one entry `[plugins.grants.NAME]`, checked
//! - [`containment`]: whether effects of the plugin can leave the host, from its imports and its grants

pub mod containment;
pub(super) mod entry;
pub(super) mod redact;
pub mod rule;
pub mod secret;

pub use entry::{Error, Fault, Grants, KEY_BYTES_MAX, Settings};
