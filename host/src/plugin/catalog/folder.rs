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
