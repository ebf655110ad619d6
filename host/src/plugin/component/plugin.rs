//! A component under a name, ready to be called.

use std::sync::{Arc, atomic::AtomicUsize};

use super::{
    error::Error,
    loaded::{Code, Loaded},
};
use crate::{
    branch::Containment,
    memory::Holder,
    plugin::{
        grants::containment::{self, Classification},
        imports::http::outgoing::Policy,
        name::{InvalidName, is_name},
        sandbox::{compile::Cost, runtime::Runtime, scheduler::CpuEstimate},
    },
    saga::{Digest, Pin},
};

/// A component under a name, with its grants and its share of the host.
pub struct Plugin {
    pin: Pin,
    classification: Classification,
    pub(crate) component: Loaded,
    pub(crate) runtime: Runtime,
    pub(crate) cpu_estimate: CpuEstimate,
    /// Bytes of memory that the attempt before has needed.
    pub(crate) memory_estimate: AtomicUsize,
    /// What its guests have of the memory for guests, those of its other versions included.
    pub(crate) memory: Arc<Holder>,
    /// Its name, grants and limits, which its HTTP requests share.
    pub(crate) policy: Arc<Policy>,
}

impl Plugin {
    /// Makes a plugin of a component that has passed [`Plugin::load`] before: compiles (or finds compiled) and checks it.
    pub(crate) fn load_again(runtime: &Runtime, name: &str, bytes: &[u8]) -> Result<Arc<Self>, Error> {
        if !is_name(name) {
            return Err(InvalidName::Malformed.into());
        }
        let component = Loaded::new(runtime, bytes)?;
        let grants = runtime.grants(name);
        let classification = containment::classify(name, component.imports.iter().map(|import| &**import), &grants);
        let clients = (classification.containment == Containment::Gated).then(|| runtime.clients()).flatten();
        let (limits, guest_log) = (runtime.limits().clone(), runtime.guest_log(name));
        let policy = Policy { plugin: name.into(), grants, limits, guest_log, clients };
        Ok(Arc::new(Self {
            pin: Pin { plugin: name.into(), digest: component.digest },
            component,
            runtime: runtime.clone(),
            classification,
            cpu_estimate: CpuEstimate::default(),
            memory_estimate: AtomicUsize::new(0),
            memory: runtime.memory_of(name),
            policy: Arc::new(policy),
        }))
    }

    /// The name that addresses use.
    pub fn name(&self) -> &str {
        &self.policy.plugin
    }

    /// The name and the digest of the component.
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

    /// Whether the component was compiled when it was loaded, or found in the cache.
    pub fn code(&self) -> Code {
        self.component.code
    }

    /// What compiling the component took, if a process of its own compiled it when it was loaded.
    pub fn compile_cost(&self) -> Option<Cost> {
        self.component.cost
    }

    /// The interfaces that the component imports, with versions.
    pub fn imports(&self) -> impl Iterator<Item = &str> {
        self.component.imports.iter().map(|import| &**import)
    }

    /// Whether effects of the plugin can leave the host, and why.
    pub fn classification(&self) -> &Classification {
        &self.classification
    }
}
