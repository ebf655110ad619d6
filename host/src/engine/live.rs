//! The sagas that are being driven, and how their state reaches the store.
//!
//! A saga is in the table exactly while a driver holds it. To change a saga, a task locks its shard, then its core, so a
//! saga cannot leave the table while it is being changed.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard},
};

use futures_util::future::AbortHandle;
use tokio::sync::{Notify, oneshot};

use super::{
    error::Error,
    format::{self, CHUNK_BYTES, Open, OpenStatus, Record, SagaId, Unreadable},
};
use crate::{
    branch::Destination,
    memory::Reserved,
    saga::{BranchOp, Definition, Event, InFlight, Pins, Saga, Status, Timestamp, compaction},
    store::{Batch, Store, Ticket, sync::lock},
};

/// Where a waiting client's answer is sent.
pub(super) type Waiter = oneshot::Sender<WaitResult>;

/// What a waiting client is answered when its saga has ended, or waits for a retry.
pub(super) struct WaitResult {
    pub saga: Arc<Saga>,
    /// Resolves when the saga is on disk: the client is not answered before.
    pub ticket: Ticket,
}

/// What makes sagas live, and has a share of `live_max` each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Submitter {
    /// The client at this address; `None` for all whose address is unknown.
    Client(Option<IpAddr>),
    /// The sagas of before that are due, those of an earlier process included.
    Due,
    /// The sagas whose turn at this destination has come: what is due elsewhere does not hold them up.
    Turn(Destination),
}

impl Submitter {
    /// The client at an address. Those of one network of IPv6 (64 bits) are one: a single machine has as many addresses.
    pub fn client(address: Option<IpAddr>) -> Self {
        Self::Client(address.map(client_of))
    }
}

/// What counts as one client: an address of IPv4, or a network of IPv6 (64 bits).
pub(crate) fn client_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
    }
}

/// A saga that is being driven.
pub(super) struct Live {
    core: Mutex<Core>,
    /// Wakes the driver after another task has changed the core.
    pub changed: Notify,
}

impl Live {
    /// A saga that a driver is about to drive.
    pub fn new(core: Core) -> Arc<Self> {
        Arc::new(Self { core: Mutex::new(core), changed: Notify::new() })
    }

    /// A saga that is to be driven, with the reservation of what it holds.
    pub fn holding(mut core: Core, room: Reserved) -> Arc<Self> {
        core.hold(room);
        Self::new(core)
    }

    /// The saga's status now.
    pub fn status(&self) -> Status {
        self.core().saga().status()
    }

    /// The core. Locked briefly only: never across an await or a call of a branch.
    pub fn core(&self) -> MutexGuard<'_, Core> {
        lock(&self.core)
    }

    /// The core, unless a task has panicked while it held the lock and may have left a change half made.
    pub fn sound_core(&self) -> Option<MutexGuard<'_, Core>> {
        self.core.lock().ok()
    }
}

/// The live sagas by gid. Sharded, since every saga is inserted and removed once.
pub(super) struct Table {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
}

pub(super) type Shard = HashMap<Arc<str>, Arc<Live>>;

impl Table {
    const SHARDS: usize = 64;

