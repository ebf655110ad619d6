//! The plugins of a host: which version of each is current, and which are kept for sagas.
//!
//! A new saga is pinned to the versions that are current; from then until its end it is called by its pins. So that
//! both can change at any moment:
//!
//! 1. **What can be pinned can be called**: a version is compiled, checked and on the shelf before it is current.
//! 2. **What is held for stays**: a version goes only when it is not current, no open saga is pinned to it, and it is
//!    durable that the last saga that was has ended. Otherwise a crash could bring back a saga without its code.
//! 3. **Only good changes count**: a file that is no plugin changes nothing, whichever way it comes.
//!
//! Lookups read one lock for moments. Changes come one at a time and do their slow work (reading, compiling, syncing)
//! before they touch what lookups read.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
};

use tokio::sync::Notify;
use tracing::{error, info};

use super::{
    Plugin, Runtime,
    address::{self, Location, Route, Unresolved},
    component::{self, Fault},
    folder::Folder,
    reach::Judgement,
    shelf::Shelf,
};
use crate::{
    branch::Branch,
    saga::{Op, Pin},
};

/// A file that is no plugin.
#[derive(Debug, thiserror::Error)]
#[error("{}: {fault}", file.display())]
pub struct Refused {
    /// The file, or the folder if it cannot be read.
    pub file: PathBuf,
    /// What is wrong with it.
    pub fault: Fault,
}

/// All plugins of a host.
pub struct Registry {
    pub(super) runtime: Runtime,
    pub(super) dir: PathBuf,
    routes: Vec<Route>,
    state: RwLock<State>,
    /// Held by whoever changes which version is current.
    pub(super) folder: Mutex<Folder>,
    /// Told when a version may have become superfluous.
    pub(super) let_go: Notify,
}

#[derive(Default)]
struct State {
    current: BTreeMap<String, Entry>,
    versions: HashMap<Pin, Version>,
    refused: BTreeMap<PathBuf, Arc<Refused>>,
    /// How many versions have been current so far.
    turns: u64,
}

/// A component that can be called.
#[derive(Clone)]
struct Entry {
    plugin: Arc<Plugin>,
    /// Made once, so that finding a branch allocates nothing.
    action: Arc<dyn Branch>,
    compensation: Arc<dyn Branch>,
}

/// One version of a plugin.
struct Version {
    /// What it is, or why it cannot be called.
    entry: Result<Entry, String>,
    /// Open sagas that are pinned to it.
    held: AtomicU64,
    /// How often one has let go of it.
    let_go: AtomicU64,
    /// When it was last made current, in the order of such events.
    turn: u64,
}

/// What a listing says of one version.
#[derive(Debug, PartialEq, Eq)]
pub struct Known {
    /// Which.
    pub pin: Pin,
    /// Whether new sagas are pinned to it.
    pub is_current: bool,
    /// Open sagas that are pinned to it.
    pub sagas: u64,
    /// Why it cannot be called, if it cannot.
    pub fault: Option<String>,
}

/// A version that nobody needs, as long as no saga has let go of it since.
#[derive(Debug)]
pub struct Superfluous {
    pin: Pin,
    let_go: u64,
}

impl Registry {
    /// Takes what is on the shelf, then every `*.wasm` of the plugin folder. A file that is no plugin never stops the
    /// others: see [`Registry::refused`]. Compiles what the cache does not hold, which takes from milliseconds to
    /// seconds of all processors.
    pub fn load(runtime: &Runtime, dir: &Path, mut routes: Vec<Route>) -> Self {
        // The longest prefix wins.
        routes.sort_by_key(|route| std::cmp::Reverse(route.prefix.len()));
        let registry = Self {
            runtime: runtime.clone(),
            dir: dir.to_owned(),
            routes,
            state: RwLock::default(),
            folder: Mutex::default(),
            let_go: Notify::new(),
        };
        registry.unpack_shelf();
        registry.read_folder();
        registry
    }

    fn unpack_shelf(&self) {
        match self.runtime.shelf().map(Shelf::all) {
            Some(Ok(pins)) => pins.into_iter().for_each(|pin| self.unpack(pin)),
            Some(Err(error)) => error!("components of unfinished sagas cannot be listed: {error}"),
            None => {}
        }
    }

