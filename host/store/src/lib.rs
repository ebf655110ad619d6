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

mod batch;
mod check;
mod codec;
mod counters;
pub mod disk;
mod error;
mod files;
mod journal;
mod limits;
mod local;
mod memory;
mod range;
mod recovery;
mod settings;
mod shared;
mod state;
pub mod sync;
mod ticket;
mod traits;

pub use self::{
    batch::Batch,
    counters::Stats,
    error::{CommitError, Corruption, Error, Failure, Newer, OpenError},
    journal::survey::TornTail,
    limits::{KEY_BYTES_MAX, SCAN_ENTRIES_MAX},
    local::LocalStore,
    memory::Memory,
    range::Range,
    recovery::{Recovery, StateOrigin},
    settings::Settings,
    ticket::Ticket,
    traits::{Read, Store},
};
