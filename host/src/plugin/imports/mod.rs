//! The imports of guests that this host implements; wasmtime implements the rest of WASI.
//!
//! - [`bindings`]: the interfaces of `wit/` that this host implements, in Rust
//! - [`output_gate`]: lets output leave the host, or ends the attempt
//! - [`guest_log`]: how much one plugin may write to the log
//! - [`stdio`]: standard output, standard error and `wasi:logging`
//! - [`lists`], [`transaction`]: reads and writes of the plugins' data, with the preconditions of the commit
//! - [`keyvalue`]: `wasi:keyvalue` on a transaction
//! - [`http`]: `wasi:http` behind the grants, the limits and the output gate

pub(super) mod bindings;
pub(super) mod guest_log;
pub(super) mod http;
pub(super) mod keyvalue;
mod lists;
pub(super) mod output_gate;
pub(super) mod stdio;
pub(super) mod transaction;
