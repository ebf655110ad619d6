//! Compiled components on disk, so that a component is compiled once and not at every start.
//!
//! The name of an entry holds the component's digest and a hash of the engine's version and configuration. The entry
//! starts with a digest of that name and its content: an entry that is damaged, truncated or renamed is never loaded, and
//! the component is compiled again. The digest is no signature: only the host's own user may write to the directory, and
//! that keeps other users' code out.

use std::{
    fs::{self, DirBuilder, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};
use wasmtime::{Engine, component::Component};

use crate::saga::Digest;

/// Bytes of the digest that an entry starts with.
const DIGEST_BYTES: usize = 32;

/// A directory of compiled components for one engine.
pub struct Cache {
    dir: PathBuf,
    compatibility: u64,
}

impl Cache {
    /// Creates the directory unless it exists, and makes it accessible to the host's own user only.
    pub fn open(dir: &Path, engine: &Engine) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let cache = Self { dir: dir.to_owned(), compatibility: hasher.finish() };
        cache.check_owner()?;
        Ok(cache)
    }

    /// The owner of the directory could write code there that this process would run, so it must be this process's user.
    fn check_owner(&self) -> io::Result<()> {
        let probe = self.temporary();
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
        let (expected, code) = entry.split_at_checked(DIGEST_BYTES)?;
        if expected != entry_digest(&name, code).as_slice() {
            tracing::warn!(entry = name, dir = %self.dir.display(), "damaged cache entry: compiling again");
            return None;
        }
        // SAFETY: these bytes must be the unmodified output of `Component::serialize`. They are: only this user can write
        // to the directory (checked when it was opened), only `save` writes there under such a name, and the digest,
        // checked above on the same bytes in memory, is the one that `save` wrote. Code of another engine version or
        // configuration has another name, and `deserialize` itself refuses it too.
        let loaded = unsafe { Component::deserialize(engine, code) };
        loaded.inspect_err(|error| tracing::warn!(entry = name, "cache entry refused: {error:#}: compiling again")).ok()
    }

    /// Writes the compiled form of a component. Readers see all of it or nothing.
    pub fn save(&self, digest: Digest, component: &Component) -> io::Result<()> {
        let name = self.name(digest);
        let code = component.serialize().map_err(|error| io::Error::other(format!("{error:#}")))?;
        let temporary = self.temporary();
        let written = (|| {
            let mut file = File::create_new(&temporary)?;
            file.write_all(&entry_digest(&name, &code))?;
            file.write_all(&code)?;
            fs::rename(&temporary, self.dir.join(&name))
        })();
        written.inspect_err(|_| {
            // A leftover wastes space and does no other harm.
            let _ = fs::remove_file(&temporary);
        })
    }

    /// Removes the compiled form, if it is there. An error only wastes space.
    pub fn remove(&self, digest: Digest) {
        let _ = fs::remove_file(self.dir.join(self.name(digest)));
    }

    fn name(&self, digest: Digest) -> String {
        format!("{digest}-{:016x}.cwasm", self.compatibility)
    }

    /// A name that is unique among all processes. Random, not the process id: in a container that is always 1.
    fn temporary(&self) -> PathBuf {
        self.dir.join(format!("{:016x}.tmp", fastrand::u64(..)))
    }
}

fn entry_digest(name: &str, code: &[u8]) -> [u8; DIGEST_BYTES] {
    Sha256::new().chain_update(name).chain_update(code).finalize().into()
}
