//! The follower thread: the only one that writes sled.
//!
//! It brings durable records into sled in rounds (only the last value of a key within a round), checkpoints sled, keeps
//! the base, and lets journal segments go that nothing needs any more.

use std::{
    mem,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Failure,
    base::{Base, Copy},
    codec,
    lag::Turn,
    local::Settings,
    sequencer::Accepted,
    shared::{Shared, Watch, add},
    state::{Change, Meta, State},
};

/// Most keys and bytes that go into one sled batch: sled's readers stand still while it applies one, 5 to 10 us a key.
/// Fewer keys would make the meta row and the bookkeeping that go with each batch felt.
const BATCH_KEYS: usize = 128;
const BATCH_BYTES: usize = 1 << 20;
/// Between two slices of a base: a copy takes its time rather than a core.
const COPY_PAUSE: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(crate) struct Follower {
    shared: Arc<Shared>,
    meta: Meta,
    base: Option<Base>,
    copy: Option<Copy>,
    /// Bytes of journal that a rebuild would replay. `u64::MAX`: a new base is needed whatever the size.
    since_base: u64,
    /// What sled is known to hold on disk.
    checkpointed: u64,
    since_checkpoint: u64,
    next_checkpoint: Instant,
}

/// Where recovery has left things.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) meta: Meta,
    pub(crate) base: Option<Base>,
    pub(crate) since_base: u64,
    pub(crate) checkpointed: u64,
}

impl Follower {
    pub(crate) fn new(shared: Arc<Shared>, start: Start) -> Self {
        let Start { meta, base, since_base, checkpointed } = start;
        let next_checkpoint = Instant::now();
        Self { shared, meta, base, copy: None, since_base, checkpointed, since_checkpoint: 0, next_checkpoint }
    }

    /// Until the journal thread has ended and everything is applied, or the store has failed.
    pub(crate) fn run(mut self) {
        let _watch = Watch { shared: Arc::clone(&self.shared), name: "follower" };
        if let Err(failure) = self.follow() {
            self.shared.fail(failure);
        }
    }

    fn follow(&mut self) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        loop {
            match shared.lag.next(shared.settings.gather, self.next_duty(), || shared.has_failed()) {
                Turn::Apply(records) => self.round(&records)?,
                Turn::Idle => {}
                Turn::Closed if shared.has_failed() => return Ok(()),
                Turn::Closed => return self.checkpoint(),
            }
            if self.checkpoint_is_due() {
                self.checkpoint()?;
            }
            self.keep_base()?;
        }
    }

    /// When to look up from an empty queue.
    fn next_duty(&self) -> Option<Instant> {
        let slice = (self.copy.is_some() || self.base_is_due()).then(|| Instant::now() + COPY_PAUSE);
        let checkpoint = (self.checkpointed < self.meta.applied).then_some(self.next_checkpoint);
        slice.into_iter().chain(checkpoint).min()
    }

    fn round(&mut self, records: &[Accepted]) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        let Some(last) = records.last().map(|record| record.seq) else { return Ok(()) };
        if self.checkpointed == self.meta.applied {
            self.next_checkpoint = Instant::now() + shared.settings.checkpoint_interval;
        }
        let copy = &mut self.copy;
        apply(&shared.view.state, &mut self.meta, records, |writes, changes| {
            if let Some(copy) = copy {
                writes.iter().zip(changes).for_each(|((key, _), change)| copy.note(key, change));
            }
            shared.view.overlay_mut().prune(writes.iter().map(|(key, _)| key), last);
            let written = changes.iter().filter(|change| !change.is_nothing());
            add(&shared.counters.rows, written.count() as u64);
        })?;
        let bytes = records.iter().map(Accepted::record_bytes).sum();
        self.since_base = self.since_base.saturating_add(bytes as u64);
        self.since_checkpoint += bytes as u64;
        shared.lag.applied(bytes);
        add(&shared.counters.rounds, 1);
        shared.counters.applied.store(self.meta.applied, Ordering::Relaxed);
        shared.counters.entries.store(self.meta.sum.count, Ordering::Relaxed);
        Ok(())
    }

    fn checkpoint_is_due(&self) -> bool {
        self.checkpointed < self.meta.applied
            && (self.since_checkpoint >= self.shared.settings.checkpoint_bytes
                || Instant::now() >= self.next_checkpoint)
    }

    fn checkpoint(&mut self) -> Result<(), Failure> {
        if self.checkpointed < self.meta.applied {
            checkpoint(&self.shared.view.state, &self.shared.settings)?;
            self.checkpointed = self.meta.applied;
            self.since_checkpoint = 0;
            add(&self.shared.counters.checkpoints, 1);
            self.release_segments()?;
        }
        Ok(())
    }

    fn base_seq(&self) -> u64 {
        self.base.as_ref().map_or(0, |base| base.seq)
    }

    fn base_is_due(&self) -> bool {
        let threshold = self.base.as_ref().map_or(0, |base| base.bytes).max(self.shared.settings.base_bytes);
        self.copy.is_none() && self.since_base >= threshold && self.meta.applied > self.base_seq()
    }

    /// Begins a new base when one is due, or brings the one being written a slice further.
    fn keep_base(&mut self) -> Result<(), Failure> {
        let settings = &self.shared.settings;
        let (dir, disk) = (settings.base_dir(), settings.disk.as_ref());
        if self.base_is_due() {
            self.copy = Some(Copy::begin(&dir, self.meta.applied, disk)?);
            self.since_base = 0;
        }
        let Some(mut copy) = self.copy.take() else { return Ok(()) };
        if copy.step(&self.shared.view.state)? {
            self.copy = Some(copy);
            return Ok(());
        }
        let new = copy.finish(&self.meta, &dir, disk)?;
        tracing::info!(seq = new.seq, bytes = new.bytes, "wrote a new base");
        // Only now that the new one is durable may the old one go.
        if let Some(old) = self.base.replace(new) {
            disk.remove(&old.path).map_err(Failure::disk("remove", &old.path))?;
        }
        add(&self.shared.counters.bases, 1);
        self.release_segments()
    }

    /// A segment is needed until a base covers it, for a rebuild, and sled is on disk beyond it, for a start.
    fn release_segments(&self) -> Result<(), Failure> {
        let covered = self.base_seq().min(self.checkpointed);
        self.shared.segments.release(covered, self.shared.settings.disk.as_ref())
    }
}