    fn unpack(&self, pin: Pin) {
        let entry = self.fetch(&pin);
        let state = &mut *self.write();
        state.turns += 1;
        state.versions.insert(pin, Version::new(entry, state.turns));
    }

    /// The plugins that new sagas find, by name.
    pub fn plugins(&self) -> Vec<Arc<Plugin>> {
        self.read().current.values().map(|entry| entry.plugin.clone()).collect()
    }

    /// The plugin that new sagas find under this name.
    pub fn plugin(&self, name: &str) -> Option<Arc<Plugin>> {
        self.read().current.get(name).map(|entry| entry.plugin.clone())
    }

    /// All versions that there are, those of one plugin together, the newest first.
    pub fn versions(&self) -> Vec<Known> {
        let state = self.read();
        let mut versions: Vec<_> = state.versions.iter().collect();
        versions.sort_by_key(|(pin, version)| (pin.plugin.clone(), std::cmp::Reverse(version.turn)));
        let known = |(pin, version): (&Pin, &Version)| Known {
            pin: pin.clone(),
            is_current: state.is_current(pin),
            sagas: version.held.load(Relaxed),
            fault: version.entry.as_ref().err().cloned(),
        };
        versions.into_iter().map(known).collect()
    }

    /// The files that are no plugins.
    pub fn refused(&self) -> Vec<Arc<Refused>> {
        self.read().refused.values().cloned().collect()
    }

    /// The version that an address means now, when the address belongs to a plugin: `wasm://NAME/try`, one of the
    /// routes, or any `http(s)://NAME[:PORT]/try` whose host is the name of a plugin. `wasm://NAME@sha256:DIGEST/try`
    /// names it. `None`: an ordinary service.
    pub fn pin(&self, target: &str, op: Op) -> Result<Option<Pin>, Unresolved> {
        let state = self.read();
        let is_owned = |name: &str| state.current.contains_key(name) || state.refusal(name).is_some();
        let Some(location) = Location::of(target, &self.routes, is_owned) else { return Ok(None) };
        let pin = match location.digest(target)? {
            Some(digest) => {
                let pin = Pin { plugin: location.plugin.into(), digest };
                if !state.versions.contains_key(&pin) {
                    return Err(state.unknown_version(target, location.plugin));
                }
                pin
            }
            None => match state.current.get(location.plugin) {
                Some(entry) => entry.plugin.pin().clone(),
                None => return Err(state.missing(target, location.plugin)),
            },
        };
        location.check(target, op)?;
        Ok(Some(pin))
    }

    /// The branch of a version.
    pub fn find(&self, pin: &Pin, op: Op) -> Result<Arc<dyn Branch>, Unresolved> {
        let state = self.read();
        match state.versions.get(pin).map(|version| &version.entry) {
            Some(Ok(entry)) => Ok(entry.operation(op)),
            Some(Err(fault)) => Err(self.lost(pin, fault)),
            None => Err(self.lost(pin, "it is not there")),
        }
    }

    /// The branch that an address means now; see [`Registry::pin`].
    pub fn resolve(&self, target: &str, op: Op) -> Result<Option<Arc<dyn Branch>>, Unresolved> {
        self.pin(target, op)?.map(|pin| self.find(&pin, op)).transpose()
    }

    fn lost(&self, pin: &Pin, fault: &str) -> Unresolved {
        let path = self.runtime.shelf().map(|shelf| shelf.path(pin).display().to_string()).unwrap_or_default();
        Unresolved::Lost { name: pin.plugin.to_string(), version: pin.digest, fault: fault.to_owned(), path }
    }

    /// One more open saga is pinned to these.
    pub fn hold(&self, pins: &[Pin]) {
        let hold = |state: &State, pin: &Pin| {
            state.versions.get(pin).map(|version| version.held.fetch_add(1, Relaxed)).is_some()
        };
        let unknown: Vec<&Pin> = {
            let state = self.read();
            pins.iter().filter(|pin| !hold(&state, pin)).collect()
        };
        for pin in unknown {
            let entry = self.fetch(pin);
            let mut state = self.write();
            state.versions.entry(pin.clone()).or_insert_with(|| Version::new(entry, 0));
            hold(&state, pin);
        }
    }

