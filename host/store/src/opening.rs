//! How far an opening is, for those that wait for it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// The parts of an opening, in order.
const PARTS: [&str; 6] = [
    "waiting",
    "reading the journal",
    "opening the state",
    "syncing the journal",
    "loading the base",
    "replaying the journal",
];

/// A part of an opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Counts segments.
    Survey = 1,
    Decide,
    Settle,
    Load,
    /// Counts records.
    Replay,
}

/// How far an opening is: written by the thread that opens, read by any other.
#[derive(Debug, Default)]
pub struct Opening {
    part: AtomicUsize,
    done: AtomicU64,
    total: AtomicU64,
}

impl Opening {
    /// The part of the opening, and how many of how many things are done in it; both are 0 if they are not counted.
    pub fn progress(&self) -> (&'static str, u64, u64) {
        let part = PARTS.get(self.part.load(Relaxed)).copied().unwrap_or_default();
        (part, self.done.load(Relaxed), self.total.load(Relaxed))
    }

    pub(crate) fn begin(&self, part: Part, total: u64) {
        self.done.store(0, Relaxed);
        self.total.store(total, Relaxed);
        self.part.store(part as usize, Relaxed);
    }

    pub(crate) fn add(&self, done: u64) {
        self.done.fetch_add(done, Relaxed);
    }
}
