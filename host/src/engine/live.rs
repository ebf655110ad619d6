//! The sagas that are being driven right now, and how their state reaches the store.
//!
//! A saga is in the table exactly while a driver holds it; everything else about it is in the store. Whoever wants to
//! change a saga locks its shard, then its core, so a saga cannot leave the table under somebody's hands.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::{Notify, oneshot};

use super::{
    error::Error,
    format::{self, CHUNK_BYTES, Open, OpenStatus, Record, SagaId, Unreadable},
};
use crate::store::sync::lock;
use crate::{
    saga::{BranchOp, Definition, Event, InFlight, Pins, Saga, Status, Timestamp, compaction},
    store::{Batch, CommitError, Store, Ticket},
};

/// What a waiting client learns when its saga has ended, or waits for a retry.
pub(super) struct Settled {
    /// How it stands.
    pub saga: Arc<Saga>,
    /// Nothing may be said of it before this resolves.
    pub ticket: Ticket,
}

/// A saga in the hands of a driver.
pub(super) struct Live {
    core: Mutex<Core>,
    /// Wakes the driver after somebody else has changed the core.
    pub changed: Notify,
}

impl Live {
    pub fn new(core: Core) -> Arc<Self> {
        Arc::new(Self { core: Mutex::new(core), changed: Notify::new() })
    }

    /// How the saga stands now.
    pub fn status(&self) -> Status {
        self.core().saga().status()
    }

    /// The core. EgressDenied for moments only: never across an await or a call of a branch.
    pub fn core(&self) -> MutexGuard<'_, Core> {
        lock(&self.core)
    }

    /// The core, unless somebody has panicked over it, who may have left a change half made.
    pub fn sound_core(&self) -> Option<MutexGuard<'_, Core>> {
        self.core.lock().ok()
    }
}

/// Which sagas are live, by gid. Sharded, since every saga passes through twice.
pub(super) struct Table {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
}

pub(super) type Shard = HashMap<Arc<str>, Arc<Live>>;

impl Table {
    const SHARDS: usize = 64;

    pub fn new() -> Self {
        Self { shards: (0..Self::SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }

    /// The part of the table in which this gid is, or would be.
    pub fn shard(&self, gid: &str) -> Option<MutexGuard<'_, Shard>> {
        let index = usize::try_from(self.hasher.hash_one(gid) % self.shards.len() as u64).unwrap_or_default();
        self.shards.get(index).map(|shard| lock(shard))
    }

    /// How many sagas are live.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }
}

/// A piece of a saga's log as stored: its number, and what is in it.
pub(super) type Chunk = (u32, Vec<u8>);

/// Tells an attempt from all others of its saga, those of the same number included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AttemptId(u64);

/// The row that says that a saga is unfinished, but for what never changes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Row {
    due: Option<Timestamp>,
    status: OpenStatus,
    is_pinned: bool,
}

/// A saga's state, what of its log the store does not have yet, and who waits for it.
pub(super) struct Core {
    pub id: SagaId,
    /// What is running.
    in_flight: InFlight,
    /// The attempts that are.
    running_attempts: Vec<(BranchOp, AttemptId)>,
    attempts_begun: u64,
    /// How often in a row attempts of an operation have come to nothing, since others had changed what they had read.
    conflicts: Vec<(BranchOp, u32)>,
    waiters: Vec<oneshot::Sender<Settled>>,
    saga: Saga,
    /// The newest chunk of the log as stored, and its number.
    chunk: Chunk,
    /// Entries that follow it, not yet committed. The output rule says when they must be.
    unsaved: Vec<u8>,
    /// Events in the log.
    events: usize,
    /// Chunks that the next commit removes, since it tells what is in them in fewer events.
    obsolete_chunks: Range<u32>,
    /// Its row among the unfinished, as stored.
    row: Option<Row>,
    /// Whether the gid is taken in the store.
    gid_is_stored: bool,
    /// Whether it has been decided which components carry it out.
    is_pinned: bool,
    /// Counted among the open sagas, with its components held.
    is_open: bool,
}

impl Core {
    /// A saga that only exists here so far.
    pub fn create(id: SagaId, definition: Arc<Definition>) -> Result<Self, Error> {
        let mut unsaved = Vec::with_capacity(CHUNK_BYTES / 2);
        format::write_definition(&mut unsaved, &definition).map_err(|source| unreadable(&definition, source))?;
        Ok(Self {
            id,
            in_flight: InFlight::default(),
            running_attempts: Vec::new(),
            attempts_begun: 0,
            conflicts: Vec::new(),
            waiters: Vec::new(),
            saga: Saga::new(definition),
            chunk: (0, format::new_chunk()),
            unsaved,
            events: 0,
            obsolete_chunks: 0..0,
            row: None,
            gid_is_stored: false,
            is_pinned: false,
            is_open: true,
        })
    }