    /// A saga that was held for has ended.
    pub fn release(&self, pins: &[Pin]) {
        let state = self.read();
        for pin in pins {
            let Some(version) = state.versions.get(pin) else { continue };
            version.let_go.fetch_add(1, AcqRel);
            if version.held.fetch_sub(1, AcqRel) == 1 && !state.is_current(pin) {
                self.let_go.notify_one();
            }
        }
    }

    /// The versions that nobody needs now. They may go once everything committed before this call is durable.
    pub fn superfluous(&self) -> Vec<Superfluous> {
        let spare = self.runtime.spare_versions();
        let state = self.read();
        let mut unused: Vec<(&Pin, &Version)> =
            state.versions.iter().filter(|(pin, version)| state.is_unused(pin, version)).collect();
        unused.sort_by_key(|(pin, version)| (&pin.plugin, std::cmp::Reverse(version.turn)));
        let of_one_plugin = unused.chunk_by(|(one, _), (other, _)| one.plugin == other.plugin);
        let beyond_spare = of_one_plugin.flat_map(|versions| versions.iter().skip(spare));
        beyond_spare
            .map(|(pin, version)| Superfluous { pin: (*pin).clone(), let_go: version.let_go.load(Relaxed) })
            .collect()
    }

    /// Takes versions away that have been superfluous ever since they were found to be.
    pub fn collect(&self, superfluous: Vec<Superfluous>) {
        // Nothing becomes current meanwhile.
        let _changing = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        for Superfluous { pin, let_go } in superfluous {
            let mut state = self.write();
            let is_still = |version: &Version| state.is_unused(&pin, version) && version.let_go.load(Relaxed) == let_go;
            if !state.versions.get(&pin).is_some_and(is_still) {
                continue;
            }
            let removed = state.versions.remove(&pin);
            drop(state);
            // Its code is unmapped here, not under the lock.
            drop(removed);
            self.discard(&pin);
        }
    }

    fn discard(&self, pin: &Pin) {
        if let Some(shelf) = self.runtime.shelf()
            && let Err(error) = shelf.remove(pin)
        {
            error!(plugin = &*pin.plugin, digest = %pin.digest, "a component that nobody needs stays: {error}");
        }
        if let Some(cache) = self.runtime.cache() {
            cache.remove(pin.digest);
        }
        info!(plugin = &*pin.plugin, digest = %pin.digest, "a version that no saga needs is gone");
    }

    /// Looks again for the versions that sagas are pinned to and that were lost.
    pub(super) fn look_for_lost(&self) {
        let is_lost = |version: &Version| version.entry.is_err() && version.held.load(Relaxed) > 0;
        let lost: Vec<Pin> =
            self.read().versions.iter().filter(|(_, version)| is_lost(version)).map(|(pin, _)| pin.clone()).collect();
        for pin in lost {
            if !self.runtime.shelf().is_some_and(|shelf| shelf.has(&pin)) {
                continue;
            }
            if let Ok(entry) = self.fetch(&pin) {
                info!(plugin = &*pin.plugin, digest = %pin.digest, "a lost component is back");
                if let Some(version) = self.write().versions.get_mut(&pin) {
                    version.entry = Ok(entry);
                }
            }
        }
    }

    /// Reads a version from the shelf.
    fn fetch(&self, pin: &Pin) -> Result<Entry, String> {
        let kept = self.runtime.shelf().map(|shelf| shelf.get(pin)).ok_or("this host keeps no components")?;
        let loaded =
            kept.map_err(Fault::Unreadable).and_then(|bytes| Plugin::load_again(&self.runtime, &pin.plugin, &bytes));
        loaded.map(Entry::new).map_err(|fault| {
            error!(plugin = &*pin.plugin, digest = %pin.digest, "a component that was kept cannot be used: {fault}");
            fault.to_string()
        })
    }

    /// Puts a component where sagas can rely on it.
    pub(super) fn keep(&self, pin: &Pin, bytes: &[u8]) -> Result<(), Fault> {
        self.runtime.shelf().map_or(Ok(()), |shelf| shelf.put(pin, bytes)).map_err(Fault::NotKept)
    }

