//! The bounded queue of records that are durable and not yet in sled, from the journal thread to the follower.

use std::{
    mem,
    sync::{Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use crate::{
    journal::sequencer::Accepted,
    sync::{self, lock},
};

#[derive(Debug)]
pub(crate) struct Lag {
    pending: Mutex<Pending>,
    /// Wakes the follower.
    changed: Condvar,
    /// Wakes the journal thread, which waits while the follower is too far behind.
    room: Condvar,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Pending {
    records: Vec<Accepted>,
    /// Of the records here and of those being applied.
    bytes: usize,
    /// When the oldest record here was pushed.
    since: Option<Instant>,
    closed: bool,
}

/// What the follower is to do next.
#[derive(Debug)]
pub(crate) enum Turn {
    Apply(Vec<Accepted>),
    /// Nothing to apply: time for other work.
    Idle,
    /// Closed, and everything has been taken.
    Closed,
}

impl Lag {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { pending: Mutex::default(), changed: Condvar::new(), room: Condvar::new(), bytes_max }
    }

    /// Waits until the follower is within its bound. `false` when the store `has_failed`.
    pub(crate) fn wait_for_room(&self, has_failed: impl Fn() -> bool) -> bool {
        let mut pending = self.lock();
        while pending.bytes > self.bytes_max && !has_failed() {
            pending = sync::wait(&self.room, pending);
        }
        !has_failed()
    }

    pub(crate) fn push(&self, records: impl Iterator<Item = Accepted>, bytes: usize) {
        let mut pending = self.lock();
        pending.records.extend(records);
        pending.bytes += bytes;
        let is_first = pending.since.is_none();
        pending.since.get_or_insert_with(Instant::now);
        // Otherwise the follower already waits for the end of its round.
        let wake = is_first || self.is_urgent(&pending);
        drop(pending);
        if wake {
            self.changed.notify_one();
        }
    }

    /// Gathers for `gather` from the first record on; less when the bound is near or the store is being closed. With
    /// nothing to gather, waits until `until` (`None`: for ever).
    pub(crate) fn next(&self, gather: Duration, until: Option<Instant>, has_failed: impl Fn() -> bool) -> Turn {
        let mut pending = self.lock();
        loop {
            if has_failed() {
                return Turn::Closed;
            }
            let now = Instant::now();
            let round_ends = pending.since.map(|since| since + gather);
            if round_ends.is_some_and(|end| end <= now || pending.closed || self.is_urgent(&pending)) {
                pending.since = None;
                return Turn::Apply(mem::take(&mut pending.records));
            }
            if pending.closed {
                return Turn::Closed;
            }
            let Some(wake_at) = round_ends.into_iter().chain(until).min() else {
                pending = sync::wait(&self.changed, pending);
                continue;
            };
            if wake_at <= now {
                return Turn::Idle;
            }
            pending = sync::wait_timeout(&self.changed, pending, wake_at - now);
        }
    }

    /// Whether nothing is to follow: the journal thread has ended, or the store `has_failed`.
    pub(crate) fn is_over(&self, has_failed: impl Fn() -> bool) -> bool {
        has_failed() || self.lock().closed
    }

    /// Records of `bytes` have been applied.
    pub(crate) fn applied(&self, bytes: usize) {
        let mut pending = self.lock();
        pending.bytes = pending.bytes.saturating_sub(bytes);
        drop(pending);
        self.room.notify_one();
    }

    pub(crate) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// The journal thread has ended.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Wakes both threads, so that they notice a failure.
    pub(crate) fn wake(&self) {
        drop(self.lock());
        self.changed.notify_all();
        self.room.notify_all();
    }

    fn is_urgent(&self, pending: &Pending) -> bool {
        pending.bytes > self.bytes_max / 2
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        lock(&self.pending)
    }
}