    /// A saga as it was stored, with its newest chunk and its row among the unfinished.
    pub fn stored(record: Record, chunk: Chunk, open: Option<Open>) -> Self {
        Self {
            id: record.id,
            in_flight: InFlight::default(),
            running_attempts: Vec::new(),
            attempts_begun: 0,
            conflicts: Vec::new(),
            waiters: Vec::new(),
            saga: record.saga,
            chunk,
            unsaved: Vec::new(),
            events: record.log.len(),
            obsolete_chunks: 0..0,
            is_pinned: open.as_ref().is_none_or(|row| row.pins.is_some()),
            is_open: open.is_some(),
            row: open.map(|row| Row { due: row.due, status: row.status, is_pinned: row.pins.is_some() }),
            gid_is_stored: true,
        }
    }

    pub fn saga(&self) -> &Saga {
        &self.saga
    }

    /// What is running.
    pub fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    /// An attempt begins.
    pub fn begin_attempt(&mut self, branch_op: BranchOp) -> AttemptId {
        self.attempts_begun += 1;
        self.in_flight.set(branch_op, true);
        self.running_attempts.push((branch_op, AttemptId(self.attempts_begun)));
        AttemptId(self.attempts_begun)
    }

    /// The running attempt of an operation has ended, or is given up: nothing of it counts any more.
    pub fn end_attempt(&mut self, branch_op: BranchOp) {
        self.in_flight.set(branch_op, false);
        self.running_attempts.retain(|(running_attempts, _)| *running_attempts != branch_op);
    }

    /// Lets an operation wait until this moment before it is attempted again.
    pub fn pause(&mut self, branch_op: BranchOp, until: Timestamp) {
        self.in_flight.pause(branch_op, until);
    }

    /// One more attempt has come to nothing, since others had changed what it had read. How many in a row.
    pub fn count_conflict(&mut self, branch_op: BranchOp) -> u32 {
        let before =
            self.conflicts.iter().position(|(of, _)| *of == branch_op).map(|at| self.conflicts.swap_remove(at).1);
        let count = before.unwrap_or(0).saturating_add(1);
        self.conflicts.push((branch_op, count));
        count
    }

    /// An attempt of the operation has come to an end that counts.
    pub fn forget_conflicts(&mut self, branch_op: BranchOp) {
        self.conflicts.retain(|(of, _)| *of != branch_op);
    }

    /// Gives everything up that runs.
    pub fn cancel_all(&mut self) {
        self.in_flight = InFlight::default();
        self.running_attempts.clear();
    }

    /// Whether this very attempt has neither ended nor been given up.
    pub fn is_current_attempt(&self, branch_op: BranchOp, attempt_id: AttemptId) -> bool {
        self.running_attempts.contains(&(branch_op, attempt_id))
    }

    /// Notes that the attempt may have an effect from now on. It must be on disk before it has one.
    pub fn start(&mut self, BranchOp { step, op }: BranchOp, at: Timestamp) -> Result<(), Error> {
        self.apply(&Event::Started { step, op, at })
    }

    /// Whether the store knows of it.
    pub fn is_stored(&self) -> bool {
        self.gid_is_stored
    }

    /// Whether it has been decided which components carry it out. Not so of a saga from before sagas pinned any.
    pub fn is_pinned(&self) -> bool {
        self.is_pinned
    }

    /// Decides it. A saga that uses none has no event that says so.
    pub fn pin(&mut self, pins: &Pins, at: Timestamp) -> Result<(), Error> {
        if !pins.is_empty() {
            self.apply(&Event::Pinned { pins: pins.clone(), at })?;
        }
        self.is_pinned = true;
        Ok(())
    }

    /// Takes it out of the count of open sagas; whether it was in it.
    pub fn close(&mut self) -> bool {
        std::mem::take(&mut self.is_open)
    }

    /// Adds a client that waits; those that have gone away are forgotten.
    pub fn wait(&mut self) -> oneshot::Receiver<Settled> {
        let (waiter, settled) = oneshot::channel();
        self.waiters.retain(|waiter| !waiter.is_closed());
        self.waiters.push(waiter);
        settled
    }

    /// Takes in an event; it is committed with the next [`Core::save`].
    pub fn apply(&mut self, event: &Event) -> Result<(), Error> {
        self.saga.apply(event)?;
        self.events += 1;
        format::write_event(&mut self.unsaved, event).map_err(|source| unreadable(self.saga.definition(), source))
    }

    /// Whether the log has become so long that it should be told in fewer events.
    pub fn needs_compaction(&self) -> bool {
        compaction::needs_compaction(self.saga.definition(), self.events)
    }

