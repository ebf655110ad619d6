//! What the store's handle and its two threads share.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use super::{
    Error, Failure, disk::Disk, lag::Lag, local::Settings, sequencer::Sequencer, ticket::Progress, view::View,
};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) progress: Arc<Progress>,
    pub(super) sequencer: Sequencer,
    pub(super) view: View,
    pub(super) lag: Lag,
    pub(super) segments: Segments,
    pub(super) counters: Counters,
}

/// What has happened since the store was opened.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) commits: AtomicU64,
    pub(super) conflicts: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) journal_bytes: AtomicU64,
    pub(super) rows: AtomicU64,
    pub(super) rounds: AtomicU64,
    pub(super) checkpoints: AtomicU64,
    pub(super) bases: AtomicU64,
    pub(super) applied: AtomicU64,
    pub(super) entries: AtomicU64,
}

pub(super) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

impl Shared {
    pub(super) fn has_failed(&self) -> bool {
        self.progress.failure().is_some()
    }

    /// Poisons the store: nothing waits, and nothing is accepted, any more. Returns what callers are to be told.
    pub(super) fn fail(&self, failure: Failure) -> Error {
        let rebuild = matches!(failure, Failure::State { .. } | Failure::Damaged(_));
        let error = Error::Failed(Arc::new(failure));
        if !self.has_failed() {
            tracing::error!(error = &error as &dyn std::error::Error, "the store has failed and stops");
        }
        if rebuild && let Err(failure) = self.settings.mark_for_rebuild() {
            tracing::error!(error = &failure as &dyn std::error::Error, "the next start will not know to rebuild sled");
        }
        self.progress.fail(error);
        self.sequencer.wake();
        self.lag.wake();
        self.progress.failure().cloned().unwrap_or(Error::Closed)
    }
}

/// Poisons the store if its thread ends by a panic, so that nobody waits for ever.
pub(super) struct Watch {
    pub(super) shared: Arc<Shared>,
    pub(super) name: &'static str,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if thread::panicking() {
            self.shared.fail(Failure::Thread(self.name));
        }
    }
}

/// The journal's segments, oldest first; the last one is being written. The journal thread adds, the follower removes.
#[derive(Debug, Default)]
pub(super) struct Segments(Mutex<Vec<Segment>>);

#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// The sequence number of its first record.
    pub(super) first: u64,
    pub(super) path: PathBuf,
}

impl Segments {
    pub(super) fn new(segments: Vec<Segment>) -> Self {
        Self(Mutex::new(segments))
    }

    pub(super) fn push(&self, segment: Segment) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(segment);
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Removes the segments that hold nothing after `covered`.
    pub(super) fn release(&self, covered: u64, disk: &dyn Disk) -> Result<(), Failure> {
        let mut segments = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_covered = |next: &&Segment| next.first <= covered.saturating_add(1);
        let count = segments.iter().skip(1).take_while(is_covered).count();
        let gone: Vec<_> = segments.drain(..count).collect();
        drop(segments);
        for segment in gone {
            disk.remove(&segment.path).map_err(Failure::disk("remove", segment.path))?;
        }
        Ok(())
    }
}
