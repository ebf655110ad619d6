//! Plugins: branches that are sandboxed WebAssembly components. The only module that names wasmtime.
//!
//! A component is read, checked and compiled once, and found by the address of a step. A saga is pinned to the versions
//! that are current when it starts, and these are kept until it ends. Each call makes a fresh instance, runs it within its
//! limits and drops it: a guest never sees what an earlier call left behind, and a trap leaves nothing to clean up.
//!
//! The modules, bottom to top; each imports only modules above it in this list:
//!
//! - [`name`], [`contract`], [`limits`], [`keyvalue_keys`]: names, `wit/saga.wit` in Rust, limits, keys of plugins' data
//! - [`grants`]: the grants of each plugin in the host's settings, secrets and their redaction included
//! - [`storage`]: components and their compiled code on disk
//! - [`imports`]: the imports of guests: data, log and HTTP, and the gate that output passes
//! - [`sandbox`]: the engine, the guests in it, and the threads they run on
//! - [`component`]: from bytes to a plugin that can be called
//! - [`attempt`]: one attempt of a plugin
//! - [`catalog`]: all plugins of the host and their versions

mod attempt;
mod catalog;
mod component;
mod contract;
pub mod grants;
mod imports;
pub mod keyvalue_keys;
mod limits;
mod name;
mod sandbox;
mod storage;

pub use catalog::{
    address::{self, Route, version},
    collector,
    error::{PublishError, Refused},
    publish::Published,
    registry::{Known, Registry, Unreferenced},
};
pub use component::{
    error::Error as ComponentError,
    loaded::{Code, read},
    plugin::Plugin,
};
// For the fuzzing target.
#[doc(hidden)]
pub use component::precheck;
pub use contract::INTERFACE;
pub use grants::Grants;
pub use imports::{guest_log::Settings as GuestLogSettings, stdio::LOG_TARGET as GUEST_LOG_TARGET};
pub use limits::{CompileLimits, Limits};
pub use name::{InvalidName, check as check_name, is_name, name, name_rule};
pub use sandbox::{
    compile::{COMMAND as COMPILE_COMMAND, Compiler, Cost, compile_here},
    runtime::{Egress, Error, Runtime, Settings},
};