    /// A table without sagas.
    pub fn new() -> Self {
        Self { shards: (0..Self::SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }

    /// The shard of this gid.
    pub fn shard(&self, gid: &str) -> Option<MutexGuard<'_, Shard>> {
        let index = usize::try_from(self.hasher.hash_one(gid) % self.shards.len() as u64).unwrap_or_default();
        self.shards.get(index).map(|shard| lock(shard))
    }

    /// How many sagas are live.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }
}

/// A chunk of a saga's log: its number, and its bytes.
pub(super) type Chunk = (u32, Vec<u8>);

/// Bytes of a live saga besides what its client can make long: state, driver, attempts, an unfinished chunk of the log.
const LIVE_BYTES: usize = 8 << 10;

/// The same of each step.
const STEP_BYTES: usize = 512;

/// Length of a definition from which its copies count: in the chunk of the log, and in the batch until it is in the state.
/// Those of shorter ones are gone in the moment.
const LARGE_BYTES: usize = 16 << 10;

/// Whether the copies of this definition count.
pub(super) fn is_large(definition: &Definition) -> bool {
    definition.bytes() >= LARGE_BYTES
}

/// Bytes that a new saga of this definition holds until it is on disk.
pub(super) fn new_bytes(definition: &Definition) -> usize {
    let copies = if is_large(definition) { definition.bytes() * 2 } else { 0 };
    live_bytes(definition) + copies
}

/// Bytes that a live saga of this definition holds.
pub(super) fn live_bytes(definition: &Definition) -> usize {
    LIVE_BYTES + definition.steps().len() * STEP_BYTES + definition.bytes()
}

/// What the store holds of a saga besides its log.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stored {
    /// Nothing: the gid is not taken either.
    Nothing,
    /// The gid, and this row among those of unfinished sagas.
    Unfinished(Row),
    /// The gid only.
    Finished,
}

/// The row of an unfinished saga, without the fields that never change.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Row {
    due: Option<Timestamp>,
    status: OpenStatus,
    is_pinned: bool,
}

/// The components of a saga, and its place in the count of open sagas: both are released together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Components {
    /// Not pinned yet: the saga is older than pinning, or just being created.
    Unpinned,
    /// Pinned and held. A saga without plugins holds none.
    Held,
    /// Released: the saga is not open any more.
    Released,
}

/// A saga's log.
struct Log {
    /// The chunk that the next commit writes, with the entries that it will add. A chunk that takes no more is not kept:
    /// its first one holds the payloads.
    chunk: Chunk,
    /// How much of it is stored; the rest is not committed yet. The output rule says when it must be.
    saved: usize,
    events: usize,
    /// Chunks that the next commit deletes, since it writes the log compacted.
    obsolete_chunks: Range<u32>,
}

impl Log {
    /// A log that goes on in a new chunk.
    fn beginning(number: u32, events: usize) -> Self {
        let chunk = format::new_chunk();
        Self { saved: chunk.len(), chunk: (number, chunk), events, obsolete_chunks: 0..0 }
    }

    /// A log whose newest chunk is stored as this.
    fn after(newest: Chunk, events: usize) -> Self {
        if format::takes_more(&newest.1) {
            Self { saved: newest.1.len(), chunk: newest, events, obsolete_chunks: 0..0 }
        } else {
            Self::beginning(newest.0 + 1, events)
        }
    }

    /// Whether a part of the chunk is stored.
    fn is_begun(&self) -> bool {
        self.saved > format::new_chunk().len()
    }

    fn has_unsaved(&self) -> bool {
        self.chunk.1.len() > self.saved
    }

    /// Marks all as stored.
    fn set_saved(&mut self) {
        self.obsolete_chunks = 0..0;
        let (number, chunk) = std::mem::take(&mut self.chunk);
        *self = Self::after((number, chunk), self.events);
    }
}

/// A saga's state, its log, its attempts in flight and the clients that wait for it.
pub(super) struct Core {
    pub id: SagaId,
    saga: Saga,
    log: Log,
    stored: Stored,
    components: Components,
    in_flight: InFlight<AbortHandle>,
    /// Write conflicts in a row, by operation.
    conflicts: Vec<(BranchOp, u32)>,
    waiters: Vec<Waiter>,
    /// For what the saga holds while it is live. `None`: it is only looked at.
    room: Option<Reserved>,
}

impl Core {
    /// A new saga, which the store does not have yet.
    pub fn create(id: SagaId, definition: Arc<Definition>) -> Result<Self, Error> {
        let mut log = Log::beginning(0, 0);
        // At once as large as it becomes, so that payloads are copied once.
        log.chunk.1.reserve(definition.bytes() + CHUNK_BYTES / 2);
        format::write_definition(&mut log.chunk.1, &definition).map_err(|source| unreadable(&definition, source))?;
        Ok(Self::new(id, Saga::new(definition), log, Stored::Nothing, Components::Unpinned))
    }

