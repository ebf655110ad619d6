//! What the tests of Wasaga share.
//!
//! - [`engine`]: an engine in this process, on a store and a disk that a test controls.
//! - [`process`]: the real program as a process.
//! - [`server`]: an HTTP server that reports what reaches it.
//! - [`component`], [`component_file`], [`no_plugins`]: the plugins of a host.
//! - [`branch_call`], [`branch_host`]: a call of a branch without a saga.
//! - [`table`]: tables of a README that name tests.
//! - [`seed`], [`seeds`], [`rng`]: seeds of randomised tests.

#![allow(clippy::return_self_not_must_use, reason = "a builder that a test forgets to use makes the test fail")]

pub mod engine;
pub mod process;
pub mod server;
pub mod table;

mod branch_call;
mod components;
mod no_plugins;

pub use self::{
    branch_call::{branch_call, branch_host},
    components::{component, component_dir, component_file},
    no_plugins::no_plugins,
};
pub use wasaga_seed::{rng, seed, seeds};
