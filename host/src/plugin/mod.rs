//! Plugins: branches that are sandboxed WebAssembly components. The only place that names wasmtime.
//!
//! A file of the plugin folder ([`folder`]) is read, checked and compiled once ([`component`], [`compilers`], [`cache`]),
//! and then found by the address of a step ([`registry`], [`address`]). It is kept for the sagas that are pinned to it
//! ([`shelf`]) for as long as they need it ([`collector`]). Each call makes a fresh instance from what was prepared, runs it
//! within its limits and drops it ([`attempt`]): a guest never sees what an earlier call left behind, and after a trap
//! there is nothing to clean up.
//!
//! What a guest may do is decided in [`runtime`] (what it gets from the host), [`limits`] (how much of it),
//! [`background`] (how long it computes before it gives way, by its [`niceness`]) and [`stdio`] (what it may write to the
//! log, with no [`secret`] in it: [`redact`]). What only some plugins may do, the host's settings say ([`grants`]);
//! whether that lets anything out of the host is for [`reach`] to tell, and how it gets out for [`gate`] and [`http`]. State that outlives a call is [`keyvalue`], and what makes it exactly-once is
//! [`transaction`]. [`contract`] and [`imports`] are `wit/` in Rust.

mod address;
mod attempt;
mod cache;
pub mod collector;
mod compilers;
mod component;
mod component_store;
pub mod containment;
mod contract;
pub mod data;
mod folder;
pub mod grants;
pub mod http;
mod imports;
mod keyvalue;
mod limits;
mod niceness;
mod output_gate;
mod redact;
mod registry;
mod runtime;
mod scheduler;
pub mod secret;
mod start;
mod stdio;
mod transaction;

use std::sync::Arc;

pub use address::{Route, Unresolved, version};
pub use component::{Code, Fault, is_name, name, name_rule, read};
pub use contract::INTERFACE;
pub use folder::Published;
pub use grants::Grants;
pub use limits::Limits;
pub use registry::{Known, Refused, Registry, Unreferenced};
pub use runtime::{Error, Runtime, Settings};

use attempt::Operation;
use component::Loaded;
use containment::Classification;
use runtime::Permits;
use scheduler::CpuEstimate;

use crate::{
    branch::{Branch, Containment},
    saga::{Digest, Op, Pin},
};

/// A component under a name, ready to be called.
pub struct Plugin {
    pin: Pin,
    name: Arc<str>,
    component: Loaded,
    runtime: Runtime,
    grants: Arc<Grants>,
    classification: Classification,
    permits: Permits,
    cpu_estimate: CpuEstimate,
    /// For those that may leave the host.
    clients: Option<http::Clients>,
}

impl Plugin {
    fn new(runtime: &Runtime, pin: &Pin, component: Loaded) -> Self {
        let name = &*pin.plugin;
        let grants = runtime.grants(name);
        let classification = containment::classify(name, component.imports.iter().map(|import| &**import), &grants);
        let clients = (classification.containment == Containment::Gated).then(|| runtime.clients()).flatten();
        let permits = runtime.permits(name);
        let (pin, name) = (pin.clone(), name.into());
        Self {
            pin,
            name,
            component,
            runtime: runtime.clone(),
            grants,
            classification,
            permits,
            cpu_estimate: CpuEstimate::default(),
            clients,
        }
    }

    /// Makes a plugin of a component that is new here: compiles (or finds compiled), checks and starts it. One at a time.
    /// Takes from milliseconds to seconds.
    pub fn load(runtime: &Runtime, name: &str, bytes: &[u8]) -> Result<Arc<Self>, Fault> {
        let plugin = Self::load_again(runtime, name, bytes)?;
        start::check(&plugin)?;
        Ok(plugin)
    }

    /// The same for a component that has been loaded before.
    fn load_again(runtime: &Runtime, name: &str, bytes: &[u8]) -> Result<Arc<Self>, Fault> {
        if !component::is_name(name) {
            return Err(Fault::Name);
        }
        let component = Loaded::new(runtime, bytes)?;
        let pin = Pin { plugin: name.into(), digest: component.digest };
        Ok(Arc::new(Self::new(runtime, &pin, component)))
    }

    /// The branch that carries out an operation.
    pub fn operation(self: &Arc<Self>, op: Op) -> Arc<dyn Branch> {
        Arc::new(Operation { plugin: self.clone(), op })
    }

    /// The name that addresses use.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The component under its name.
    pub fn pin(&self) -> &Pin {
        &self.pin
    }

    /// SHA-256 of the component.
    pub fn digest(&self) -> Digest {
        self.pin.digest
    }

    /// Bytes of the component.
    pub fn size(&self) -> u64 {
        self.component.size
    }

    /// Whether it was compiled when it was loaded, or found in the cache.
    pub fn code(&self) -> Code {
        self.component.code
    }

    /// The interfaces that it imports, with versions.
    pub fn imports(&self) -> impl Iterator<Item = &str> {
        self.component.imports.iter().map(|import| &**import)
    }

    /// Whether anything that it does can leave the host, and why.
    pub fn classification(&self) -> &Classification {
        &self.classification
    }
}