    /// A saga as it was stored, with its newest chunk and its row among the unfinished.
    pub fn stored(record: Record, chunk: Chunk, open: Option<Open>) -> Self {
        let log = Log::after(chunk, record.log.len());
        let (stored, components) = match open {
            None => (Stored::Finished, Components::Released),
            Some(Open { due, status, pins, .. }) => {
                let is_pinned = pins.is_some();
                let components = if is_pinned { Components::Held } else { Components::Unpinned };
                (Stored::Unfinished(Row { due, status, is_pinned }), components)
            }
        };
        Self::new(record.id, record.saga, log, stored, components)
    }

    fn new(id: SagaId, saga: Saga, log: Log, stored: Stored, components: Components) -> Self {
        let (in_flight, conflicts, waiters) = (InFlight::default(), Vec::new(), Vec::new());
        Self { id, saga, log, stored, components, in_flight, conflicts, waiters, room: None }
    }

    /// The bytes that the saga holds while it is live.
    pub fn live_bytes(&self) -> usize {
        live_bytes(self.saga.definition()) + self.saga.outputs().map(|(_, output)| output.len()).sum::<usize>()
    }

    /// Keeps the reservation of what the saga holds, until it is live no more.
    pub fn hold(&mut self, room: Reserved) {
        self.room = Some(room);
    }

    /// Releases what was reserved for the copies of a new saga that is on disk now.
    pub fn release_copies(&mut self) {
        let held = self.live_bytes();
        if let Some(room) = &mut self.room {
            room.shrink_to(held);
        }
    }

    /// The saga's state.
    pub fn saga(&self) -> &Saga {
        &self.saga
    }

    /// The attempts that are running, each with the handle that cancels it.
    pub fn in_flight(&self) -> &InFlight<AbortHandle> {
        &self.in_flight
    }

    /// Begins an attempt. Until [`Core::end_attempt`] its handle is not aborted, and from then on it is.
    pub fn begin_attempt(&mut self, branch_op: BranchOp, attempt: AbortHandle) {
        // There is none to replace; if there were, its outcome and its egress would have to end here.
        if let Some(replaced) = self.in_flight.begin(branch_op, attempt) {
            replaced.abort();
        }
    }

    /// Ends the running attempt of an operation, or cancels it: its outcome is ignored, and it gets no egress.
    pub fn end_attempt(&mut self, branch_op: BranchOp) {
        if let Some(attempt) = self.in_flight.end(branch_op) {
            attempt.abort();
        }
    }

    /// Delays the next attempt of an operation until it is unblocked.
    pub fn block(&mut self, branch_op: BranchOp) {
        self.in_flight.block(branch_op);
    }

    /// Ends the block of an operation.
    pub fn unblock(&mut self, branch_op: BranchOp) {
        self.in_flight.unblock(branch_op);
    }

    /// Ends the blocks of all operations.
    pub fn unblock_all(&mut self) {
        self.in_flight.unblock_all();
    }

    /// Delays the next attempt of an operation.
    pub fn pause(&mut self, branch_op: BranchOp, until: Timestamp) {
        self.in_flight.pause(branch_op, until);
    }

    /// Counts a write conflict. Returns how many in a row.
    pub fn count_conflict(&mut self, branch_op: BranchOp) -> u32 {
        let before =
            self.conflicts.iter().position(|(of, _)| *of == branch_op).map(|at| self.conflicts.swap_remove(at).1);
        let count = before.unwrap_or(0).saturating_add(1);
        self.conflicts.push((branch_op, count));
        count
    }

    /// Restarts the count of the operation's conflicts: an attempt has ended with a verdict.
    pub fn forget_conflicts(&mut self, branch_op: BranchOp) {
        self.conflicts.retain(|(of, _)| *of != branch_op);
    }

    /// Cancels all attempts.
    pub fn cancel_all(&mut self) {
        self.in_flight.end_all().for_each(|attempt| attempt.abort());
    }

