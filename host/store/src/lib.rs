//! The durable state of a host: one ordered keyspace, committed in batches.
//!
//! ```
//! use wasaga_store::{Batch, CommitError, LocalStore, Range, Read, Settings, Store};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let (store, _) = LocalStore::open(Settings::new(dir.path()))?;
//!
//! let mut batch = Batch::new();
//! batch.put("account/alice", "100");
//! // The key must not exist yet.
//! batch.expect("account/alice", None);
//! let ticket = store.commit(batch.clone())?;
//! // Visible at once, durable when the ticket says so.
//! assert_eq!(store.get(b"account/alice")?.as_deref(), Some(&b"100"[..]));
//! ticket.durable().await?;
//!
//! assert!(matches!(store.commit(batch), Err(CommitError::Conflict { .. })));
//! assert_eq!(store.scan(&Range::prefix(b"account/"), 10)?.len(), 1);
//! # Ok(())
//! # }
//! ```
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
//! | to read | for |
//! | --- | --- |
//! | `traits`, `batch`, `range`, `check` | what a caller can do, and how preconditions are checked |
//! | `local`, `shared` | the handle [`LocalStore`], and what it shares with its two threads |
//! | `journal/` | the file format, the order of commits, the journal thread |
//! | `state/` | overlay and sled, the follower thread, bases |
//! | `recovery` | what opening does, in five phases |
//! | `files`, `disk` | all names of files, and all operations on them |
//! | `obstacle`, `room`, `lookout` | what the system may refuse, and what is left of the disk |
//! | `memory` | the same semantics without files |
//!
//! Invariants:
//!
//! 1. **Commits have one total order**, their sequence numbers, without gaps. Recovery sees a prefix of it.
//! 2. **The journal is the commit point.** A ticket resolves when its record, and so every earlier one, is on disk
//!    (`fdatasync`, never `sync_file_range`). Nothing else promises durability.
//! 3. **Accepting never waits for the disk's syncs**: order and conflicts are settled by a short critical section.
//! 4. **Preconditions are values, not versions**: at its place in the order, what the batch had read must be there
//!    again, byte for byte. A batch's result depends on values only, so this is serialisable, and a value that
//!    changed and changed back is no conflict, because it makes no difference. Ranges are compared whole: no phantoms.
//! 5. **sled holds durable records only**, written by one thread, together with `applied` (the last sequence number
//!    it contains) and a digest of everything live. It is never asked to be durable by itself: its `flush` does not
//!    call `fdatasync`, and files for big nodes are not synced at all, hence our own sync, the big segments and the
//!    split values in `state`.
//! 6. **Base + journal rebuild sled at any time.** A journal segment is removed only when a base covers it and sled has
//!    been checkpointed past it; a base is removed only when a newer one is durable.
//! 7. **A failed sync is final.** The kernel may have dropped the pages, so a second sync would succeed although data
//!    is lost: every waiter and every later commit fails, [`Store::failed`] resolves, and every start writes anew what it has
//!    read and what may not be on disk (`recovery/settle.rs`).
//! 8. **What this version cannot read, it does not touch.** A file of a newer version or of another program stops the
//!    opening before anything is changed ([`OpenError::Newer`], [`OpenError::Foreign`]).
//! 9. **What the system refuses is no damage.** A full disk, a missing permission, no descriptor ([`Obstacle`]): at an
//!    opening it is the reason not to open ([`OpenError::Refused`]), and nothing is set aside or marked for it. While the
//!    store runs, a file that cannot be created is created later; a write or a sync that fails stops the store.
//!
//! Deliberately absent: transactions with locks, timers in the commit path, a second copy of the recovery logic, any
//! use of sled's `transaction` and `flush_async` (one global lock; a deadlock with seven callers).

// A request must never bring the host down. Tests may (clippy.toml).
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

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
mod lookout;
mod memory;
mod obstacle;
mod opening;
mod range;
mod recovery;
mod room;
mod settings;
mod shared;
mod state;
pub mod sync;
mod ticket;
mod traits;

pub use self::{
    batch::Batch,
    counters::Stats,
    error::{CommitError, Corruption, Error, Failure, OpenError, Unsupported},
    journal::survey::TornTail,
    limits::{KEY_BYTES_MAX, SCAN_ENTRIES_MAX},
    local::LocalStore,
    memory::Memory,
    obstacle::Obstacle,
    opening::Opening,
    range::Range,
    recovery::{Recovery, StateOrigin},
    room::{Resource, Shortage},
    settings::Settings,
    ticket::Ticket,
    traits::{Condition, Read, Store},
};
