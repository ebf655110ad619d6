//! What is left of the disk: looked at now and then, so that new work is refused before there is no room to end the old.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use crate::{
    disk::Room,
    shared::{Shared, Watch},
    sync::lock,
};

/// Between two looks. A second of writing is far less than what is kept free.
const INTERVAL: Duration = Duration::from_secs(1);

/// Bounds of what is kept free by default. 64 MiB is a segment and what sagas under way write; 2 % is what people reserve on
/// larger disks; more than 1 GiB would only be wasted.
const FREE_BYTES_LEAST: u64 = 64 << 20;
const FREE_BYTES_MOST: u64 = 1 << 30;
/// 2 %.
const FREE_SHARE: u64 = 50;
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
        if asked == 0 { (self.bytes / FREE_SHARE).max(FREE_BYTES_LEAST).min(FREE_BYTES_MOST) } else { asked }
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

    /// Bytes that were free.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// Looks at the disk, and says so when it has become short, or is no longer.
    pub(crate) fn look_at_room(&self) {
        let dir = &self.settings.dir;
        let room = match self.settings.disk.room(dir) {
            Ok(room) => room,
            Err(error) => {
                tracing::debug!(%error, dir = %dir.display(), "cannot tell how much of the disk is free");
                return;
            }
        };
        let was_short = self.room.is_short.load(Ordering::Relaxed);
        let shortage = room.shortage(self.settings.free_bytes_min, was_short);
        self.room.free_bytes.store(room.free_bytes, Ordering::Relaxed);
        *lock(&self.room.shortage) = shortage;
        self.room.is_short.store(shortage.is_some(), Ordering::Relaxed);
        match shortage {
            Some(shortage) if !was_short => tracing::error!(
                dir = %dir.display(), %shortage,
                "the disk is nearly full: new sagas are refused until there is room, those under way go on; free space on \
                 it, or lower `free_bytes_min` under [store]"
            ),
            None if was_short => {
                tracing::info!(dir = %dir.display(), free_bytes = room.free_bytes, "the disk has room again");
            }
            _ => {}
        }
    }
}

/// The thread that looks, until `stop` is dropped.
pub(crate) fn run(shared: &Arc<Shared>, stop: &Receiver<()>) {
    let _watch = Watch { shared: Arc::clone(shared), name: "room" };
    while matches!(stop.recv_timeout(INTERVAL), Err(RecvTimeoutError::Timeout)) {
        shared.look_at_room();
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
        assert_eq!([wanted(1 << 20), wanted(10 << 30), wanted(1 << 40)], [64 << 20, (10 << 30) / 50, 1 << 30]);
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
