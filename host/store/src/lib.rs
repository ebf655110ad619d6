//! The ordered keyspace that everything durable lives in.
//!
//! One pipeline, one order:
//!
//! ```text
//! commit ──> sequencer ──> queue ──> journal thread ──> follower thread ──> sled
//!            checks what    │        one write and      gathers, keeps the   (state, rebuilt from
//!            was read,      │        one fdatasync      last value of each   base + journal if it
//!            numbers it,    │        for all that       key, applies them    is damaged)
//!            shows it       │        has gathered       behind the commits
//!               │           └ tickets resolve here
//!               └──> overlay <── readers look here first, then in sled
//! ```
//!
//! Invariants:
//!
//! 1. **Commits have one total order**, their sequence numbers, without gaps. Recovery sees a prefix of it.
//! 2. **The journal is the commit point.** A ticket resolves when its record, and so every earlier one, is on disk
//!    (`fdatasync`, never `sync_file_range`). Nothing else promises durability.
//! 3. **Accepting never waits for the disk's syncs**: order and conflicts are settled by a short critical section.
//! 4. **Preconditions are values, not versions**: at its place in the order, what the batch had read must be there
//!    again, byte for byte. A batch's result depends on values only, so this is serialisable, and a value that went
//!    away and came back is no conflict because it makes no difference. Ranges are compared whole: no phantoms.
//! 5. **sled holds durable records only**, written by one thread, together with `applied` (the last sequence number
//!    it contains) and a digest of everything live. It is never asked to be durable by itself: its `flush` does not
//!    call `fdatasync`, and files for big nodes are not synced at all, hence our own sync, the big segments and the
//!    split values in `state`.
//! 6. **Base + journal rebuild sled at any time.** A journal segment goes only when a base covers it and sled has
//!    been checkpointed past it; a base goes only when a newer one is durable.
//! 7. **A failed sync is final.** The kernel may have dropped the pages, so a second sync would say yes to lost data:
//!    every waiter and every later commit fails, and the next start recovers from what is really there.
//!
//! Deliberately absent: transactions with locks, timers in the commit path, a second copy of the recovery logic, any
//! use of sled's `transaction` and `flush_async` (one global lock; a deadlock with seven callers).

// A request must never bring the host down. Tests may (clippy.toml).
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod base;
mod batch;
mod codec;
pub mod disk;
mod error;
mod follower;
mod journal;
mod lag;
mod local;
mod overlay;
mod range;
mod recovery;
mod salvage;
mod segment;
mod sequencer;
mod shared;
mod state;
mod survey;
pub mod sync;
mod ticket;
mod view;

use bytes::Bytes;

pub use self::{
    batch::Batch,
    error::{CommitError, Corruption, Error, Failure, OpenError},
    local::{LocalStore, Settings, Stats},
    range::Range,
    recovery::{Recovery, StateOrigin},
    survey::TornTail,
    ticket::Ticket,
};

/// Longest key, in bytes. Keys are ids and index entries; sled copies parts of them into its inner nodes.
pub const KEY_BYTES_MAX: usize = 1024;

/// Most entries that one scan may return. A scan holds commits back while it runs, so that it is a snapshot; longer
/// ranges are read in pages.
pub const SCAN_ENTRIES_MAX: usize = 4096;

/// Reading: what an attempt of a branch may do with a store itself.
pub trait Read: Send + Sync + 'static {
    /// The newest accepted value of `key`, durable or not: whoever lets it leave the host waits for
    /// [`Store::barrier`] first. It may share the memory of the whole batch that wrote it; copy what is kept long.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// Up to `limit` (at most [`SCAN_ENTRIES_MAX`]) live entries of `range`, in its direction. One consistent snapshot.
    fn scan(&self, range: &Range, limit: usize) -> Result<Vec<(Bytes, Bytes)>, Error>;

    /// As [`Read::scan`], but only the keys: a list of large values costs no more than one of small ones.
    fn keys(&self, range: &Range, limit: usize) -> Result<Vec<Bytes>, Error> {
        Ok(self.scan(range, limit)?.into_iter().map(|(key, _)| key).collect())
    }

    /// Whether everything that `batch` expects is so now, all at one moment. `false`: whoever read it has seen what is
    /// no longer so, or what never was so at one time.
    fn is_current(&self, batch: &Batch) -> Result<bool, Error>;
}

/// What the engine needs from a store; nothing in it assumes one process.
pub trait Store: Read {
    /// The commit point of order and visibility: checks the preconditions, gives the batch its place in the commit
    /// order and makes it visible, all or nothing. Never waits for a sync; durability is the ticket's. What is
    /// accepted waits in memory until it is durable, so whoever commits without waiting bounds how much is under way.
    ///
    /// A batch without writes only checks its preconditions; its ticket stands for everything they may have seen.
    fn commit(&self, batch: Batch) -> Result<Ticket, CommitError>;

    /// A ticket for everything accepted so far.
    fn barrier(&self) -> Ticket;
}