/// Brings one round of records into sled. Recovery replays with the same function.
///
/// A round may take several sled batches; a crash between them leaves a state in which some records after `applied`
/// have already had their effect, up to `reached`. Applying them again changes nothing: puts and deletes are absolute.
pub(crate) fn apply(
    state: &State,
    meta: &mut Meta,
    records: &[Accepted],
    mut done: impl FnMut(&[Latest], &[Change]),
) -> Result<(), Failure> {
    let Some(last) = records.last().map(|record| record.seq) else { return Ok(()) };
    let latest = coalesce(records);
    meta.reached = meta.reached.max(last);
    let mut rest = latest.as_slice();
    loop {
        let (batch, later) = rest.split_at(batch_len(rest));
        if later.is_empty() {
            meta.applied = last;
        }
        let changes = state.apply(batch.iter().map(|(key, value)| (&key[..], value.as_deref())), meta)?;
        done(batch, &changes);
        if later.is_empty() {
            return Ok(());
        }
        rest = later;
    }
}

/// Brings a piece of a base into sled.
pub(crate) fn load(state: &State, meta: &mut Meta, writes: codec::Writes<'_>) -> Result<(), Failure> {
    let writes: Vec<_> = writes.map(|write| (write.key, write.value)).collect();
    writes.chunks(BATCH_KEYS).try_for_each(|batch| state.apply(batch.iter().copied(), meta).map(drop))
}

/// A key and what its last write has made of it.
pub(crate) type Latest = (Bytes, Option<Bytes>);

/// The last write of each key, least key first: sled is quickest with neighbours.
fn coalesce(records: &[Accepted]) -> Vec<Latest> {
    let mut latest: Vec<Latest> = Vec::with_capacity(records.len());
    for Accepted { encoded, .. } in records {
        latest.extend(
            codec::decode(encoded)
                .map(|write| (encoded.slice_ref(write.key), write.value.map(|value| encoded.slice_ref(value)))),
        );
    }
    // Stable, so that of equal keys the last write stays last.
    latest.sort_by(|(left, _), (right, _)| left.cmp(right));
    latest.dedup_by(|later, earlier| {
        let is_same = later.0 == earlier.0;
        if is_same {
            mem::swap(later, earlier);
        }
        is_same
    });
    latest
}

/// How many writes the next sled batch takes.
fn batch_len(writes: &[Latest]) -> usize {
    let mut bytes = 0;
    let fits = writes.iter().take(BATCH_KEYS).take_while(|(key, value)| {
        let had_room = bytes < BATCH_BYTES;
        bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
        had_room
    });
    fits.count()
}

/// Makes sled's content durable. Its own `flush` only hands the bytes to the kernel.
pub(crate) fn checkpoint(state: &State, settings: &Settings) -> Result<(), Failure> {
    state.flush()?;
    let file = State::file(&settings.state_dir());
    settings.disk.sync(&file).map_err(Failure::disk("sync", file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_claimed_only_by_its_last_batch() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path(), 1 << 20).unwrap();
        let record = |seq: u64| {
            let mut encoded = Vec::new();
            codec::encode(&mut encoded, &seq.to_be_bytes(), Some(b"v"));
            Accepted { seq, encoded: encoded.into() }
        };
        let records: Vec<_> = (1..=2 * BATCH_KEYS as u64 + 1).map(record).collect();
        let last = records.len() as u64;
        let mut claims = Vec::new();
        let mut meta = Meta::default();
        apply(&state, &mut meta, &records, |_, _| {
            let meta = state.meta().unwrap().unwrap();
            claims.push((meta.applied, meta.reached, meta.sum.count));
        })
        .unwrap();
        // A crash between the batches must not make anyone believe that the round is there.
        assert_eq!(claims, [(0, last, 128), (0, last, 256), (last, last, last)]);
        state.verify(&meta).unwrap();
    }
}