    /// Records that the attempt can have an effect from now on. That must be on disk before it has one.
    pub fn start(&mut self, BranchOp { step, op }: BranchOp, at: Timestamp) -> Result<(), Error> {
        self.apply(&Event::Started { step, op, at })
    }

    /// Whether the store has anything of the saga.
    pub fn is_stored(&self) -> bool {
        self.stored != Stored::Nothing
    }

    /// Whether the saga's components are pinned. Those of a saga that is older than pinning are not.
    pub fn is_pinned(&self) -> bool {
        self.components != Components::Unpinned
    }

    /// Pins the components. A saga that uses none has no event for it.
    pub fn pin(&mut self, pins: &Pins, at: Timestamp) -> Result<(), Error> {
        if !pins.is_empty() {
            self.apply(&Event::Pinned { pins: pins.clone(), at })?;
        }
        self.components = Components::Held;
        Ok(())
    }

    /// Marks the saga as not open. Whether it was open: then the caller releases its components and counts it.
    pub fn close(&mut self) -> bool {
        std::mem::replace(&mut self.components, Components::Released) != Components::Released
    }

    /// Adds a waiting client, and drops those that have disconnected.
    pub fn wait(&mut self) -> oneshot::Receiver<WaitResult> {
        let (waiter, result) = oneshot::channel();
        self.waiters.retain(|waiter| !waiter.is_closed());
        self.waiters.push(waiter);
        result
    }

    /// Adds clients that have waited for the saga before it was driven again.
    pub fn adopt_waiters(&mut self, waiters: Vec<Waiter>) {
        self.waiters.extend(waiters);
    }

    /// Removes and returns the waiting clients.
    pub fn take_waiters(&mut self) -> Vec<Waiter> {
        std::mem::take(&mut self.waiters)
    }

    /// Applies an event. It is committed with the next [`Core::save`].
    pub fn apply(&mut self, event: &Event) -> Result<(), Error> {
        self.saga.apply(event)?;
        self.log.events += 1;
        if let (Event::Succeeded { output: Some(output), .. }, Some(room)) = (event, &mut self.room) {
            // The branch has done its work, so its output cannot be refused.
            room.grow_over(output.len());
        }
        format::write_event(&mut self.log.chunk.1, event).map_err(|source| unreadable(self.saga.definition(), source))
    }

    /// Whether the log is so long that it should be compacted.
    pub fn needs_compaction(&self) -> bool {
        compaction::needs_compaction(self.saga.definition(), self.log.events)
    }

    /// Lets the next commit replace the log by a compacted one in a single chunk. `log` is the whole log.
    pub fn compact(&mut self, log: &[Event]) -> Result<(), Error> {
        let definition = self.saga.definition();
        let Some(compacted) = compaction::compact(definition, log) else { return Ok(()) };
        let mut shorter = Log::beginning(0, compacted.len());
        shorter.chunk.1.reserve(definition.bytes() + CHUNK_BYTES);
        format::write_definition(&mut shorter.chunk.1, definition)
            .and_then(|()| compacted.iter().try_for_each(|event| format::write_event(&mut shorter.chunk.1, event)))
            .map_err(|source| unreadable(definition, source))?;
        shorter.obsolete_chunks = 1..self.log.chunk.0 + u32::from(self.log.is_begun());
        self.log = shorter;
        Ok(())
    }

    /// Commits an attempt's verdict together with its effects, or neither: the place of a contained attempt in the commit order. When
    /// the commit is refused, the attempt has had no effect, and the saga is unchanged.
    pub fn apply_with_effects(&mut self, event: &Event, effects: Batch, store: &dyn Store) -> Result<(), Error> {
        let (before, length, events) = (self.saga.clone(), self.log.chunk.1.len(), self.log.events);
        let held = self.room.as_ref().map_or(0, Reserved::bytes);
        self.apply(event)?;
        if let Err(refused) = self.commit(store, Some(self.running_due(event.at())), effects) {
            self.saga = before;
            self.log.chunk.1.truncate(length);
            self.log.events = events;
            if let Some(room) = &mut self.room {
                room.shrink_to(held);
            }
            return Err(refused);
        }
        Ok(())
    }

