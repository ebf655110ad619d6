//! Which plugins a host has, in which versions, and which of them an address means.
//!
//! - [`address`]: the parts of an address
//! - [`error`]: why a component cannot become the current version
//! - [`folder`]: the files of the plugin folder
//! - [`versions`]: the versions of all plugins in memory
//! - [`registry`]: lookups, and holds of sagas on versions
//! - [`publish`]: changes of the current versions
//! - [`collector`]: the background task that follows the plugin folder and removes unreferenced versions

pub mod address;
pub mod collector;
pub(super) mod error;
mod folder;
pub(super) mod publish;
pub(super) mod registry;
mod versions;
