//! The follower thread: the only one that writes sled.
//!
//! It applies durable records to sled in rounds (only the last value of a key within a round), checkpoints sled, writes
//! new bases, and removes journal segments that nothing needs any more.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crate::{
    counters::add,
    error::Failure,
    journal::sequencer::Accepted,
    shared::{Shared, Watch},
    state::{
        apply::{apply, checkpoint},
        base::{self, Base, Copy},
        lag::Turn,
        sled::Meta,
    },
};

/// Pause between two slices of a base, so that the copy does not occupy a core.
const COPY_PAUSE: Duration = Duration::from_millis(5);
/// Pause after a base was given up, doubled up to the longest. Nothing waits for a base but the removal of old journal.
const BASE_PAUSE: Duration = Duration::from_secs(1);
const BASE_PAUSE_MAX: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(crate) struct Follower {
    shared: Arc<Shared>,
    meta: Meta,
    base: Option<Base>,
    copy: Option<Copy>,
    /// Set while no base could be written: when to try again, and the pause before that.
    put_off: Option<(Instant, Duration)>,
    /// Bytes of journal that a rebuild would replay. `u64::MAX`: a new base is needed whatever the size.
    since_base: u64,
    /// The last record that sled is known to hold on disk.
    checkpointed: u64,
    since_checkpoint: u64,
    next_checkpoint: Instant,
}

/// What recovery hands over to the follower.
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
        Self {
            shared,
            meta,
            base,
            copy: None,
            put_off: None,
            since_base,
            checkpointed,
            since_checkpoint: 0,
            next_checkpoint,
        }
    }

    /// Runs until the journal thread has ended and everything is applied, or until the store has failed.
    pub(crate) fn run(mut self) {
        let _watch = Watch { shared: Arc::clone(&self.shared), name: "follower" };
        if let Err(failure) = self.follow() {
            self.shared.fail(failure);
        }
    }

    fn follow(&mut self) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        loop {
            match shared.lag.next(shared.settings.gather, self.next_deadline(), || shared.has_failed()) {
                Turn::Apply(records) => self.round(&records)?,
                Turn::Idle => {}
                Turn::Closed if shared.has_failed() => return Ok(()),
                Turn::Closed => return self.checkpoint(),
            }
            if self.checkpoint_is_due() {
                self.checkpoint()?;
            }
            self.keep_base()?;
            while self.copy.as_ref().is_some_and(Copy::is_behind) && !shared.lag.is_over(|| shared.has_failed()) {
                self.keep_base()?;
            }
        }
    }

    /// When to stop waiting for records, because other work is due.
    fn next_deadline(&self) -> Option<Instant> {
        let slice = (self.copy.is_some() || self.base_is_due()).then(|| {
            let next = Instant::now() + COPY_PAUSE;
            self.put_off.map_or(next, |(until, _)| until.max(next))
        });
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
        if let Some(copy) = copy {
            copy.note_round(bytes);
        }
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
            checkpoint(&self.shared.view.state, &*self.shared.held.state_file, &self.shared.settings)?;
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

    /// Begins a new base when one is due, or copies the next slice of the one being written. A base that the system has no
    /// descriptor or no space for is given up, and begun anew later.
    fn keep_base(&mut self) -> Result<(), Failure> {
        if self.put_off.is_some_and(|(until, _)| Instant::now() < until) {
            return Ok(());
        }
        if self.base_is_due() {
            self.begin_base()?;
        }
        let Some(mut copy) = self.copy.take() else { return Ok(()) };
        if let Some(no_room) = self.lacks_room_for_base() {
            let draft = copy.draft().to_owned();
            drop(copy);
            self.shared.settings.remove(&draft)?;
            self.put_base_off(&no_room);
            return Ok(());
        }
        let done = match copy.step(&self.shared.view.state) {
            Ok(true) => {
                self.copy = Some(copy);
                return Ok(());
            }
            Ok(false) => copy.finish(&self.meta, &self.shared),
            Err(failure) => Err(failure),
        };
        let new = match done {
            Ok(new) => new,
            // Writing only: what a failed sync leaves is final, see invariant 7.
            Err(failure @ Failure::Disk { action: base::WRITE, .. }) if failure.may_pass() => {
                let draft = copy.draft().to_owned();
                drop(copy);
                self.shared.settings.remove(&draft)?;
                self.put_base_off(&failure);
                return Ok(());
            }
            Err(failure) => return Err(failure),
        };
        tracing::info!(seq = new.seq, bytes = new.bytes, "wrote a new base");
        self.put_off = None;
        // The old base may be removed only now that the new one is durable.
        if let Some(old) = self.base.replace(new) {
            self.shared.settings.remove(&old.path)?;
        }
        add(&self.shared.counters.bases, 1);
        self.release_segments()
    }

    /// About the bytes of a new base: those of the old one; before the first one, those of the journal that it replaces.
    fn base_estimate(&self) -> u64 {
        // The greatest number says that one is due at once, and nothing of its size.
        let first = if self.since_base == u64::MAX { 0 } else { self.since_base };
        self.base.as_ref().map_or(first, |base| base.bytes)
    }

    /// Why no base is written now. The new one is there beside the old one for a while, and must not take the space that
    /// running sagas need; asked again before each slice, as others use the disk too.
    fn lacks_room_for_base(&self) -> Option<Failure> {
        let (wanted, free) = (self.base_estimate(), self.shared.room.free_bytes());
        let is_short = self.shared.room.shortage().is_some();
        let is_too_large = self.base.is_none() || free < wanted.saturating_mul(2);
        (is_short && is_too_large).then_some(Failure::NoRoom { wanted, free })
    }

    fn begin_base(&mut self) -> Result<(), Failure> {
        let (wanted, free) = (self.base_estimate(), self.shared.room.free_bytes());
        let no_room =
            (free < wanted).then_some(Failure::NoRoom { wanted, free }).or_else(|| self.lacks_room_for_base());
        if let Some(no_room) = no_room {
            self.put_base_off(&no_room);
            return Ok(());
        }
        match Copy::begin(&self.shared.settings.base_dir(), self.meta.applied, self.shared.settings.disk.as_ref()) {
            Ok(copy) => {
                self.copy = Some(copy);
                self.since_base = 0;
            }
            Err(failure @ Failure::Disk { action: base::CREATE | base::WRITE, .. }) if failure.may_pass() => {
                self.put_base_off(&failure);
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    /// Tries again later. The journal stays as it is until then.
    fn put_base_off(&mut self, failure: &Failure) {
        let pause = self.put_off.map_or(BASE_PAUSE, |(_, pause)| (pause * 2).min(BASE_PAUSE_MAX));
        self.put_off = Some((Instant::now() + pause, pause));
        self.since_base = u64::MAX;
        let mend = failure.obstacle().map(tracing::field::display);
        tracing::warn!(
            error = failure as &dyn std::error::Error,
            mend,
            again_in_s = pause.as_secs(),
            "no base can be written now, and old journal files stay until one is"
        );
    }

    /// A rebuild needs a segment until a base covers it; a start needs it until sled is on disk beyond it.
    fn release_segments(&self) -> Result<(), Failure> {
        let covered = self.base_seq().min(self.checkpointed);
        self.shared.segments.release(covered, self.shared.settings.disk.as_ref())
    }
}
