//! The plugins of a host: which version of each is current, and which are kept for sagas.
//!
//! A new saga is pinned to the current versions and calls these until its end. Three rules let both change at any time:
//!
//! 1. **A version that can be pinned can be called**: it is compiled, checked and stored before it becomes current.
//! 2. **A held version stays**: a version is collected only when it is not current, no unfinished saga is pinned to it, and
//!    the end of the last saga that was pinned to it is durable. Otherwise a crash could bring back a saga without its code.
//! 3. **Only a valid component changes anything**: an invalid file leaves the current version in place, also if the host
//!    starts with that file, since the stored components record which version was current.
//!
//! This file reads and counts: lookups, holds, and the collection of unreferenced versions. The other part of `Registry`, in
//! [`publish`](super::publish), changes which version is current. Lookups take a lock only briefly. Changes run one at a
//! time and do their slow work (reading, compiling, syncing) before they take that lock.

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::Ordering::{AcqRel, Relaxed},
    },
    time::Duration,
};

use tokio::sync::Notify;
use tracing::{debug, error, info, warn};

use super::{
    address::{self, Location, Route},
    error::Refused,
    folder::{Folder, Stamp},
    versions::{Callable, Version, Versions},
};
use crate::{
    branch::Branch,
    files::remove_temporaries,
    plugin::{
        component::{error::Error as ComponentError, plugin::Plugin},
        grants::entry::Grants,
        sandbox::runtime::Runtime,
        storage::{cache::Swept, component_store::ComponentStore},
    },
    redact::{self, Case},
    saga::{BranchOp, Digest, Op, Pin, Pins},
    store::sync::lock,
};

/// Age from which an unfinished file of the plugin folder is a leftover. Hosts may share the folder, and an upload takes
/// seconds.
const TEMPORARY_AGE: Duration = Duration::from_hours(1);

/// All plugins of a host.
pub struct Registry {
    pub(super) runtime: Runtime,
    pub(super) dir: PathBuf,
    routes: Vec<Route>,
    versions: RwLock<Versions>,
    /// Locked while the current versions change.
    pub(super) folder: Mutex<Folder>,
    /// Notified when a version may have become unreferenced.
    pub(super) released: Notify,
}

/// One version in a listing.
#[derive(Debug, PartialEq, Eq)]
pub struct Known {
    pub pin: Pin,
    /// Whether new sagas are pinned to it.
    pub is_current: bool,
    /// Unfinished sagas that are pinned to it.
    pub sagas: u64,
    /// Why it cannot be called, if it cannot.
    pub fault: Option<String>,
}

/// A version that is neither current nor held, unless a saga has released it since.
#[derive(Debug)]
pub struct Unreferenced {
    pin: Pin,
    released: u64,
}

impl Registry {
    /// A registry without plugins.
    pub(super) fn empty(runtime: &Runtime, dir: &Path, mut routes: Vec<Route>) -> Self {
        // The longest prefix wins.
        routes.sort_by_key(|route| Reverse(route.prefix.len()));
        Self {
            runtime: runtime.clone(),
            dir: dir.to_owned(),
            routes,
            versions: RwLock::default(),
            folder: Mutex::default(),
            released: Notify::new(),
        }
    }

    /// The plugins that new sagas find, sorted by name.
    pub fn plugins(&self) -> Vec<Arc<Plugin>> {
        self.read().current.values().map(|current| current.plugin.clone()).collect()
    }

    /// The plugin that new sagas find under this name.
    pub fn plugin(&self, name: &str) -> Option<Arc<Plugin>> {
        self.read().current.get(name).map(|current| current.plugin.clone())
    }

    /// All versions, sorted by plugin, the newest of each first.
    pub fn versions(&self) -> Vec<Known> {
        let state = self.read();
        let mut versions: Vec<_> = state.all.iter().collect();
        versions.sort_by_key(|(pin, version)| (pin.plugin.clone(), Reverse(version.turn)));
        let known = |(pin, version): (&Pin, &Version)| Known {
            pin: pin.clone(),
            is_current: state.is_current(pin),
            sagas: version.held.load(Relaxed),
            fault: version.callable.as_ref().err().cloned(),
        };
        versions.into_iter().map(known).collect()
    }

    /// The files that were not published.
    pub fn refused(&self) -> Vec<Arc<Refused>> {
        self.read().refused.values().cloned().collect()
    }

