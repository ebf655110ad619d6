//! Changes of the current versions: at the start, from the plugin folder, and through the API.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use tracing::{error, info, warn};

use super::{
    address::Route,
    error::{PLUGINS_MAX, PublishError, Refused, VERSIONS_MAX},
    folder::{Seen, Stamp, component_files},
    registry::{Registry, log_unusable},
    versions::{Callable, Version},
};
use crate::{
    files::{create_dir_durably, write_durably},
    plugin::{
        component::{error::Error as ComponentError, loaded, plugin::Plugin},
        grants::containment::Classification,
        name::{self, digest},
        sandbox::runtime::Runtime,
        storage::component_store::ComponentStore,
    },
    saga::Pin,
    store::sync::lock,
};

/// A component that has become current.
pub struct Published {
    /// The version that was current before, if it is a different one.
    pub replaced: Option<Pin>,
    /// Whether there was no such plugin.
    pub is_new: bool,
}

impl Registry {
    /// Loads the stored components, then every `*.wasm` of the plugin folder; a plugin without a file there has no current
    /// version. An invalid file affects neither other plugins nor the version before it: see [`Registry::refused`].
    /// Compiles components that the cache does not have, which takes from milliseconds to seconds of all processors.
    pub fn load(runtime: &Runtime, dir: &Path, routes: Vec<Route>) -> Self {
        let registry = Self::empty(runtime, dir, routes);
        registry.load_all_stored();
        registry.look_at(|_| true);
        registry
    }

    /// Looks for files of the folder that were added, changed or removed, and for lost components that are back. Reads and
    /// compiles new files, which takes from milliseconds to seconds.
    pub fn look(&self) {
        self.look_at(|is_settled| is_settled);
        self.look_for_lost();
    }

    /// Makes a component the current version of a plugin and its file in the folder, or changes nothing. It is on disk when
    /// this returns. Blocks for milliseconds to seconds while it compiles.
    pub fn publish(&self, name: &str, bytes: &[u8]) -> Result<Published, PublishError> {
        let mut folder = lock(&self.folder);
        let (pin, file) = (Pin { plugin: name.into(), digest: digest(bytes) }, self.file(name));
        self.check_room(&pin)?;
        let plugin = Plugin::load(&self.runtime, name, bytes)?;
        self.keep(&pin, bytes)?;
        let placed = create_dir_durably(&self.dir, 0o777).and_then(|()| write_durably(&file, bytes));
        placed.map_err(PublishError::NotPlaced).inspect_err(|_| self.undo_keep(&pin))?;
        // The folder may have been missing until now.
        self.note(&self.dir, None);
        let before = self.make_current(&file, plugin);
        if let Ok(stamp) = Stamp::of(&file) {
            folder.seen.insert(file, Seen::new(stamp, true));
        }
        Ok(Published { is_new: before.is_none(), replaced: before.filter(|before| *before != pin) })
    }

    /// The limit of a component's bytes.
    pub fn component_bytes_max(&self) -> u64 {
        self.runtime.limits().component_bytes
    }

