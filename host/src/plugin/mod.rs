//! Plugins: branches that are sandboxed WebAssembly components. The only place that names wasmtime.
//!
//! A file of the plugin folder is read, checked and compiled once ([`component`], [`cache`]) and then found by the
//! address of a step ([`registry`]). Each call makes a fresh instance from what was prepared, runs it within its limits
//! and drops it ([`attempt`]): a guest never sees what an earlier call left behind, and after a trap there is nothing
//! to clean up.
//!
//! What a guest may do is decided in [`runtime`] (what it gets from the host), [`limits`] (how much of it), [`turns`]
//! (how long it computes before others do) and [`stdio`] (what it may write to the log). What only some plugins may do,
//! the host's settings say ([`grants`]); whether that lets anything out of the host is for [`reach`] to tell, and how it
//! gets out for [`gate`] and [`http`]. State that outlives a call is [`keyvalue`], and what makes it exactly-once is
//! [`transaction`]. [`contract`] and [`imports`] are `wit/` in Rust.

mod attempt;
mod cache;
mod component;
mod contract;
pub mod data;
mod gate;
pub mod grants;
pub mod http;
mod imports;
mod keyvalue;
mod limits;
pub mod reach;
mod registry;
mod runtime;
pub mod secret;
mod stdio;
mod transaction;
mod turns;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

pub use component::{Code, Fault};
pub use grants::Grants;
pub use limits::Limits;
pub use registry::{Refused, Registry, Route, Unresolved};
pub use runtime::{Error, Runtime, Settings};

use component::Loaded;
use reach::Judgement;

use crate::branch::Reach;

/// A component under a name, ready to be called.
pub struct Plugin {
    name: Arc<str>,
    path: PathBuf,
    component: Loaded,
    runtime: Runtime,
    grants: Arc<Grants>,
    judgement: Judgement,
    /// For those that may leave the host.
    clients: Option<http::Clients>,
}

impl Plugin {
    fn new(runtime: &Runtime, name: &str, path: PathBuf, component: Loaded) -> Self {
        let grants = runtime.grants(name);
        let judgement = reach::judge(name, component.imports.iter().map(|import| &**import), &grants);
        let clients = (judgement.reach == Reach::Gated).then(|| runtime.clients()).flatten();
        Self { name: name.into(), path, component, runtime: runtime.clone(), grants, judgement, clients }
    }

    /// The name that addresses use.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// SHA-256 of the component, in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.component.digest
    }

    /// Bytes of the component.
    pub fn size(&self) -> u64 {
        self.component.size
    }

    /// Whether it was compiled when it was loaded, or found in the cache.
    pub fn code(&self) -> Code {
        self.component.code
    }

    /// Whether anything that it does can leave the host, and why.
    pub fn judgement(&self) -> &Judgement {
        &self.judgement
    }
}
