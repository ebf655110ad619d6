//! The plugin folder: one `NAME.wasm` for each plugin, put there by hand or through the API.
//!
//! It is looked at from time to time rather than watched by the system's own means: those see nothing on network file
//! systems and in some containers, and lose a folder that is deleted and made anew, as builds do. A file counts once it
//! has stayed the same between two looks, as copying takes a while; so does that it is gone.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use tracing::warn;

use super::{
    Plugin, Registry,
    component::{self, Fault},
    component_store::{create_durably, write_durably},
};
use crate::saga::Pin;
use crate::store::sync::lock;

/// What is known of the folder's files.
#[derive(Default)]
pub struct Folder {
    seen: HashMap<PathBuf, Seen>,
    /// Plugins whose files were not there at the last look.
    missing: HashSet<String>,
}

struct Seen {
    stamp: Stamp,
    /// Whether the file was read when it was so.
    is_read: bool,
}

/// Tells one content of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
    inode: u64,
}

impl Stamp {
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self { bytes: metadata.len(), modified: metadata.modified().ok(), inode: metadata.ino() })
    }
}

/// What came of publishing a component.
pub struct Published {
    /// The version that was current before, if it is another one.
    pub replaced: Option<Pin>,
    /// Whether there was no such plugin.
    pub is_new: bool,
}

impl Registry {
    /// Reads every file of the folder, however new it is.
    pub(super) fn read_folder(&self) {
        self.look_at(|_| true);
    }

    /// Looks for files that have come, changed or gone, and for components that were lost and are back. Reads and
    /// compiles what is new, which takes from milliseconds to seconds.
    pub fn look(&self) {
        self.look_at(|has_settled| has_settled);
        self.look_for_lost();
    }

    fn look_at(&self, is_due: impl Fn(bool) -> bool) {
        let mut folder = lock(&self.folder);
        let files = match component_files(&self.dir) {
            Ok(files) => files,
            Err(error) => {
                // Whatever is wrong with the folder says nothing about the plugins.
                if self.refused().iter().all(|refused| refused.file != self.dir) {
                    warn!("plugin folder {}: {error}", self.dir.display());
                }
                return self.note(&self.dir, Some(Fault::Unreadable(error)));
            }
        };
        self.note(&self.dir, None);
        for file in &files {
            let Ok(stamp) = Stamp::of(file) else { continue };
            let known = folder.seen.get(file).filter(|seen| seen.stamp == stamp);
            if known.is_some_and(|seen| seen.is_read) {
                continue;
            }
            let is_read = is_due(known.is_some());
            if is_read {
                self.take(file);
            }
            folder.seen.insert(file.clone(), Seen { stamp, is_read });
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

    /// Takes a file in, or notes why not.
    fn take(&self, file: &Path) {
        let taken = component::name(file).and_then(|name| {
            let bytes = component::read(file, self.runtime.limits())?;
            let pin = Pin { plugin: name.into(), digest: component::digest(&bytes) };
            if self.is_current(&pin) {
                self.note(file, None);
                return Ok(());
            }
            self.check_room(&pin)?;
            let plugin = Plugin::load(&self.runtime, name, &bytes)?;
            self.keep(&pin, &bytes)?;
            self.make_current(file, plugin);
            Ok(())
        });
        if let Err(fault) = taken {
            let stays = component::name(file).is_ok_and(|name| self.plugin(name).is_some());
            let stays = if stays { "; the version before stays" } else { "" };
            warn!("plugin not loaded: {}: {fault}{stays}", file.display());
            self.note(file, Some(fault));
        }
    }

    /// Makes a component the current version of a plugin, and its file in the folder: all of that, or nothing. It is on
    /// disk when this returns. Compiling takes from milliseconds to seconds; not for a thread that others wait for.
    pub fn publish(&self, name: &str, bytes: &[u8]) -> Result<Published, Fault> {
        let mut folder = lock(&self.folder);
        let (pin, file) = (Pin { plugin: name.into(), digest: component::digest(bytes) }, self.file(name));
        self.check_room(&pin)?;
        let plugin = Plugin::load(&self.runtime, name, bytes)?;
        self.keep(&pin, bytes)?;
        let placed = create_durably(&self.dir, 0o777).and_then(|()| write_durably(&file, bytes));
        placed.map_err(Fault::NotPlaced).inspect_err(|_| self.undo_keep(&pin))?;
        // It may have been missing until now.
        self.note(&self.dir, None);
        let before = self.make_current(&file, plugin);
        if let Ok(stamp) = Stamp::of(&file) {
            folder.seen.insert(file, Seen { stamp, is_read: true });
        }
        Ok(Published { is_new: before.is_none(), replaced: before.filter(|before| *before != pin) })
    }

    /// Bytes of the largest component.
    pub fn component_bytes_max(&self) -> u64 {
        self.runtime.limits().component_bytes
    }

    /// Where a plugin's file is, or would be.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.wasm"))
    }
}

/// The components of a folder, in the order of their names.
fn component_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    let mut files: Vec<PathBuf> =
        entries.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "wasm")).collect();
    files.sort();
    Ok(files)
}
