//! Copies of damaged files, which are kept for inspection: named in the log, and bounded.
//!
//! Nothing reads them again. A state database is set aside only when base and journal, which rebuild it, have been read and
//! found whole in the same start; a base when it is replaced by another, or by a sound state database; a part of the journal
//! when, as far as the journal can tell, it was never acknowledged. What salvage cuts off is another thing: those records
//! were acknowledged, so these files (`*.lost`) are not counted here, and never removed.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{disk::Disk, error::Failure, files, settings::Settings};

/// Most bytes of all copies together. Enough to look at several damaged files, too little to fill a disk; more would be of no
/// use, as nothing can be restored from them.
const BYTES_MAX: u64 = 1 << 30;
/// Most state databases among them.
const STATES_MAX: usize = 3;

/// A file, or a directory of sled.
#[derive(Debug)]
struct Copy {
    path: PathBuf,
    is_state: bool,
    bytes: u64,
    changed: SystemTime,
}

/// All copies, in the order in which they are removed: state databases first, oldest first.
fn find(dir: &Path) -> Result<Vec<Copy>, Failure> {
    let mut found = Vec::new();
    for path in files::damaged_states(dir).map_err(Failure::disk("list", dir))? {
        let (bytes, changed) = (bytes_on_disk(&path), SystemTime::UNIX_EPOCH);
        found.push(Copy { path, is_state: true, bytes, changed });
    }
    let mut others = Vec::new();
    for dir in [files::journal_dir(dir), files::base_dir(dir)] {
        for path in files::damaged_files(&dir).map_err(Failure::disk("list", &dir))? {
            let Ok(metadata) = fs::metadata(&path) else { continue };
            let changed = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            others.push(Copy { path, is_state: false, bytes: metadata.blocks() * 512, changed });
        }
    }
    others.sort_by(|a, b| (a.changed, &a.path).cmp(&(b.changed, &b.path)));
    found.append(&mut others);
    Ok(found)
}

/// What removing it frees: sled's file has holes.
fn bytes_on_disk(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    let entries = if metadata.is_dir() { fs::read_dir(path).ok() } else { None };
    let below = entries.into_iter().flatten().flatten().map(|entry| bytes_on_disk(&entry.path())).sum::<u64>();
    metadata.blocks() * 512 + below
}

/// The paths of all copies: what may be deleted to make room.
pub(super) fn paths(dir: &Path) -> Vec<PathBuf> {
    find(dir).unwrap_or_default().into_iter().map(|copy| copy.path).collect()
}

/// Removes the surplus, and names the rest in the log. `fresh`: what this start has set aside stays, unless space is needed.
/// `wanted`: free bytes that are needed now; state databases are removed until there are as many.
pub(super) fn bound(settings: &Settings, fresh: Option<&Path>, wanted: u64) -> Result<(), Failure> {
    let mut copies = find(&settings.dir)?;
    let mut index = 0;
    while let Some(copy) = copies.get(index) {
        let states = copies.iter().filter(|copy| copy.is_state).count();
        let is_fresh = |copy: &Copy| fresh.is_some_and(|fresh| copy.path == fresh);
        let bytes: u64 = copies.iter().filter(|copy| !is_fresh(copy)).map(|copy| copy.bytes).sum();
        let is_surplus = bytes > BYTES_MAX || (copy.is_state && states > STATES_MAX);
        let is_in_the_way = copy.is_state && lacks(settings.disk.as_ref(), &settings.dir, wanted);
        if !is_in_the_way && (is_fresh(copy) || !is_surplus) {
            index += 1;
            continue;
        }
        tracing::warn!(path = %copy.path.display(), bytes = copy.bytes, "removing a copy of a damaged file: space is needed");
        let removed = if copy.is_state {
            fs::remove_dir_all(&copy.path).map_err(Failure::disk("remove", &copy.path))
        } else {
            settings.remove(&copy.path)
        };
        // Nothing needs the copy: one that stays must not keep a sound store from opening.
        if let Err(failure) = removed {
            tracing::warn!(error = &failure as &dyn std::error::Error, "a copy of a damaged file stays");
        }
        copies.remove(index);
    }
    for Copy { path, bytes, .. } in &copies {
        let path = path.display();
        tracing::warn!(%path, bytes, "a copy of a damaged file is kept for inspection: nothing needs it, it may be deleted");
    }
    Ok(())
}

fn lacks(disk: &dyn Disk, dir: &Path, wanted: u64) -> bool {
    disk.room(dir).is_ok_and(|room| room.free_bytes < wanted)
}
