//! How far an opening is, for those that wait for it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// The parts of an opening, in order; see [`Part`].
const PARTS: [&str; 5] =
    ["reading the journal", "opening the state", "syncing the journal", "loading the base", "replaying the journal"];

/// A part of an opening, by its place in [`PARTS`], from 1. 0 is none.
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
    /// `None` before the opening begins and after it has ended.
    pub fn progress(&self) -> Option<(&'static str, u64, u64)> {
        let part = PARTS.get(self.part.load(Relaxed).checked_sub(1)?)?;
        Some((part, self.done.load(Relaxed), self.total.load(Relaxed)))
    }

    pub(crate) fn begin(&self, part: Part, total: u64) {
        self.done.store(0, Relaxed);
        self.total.store(total, Relaxed);
        self.part.store(part as usize, Relaxed);
    }

    pub(crate) fn add(&self, done: u64) {
        self.done.fetch_add(done, Relaxed);
    }

    pub(crate) fn end(&self) {
        self.part.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_is_seen_from_its_beginning_to_its_end() {
        let opening = Opening::default();
        assert_eq!(opening.progress(), None);
        opening.begin(Part::Survey, 2);
        opening.add(1);
        assert_eq!(opening.progress(), Some(("reading the journal", 1, 2)));
        opening.begin(Part::Replay, 9);
        assert_eq!(opening.progress(), Some(("replaying the journal", 0, 9)));
        opening.end();
        assert_eq!(opening.progress(), None);
    }
}