    /// Lets new sagas use this plugin, which has been kept. The version that was current before.
    pub(super) fn make_current(&self, file: &Path, plugin: Arc<Plugin>) -> Option<Pin> {
        let pin = &plugin.pin().clone();
        let (bytes, code, Judgement { reach, reason }) = (plugin.size(), plugin.code(), plugin.judgement());
        info!(plugin = &*pin.plugin, digest = %pin.digest, bytes, ?code, ?reach, reason, "plugin loaded");
        let entry = Entry::new(plugin);
        let state = &mut *self.write();
        state.refused.remove(file);
        state.turns += 1;
        // A version that is there already is held for by its count.
        let version = state.versions.entry(pin.clone()).or_insert_with(|| Version::new(Ok(entry.clone()), 0));
        version.turn = state.turns;
        version.entry = Ok(entry.clone());
        let before = state.current.insert(pin.plugin.to_string(), entry);
        self.let_go.notify_one();
        before.map(|entry| entry.plugin.pin().clone())
    }

    /// From now on new sagas do not find the plugin.
    pub(super) fn take_away(&self, name: &str) {
        if self.write().current.remove(name).is_some() {
            info!(plugin = name, "plugin gone: unfinished sagas go on with it, new ones do not find it");
            self.let_go.notify_one();
        }
    }

    /// Notes what is wrong with a file, or that nothing is.
    pub(super) fn note(&self, file: &Path, fault: Option<Fault>) {
        let mut state = self.write();
        match fault {
            None => drop(state.refused.remove(file)),
            Some(fault) => {
                let refused = Arc::new(Refused { file: file.to_owned(), fault });
                drop(state.refused.insert(file.to_owned(), refused));
            }
        }
    }

    /// Whether new sagas use this very version.
    pub(super) fn is_current(&self, pin: &Pin) -> bool {
        self.read().is_current(pin)
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn new(plugin: Arc<Plugin>) -> Self {
        let (action, compensation) = (plugin.operation(Op::Action), plugin.operation(Op::Compensate));
        Self { plugin, action, compensation }
    }

    fn operation(&self, op: Op) -> Arc<dyn Branch> {
        match op {
            Op::Action => self.action.clone(),
            Op::Compensate => self.compensation.clone(),
        }
    }
}

impl Version {
    fn new(entry: Result<Entry, String>, turn: u64) -> Self {
        Self { entry, held: AtomicU64::new(0), let_go: AtomicU64::new(0), turn }
    }
}

impl State {
    fn is_current(&self, pin: &Pin) -> bool {
        self.current.get(&*pin.plugin).is_some_and(|entry| entry.plugin.pin() == pin)
    }

    fn is_unused(&self, pin: &Pin, version: &Version) -> bool {
        version.held.load(Acquire) == 0 && !self.is_current(pin)
    }

    fn missing(&self, target: &str, name: &str) -> Unresolved {
        let target = target.to_owned();
        if let Some(refused) = self.refusal(name) {
            return Unresolved::Refused { target, refused: refused.to_string() };
        }
        let names: Vec<&str> = self.current.keys().map(String::as_str).collect();
        Unresolved::UnknownPlugin { target, name: name.to_owned(), known: list(&names) }
    }

    fn unknown_version(&self, target: &str, name: &str) -> Unresolved {
        let mut versions: Vec<_> = self.versions.iter().filter(|(pin, _)| &*pin.plugin == name).collect();
        versions.sort_by_key(|(_, version)| std::cmp::Reverse(version.turn));
        let versions: Vec<String> = versions.into_iter().map(|(pin, _)| address::version(pin.digest)).collect();
        Unresolved::UnknownVersion { target: target.to_owned(), name: name.to_owned(), known: list(&versions) }
    }

    fn refusal(&self, name: &str) -> Option<&Arc<Refused>> {
        self.refused.values().find(|refused| component::name(&refused.file).is_ok_and(|refused| refused == name))
    }
}

fn list<T: std::borrow::Borrow<str>>(names: &[T]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