    /// Lets the next commit write the log anew, in one chunk and in fewer events; `log` is all of it.
    pub fn compact(&mut self, log: &[Event]) -> Result<(), Error> {
        let definition = self.saga.definition();
        let Some(compacted) = compaction::compact(definition, log) else { return Ok(()) };
        let mut unsaved = Vec::new();
        format::write_definition(&mut unsaved, definition)
            .and_then(|()| compacted.iter().try_for_each(|event| format::write_event(&mut unsaved, event)))
            .map_err(|source| unreadable(definition, source))?;
        self.obsolete_chunks = 1..self.chunk.0 + 1;
        self.chunk = (0, format::new_chunk());
        self.unsaved = unsaved;
        self.events = compacted.len();
        Ok(())
    }

    /// Commits an attempt's end together with its effects, or neither: the commit point of a contained branch. When
    /// the commit is refused, the attempt has had no effect, and the saga is as it was.
    pub fn apply_with_effects(&mut self, event: &Event, effects: Batch, store: &dyn Store) -> Result<(), Error> {
        let (before, length, events) = (self.saga.clone(), self.unsaved.len(), self.events);
        self.apply(event)?;
        if let Err(refused) = self.commit(store, Some(self.running_due(event.at())), effects) {
            self.saga = before;
            self.unsaved.truncate(length);
            self.events = events;
            return Err(refused.into());
        }
        Ok(())
    }

    /// Commits everything so far. The ticket resolves when the saga as it stands now is on disk.
    pub fn save(&mut self, store: &dyn Store, now: Timestamp) -> Result<Ticket, Error> {
        Ok(self.commit(store, Some(self.running_due(now)), Batch::new())?)
    }

    /// As [`Core::save`], for a saga that is left alone until `due`.
    pub fn save_until(&mut self, store: &dyn Store, due: Option<Timestamp>) -> Result<Ticket, Error> {
        Ok(self.commit(store, due, Batch::new())?)
    }

    /// Tells everybody who waits.
    pub fn settle(&mut self, ticket: &Ticket) {
        if self.waiters.is_empty() {
            return;
        }
        let saga = Arc::new(self.saga.clone());
        for waiter in self.waiters.drain(..) {
            // A client that has gone away does not want to know.
            let _ = waiter.send(Settled { saga: saga.clone(), ticket: ticket.clone() });
        }
    }

    /// When the row of an unfinished saga says that it is due while it runs: at once. Left as it is while that is true.
    fn running_due(&self, now: Timestamp) -> Timestamp {
        let stored = self.row.and_then(|row| row.due);
        stored.filter(|due| *due <= now).unwrap_or_default()
    }

    fn commit(&mut self, store: &dyn Store, due: Option<Timestamp>, mut batch: Batch) -> Result<Ticket, CommitError> {
        let gid = self.saga.definition().gid();
        if !self.gid_is_stored {
            let key = format::gid_key(gid);
            batch.put(&key, format::write_id(self.id));
            batch.expect(key, None);
        }
        let chunk = self.next_chunk();
        if let Some((number, chunk)) = &chunk {
            batch.put(format::chunk_key(self.id, *number), chunk);
        }
        for number in self.obsolete_chunks.clone() {
            batch.delete(format::chunk_key(self.id, number));
        }
        let is_pinned = self.is_pinned;
        let row = OpenStatus::of(self.saga.status()).map(|status| Row { due, status, is_pinned });
        match row {
            Some(Row { due, status, is_pinned }) if row != self.row => {
                let pins = is_pinned.then(|| self.saga.pins().components().to_vec());
                let open = Open { due, status, gid: gid.clone(), pins };
                // The row holds four plain fields, which always encode; without it the saga would not be recovered.
                let value = format::write_open(&open).unwrap_or_default();
                batch.put(format::open_key(self.id), value);
            }
            None if self.row.is_some() => batch.delete(format::open_key(self.id)),
            _ => {}
        }
        if self.saga.status() == Status::Failed && chunk.is_some() {
            batch.put(format::failed_key(self.id), []);
        }
        if batch.is_empty() {
            return Ok(store.barrier());
        }
        let ticket = store.commit(batch)?;
        self.gid_is_stored = true;
        self.row = row;
        if let Some(chunk) = chunk {
            self.chunk = chunk;
            self.unsaved.clear();
            self.obsolete_chunks = 0..0;
        }
        Ok(ticket)
    }

    /// The chunk that takes what is unsaved: the newest one, or a new one if that is long enough.
    fn next_chunk(&self) -> Option<Chunk> {
        if self.unsaved.is_empty() {
            return None;
        }
        let (number, stored) = &self.chunk;
        let (number, kept) = if format::takes_more(stored) { (*number, Some(stored)) } else { (number + 1, None) };
        let mut chunk = kept.cloned().unwrap_or_else(format::new_chunk);
        chunk.extend_from_slice(&self.unsaved);
        Some((number, chunk))
    }
}

fn unreadable(definition: &Definition, source: Unreadable) -> Error {
    Error::Unreadable { gid: definition.gid().to_string(), source }
}