    /// Commits everything so far. The ticket resolves when the saga's present state is on disk.
    pub fn save(&mut self, store: &dyn Store, now: Timestamp) -> Result<Ticket, Error> {
        self.commit(store, Some(self.running_due(now)), Batch::new())
    }

    /// As [`Core::save`], for a saga that is not driven until `due`.
    pub fn save_until(&mut self, store: &dyn Store, due: Option<Timestamp>) -> Result<Ticket, Error> {
        self.commit(store, due, Batch::new())
    }

    /// Answers all waiting clients.
    pub fn answer_waiters(&mut self, ticket: &Ticket) {
        if self.waiters.is_empty() {
            return;
        }
        let saga = Arc::new(self.saga.clone());
        for waiter in self.waiters.drain(..) {
            // An error says that the client has disconnected.
            let _ = waiter.send(WaitResult { saga: saga.clone(), ticket: ticket.clone() });
        }
    }

    /// The due time in the row of a running saga: now or earlier, so that recovery drives it at once. Not changed while
    /// the stored one is such a time, which saves a write.
    fn running_due(&self, now: Timestamp) -> Timestamp {
        let stored = if let Stored::Unfinished(row) = self.stored { row.due } else { None };
        stored.filter(|due| *due <= now).unwrap_or_default()
    }

    fn commit(&mut self, store: &dyn Store, due: Option<Timestamp>, mut batch: Batch) -> Result<Ticket, Error> {
        let gid = self.saga.definition().gid();
        if self.stored == Stored::Nothing {
            let key = format::gid_key(gid);
            batch.put(&key, format::write_id(self.id));
            batch.expect(key, None);
        }
        let has_unsaved = self.log.has_unsaved();
        if has_unsaved {
            let (number, chunk) = &self.log.chunk;
            batch.put(format::chunk_key(self.id, *number), chunk);
        }
        for number in self.log.obsolete_chunks.clone() {
            batch.delete(format::chunk_key(self.id, number));
        }
        let is_pinned = self.is_pinned();
        let stored = OpenStatus::of(self.saga.status())
            .map_or(Stored::Finished, |status| Stored::Unfinished(Row { due, status, is_pinned }));
        match stored {
            Stored::Unfinished(Row { due, status, is_pinned }) if stored != self.stored => {
                let pins = is_pinned.then(|| self.saga.pins().components().to_vec());
                let open = Open { due, status, gid: gid.clone(), pins };
                let row = format::write_open(&open).map_err(|source| unreadable(self.saga.definition(), source))?;
                batch.put(format::open_key(self.id), row);
            }
            Stored::Finished if matches!(self.stored, Stored::Unfinished(_)) => {
                batch.delete(format::open_key(self.id));
            }
            _ => {}
        }
        if self.saga.status() == Status::Failed && has_unsaved {
            batch.put(format::failed_key(self.id), []);
        }
        if batch.is_empty() {
            return Ok(store.barrier());
        }
        let ticket = store.commit(batch)?;
        self.stored = stored;
        if has_unsaved {
            self.log.set_saved();
        }
        Ok(ticket)
    }
}

fn unreadable(definition: &Definition, source: Unreadable) -> Error {
    Error::Unreadable { gid: definition.gid().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_that_takes_no_more_is_not_kept() {
        let mut log = Log::beginning(0, 1);
        log.chunk.1.resize(1_000_000, 0);
        assert!(log.has_unsaved() && !log.is_begun());
        log.set_saved();
        assert_eq!((log.chunk.0, log.has_unsaved(), log.is_begun()), (1, false, false));
        assert!(log.chunk.1.capacity() < CHUNK_BYTES);

        log.chunk.1.extend_from_slice(&[0; 100]);
        log.set_saved();
        assert_eq!((log.chunk.0, log.has_unsaved(), log.is_begun()), (1, false, true));
        assert_eq!(log.chunk.1.len(), 101, "it is written again with the next entries");
    }
}
