//! Components that the compiler did not survive: they are not compiled again until their bytes, the limits or the engine
//! change.
//!
//! A refusal is remembered in memory and, if there is a cache of compiled code, in a file `DIGEST-ENGINE.refused` there.
//! Without the file, each start of a host would spend minutes on the component again. Deleting the file, as all files of
//! the cache may be, has no other effect.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};
use wasmtime::Engine;

use super::cache::compatibility;
use crate::{files::write_durably, plugin::limits::CompileLimits, saga::Digest, store::sync::lock};

/// Refusals that are remembered: of more in the folder the oldest is forgotten, of more in memory all. A forgotten one costs one
/// more compilation.
const REFUSALS_MAX: usize = 256;

/// How long a refusal counts whose reason may not lie in the component, as when the system ends the compiler.
const DOUBTFUL_FOR: Duration = Duration::from_mins(10);

/// The ending of a file's name.
const SUFFIX: &str = ".refused";

/// The refusals of one engine.
pub struct Refusals {
    dir: Option<PathBuf>,
    compatibility: u64,
    /// With the time of those that do not last.
    recent: Mutex<HashMap<Digest, (Refusal, Option<Instant>)>>,
}

/// Why a component is not compiled again, and under which limits.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Refusal {
    limits: CompileLimits,
    reason: String,
}

impl Refusals {
    /// `dir`: where they are kept for the next host; `None`: in memory only.
    pub fn new(dir: Option<&Path>, engine: &Engine) -> Self {
        Self { dir: dir.map(Path::to_owned), compatibility: compatibility(engine), recent: Mutex::default() }
    }

    /// Why this component was refused under these limits, if it was.
    pub fn find(&self, digest: Digest, limits: &CompileLimits) -> Option<String> {
        let is_valid = |since: &Option<Instant>| since.is_none_or(|since| since.elapsed() < DOUBTFUL_FOR);
        let known =
            lock(&self.recent).get(&digest).filter(|(_, since)| is_valid(since)).map(|(refusal, _)| refusal.clone());
        // A file that cannot be read is as good as none: the component is refused again.
        let read = || serde_json::from_slice(&fs::read(self.path(digest)?).ok()?).ok();
        known.or_else(read).filter(|refusal| refusal.limits == *limits).map(|refusal| refusal.reason)
    }

    /// Remembers why a component is refused. `is_lasting`: without end and also for the next host, not for [`DOUBTFUL_FOR`].
    pub fn remember(&self, digest: Digest, limits: CompileLimits, reason: &str, is_lasting: bool) {
        let refusal = Refusal { limits, reason: reason.to_owned() };
        if is_lasting && let Err(error) = self.write(digest, &refusal) {
            tracing::warn!(%digest, "the next start compiles a refused component again: {error}");
        }
        let mut recent = lock(&self.recent);
        if recent.len() >= REFUSALS_MAX {
            recent.clear();
        }
        recent.insert(digest, (refusal, (!is_lasting).then(Instant::now)));
    }

    fn write(&self, digest: Digest, refusal: &Refusal) -> io::Result<()> {
        let (Some(dir), Some(path)) = (&self.dir, self.path(digest)) else { return Ok(()) };
        let mut files: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| name.ends_with(SUFFIX)) {
                files.push((entry.metadata()?.modified()?, entry.path()));
            }
        }
        files.sort();
        for (_, oldest) in files.iter().take((files.len() + 1).saturating_sub(REFUSALS_MAX)) {
            fs::remove_file(oldest)?;
        }
        write_durably(&path, &serde_json::to_vec(refusal).map_err(io::Error::other)?)
    }

    fn path(&self, digest: Digest) -> Option<PathBuf> {
        Some(self.dir.as_ref()?.join(format!("{digest}-{:016x}{SUFFIX}", self.compatibility)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::name::digest;

    #[test]
    fn a_refusal_outlives_the_host_and_other_limits_end_it() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::default();
        let (limits, component) = (CompileLimits::default(), digest(b"a"));
        let refusals = Refusals::new(Some(dir.path()), &engine);
        assert_eq!(refusals.find(component, &limits), None);
        refusals.remember(component, limits, "too large", true);
        refusals.remember(digest(b"b"), limits, "killed", false);
        for (refusals, of_b) in [(refusals, Some("killed")), (Refusals::new(Some(dir.path()), &engine), None)] {
            assert_eq!(refusals.find(component, &limits).as_deref(), Some("too large"));
            assert_eq!(refusals.find(digest(b"b"), &limits).as_deref(), of_b);
            assert_eq!(refusals.find(digest(b"c"), &limits), None);
            let more = CompileLimits { memory_bytes: limits.memory_bytes * 2, ..limits };
            assert_eq!(refusals.find(component, &more), None);
        }
    }

    #[test]
    fn a_damaged_file_is_none_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let limits = CompileLimits::default();
        let of = |number: usize| digest(&number.to_le_bytes());
        let refusals = Refusals::new(Some(dir.path()), &Engine::default());
        for number in 0..=REFUSALS_MAX {
            refusals.remember(of(number), limits, "too large", true);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), REFUSALS_MAX);
        let again = Refusals::new(Some(dir.path()), &Engine::default());
        assert!(again.find(of(REFUSALS_MAX), &limits).is_some());
        fs::write(again.path(of(REFUSALS_MAX)).unwrap(), b"{").unwrap();
        assert_eq!(again.find(of(REFUSALS_MAX), &limits), None);
    }
}
