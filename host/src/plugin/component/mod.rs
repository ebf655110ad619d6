//! From the bytes of a file to a plugin that can be called.
//!
//! - [`error`]: why a file is no valid component
//! - [`precheck`]: counts what a file has before a library reads it
//! - [`loaded`]: compiles and checks a component
//! - [`plugin`]: a component under a name, with its grants and its share of the host

pub(super) mod error;
pub(super) mod loaded;
pub(super) mod plugin;
pub mod precheck;
