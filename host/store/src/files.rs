//! The names of all files in the store's directory.
//!
//! ```text
//! LOCK                       held by the process that has the store open
//! REBUILD                    exists while sled's content is not to be trusted
//! PROBE                      exists for a moment while the store is opened: whether files can be written
//! journal/<first>.journal    a segment, by the sequence number of its first record (20 digits, so names sort in order);
//!                            `.draft` while the last one is written anew at an opening
//! base/<seq>.base            a base, by the last record that it contains; `.draft` while it is being written
//! state/                     sled's; `state.damaged-<time>` when it was set aside, `state.lost-<time>` by a start that
//!                            salvages
//! *.damaged, *.damaged-<n>   journal segments and bases that recovery could not use
//! *.lost, *.lost-<n>         what salvage has cut off the journal
//! ```

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

pub(crate) const SEGMENT: &str = "journal";
pub(crate) const BASE: &str = "base";
pub(crate) const DRAFT: &str = "draft";
const STATE_ASIDE: &str = "state.damaged-";
const STATE_LOST: &str = "state.lost-";
const DAMAGED: &str = "damaged";
const LOST: &str = "lost";

pub(crate) fn lock(root: &Path) -> PathBuf {
    root.join("LOCK")
}

pub(crate) fn rebuild_marker(root: &Path) -> PathBuf {
    root.join("REBUILD")
}

pub(crate) fn probe(root: &Path) -> PathBuf {
    root.join("PROBE")
}

pub(crate) fn journal_dir(root: &Path) -> PathBuf {
    root.join("journal")
}

pub(crate) fn base_dir(root: &Path) -> PathBuf {
    root.join("base")
}

pub(crate) fn state_dir(root: &Path) -> PathBuf {
    root.join("state")
}

/// The one file in which sled keeps everything.
pub(crate) fn state_file(state_dir: &Path) -> PathBuf {
    state_dir.join("db")
}

pub(crate) fn segment(journal_dir: &Path, first: u64) -> PathBuf {
    journal_dir.join(format!("{first:020}.{SEGMENT}"))
}

pub(crate) fn base(base_dir: &Path, seq: u64) -> PathBuf {
    base_dir.join(format!("{seq:020}.{BASE}"))
}

/// The name of a base, or of a segment, while it is being written.
pub(crate) fn draft(file: &Path) -> PathBuf {
    file.with_extension(DRAFT)
}

/// The first free name for a file that is kept although it cannot be used: `<file>.damaged`, `<file>.damaged-1`, ...
pub(crate) fn damaged(file: &Path) -> io::Result<PathBuf> {
    beside(file, DAMAGED)
}

/// The first free name for what salvage cuts off: `<file>.lost`, `<file>.lost-1`, ... These records were acknowledged.
pub(crate) fn lost(file: &Path) -> io::Result<PathBuf> {
    beside(file, LOST)
}

fn beside(file: &Path, what: &str) -> io::Result<PathBuf> {
    let mut number = 0_u64;
    loop {
        let mut name = OsString::from(file);
        name.push(format!(".{what}"));
        if number > 0 {
            name.push(format!("-{number}"));
        }
        let path = PathBuf::from(name);
        if !path.try_exists()? {
            return Ok(path);
        }
        number += 1;
    }
}

/// The name under which sled's directory is set aside at `time`, in milliseconds since 1970.
pub(crate) fn damaged_state(root: &Path, time: u128) -> PathBuf {
    root.join(format!("{STATE_ASIDE}{time}"))
}

/// The same in a start that salvages: records that it gives up may be there only, so no later start removes it.
pub(crate) fn lost_state(root: &Path, time: u128) -> PathBuf {
    root.join(format!("{STATE_LOST}{time}"))
}

/// sled's directories that were set aside, oldest first.
pub(crate) fn damaged_states(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = entries(root)?;
    found.retain(|path| has_prefix(path, STATE_ASIDE));
    found.sort();
    Ok(found)
}

/// The files in `dir` that [`damaged`] has named; none if there is no such directory.
pub(crate) fn damaged_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = entries(dir)?;
    found.retain(|path| {
        let ending = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        ending == DAMAGED || ending.strip_prefix(DAMAGED).is_some_and(|rest| rest.starts_with('-'))
    });
    Ok(found)
}

/// sled's snapshots: where in its file the pages are.
pub(crate) fn state_snapshots(state_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = entries(state_dir)?;
    found.retain(|path| has_prefix(path, "snap."));
    Ok(found)
}

/// The files `<number>.<extension>` in `dir`, least number first; none if there is no such directory.
pub(crate) fn list(dir: &Path, extension: &str) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for path in entries(dir)? {
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if path.extension().is_some_and(|found| found == extension) {
            found.extend(number.map(|number| (number, path)));
        }
    }
    found.sort();
    Ok(found)
}

/// The paths of what is in a directory; none if there is no such directory.
fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

fn has_prefix(path: &Path, prefix: &str) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix))
}
