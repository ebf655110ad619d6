//! The versions of all plugins, in memory: which of each is current, and which sagas hold.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed},
        },
    },
};

use super::{address, error::Refused, folder::Stamp};
use crate::{
    branch::Branch,
    plugin::{component::plugin::Plugin, name},
    saga::{Op, Pin},
};

/// All versions of all plugins.
#[derive(Default)]
pub struct Versions {
    /// The versions that new sagas are pinned to, by name.
    pub current: BTreeMap<String, Callable>,
    /// All versions, the current ones included.
    pub all: HashMap<Pin, Version>,
    /// Files that were not published.
    pub refused: BTreeMap<PathBuf, Arc<Refused>>,
    /// How often a version has become current.
    pub turns: u64,
}

/// A component that can be called.
#[derive(Clone)]
pub struct Callable {
    pub plugin: Arc<Plugin>,
    /// Made once, so that a lookup allocates nothing.
    action: Arc<dyn Branch>,
    compensation: Arc<dyn Branch>,
}

/// One version of a plugin.
pub struct Version {
    /// Or why it cannot be called.
    pub callable: Result<Callable, String>,
    /// Unfinished sagas that are pinned to it.
    pub held: AtomicU64,
    /// How often a saga has released it.
    pub released: AtomicU64,
    /// [`Versions::turns`] when it last became current.
    pub turn: u64,
    /// Of its stored file when that was last read.
    pub stamp: Option<Stamp>,
}

impl Callable {
    /// Makes the two branches of a plugin.
    pub fn new(plugin: Arc<Plugin>) -> Self {
        let (action, compensation) = (plugin.operation(Op::Action), plugin.operation(Op::Compensate));
        Self { plugin, action, compensation }
    }

    /// The branch that carries out an operation.
    pub fn operation(&self, op: Op) -> Arc<dyn Branch> {
        match op {
            Op::Action => self.action.clone(),
            Op::Compensate => self.compensation.clone(),
        }
    }
}

impl Version {
    /// A version that no saga holds.
    pub fn new(callable: Result<Callable, String>, turn: u64, stamp: Option<Stamp>) -> Self {
        Self { callable, held: AtomicU64::new(0), released: AtomicU64::new(0), turn, stamp }
    }
}

impl Versions {
    /// Counts one more saga that holds a version. `false` if there is no such version.
    pub fn hold(&self, pin: &Pin) -> bool {
        self.all.get(pin).map(|version| version.held.fetch_add(1, Relaxed)).is_some()
    }

    /// Whether new sagas are pinned to this version.
    pub fn is_current(&self, pin: &Pin) -> bool {
        self.current.get(&*pin.plugin).is_some_and(|current| current.plugin.pin() == pin)
    }

    /// Whether a version is neither held nor current.
    pub fn is_unreferenced(&self, pin: &Pin, version: &Version) -> bool {
        version.held.load(Acquire) == 0 && !self.is_current(pin)
    }

    /// The refused file of a plugin, if it has one.
    pub fn refusal(&self, plugin: &str) -> Option<&Arc<Refused>> {
        self.refused.values().find(|refused| name::name(&refused.file).is_ok_and(|name| name == plugin))
    }

    /// Why an address that belongs to a plugin means no current version.
    pub fn missing(&self, target: &str, name: &str) -> address::Error {
        let target = target.to_owned();
        if let Some(refused) = self.refusal(name) {
            return address::Error::Refused { target, refused: refused.to_string() };
        }
        let names: Vec<&str> = self.current.keys().map(String::as_str).collect();
        address::Error::UnknownPlugin { target, name: name.to_owned(), known: list(&names) }
    }

    /// The error for a digest that is no version of the plugin.
    pub fn unknown_version(&self, target: &str, name: &str) -> address::Error {
        let mut versions: Vec<_> = self.all.iter().filter(|(pin, _)| &*pin.plugin == name).collect();
        versions.sort_by_key(|(_, version)| Reverse(version.turn));
        let versions: Vec<String> = versions.into_iter().map(|(pin, _)| address::version(pin.digest)).collect();
        address::Error::UnknownVersion { target: target.to_owned(), name: name.to_owned(), known: list(&versions) }
    }
}

fn list<T: std::borrow::Borrow<str>>(names: &[T]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
