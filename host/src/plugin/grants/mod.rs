//! The grants of each plugin in the host's settings.
//!
//! - [`rule`]: the addresses and methods that a plugin may request
//! - [`secret`]: values that the plugin reads and that the host never writes
//! - [`entry`]: one entry `[plugins.grants.NAME]`, checked
//! - [`containment`]: whether effects of the plugin can leave the host, from its imports and its grants

pub mod containment;
pub(super) mod entry;
#[cfg(test)]
mod fuzz;
pub mod rule;
pub mod secret;

pub use entry::{Error, Fault, Grants, KEY_BYTES_MAX, Settings, header};
