//! What is left of the disk, and how little of it is too little: new work is refused before there is no room to end the old.

use std::{
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::{disk::Room, sync::lock};

/// Bounds of what is kept free by default. 64 MiB is a segment and what sagas under way write; 2 % is what people reserve on
/// larger disks; more than 1 GiB would only be wasted. A disk of less than 256 MiB keeps a quarter, or it could not be used.
const FREE_BYTES_LEAST: u64 = 64 << 20;
const FREE_BYTES_MOST: u64 = 1 << 30;
/// 2 %.
const FREE_SHARE: u64 = 50;
/// A quarter.
const FREE_SHARE_MOST: u64 = 4;
/// Inodes kept free, where the file system counts them: a running store creates few files, and removes as many.
const FREE_FILES_MOST: u64 = 1024;

/// The store works on and should not be given anything new: the disk is nearly full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// What is short.
    pub of: Resource,
    /// How much of it is left.
    pub free: u64,
    /// How much of it is to stay free.
    pub wanted: u64,
}

/// What a file system has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Space for content.
    Bytes,
    /// Inodes: places for files.
    Files,
}

impl fmt::Display for Shortage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { of, free, wanted } = self;
        match of {
            Resource::Bytes => write!(out, "{free} bytes are left on the disk, and {wanted} are to stay free"),
            Resource::Files => write!(out, "{free} inodes are left on the disk, and {wanted} are to stay free"),
        }
    }
}

impl Room {
    /// What is to stay free, in bytes; `asked` is the setting.
    pub(crate) fn bytes_wanted(&self, asked: u64) -> u64 {
        if asked > 0 {
            return asked;
        }
        let wanted = (self.bytes / FREE_SHARE).clamp(FREE_BYTES_LEAST, FREE_BYTES_MOST);
        wanted.min(self.bytes / FREE_SHARE_MOST)
    }

    /// What is short. What has been short stays so until a quarter more than what is wanted is free, so that a disk near the
    /// line does not change its mind every second.
    pub(crate) fn shortage(&self, asked: u64, was_short: bool) -> Option<Shortage> {
        let is_short =
            |free: u64, wanted: u64| free < if was_short { wanted.saturating_add(wanted / 4) } else { wanted };
        let wanted = self.bytes_wanted(asked);
        if is_short(self.free_bytes, wanted) {
            return Some(Shortage { of: Resource::Bytes, free: self.free_bytes, wanted });
        }
        let wanted = (self.files / FREE_SHARE).min(FREE_FILES_MOST);
        is_short(self.free_files, wanted).then_some(Shortage { of: Resource::Files, free: self.free_files, wanted })
    }
}

/// The last look.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    is_short: AtomicBool,
    shortage: Mutex<Option<Shortage>>,
    free_bytes: AtomicU64,
}

impl Seen {
    pub(crate) fn shortage(&self) -> Option<Shortage> {
        // Cheap in the ordinary case: every submission asks.
        if self.is_short.load(Ordering::Relaxed) { *lock(&self.shortage) } else { None }
    }

    pub(crate) fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    pub(crate) fn store(&self, room: &Room, shortage: Option<Shortage>) {
        self.free_bytes.store(room.free_bytes, Ordering::Relaxed);
        *lock(&self.shortage) = shortage;
        self.is_short.store(shortage.is_some(), Ordering::Relaxed);
    }

    /// Bytes that were free.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(bytes: u64, free_bytes: u64) -> Room {
        Room { bytes, free_bytes, files: 0, free_files: 0 }
    }

    #[test]
    fn two_percent_stay_free_within_bounds_unless_the_setting_says_otherwise() {
        let wanted = |bytes| room(bytes, 0).bytes_wanted(0);
        assert_eq!([wanted(256 << 20), wanted(10 << 30), wanted(1 << 40)], [64 << 20, (10 << 30) / 50, 1 << 30]);
        assert_eq!(wanted(100 << 20), 25 << 20);
        assert_eq!(room(1 << 40, 0).bytes_wanted(7), 7);
    }

    #[test]
    fn a_disk_is_short_below_the_line_until_it_is_well_above() {
        let short = |free, was_short| room(1 << 40, free).shortage(1000, was_short).is_some();
        assert_eq!([short(1000, false), short(999, false)], [false, true]);
        assert_eq!([short(1000, true), short(1249, true), short(1250, true)], [true, true, false]);
    }

    #[test]
    fn inodes_count_where_the_file_system_counts_them() {
        let of = |files, free_files| Room { files, free_files, ..room(1 << 40, 1 << 40) }.shortage(0, false);
        assert_eq!(of(0, 0), None);
        assert_eq!(of(200, 4), None);
        assert_eq!(of(200, 3), Some(Shortage { of: Resource::Files, free: 3, wanted: 4 }));
        assert_eq!(of(1 << 30, 1023).map(|shortage| shortage.wanted), Some(1024));
    }
}
