//! The commit order: batches that are numbered, and not yet taken by the journal thread.

use std::{
    mem,
    sync::{Condvar, Mutex, MutexGuard},
};

use bytes::Bytes;

use crate::{
    journal::segment::RECORD_OVERHEAD,
    sync::{self, lock},
};

/// A batch with its place in the commit order.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    pub(crate) seq: u64,
    pub(crate) encoded: Bytes,
}

impl Accepted {
    /// Its length in the journal.
    pub(crate) fn record_bytes(&self) -> usize {
        RECORD_OVERHEAD + self.encoded.len()
    }
}

/// The one lock that decides the order; commits and the journal thread take it, readers never do.
#[derive(Debug)]
pub(crate) struct Sequencer {
    queue: Mutex<Queue>,
    arrived: Condvar,
}

#[derive(Debug)]
pub(crate) struct Queue {
    last_seq: u64,
    records: Vec<Accepted>,
    /// Whether the journal thread sleeps. While it syncs it needs no wake-up: it takes what is queued afterwards.
    idle: bool,
    closed: bool,
}

impl Queue {
    pub(crate) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }
}

impl Sequencer {
    pub(crate) fn starting_after(last_seq: u64) -> Self {
        let queue = Queue { last_seq, records: Vec::new(), idle: false, closed: false };
        Self { queue: Mutex::new(queue), arrived: Condvar::new() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    /// Gives the batch the next number, makes it visible with `reveal`, and hands it to the journal thread.
    pub(crate) fn accept(
        &self,
        mut queue: MutexGuard<'_, Queue>,
        encoded: Bytes,
        reveal: impl FnOnce(u64, &Bytes),
    ) -> u64 {
        let seq = queue.last_seq + 1;
        queue.last_seq = seq;
        reveal(seq, &encoded);
        queue.records.push(Accepted { seq, encoded });
        let wake = mem::take(&mut queue.idle);
        drop(queue);
        if wake {
            self.arrived.notify_one();
        }
        seq
    }

    /// Waits until something is queued, and moves all of it into `taken`. `false`: nothing more will come, because the
    /// queue is closed and empty, or because the store `has_failed`.
    pub(crate) fn take(&self, taken: &mut Vec<Accepted>, has_failed: impl Fn() -> bool) -> bool {
        let mut queue = self.lock();
        loop {
            if has_failed() {
                return false;
            }
            if !queue.records.is_empty() {
                mem::swap(&mut queue.records, taken);
                return true;
            }
            if queue.closed {
                return false;
            }
            queue.idle = true;
            queue = sync::wait(&self.arrived, queue);
        }
    }

    /// Accepts nothing from now on; what is queued is still written.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_all();
    }

    /// Wakes the journal thread, so that it notices a failure.
    pub(crate) fn wake(&self) {
        drop(self.lock());
        self.arrived.notify_all();
    }
}
