//! What the store counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// What has happened since the store was opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) conflicts: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) journal_bytes: AtomicU64,
    pub(crate) rows: AtomicU64,
    pub(crate) rounds: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) bases: AtomicU64,
    pub(crate) applied: AtomicU64,
    pub(crate) entries: AtomicU64,
}

pub(crate) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// What the store has done since it was opened, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Batches accepted with writes in them.
    pub commits: u64,
    /// Batches refused because something was not as it had been read.
    pub conflicts: u64,
    /// `fdatasync`s of the journal.
    pub syncs: u64,
    /// Bytes written to the journal.
    pub journal_bytes: u64,
    /// Journal files.
    pub segments: u64,
    /// The last sequence number accepted.
    pub accepted: u64,
    /// The last sequence number on disk.
    pub durable: u64,
    /// The last sequence number in sled.
    pub applied: u64,
    /// Keys committed and not yet in sled.
    pub overlay_entries: u64,
    /// Bytes of records on disk and not yet in sled.
    pub lag_bytes: u64,
    /// Keys written to, or removed from, sled.
    pub rows: u64,
    /// Rounds in which that was done.
    pub rounds: u64,
    /// Times that sled was made durable.
    pub checkpoints: u64,
    /// Bases written.
    pub bases: u64,
    /// Live entries in sled.
    pub entries: u64,
}
