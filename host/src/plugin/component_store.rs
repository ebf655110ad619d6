//! Components on disk, for as long as sagas may need them: `NAME/DIGEST.wasm` in a folder of the host's own, and in
//! `NAME/current` the digest of the one that new sagas use.
//!
//! **A component is on the shelf, durably, before it is current**, so whatever a saga is pinned to outlives the process,
//! however the plugin folder changes meanwhile. Kept by name and not by digest alone: which code may run on a plugin's
//! data, with its grants, is decided by whoever may give the host that plugin, not by whoever may name a digest.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::component::{self, digest};
use crate::saga::{Digest, Pin};

/// The file that says which version is current.
const CURRENT: &str = "current";

/// For this user only.
const PRIVATE: u32 = 0o700;

/// The folder.
pub struct ComponentStore {
    dir: PathBuf,
}

impl ComponentStore {
    /// Makes the folder if needed.
    pub fn open(dir: &Path) -> io::Result<Self> {
        create_durably(dir, PRIVATE)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Where a component is, or would be.
    pub fn path(&self, pin: &Pin) -> PathBuf {
        self.dir.join(&*pin.plugin).join(format!("{}.wasm", pin.digest))
    }

    /// Puts a component there, as the newest of its name. It is on disk when this returns.
    pub fn put(&self, pin: &Pin, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(pin);
        let folder = self.dir.join(&*pin.plugin);
        create_durably(&folder, PRIVATE)?;
        if fs::read(&path).is_ok_and(|stored| stored == bytes) {
            let file = File::options().write(true).open(&path)?;
            file.set_modified(SystemTime::now())?;
            file.sync_all()?;
        } else {
            write_durably(&path, bytes)?;
        }
        // Whoever made the file, or the folder, before may have been cut off before that was on disk.
        File::open(&folder)?.sync_all()?;
        File::open(&self.dir)?.sync_all()
    }

    /// The version of a plugin that new sagas use, if there is one and it can be read.
    pub fn current(&self, plugin: &str) -> Option<Digest> {
        fs::read_to_string(self.dir.join(plugin).join(CURRENT)).ok()?.parse().ok()
    }

    /// Writes down which version of a plugin new sagas use. It is on disk when this returns.
    pub fn set_current(&self, plugin: &str, digest: Option<Digest>) -> io::Result<()> {
        let folder = self.dir.join(plugin);
        let path = folder.join(CURRENT);
        match digest {
            Some(digest) => write_durably(&path, digest.to_string().as_bytes()),
            None if remove_if_there(&path)? => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }

    /// The component's bytes, compared with its digest.
    pub fn get(&self, pin: &Pin) -> io::Result<Vec<u8>> {
        let bytes = fs::read(self.path(pin))?;
        if digest(&bytes) == pin.digest { Ok(bytes) } else { Err(io::Error::other("the file is damaged")) }
    }

    /// All components, the one that was put there last at the end. What is something else is passed over.
    pub fn all(&self) -> io::Result<Vec<Pin>> {
        let mut pins = Vec::new();
        for folder in fs::read_dir(&self.dir)? {
            let folder = folder?;
            let Some(plugin) = folder.file_name().to_str().map(ToOwned::to_owned) else { continue };
            if !component::is_name(&plugin) || !folder.file_type()?.is_dir() {
                continue;
            }
            for file in fs::read_dir(folder.path())? {
                let file = file?;
                // Of a host that was cut off while it wrote. Nobody else writes here.
                if file.path().extension().is_some_and(|extension| extension == "tmp") {
                    fs::remove_file(file.path())?;
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

    /// Takes a component away. No matter if it is gone already.
    pub fn remove(&self, pin: &Pin) -> io::Result<()> {
        remove_if_there(&self.path(pin)).map(drop)
    }
}

/// Whether it was there.
fn remove_if_there(file: &Path) -> io::Result<bool> {
    match fs::remove_file(file) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes a folder with this mode, and those above it, if it is not there. It is on disk when this returns.
pub fn create_durably(dir: &Path, mode: u32) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_durably(parent, mode)?;
    match DirBuilder::new().mode(mode).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => File::open(parent)?.sync_all(),
    }
}

/// Writes a file of which readers see all or nothing; it is on disk when this returns.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    // Not the process id: in a container it is always 1.
    let temporary = folder.join(format!(".{:016x}.tmp", fastrand::u64(..)));
    let written = (|| {
        let mut file = File::create_new(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    })();
    written.inspect_err(|_| {
        // Left behind it would only waste space.
        let _ = fs::remove_file(&temporary);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(plugin: &str, bytes: &[u8]) -> Pin {
        Pin { plugin: plugin.into(), digest: digest(bytes) }
    }

    #[test]
    fn what_was_put_there_is_found_in_its_order_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let component_store = ComponentStore::open(dir.path()).unwrap();
        let (old, new, other) = (pin("a", b"old"), pin("a", b"new"), pin("b", b"old"));
        for (pin, bytes) in [(&old, b"old"), (&new, b"new"), (&other, b"old")] {
            component_store.put(pin, bytes).unwrap();
        }
        assert_eq!(component_store.all().unwrap(), [old.clone(), new.clone(), other.clone()]);
        component_store.put(&old, b"old").unwrap();
        assert_eq!(component_store.all().unwrap(), [new.clone(), other.clone(), old.clone()], "put there again");
        component_store.remove(&new).unwrap();
        component_store.remove(&new).unwrap();
        let component_store = ComponentStore::open(dir.path()).unwrap();
        assert_eq!(component_store.all().unwrap(), [other, old.clone()]);
        assert_eq!(component_store.get(&old).unwrap(), b"old");
        assert_eq!(component_store.get(&new).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_damaged_component_is_not_given_out_and_is_mended_when_it_is_put_there_again() {
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
    fn other_files_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let component_store = ComponentStore::open(dir.path()).unwrap();
        component_store.put(&pin("a", b"x"), b"x").unwrap();
        fs::write(dir.path().join("a/notes.txt"), b"").unwrap();
        fs::write(dir.path().join("a/.0.tmp"), b"").unwrap();
        fs::create_dir(dir.path().join("Not A Name")).unwrap();
        fs::write(dir.path().join("file"), b"").unwrap();
        assert_eq!(component_store.all().unwrap(), [pin("a", b"x")]);
    }
}
