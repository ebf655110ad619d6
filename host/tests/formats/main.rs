//! Data folders of every format that Wasaga has written are opened and finished, and those of newer formats are refused.
//!
//! 1. A folder of an earlier format is brought up to date: every saga of it is found as it was left, what is unfinished
//!    goes on, on the code that it is pinned to, and the money adds up.
//! 2. Neither a kill during the upgrade, at any time, nor a torn journal, nor a missing state database changes that.
//! 3. What a newer version has written is refused by name with exit status 78, and no byte of the folder changes.
//!
//! `fixtures/make.py` made the folders. They are never made anew: what they hold is what disks out there hold.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;

mod newer;
mod service;
mod upgrade;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use flate2::read::GzDecoder;
use tempfile::TempDir;

/// A copy of a fixture: the data folder, and a plugin folder with the newest version of its plugin.
struct Folder {
    dir: TempDir,
}

impl Folder {
    fn unpack(format: &str, name: &str) -> Self {
        let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format).join(name);
        let archive = fs::File::open(archive.with_extension("tar.gz")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        tar::Archive::new(GzDecoder::new(archive)).unpack(dir.path()).unwrap();
        let versions = dir.path().join("data/components/account");
        let current = fs::read_to_string(versions.join("current")).unwrap();
        fs::create_dir(dir.path().join("plugins")).unwrap();
        fs::copy(versions.join(current).with_extension("wasm"), dir.path().join("plugins/account.wasm")).unwrap();
        Self { dir }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn plugins(&self) -> PathBuf {
        self.dir.path().join("plugins")
    }
}

/// Every file below a folder with its content, but for sled's: sled writes to its files when it opens them.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(dir).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    found
}
