//! The plugin folder: one `NAME.wasm` for each plugin, put there by hand or through the API.
//!
//! The folder is polled, not watched by the system's means: those do not work on network file systems and in some
//! containers, and lose a folder that is deleted and created again, as builds do. A change counts once two looks in a row
//! have seen it, since copying a file takes time; so does the absence of a file.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// The files of the folder at the last look.
#[derive(Default)]
pub struct Folder {
    pub seen: HashMap<PathBuf, Seen>,
    /// Plugins whose files were absent.
    pub missing: HashSet<String>,
}

/// One file at the last look.
pub struct Seen {
    pub stamp: Stamp,
    /// Whether the file was read with this stamp.
    pub is_read: bool,
    /// How often in a row the system has failed to read or to keep it.
    pub failures: u32,
    /// Looks that pass before it is tried again.
    pub pause: u32,
}

/// Longest pause after a failure of the system, in looks: a full disk lasts, and a component may be compiled for each try.
const PAUSE_MAX: u32 = 63;

impl Seen {
    /// A file with this stamp that was read, or is to be read when the next look finds it unchanged.
    pub fn new(stamp: Stamp, is_read: bool) -> Self {
        Self { stamp, is_read, failures: 0, pause: 0 }
    }

    /// A file that the system has failed to read or to keep once more: it is tried again at the next look, then after 1, 3,
    /// 7 looks more.
    pub fn failed(stamp: Stamp, before: Option<&Self>) -> Self {
        let failures = before.map_or(0, |before| before.failures);
        let pause = (1 << failures.min(31)) - 1;
        Self { stamp, is_read: false, failures: failures + 1, pause: PAUSE_MAX.min(pause) }
    }
}

/// Distinguishes the contents that a file has had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
    inode: u64,
}

impl Stamp {
    /// The stamp of a file now.
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self { bytes: metadata.len(), modified: metadata.modified().ok(), inode: metadata.ino() })
    }
}

/// The components of a folder, sorted by name.
pub fn component_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    let mut files: Vec<PathBuf> =
        entries.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "wasm")).collect();
    files.sort();
    Ok(files)
}
