//! What the store's handle and its two threads share.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use super::{
    Error, Failure, disk::Disk, lag::Lag, local::Settings, sequencer::Sequencer, ticket::Progress, view::View,
};
use crate::sync::lock;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) progress: Arc<Progress>,
    pub(crate) sequencer: Sequencer,
    pub(crate) view: View,
    pub(crate) lag: Lag,
    pub(crate) segments: Segments,
    pub(crate) counters: Counters,
}

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

impl Shared {
    pub(crate) fn has_failed(&self) -> bool {
        self.progress.failure().is_some()
    }

    /// Poisons the store: nothing waits, and nothing is accepted, any more. Returns what callers are to be told.
    pub(crate) fn fail(&self, failure: Failure) -> Error {
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
pub(crate) struct Watch {
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: &'static str,
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
pub(crate) struct Segments(Mutex<Vec<Segment>>);

#[derive(Clone, Debug)]
pub(crate) struct Segment {
    /// The sequence number of its first record.
    pub(crate) first: u64,
    pub(crate) path: PathBuf,
}

impl Segments {
    pub(crate) fn new(segments: Vec<Segment>) -> Self {
        Self(Mutex::new(segments))
    }

    pub(crate) fn push(&self, segment: Segment) {
        lock(&self.0).push(segment);
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.0).len()
    }

    /// Removes the segments that hold nothing after `covered`.
    pub(crate) fn release(&self, covered: u64, disk: &dyn Disk) -> Result<(), Failure> {
        let mut segments = lock(&self.0);
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
