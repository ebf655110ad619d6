//! Compiled components on disk, so that a component is compiled once and not at every start.
//!
//! The name of an entry holds the component's digest and a hash of the engine's version and configuration. The entry
//! starts with a digest of that name and its content: an entry that is damaged, truncated or renamed is never loaded, and
//! the component is compiled again. The digest is no signature: only the host's own user may write to the directory, and
//! that keeps other users' code out.
//!
//! Invariant: when [`Cache::save`] returns, the entry survives a loss of power; when it is cut off at any moment, there is
//! the whole entry or none, and at most a temporary file, which [`Cache::sweep`] removes.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest as _, Sha256};
use wasmtime::{Engine, component::Component};

use crate::{
    files::{self, create_dir_durably, is_lower_hex},
    saga::Digest,
    store::disk::{Disk, Os},
};

/// Bytes of the digest that an entry starts with.
const DIGEST_BYTES: usize = 32;

/// A directory of compiled components for one engine.
pub struct Cache {
    dir: PathBuf,
    compatibility: u64,
    disk: Arc<dyn Disk>,
}

/// What [`Cache::sweep`] has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub files: usize,
    pub bytes: u64,
}

impl Cache {
    /// Creates the directory unless it exists, and makes it accessible to the host's own user only.
    pub fn open(dir: &Path, engine: &Engine) -> io::Result<Self> {
        Self::open_on(Arc::new(Os), dir, engine)
    }

    fn open_on(disk: Arc<dyn Disk>, dir: &Path, engine: &Engine) -> io::Result<Self> {
        create_dir_durably(dir, 0o700)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        let cache = Self { dir: dir.to_owned(), compatibility: compatibility(engine), disk };
        cache.check_owner()?;
        Ok(cache)
    }

    /// The owner of the directory could write code there that this process would run, so it must be this process's user.
    fn check_owner(&self) -> io::Result<()> {
        let probe = files::temporary(&self.dir);
        let own = File::create_new(&probe).and_then(|file| file.metadata())?.uid();
        fs::remove_file(&probe)?;
        if fs::metadata(&self.dir)?.uid() == own {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user: choose another directory"))
    }

    /// The compiled form of the component with this digest, if the cache has an undamaged one.
    pub fn load(&self, engine: &Engine, digest: Digest) -> Option<Component> {
        let name = self.name(digest);
        let entry = fs::read(self.dir.join(&name)).ok()?;
        // SAFETY: only this user can write to the directory (checked when it was opened), and only `save` writes there
        // under such a name.
        let Some(loaded) = (unsafe { load(engine, &name, &entry) }) else {
            tracing::warn!(entry = name, dir = %self.dir.display(), "damaged cache entry: compiling again");
            return None;
        };
        loaded.inspect_err(|error| tracing::warn!(entry = name, "cache entry refused: {error:#}: compiling again")).ok()
    }

    /// The directory, in which only the host's own user can write.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes the compiled form of a component. Readers see all of it or nothing, and it is on disk when this returns.
    pub fn save(&self, digest: Digest, component: &Component) -> io::Result<()> {
        let name = self.name(digest);
        let code = component.serialize().map_err(|error| io::Error::other(format!("{error:#}")))?;
        files::write_durably_to(&*self.disk, &self.dir.join(&name), &[&entry_digest(&name, &code), &code])
    }

    /// Removes the compiled form, if it is there. An error only wastes space.
    pub fn remove(&self, digest: Digest) {
        let _ = fs::remove_file(self.dir.join(self.name(digest)));
    }

    /// Removes what this host cannot use: temporary files of killed hosts, entries of other engines, and entries of
    /// components that are not `known`. The caller sees to it that no entry is saved meanwhile, and that no other host
    /// uses the directory.
    ///
    /// Other files stay, and so do entries of other engines that are not in the form of this version: a newer Wasaga may
    /// have written them.
    pub fn sweep(&self, known: impl Fn(Digest) -> bool) -> io::Result<Swept> {
        let mut swept = Swept::default();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let file_name = entry.file_name();
            let Some(name) = file_name.to_str().filter(|_| entry.file_type().is_ok_and(|kind| kind.is_file())) else {
                continue;
            };
            if self.is_unused(name, &known) {
                let bytes = entry.metadata().map_or(0, |metadata| metadata.len());
                fs::remove_file(entry.path())?;
                swept = Swept { files: swept.files + 1, bytes: swept.bytes + bytes };
            }
        }
        Ok(swept)
    }

    fn is_unused(&self, name: &str, known: impl Fn(Digest) -> bool) -> bool {
        if is_leftover(name) {
            return true;
        }
        match parts(name) {
            None => false,
            Some((digest, compatibility)) if compatibility == self.compatibility => !known(digest),
            Some(_) => fs::read(self.dir.join(name)).is_ok_and(|entry| code(name, &entry).is_some()),
        }
    }

    fn name(&self, digest: Digest) -> String {
        entry_name(digest, self.compatibility)
    }
}

/// A hash of everything in an engine that compiled code depends on.
pub fn compatibility(engine: &Engine) -> u64 {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.finish()
}

/// The name of the compiled form of a component for engines with this [`compatibility`].
pub fn entry_name(digest: Digest, compatibility: u64) -> String {
    format!("{digest}-{compatibility:016x}.cwasm")
}

/// The component of an entry; `None` if the entry is not whole, or not the one of this name.
///
/// # Safety
/// The entry must have been written by this host or by its compiler, to a place where no other user could change it.
pub unsafe fn load(engine: &Engine, name: &str, entry: &[u8]) -> Option<wasmtime::Result<Component>> {
    let code = code(name, entry)?;
    // SAFETY: these bytes must be the unmodified output of `Component::serialize`. They are: the caller says where they come
    // from, and the digest, checked above on the same bytes in memory, is the one that was written with them. Code of another
    // engine version or configuration has another name, and `deserialize` itself refuses it too.
    Some(unsafe { Component::deserialize(engine, code) })
}

/// The digest of the component and the hash of the engine in the name of an entry.
fn parts(name: &str) -> Option<(Digest, u64)> {
    let (digest, hash) = name.strip_suffix(".cwasm")?.split_once('-')?;
    let hash = (hash.len() == 16 && is_lower_hex(hash)).then(|| u64::from_str_radix(hash, 16))?;
    Some((digest.parse().ok()?, hash.ok()?))
}

/// Whether this is a temporary file of a host. Version 0.1.0 named them without a dot in front.
fn is_leftover(name: &str) -> bool {
    files::is_temporary(name)
        || name.strip_suffix(".tmp").is_some_and(|digits| digits.len() == 16 && is_lower_hex(digits))
}

/// The code in an entry; `None` if the entry is not whole, or not the one of this name.
fn code<'a>(name: &str, entry: &'a [u8]) -> Option<&'a [u8]> {
    let (expected, code) = entry.split_at_checked(DIGEST_BYTES)?;
    (expected == entry_digest(name, code).as_slice()).then_some(code)
}

/// The digest that an entry of this name and with this code begins with.
pub fn entry_digest(name: &str, code: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(name).chain_update(code).finalize().into()
}

#[cfg(test)]
mod tests;
