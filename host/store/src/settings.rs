//! Where the store lives, and its limits.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    disk::{Disk, Os},
    error::Failure,
    files,
    opening::Opening,
};

/// Where a [`LocalStore`](crate::LocalStore) lives, and its limits.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The store's directory; created if it does not exist.
    pub dir: PathBuf,
    /// Largest batch, in bytes of keys and values (and 7 bytes a write). Default 64 MiB, 256 MiB at most.
    pub batch_bytes_max: usize,
    /// Size after which the journal begins a new segment, in bytes. Segments are what can be deleted. Default 64 MiB.
    pub segment_bytes: u64,
    /// How long the follower gathers records before it writes sled. Longer means fewer writes of keys that change
    /// often, and a larger overlay. Default 50 ms.
    pub gather: Duration,
    /// How many bytes of records may be durable and not yet in sled, in memory. Beyond it the journal waits, and with
    /// it every ticket, so that memory stays bounded. Default 64 MiB.
    pub lag_bytes_max: usize,
    /// How long sled may go without being made durable; what a restart has to replay. Default 2 s.
    pub checkpoint_interval: Duration,
    /// The same in bytes of journal. Default 32 MiB.
    pub checkpoint_bytes: u64,
    /// How much journal may pile up before a new base is written, in bytes; or the size of the last base, if that is
    /// more. What a rebuild has to replay, and what the disk has to hold besides. Default 256 MiB.
    pub base_bytes: u64,
    /// sled's cache, in bytes; sled treats it as a hint. Default 64 MiB.
    pub cache_bytes: u64,
    /// Whether opening reads all of sled and the base and checks their digests. Costs about a second per million
    /// small entries; without it, sled is rebuilt only when it notices damage by itself. Default true.
    pub verify_on_open: bool,
    /// Bytes that stay free on the disk: with less, [`Condition::Short`](crate::Condition::Short) asks callers to begin
    /// nothing new, so that what has been begun can end. 0, the default: the greater of 64 MiB and 2 % of the disk, but at
    /// most 1 GiB, and at most a quarter of a disk of less than 256 MiB.
    pub free_bytes_min: u64,
    /// Whether a damaged journal is opened without the records after the damage. What is cut off is kept beside it
    /// under the name `*.lost`. Default false.
    pub salvage: bool,
    /// Shows how far the opening is.
    pub opening: Arc<Opening>,
    /// The file operations; another one is for tests.
    pub disk: Arc<dyn Disk>,
}

impl Settings {
    /// The defaults for a directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            batch_bytes_max: 64 << 20,
            segment_bytes: 64 << 20,
            gather: Duration::from_millis(50),
            lag_bytes_max: 64 << 20,
            checkpoint_interval: Duration::from_secs(2),
            checkpoint_bytes: 32 << 20,
            base_bytes: 256 << 20,
            cache_bytes: 64 << 20,
            verify_on_open: true,
            free_bytes_min: 0,
            salvage: false,
            opening: Arc::default(),
            disk: Arc::new(Os),
        }
    }

    pub(crate) fn journal_dir(&self) -> PathBuf {
        files::journal_dir(&self.dir)
    }

    pub(crate) fn base_dir(&self) -> PathBuf {
        files::base_dir(&self.dir)
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        files::state_dir(&self.dir)
    }

    pub(crate) fn rebuild_marker(&self) -> PathBuf {
        files::rebuild_marker(&self.dir)
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), Failure> {
        self.disk.rename(from, to).map_err(Failure::disk("rename", from))
    }

    pub(crate) fn remove(&self, path: &Path) -> Result<(), Failure> {
        self.disk.remove(path).map_err(Failure::disk("remove", path))
    }

    pub(crate) fn sync_dir(&self, dir: &Path) -> Result<(), Failure> {
        self.disk.sync_dir(dir).map_err(Failure::disk("sync", dir))
    }
}