    /// The path of a plugin's file, whether it exists or not.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.wasm"))
    }

    fn load_all_stored(&self) {
        let Some(stored) = self.runtime.component_store() else { return };
        match stored.all() {
            Ok(pins) => {
                let is_current = |pin: &Pin| stored.current(&pin.plugin) == Some(pin.digest);
                let (current, others): (Vec<_>, Vec<_>) = pins.into_iter().partition(is_current);
                // Last, so that the current versions are the newest: the times of the files do not tell.
                for (pins, is_current) in [(others, false), (current, true)] {
                    for pin in pins {
                        self.add_stored(&pin, is_current, stored);
                    }
                }
            }
            Err(error) => error!("components of unfinished sagas cannot be listed: {error}"),
        }
    }

    fn add_stored(&self, pin: &Pin, is_current: bool, stored: &ComponentStore) {
        let (callable, stamp) = self.load_stored(pin, stored);
        let callable = callable.inspect_err(|error| log_unusable(pin, error));
        let state = &mut *self.write();
        if is_current && let Ok(callable) = &callable {
            log_loaded(&callable.plugin);
            state.current.insert(pin.plugin.to_string(), callable.clone());
        }
        state.turns += 1;
        state.all.insert(pin.clone(), Version::new(callable, state.turns, stamp));
    }

    /// `is_due`: whether a change counts, given whether the previous look saw it too.
    fn look_at(&self, is_due: impl Fn(bool) -> bool) {
        let mut folder = lock(&self.folder);
        let files = match component_files(&self.dir) {
            Ok(files) => files,
            Err(error) => {
                // An unreadable folder says nothing about the plugins: they stay.
                if self.refused().iter().all(|refused| refused.file != self.dir) {
                    warn!("plugin folder {}: {error}", self.dir.display());
                }
                return self.note(&self.dir, Some(ComponentError::Unreadable(error).into()));
            }
        };
        self.note(&self.dir, None);
        for file in &files {
            let Ok(stamp) = Stamp::of(file) else { continue };
            let mut known = folder.seen.get_mut(file).filter(|seen| seen.stamp == stamp);
            if let Some(seen) = &mut known
                && (seen.is_read || seen.pause > 0)
            {
                seen.pause = seen.pause.saturating_sub(1);
                continue;
            }
            let is_read = is_due(known.is_some());
            let seen = if is_read && !self.take(file) {
                Seen::failed(stamp, known.as_deref())
            } else {
                Seen::new(stamp, is_read)
            };
            folder.seen.insert(file.clone(), seen);
        }
        folder.seen.retain(|file, _| {
            let is_there = files.contains(file);
            if !is_there {
                self.note(file, None);
            }
            is_there
        });
        let is_missing = |plugin: &Arc<Plugin>| !files.contains(&self.file(plugin.name()));
        let missing = self.plugins().into_iter().filter(is_missing).map(|plugin| plugin.name().to_owned());
        let (gone, missing): (HashSet<String>, _) = missing.partition(|name| is_due(folder.missing.contains(name)));
        folder.missing = missing;
        for name in &gone {
            self.take_away(name);
        }
    }

    /// Publishes a file of the folder, or notes why not. `false`: the system has failed, and the file is to be tried again.
    fn take(&self, file: &Path) -> bool {
        let Err(error) = self.try_take(file) else { return true };
        let is_of_system = error.is_of_system();
        let text = error.to_string();
        let is_known = self.refused().iter().any(|refused| refused.file == file && refused.error.to_string() == text);
        if !(is_of_system && is_known) {
            let stays = name::name(file).is_ok_and(|name| self.plugin(name).is_some());
            let stays = if stays { "; the version before stays" } else { "" };
            let again = if is_of_system { "; it is tried again" } else { "" };
            warn!("plugin not loaded: {}: {text}{stays}{again}", file.display());
        }
        self.note(file, Some(error));
        !is_of_system
    }

    fn try_take(&self, file: &Path) -> Result<(), PublishError> {
        let name = name::name(file)?;
        let bytes = loaded::read(file, self.runtime.limits())?;
        let pin = Pin { plugin: name.into(), digest: digest(&bytes) };
        if self.read().is_current(&pin) {
            self.note(file, None);
            return Ok(());
        }
        self.check_room(&pin)?;
        let plugin = Plugin::load(&self.runtime, name, &bytes)?;
        self.keep(&pin, &bytes)?;
        self.make_current(file, plugin);
        Ok(())
    }

    /// Checks that there is room for one more version of a plugin.
    fn check_room(&self, pin: &Pin) -> Result<(), PublishError> {
        let state = self.read();
        let versions = state.all.keys().filter(|other| other.plugin == pin.plugin).count();
        match versions {
            _ if state.all.contains_key(pin) => Ok(()),
            0 if state.current.len() >= PLUGINS_MAX => Err(PublishError::TooManyPlugins),
            VERSIONS_MAX.. => Err(PublishError::TooManyVersions),
            _ => Ok(()),
        }
    }

    /// Stores a component on disk as the version that will be current.
    fn keep(&self, pin: &Pin, bytes: &[u8]) -> Result<(), PublishError> {
        let Some(stored) = self.runtime.component_store() else { return Ok(()) };
        let kept = stored.put(pin, bytes).and_then(|()| stored.set_current(&pin.plugin, Some(pin.digest)));
        kept.map_err(PublishError::NotKept).inspect_err(|_| self.undo_keep(pin))
    }

    /// Undoes [`Registry::keep`]: the version has not become current.
    fn undo_keep(&self, pin: &Pin) {
        let Some(stored) = self.runtime.component_store() else { return };
        let before = self.plugin(&pin.plugin).map(|plugin| plugin.digest());
        if let Err(error) = stored.set_current(&pin.plugin, before) {
            // It stays as well: what may be current must be there.
            return error!(plugin = &*pin.plugin, digest = %pin.digest, "a version may be current after the next start: {error}");
        }
        if !self.read().all.contains_key(pin) {
            self.remove_stored(pin);
        }
    }

    /// Makes a stored plugin the current version. Returns the version that was current before.
    fn make_current(&self, file: &Path, plugin: Arc<Plugin>) -> Option<Pin> {
        let pin = &plugin.pin().clone();
        log_loaded(&plugin);
        let callable = Callable::new(plugin);
        let state = &mut *self.write();
        state.refused.remove(file);
        state.turns += 1;
        // A version that exists already keeps its count of holds.
        let version = state.all.entry(pin.clone()).or_insert_with(|| Version::new(Ok(callable.clone()), 0, None));
        version.turn = state.turns;
        version.callable = Ok(callable.clone());
        let before = state.current.insert(pin.plugin.to_string(), callable);
        self.released.notify_one();
        before.map(|before| before.plugin.pin().clone())
    }

    /// Removes the current version of a plugin: new sagas do not find it.
    fn take_away(&self, name: &str) {
        if self.write().current.remove(name).is_some() {
            // If this fails, the next start finds no file for the plugin and removes it again.
            if let Some(Err(error)) = self.runtime.component_store().map(|stored| stored.set_current(name, None)) {
                error!(plugin = name, "it is not written down that the plugin is gone: {error}");
            }
            info!(plugin = name, "plugin gone: unfinished sagas go on with it, new ones do not find it");
            self.released.notify_one();
        }
    }

    /// Notes why a file was refused; `None`: it was not.
    fn note(&self, file: &Path, error: Option<PublishError>) {
        let mut state = self.write();
        match error {
            None => drop(state.refused.remove(file)),
            Some(error) => {
                let refused = Arc::new(Refused { file: file.to_owned(), error });
                drop(state.refused.insert(file.to_owned(), refused));
            }
        }
    }
}

fn log_loaded(plugin: &Plugin) {
    let (Pin { plugin: name, digest }, Classification { containment, reason }) =
        (plugin.pin(), plugin.classification());
    let (bytes, code) = (plugin.size(), plugin.code());
    info!(plugin = &**name, %digest, bytes, ?code, reach = ?containment, reason, "plugin loaded");
}