    /// A part of the plugins' data as people may see it: without the secrets of any plugin, since data may be shared and
    /// copied.
    pub fn shown<'a>(&self, data: &'a [u8]) -> Cow<'a, [u8]> {
        let traces = || self.runtime.all_grants().flat_map(Grants::traces);
        if traces().next().is_none() {
            return data.into();
        }
        // A secret is text, so bytes that are no text hold none.
        let mut shown = Vec::with_capacity(data.len());
        for chunk in data.utf8_chunks() {
            shown.extend(redact::redact(traces(), chunk.valid(), usize::MAX, Case::Matters).into_bytes());
            shown.extend(chunk.invalid());
        }
        shown.into()
    }

    /// The version that an address means now, if the address belongs to a plugin: `wasm://NAME/try`, an address of a route,
    /// or `http(s)://NAME[:PORT]/try` whose host is the name of a plugin. `None`: the address of a service.
    ///
    /// `wasm://NAME@sha256:DIGEST/try` means that version, but only while the plugin has a current one: removing a
    /// plugin means that no new saga may use any of its versions.
    pub fn pin(&self, target: &str, op: Op) -> Result<Option<Pin>, address::Error> {
        self.pin_in(&self.read(), target, op)
    }

    /// The versions that all these addresses mean at the same time, held as by [`Registry::hold`]; or the first address
    /// that means none.
    pub fn pin_all<'a>(
        &self,
        targets: impl IntoIterator<Item = (BranchOp, &'a str)>,
    ) -> Result<Pins, (BranchOp, address::Error)> {
        let state = self.read();
        let mut pins = Pins::default();
        for (branch_op, target) in targets {
            let pin = self.pin_in(&state, target, branch_op.op).map_err(|error| (branch_op, error))?;
            if let Some(pin) = pin {
                pins.set(branch_op, pin);
            }
        }
        // Under the same lock, so that no version is collected in between.
        for pin in pins.components() {
            state.hold(pin);
        }
        Ok(pins)
    }

    fn pin_in(&self, state: &Versions, target: &str, op: Op) -> Result<Option<Pin>, address::Error> {
        let is_owned = |name: &str| state.current.contains_key(name) || state.refusal(name).is_some();
        let Some(location) = Location::of(target, &self.routes, is_owned) else { return Ok(None) };
        let Some(current) = state.current.get(&*location.plugin) else {
            return Err(state.missing(target, &location.plugin));
        };
        let pin = match location.digest(target)? {
            Some(digest) => {
                let pin = Pin { plugin: (&*location.plugin).into(), digest };
                match state.all.get(&pin).map(|version| &version.callable) {
                    None => return Err(state.unknown_version(target, &location.plugin)),
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
    pub fn find(&self, pin: &Pin, op: Op) -> Result<Arc<dyn Branch>, address::Error> {
        let state = self.read();
        match state.all.get(pin).map(|version| &version.callable) {
            Some(Ok(callable)) => Ok(callable.operation(op)),
            Some(Err(fault)) => Err(self.lost(pin, fault)),
            None => Err(self.lost(pin, "it is not there")),
        }
    }

    /// The branch that an address means now; see [`Registry::pin`].
    pub fn resolve(&self, target: &str, op: Op) -> Result<Option<Arc<dyn Branch>>, address::Error> {
        self.pin(target, op)?.map(|pin| self.find(&pin, op)).transpose()
    }

    fn lost(&self, pin: &Pin, fault: &str) -> address::Error {
        let path =
            self.runtime.component_store().map(|stored| stored.path(pin).display().to_string()).unwrap_or_default();
        address::Error::Lost { name: pin.plugin.to_string(), version: pin.digest, fault: fault.to_owned(), path }
    }

    /// Counts one more unfinished saga that is pinned to these versions. A version that is not there is held as well: it is
    /// lost, until its component is put back.
    pub fn hold(&self, pins: &[Pin]) {
        let unknown: Vec<&Pin> = {
            let state = self.read();
            pins.iter().filter(|pin| !state.hold(pin)).collect()
        };
        for pin in unknown {
            // Not on disk when the registry was loaded. Reading it again gives the error to report.
            let (callable, stamp) = match self.runtime.component_store() {
                Some(stored) => self.load_stored(pin, stored),
                None => (Err("this host keeps no components".to_owned()), None),
            };
            let callable = callable.inspect_err(|error| log_unusable(pin, error));
            let mut state = self.write();
            state.all.entry(pin.clone()).or_insert_with(|| Version::new(callable, 0, stamp));
            state.hold(pin);
        }
    }

    /// Counts one saga less: it has ended.
    pub fn release(&self, pins: &[Pin]) {
        let state = self.read();
        for pin in pins {
            let Some(version) = state.all.get(pin) else { continue };
            version.released.fetch_add(1, AcqRel);
            if version.held.fetch_sub(1, AcqRel) == 1 && !state.is_current(pin) {
                self.released.notify_one();
            }
        }
    }

    /// The versions that are neither current nor held now, except the newest few that the settings keep. They may be
    /// collected once everything that was committed before this call is durable.
    pub fn unreferenced(&self) -> Vec<Unreferenced> {
        let spare = self.runtime.spare_versions();
        let state = self.read();
        let mut unused: Vec<(&Pin, &Version)> =
            state.all.iter().filter(|(pin, version)| state.is_unreferenced(pin, version)).collect();
        // Versions that cannot be called come last: they are of no use as spare ones.
        unused.sort_by_key(|(pin, version)| (&pin.plugin, version.callable.is_err(), Reverse(version.turn)));
        let of_one_plugin = unused.chunk_by(|(one, _), (other, _)| one.plugin == other.plugin);
        let beyond_spare = of_one_plugin.flat_map(|versions| versions.iter().skip(spare));
        beyond_spare
            .map(|(pin, version)| Unreferenced { pin: (*pin).clone(), released: version.released.load(Relaxed) })
            .collect()
    }

    /// Removes versions that have stayed unreferenced since they were found so.
    pub fn collect(&self, unreferenced: Vec<Unreferenced>) {
        // No version becomes current in between.
        let _changing = lock(&self.folder);
        for Unreferenced { pin, released } in unreferenced {
            let mut state = self.write();
            let is_still =
                |version: &Version| state.is_unreferenced(&pin, version) && version.released.load(Relaxed) == released;
            if !state.all.get(&pin).is_some_and(is_still) {
                continue;
            }
            let removed = state.all.remove(&pin);
            let is_shared = state.all.keys().any(|other| other.digest == pin.digest);
            drop(state);
            // After the lock is released: dropping it unmaps its code.
            drop(removed);
            self.remove_stored(&pin);
            if !is_shared && let Some(cache) = self.runtime.cache() {
                cache.remove(pin.digest);
            }
            info!(plugin = &*pin.plugin, digest = %pin.digest, "a version that no saga needs is gone");
        }
    }

    /// Removes from disk what no host can use any more: compiled code of other engines and of components that are gone, and
    /// files that killed hosts had not finished. Errors are logged: what stays only wastes space.
    pub fn sweep(&self) {
        // No component is published in between: its code is saved before it is known.
        let _changing = lock(&self.folder);
        match remove_temporaries(&self.dir, TEMPORARY_AGE) {
            Ok(0) => {}
            Ok(files) => info!(files, dir = %self.dir.display(), "unfinished uploads of killed hosts are gone"),
            // It is reported where plugins are loaded from it.
            Err(error) => debug!(dir = %self.dir.display(), "unfinished uploads stay: {error}"),
        }
        let Some(cache) = self.runtime.cache() else { return };
        let stored = match self.runtime.component_store().map(ComponentStore::all).transpose() {
            Ok(stored) => stored.unwrap_or_default(),
            Err(error) => return warn!("compiled code that is not needed stays: cannot list the components: {error}"),
        };
        let mut known: HashSet<Digest> = self.read().all.keys().map(|pin| pin.digest).collect();
        known.extend(stored.iter().map(|pin| pin.digest));
        match cache.sweep(|digest| known.contains(&digest)) {
            Ok(Swept { files: 0, .. }) => {}
            Ok(Swept { files, bytes }) => info!(files, bytes, "compiled code that is not needed any more is gone"),
            Err(error) => warn!("compiled code that is not needed stays: {error}"),
        }
    }

    /// Removes a component from disk.
    pub(super) fn remove_stored(&self, pin: &Pin) {
        if let Some(stored) = self.runtime.component_store()
            && let Err(error) = stored.remove(pin)
        {
            error!(plugin = &*pin.plugin, digest = %pin.digest, "a component that no saga needs stays: {error}");
        }
    }

    /// Loads again the versions that sagas hold and that were lost, if their files have changed since.
    pub fn look_for_lost(&self) {
        let Some(stored) = self.runtime.component_store() else { return };
        let is_lost = |version: &Version| version.callable.is_err() && version.held.load(Relaxed) > 0;
        let known = |(pin, version): (&Pin, &Version)| (pin.clone(), version.stamp);
        let lost: Vec<_> = self.read().all.iter().filter(|(_, it)| is_lost(it)).map(known).collect();
        for (pin, read) in lost {
            let now = Stamp::of(&stored.path(&pin)).ok();
            if now.is_none() || now == read {
                continue;
            }
            let (callable, stamp) = self.load_stored(&pin, stored);
            let mut state = self.write();
            let Some(version) = state.all.get_mut(&pin) else { continue };
            match (&callable, &version.callable) {
                (Ok(_), _) => info!(plugin = &*pin.plugin, digest = %pin.digest, "a lost component is back"),
                // A system that goes on failing has been reported.
                (Err(error), Err(known)) if error == known => {}
                (Err(error), _) => log_unusable(&pin, error),
            }
            (version.callable, version.stamp) = (callable, stamp);
        }
    }

    /// Loads a version from disk. Also returns the stamp of the file that was read; `None` if the system has failed to read
    /// it, so that it is read again although it has not changed.
    pub(super) fn load_stored(&self, pin: &Pin, stored: &ComponentStore) -> (Result<Callable, String>, Option<Stamp>) {
        let stamp = Stamp::of(&stored.path(pin)).ok();
        let bytes = stored.get(pin).map_err(ComponentError::Unreadable);
        let loaded = bytes.and_then(|bytes| Plugin::load_again(&self.runtime, &pin.plugin, &bytes));
        let stamp = stamp.filter(|_| !loaded.as_ref().is_err_and(ComponentError::is_of_system));
        (loaded.map(Callable::new).map_err(|error| error.to_string()), stamp)
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Versions> {
        self.versions.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Versions> {
        self.versions.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs that a stored component cannot be used.
pub(super) fn log_unusable(pin: &Pin, error: &str) {
    error!(plugin = &*pin.plugin, digest = %pin.digest, "a component that was kept cannot be used: {error}");
}
