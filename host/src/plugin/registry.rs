//! The plugins of a host: which version of each is current, and which are kept for sagas.
//!
//! A new saga is pinned to the versions that are current; from then until its end it is called by its pins. So that
//! both can change at any moment:
//!
//! 1. **What can be pinned can be called**: a version is compiled, checked and on the shelf before it is current.
//! 2. **What is held for stays**: a version goes only when it is not current, no open saga is pinned to it, and it is
//!    durable that the last saga that was has ended. Otherwise a crash could bring back a saga without its code.
//! 3. **Only good changes count**: a file that is no plugin changes nothing, whichever way it comes, not even when the
//!    host starts anew with it there: the shelf knows which version was current.
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
    component_store::ComponentStore,
    containment::Classification,
    folder::{Folder, Stamp},
};
use crate::store::sync::lock;
use crate::{
    branch::Branch,
    saga::{BranchOp, Op, Pin, Pins},
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

/// Versions of one plugin that there may be; each is held in memory. Far more than sagas need that end at all.
pub const VERSIONS_MAX: usize = 100;

/// Plugins that there may be.
pub const PLUGINS_MAX: usize = 1000;

/// All plugins of a host.
pub struct Registry {
    pub(super) runtime: Runtime,
    pub(super) dir: PathBuf,
    routes: Vec<Route>,
    state: RwLock<State>,
    /// EgressDenied by whoever changes which version is current.
    pub(super) folder: Mutex<Folder>,
    /// Told when a version may have become unreferenced.
    pub(super) released: Notify,
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
    released: AtomicU64,
    /// When it was last made current, in the order of such events.
    turn: u64,
    /// Its file when it was last read.
    stamp: Option<Stamp>,
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
pub struct Unreferenced {
    pin: Pin,
    released: u64,
}

impl Registry {
    /// Takes what is on the shelf, then every `*.wasm` of the plugin folder, and lets go of those that are not there any
    /// more. A file that is no plugin stops neither the others nor the version before it: see [`Registry::refused`]. Compiles what the cache does not hold, which takes from milliseconds to
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
            released: Notify::new(),
        };
        registry.load_stored();
        registry.read_folder();
        registry
    }

    fn load_stored(&self) {
        let Some(on_disk) = self.runtime.component_store() else { return };
        match on_disk.all() {
            Ok(pins) => {
                let is_current = |pin: &Pin| on_disk.current(&pin.plugin) == Some(pin.digest);
                let (current, others): (Vec<_>, Vec<_>) = pins.into_iter().partition(is_current);
                // Whatever happened to the files meanwhile, what is current was made so last.
                for (pins, is_current) in [(others, false), (current, true)] {
                    for pin in pins {
                        self.unpack(&pin, is_current, on_disk);
                    }
                }
            }
            Err(error) => error!("components of unfinished sagas cannot be listed: {error}"),
        }
    }

    fn unpack(&self, pin: &Pin, is_current: bool, on_disk: &ComponentStore) {
        let stamp = Stamp::of(&on_disk.path(pin)).ok();
        let entry = self.fetch(pin);
        let state = &mut *self.write();
        if is_current && let Ok(entry) = &entry {
            announce(&entry.plugin);
            state.current.insert(pin.plugin.to_string(), entry.clone());
        }
        state.turns += 1;
        state.versions.insert(pin.clone(), Version::new(entry, state.turns, stamp));
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
    /// names it, as long as the plugin has a current one: who takes a plugin away wants no new sagas on any version.
    /// `None`: an ordinary service.
    pub fn pin(&self, target: &str, op: Op) -> Result<Option<Pin>, Unresolved> {
        self.pin_in(&self.read(), target, op)
    }

    /// The versions that these addresses mean, all at one moment and held from then on as by [`Registry::hold`]; or the
    /// first that means none.
    pub fn pin_all<'a>(
        &self,
        targets: impl IntoIterator<Item = (BranchOp, &'a str)>,
    ) -> Result<Pins, (BranchOp, Unresolved)> {
        let state = self.read();
        let mut pins = Pins::default();
        for (branch_op, target) in targets {
            if let Some(pin) =
                self.pin_in(&state, target, branch_op.op).map_err(|unresolved| (branch_op, unresolved))?
            {
                pins.set(branch_op, pin);
            }
        }
        // Under the same lock: what was there a moment ago could be gone.
        for pin in pins.components() {
            state.hold(pin);
        }
        Ok(pins)
    }

    fn pin_in(&self, state: &State, target: &str, op: Op) -> Result<Option<Pin>, Unresolved> {
        let is_owned = |name: &str| state.current.contains_key(name) || state.refusal(name).is_some();
        let Some(location) = Location::of(target, &self.routes, is_owned) else { return Ok(None) };
        let Some(current) = state.current.get(location.plugin) else {
            return Err(state.missing(target, location.plugin));
        };
        let pin = match location.digest(target)? {
            Some(digest) => {
                let pin = Pin { plugin: location.plugin.into(), digest };
                match state.versions.get(&pin).map(|version| &version.entry) {
                    None => return Err(state.unknown_version(target, location.plugin)),
                    Some(Err(fault)) => return Err(self.lost(&pin, fault)),
                    Some(Ok(_)) => pin,
                }
            }
            None => current.plugin.pin().clone(),
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
        let path = self
            .runtime
            .component_store()
            .map(|component_store| component_store.path(pin).display().to_string())
            .unwrap_or_default();
        Unresolved::Lost { name: pin.plugin.to_string(), version: pin.digest, fault: fault.to_owned(), path }
    }

    /// One more open saga is pinned to these. A version that is not there is held for all the same: it is lost, until
    /// somebody puts it back.
    pub fn hold(&self, pins: &[Pin]) {
        let unknown: Vec<&Pin> = {
            let state = self.read();
            pins.iter().filter(|pin| !state.hold(pin)).collect()
        };
        for pin in unknown {
            // The shelf had it not when all that it has was unpacked; why, its own error says best.
            let entry = self.fetch(pin);
            let mut state = self.write();
            state.versions.entry(pin.clone()).or_insert_with(|| Version::new(entry, 0, None));
            state.hold(pin);
        }
    }

    /// A saga that was held for has ended.
    pub fn release(&self, pins: &[Pin]) {
        let state = self.read();
        for pin in pins {
            let Some(version) = state.versions.get(pin) else { continue };
            version.released.fetch_add(1, AcqRel);
            if version.held.fetch_sub(1, AcqRel) == 1 && !state.is_current(pin) {
                self.released.notify_one();
            }
        }
    }

    /// The versions that nobody needs now. They may go once everything committed before this call is durable.
    pub fn unreferenced(&self) -> Vec<Unreferenced> {
        let spare = self.runtime.spare_versions();
        let state = self.read();
        let mut unused: Vec<(&Pin, &Version)> =
            state.versions.iter().filter(|(pin, version)| state.is_unused(pin, version)).collect();
        // What cannot be called is nothing to go back to.
        unused.sort_by_key(|(pin, version)| (&pin.plugin, version.entry.is_err(), std::cmp::Reverse(version.turn)));
        let of_one_plugin = unused.chunk_by(|(one, _), (other, _)| one.plugin == other.plugin);
        let beyond_spare = of_one_plugin.flat_map(|versions| versions.iter().skip(spare));
        beyond_spare
            .map(|(pin, version)| Unreferenced { pin: (*pin).clone(), released: version.released.load(Relaxed) })
            .collect()
    }

    /// Takes versions away that have been unreferenced ever since they were found to be.
    pub fn collect(&self, unreferenced: Vec<Unreferenced>) {
        // Nothing becomes current meanwhile.
        let _changing = lock(&self.folder);
        for Unreferenced { pin, released } in unreferenced {
            let mut state = self.write();
            let is_still =
                |version: &Version| state.is_unused(&pin, version) && version.released.load(Relaxed) == released;
            if !state.versions.get(&pin).is_some_and(is_still) {
                continue;
            }
            let removed = state.versions.remove(&pin);
            let is_shared = state.versions.keys().any(|other| other.digest == pin.digest);
            drop(state);
            // Its code is unmapped here, not under the lock.
            drop(removed);
            self.discard(&pin);
            if !is_shared && let Some(cache) = self.runtime.cache() {
                cache.remove(pin.digest);
            }
            info!(plugin = &*pin.plugin, digest = %pin.digest, "a version that no saga needs is gone");
        }
    }

    fn discard(&self, pin: &Pin) {
        if let Some(component_store) = self.runtime.component_store()
            && let Err(error) = component_store.remove(pin)
        {
            error!(plugin = &*pin.plugin, digest = %pin.digest, "a component that nobody needs stays: {error}");
        }
    }

    /// Looks again for the versions that sagas are pinned to and that were lost. Reads only files that have changed.
    pub fn look_for_lost(&self) {
        let Some(on_disk) = self.runtime.component_store() else { return };
        let is_lost = |version: &Version| version.entry.is_err() && version.held.load(Relaxed) > 0;
        let known = |(pin, version): (&Pin, &Version)| (pin.clone(), version.stamp);
        let lost: Vec<_> = self.read().versions.iter().filter(|(_, it)| is_lost(it)).map(known).collect();
        for (pin, read) in lost {
            let Some(stamp) = Stamp::of(&on_disk.path(&pin)).ok().filter(|stamp| read != Some(*stamp)) else {
                continue;
            };
            let entry = self.fetch(&pin);
            if entry.is_ok() {
                info!(plugin = &*pin.plugin, digest = %pin.digest, "a lost component is back");
            }
            if let Some(version) = self.write().versions.get_mut(&pin) {
                (version.entry, version.stamp) = (entry, Some(stamp));
            }
        }
    }

    /// Reads a version from the shelf.
    fn fetch(&self, pin: &Pin) -> Result<Entry, String> {
        let kept = self
            .runtime
            .component_store()
            .map(|component_store| component_store.get(pin))
            .ok_or("this host keeps no components")?;
        let loaded =
            kept.map_err(Fault::Unreadable).and_then(|bytes| Plugin::load_again(&self.runtime, &pin.plugin, &bytes));
        loaded.map(Entry::new).map_err(|fault| {
            error!(plugin = &*pin.plugin, digest = %pin.digest, "a component that was kept cannot be used: {fault}");
            fault.to_string()
        })
    }

    /// Whether there is room for one more version of a plugin.
    pub(super) fn check_room(&self, pin: &Pin) -> Result<(), Fault> {
        let state = self.read();
        let versions = state.versions.keys().filter(|other| other.plugin == pin.plugin).count();
        match versions {
            _ if state.versions.contains_key(pin) => Ok(()),
            0 if state.current.len() >= PLUGINS_MAX => Err(Fault::TooManyPlugins),
            VERSIONS_MAX.. => Err(Fault::TooManyVersions),
            _ => Ok(()),
        }
    }

    /// Puts a component where sagas can rely on it, as the version that is to be current.
    pub(super) fn keep(&self, pin: &Pin, bytes: &[u8]) -> Result<(), Fault> {
        let Some(on_disk) = self.runtime.component_store() else { return Ok(()) };
        let kept = on_disk.put(pin, bytes).and_then(|()| on_disk.set_current(&pin.plugin, Some(pin.digest)));
        kept.map_err(Fault::NotKept).inspect_err(|_| self.undo_keep(pin))
    }

    /// Undoes [`Registry::keep`]: the version has not become current.
    pub(super) fn undo_keep(&self, pin: &Pin) {
        let Some(on_disk) = self.runtime.component_store() else { return };
        let before = self.plugin(&pin.plugin).map(|plugin| plugin.digest());
        if let Err(error) = on_disk.set_current(&pin.plugin, before) {
            error!(plugin = &*pin.plugin, digest = %pin.digest, "a version may be current after the next start: {error}");
        }
        if !self.read().versions.contains_key(pin) {
            self.discard(pin);
        }
    }

    /// Lets new sagas use this plugin, which has been kept. The version that was current before.
    pub(super) fn make_current(&self, file: &Path, plugin: Arc<Plugin>) -> Option<Pin> {
        let pin = &plugin.pin().clone();
        announce(&plugin);
        let entry = Entry::new(plugin);
        let state = &mut *self.write();
        state.refused.remove(file);
        state.turns += 1;
        // A version that is there already is held for by its count.
        let version = state.versions.entry(pin.clone()).or_insert_with(|| Version::new(Ok(entry.clone()), 0, None));
        version.turn = state.turns;
        version.entry = Ok(entry.clone());
        let before = state.current.insert(pin.plugin.to_string(), entry);
        self.released.notify_one();
        before.map(|entry| entry.plugin.pin().clone())
    }

    /// From now on new sagas do not find the plugin.
    pub(super) fn take_away(&self, name: &str) {
        if self.write().current.remove(name).is_some() {
            // Should this fail: after the next start there is no file for it either.
            if let Some(Err(error)) =
                self.runtime.component_store().map(|component_store| component_store.set_current(name, None))
            {
                error!(plugin = name, "it is not written down that the plugin is gone: {error}");
            }
            info!(plugin = name, "plugin gone: unfinished sagas go on with it, new ones do not find it");
            self.released.notify_one();
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
    fn new(entry: Result<Entry, String>, turn: u64, stamp: Option<Stamp>) -> Self {
        Self { entry, held: AtomicU64::new(0), released: AtomicU64::new(0), turn, stamp }
    }
}

impl State {
    /// Whether the version is there to be held.
    fn hold(&self, pin: &Pin) -> bool {
        self.versions.get(pin).map(|version| version.held.fetch_add(1, Relaxed)).is_some()
    }

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

fn announce(plugin: &Plugin) {
    let (Pin { plugin: name, digest }, Classification { containment, reason }) =
        (plugin.pin(), plugin.classification());
    let (bytes, code) = (plugin.size(), plugin.code());
    info!(plugin = &**name, %digest, bytes, ?code, reach = ?containment, reason, "plugin loaded");
}

fn list<T: std::borrow::Borrow<str>>(names: &[T]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
