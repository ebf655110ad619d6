//! Components on disk, for as long as sagas may need them: `NAME/DIGEST.wasm` in a folder of the host's own, and in
//! `NAME/current` the digest of the version that new sagas use.
//!
//! **A component is stored durably before it becomes current**, so the components that sagas are pinned to survive the
//! process and any change of the plugin folder. They are stored by name and not by digest alone: permission to publish a
//! plugin decides which code runs on the plugin's data with its grants, and knowing a digest must not be enough.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use tracing::warn;

use crate::{
    files::{create_dir_durably, is_temporary, sync_dir, write_durably},
    plugin::name::{digest, is_name},
    saga::{Digest, Pin},
};

/// The file that holds the digest of the current version.
const CURRENT: &str = "current";

/// Mode of folders that only the host's own user can use.
const PRIVATE: u32 = 0o700;

/// The folder of all stored components.
pub struct ComponentStore {
    dir: PathBuf,
}

impl ComponentStore {
    /// Creates the folder unless it exists.
    pub fn open(dir: &Path) -> io::Result<Self> {
        create_dir_durably(dir, PRIVATE)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// The path of a component, stored or not.
    pub fn path(&self, pin: &Pin) -> PathBuf {
        self.dir.join(&*pin.plugin).join(format!("{}.wasm", pin.digest))
    }

    /// Stores a component as the newest of its name. It is on disk when this returns.
    pub fn put(&self, pin: &Pin, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(pin);
        let folder = self.dir.join(&*pin.plugin);
        create_dir_durably(&folder, PRIVATE)?;
        if fs::read(&path).is_ok_and(|stored| stored == bytes) {
            let file = File::options().write(true).open(&path)?;
            file.set_modified(SystemTime::now())?;
            file.sync_all()?;
        } else {
            write_durably(&path, bytes)?;
        }
        // An earlier host may have created the file or the folder and crashed before it was on disk.
        sync_dir(&folder)?;
        sync_dir(&self.dir)
    }

    /// The current version of a plugin, if it has one that can be read.
    pub fn current(&self, plugin: &str) -> Option<Digest> {
        fs::read_to_string(self.dir.join(plugin).join(CURRENT)).ok()?.parse().ok()
    }

    /// Records the current version of a plugin, or that it has none. It is on disk when this returns.
    pub fn set_current(&self, plugin: &str, digest: Option<Digest>) -> io::Result<()> {
        let folder = self.dir.join(plugin);
        let path = folder.join(CURRENT);
        match digest {
            Some(digest) => write_durably(&path, digest.to_string().as_bytes()),
            None if remove_if_exists(&path)? => sync_dir(&folder),
            None => Ok(()),
        }
    }

    /// The component's bytes. An error if they do not have its digest.
    pub fn get(&self, pin: &Pin) -> io::Result<Vec<u8>> {
        let bytes = fs::read(self.path(pin))?;
        if digest(&bytes) == pin.digest { Ok(bytes) } else { Err(io::Error::other("the file is damaged")) }
    }

    /// All components in the order in which they were stored. Other files are ignored, and unfinished ones of crashed hosts
    /// removed: the caller sees to it that none is being stored.
    pub fn all(&self) -> io::Result<Vec<Pin>> {
        let mut pins = Vec::new();
        for folder in fs::read_dir(&self.dir)? {
            let folder = folder?;
            let Some(plugin) = folder.file_name().to_str().map(ToOwned::to_owned) else { continue };
            if !is_name(&plugin) || !folder.file_type()?.is_dir() {
                continue;
            }
            for file in fs::read_dir(folder.path())? {
                let file = file?;
                // Left by a host that crashed while it wrote. No other process writes here.
                if file.file_name().to_str().is_some_and(is_temporary) {
                    if let Err(error) = fs::remove_file(file.path()) {
                        warn!(file = %file.path().display(), "an unfinished component stays: {error}");
                    }
                    continue;
                }
                let digest = file.file_name().to_str().and_then(|name| name.strip_suffix(".wasm")?.parse().ok());
                let Some(digest) = digest else { continue };
                let modified = file.metadata()?.modified()?;
                pins.push((modified, Pin { plugin: plugin.as_str().into(), digest }));
            }
        }
        pins.sort();
        Ok(pins.into_iter().map(|(_, pin)| pin).collect())
    }

    /// Removes a component, if it is there.
    pub fn remove(&self, pin: &Pin) -> io::Result<()> {
        remove_if_exists(&self.path(pin)).map(drop)
    }
}

/// Whether the file existed.
fn remove_if_exists(file: &Path) -> io::Result<bool> {
    match fs::remove_file(file) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(plugin: &str, bytes: &[u8]) -> Pin {
        Pin { plugin: plugin.into(), digest: digest(bytes) }
    }

    #[test]
    fn stored_components_are_listed_in_order_until_removed() {
        let dir = tempfile::tempdir().unwrap();
        let component_store = ComponentStore::open(dir.path()).unwrap();
        let (old, new, other) = (pin("a", b"old"), pin("a", b"new"), pin("b", b"old"));
        for (pin, bytes) in [(&old, b"old"), (&new, b"new"), (&other, b"old")] {
            component_store.put(pin, bytes).unwrap();
        }
        assert_eq!(component_store.all().unwrap(), [old.clone(), new.clone(), other.clone()]);
        component_store.put(&old, b"old").unwrap();
        assert_eq!(component_store.all().unwrap(), [new.clone(), other.clone(), old.clone()], "stored again");
        component_store.remove(&new).unwrap();
        component_store.remove(&new).unwrap();
        let component_store = ComponentStore::open(dir.path()).unwrap();
        assert_eq!(component_store.all().unwrap(), [other, old.clone()]);
        assert_eq!(component_store.get(&old).unwrap(), b"old");
        assert_eq!(component_store.get(&new).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_damaged_component_is_an_error_until_it_is_stored_again() {
        let dir = tempfile::tempdir().unwrap();
        let component_store = ComponentStore::open(dir.path()).unwrap();
        let pin = pin("a", b"whole");
        component_store.put(&pin, b"whole").unwrap();
        fs::write(component_store.path(&pin), b"whale").unwrap();
        assert!(component_store.get(&pin).is_err());
        component_store.put(&pin, b"whole").unwrap();
        assert_eq!(component_store.get(&pin).unwrap(), b"whole");
    }

    #[test]
    fn other_files_are_ignored_and_unfinished_ones_removed() {
        let dir = tempfile::tempdir().unwrap();
        let component_store = ComponentStore::open(dir.path()).unwrap();
        component_store.put(&pin("a", b"x"), b"x").unwrap();
        fs::write(dir.path().join("a/notes.txt"), b"").unwrap();
        fs::write(dir.path().join("a/.backup.tmp"), b"").unwrap();
        fs::write(dir.path().join("a/.0123456789abcdef.tmp"), b"").unwrap();
        fs::create_dir(dir.path().join("Not A Name")).unwrap();
        fs::write(dir.path().join("file"), b"").unwrap();
        assert_eq!(component_store.all().unwrap(), [pin("a", b"x")]);
        let mut left: Vec<_> =
            fs::read_dir(dir.path().join("a")).unwrap().map(|file| file.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".backup.tmp", &format!("{}.wasm", digest(b"x")), "notes.txt"]);
    }
}
