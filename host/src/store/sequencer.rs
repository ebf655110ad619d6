//! The commit order: what has been numbered and not yet been taken by the journal thread.

use std::{
    mem,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::segment::RECORD_OVERHEAD;

/// A batch with its place in the commit order.
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    pub(super) seq: u64,
    pub(super) encoded: Bytes,
}

impl Accepted {
    /// What it takes in the journal.
    pub(super) fn record_bytes(&self) -> usize {
        RECORD_OVERHEAD + self.encoded.len()
    }
}

/// The one lock that decides the order; commits and the journal thread take it, readers never do.
#[derive(Debug)]
pub(super) struct Sequencer {
    queue: Mutex<Queue>,
    arrived: Condvar,
}

#[derive(Debug)]
pub(super) struct Queue {
    last_seq: u64,
    records: Vec<Accepted>,
    /// Whether the journal thread sleeps; while it syncs, nobody needs to wake it.
    idle: bool,
    closed: bool,
}

impl Queue {
    pub(super) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }
}

impl Sequencer {
    pub(super) fn starting_after(last_seq: u64) -> Self {
        let queue = Queue { last_seq, records: Vec::new(), idle: false, closed: false };
        Self { queue: Mutex::new(queue), arrived: Condvar::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the batch the next number, shows it with `reveal`, and hands it to the journal thread.
    pub(super) fn accept(
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

    /// Moves everything queued into `taken`, waiting for something to come. `false` when nothing ever will: closed
    /// and empty, or `given_up`.
    pub(super) fn take(&self, taken: &mut Vec<Accepted>, given_up: impl Fn() -> bool) -> bool {
        let mut queue = self.lock();
        loop {
            if given_up() {
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
            queue = self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Accepts nothing from now on; what is queued is still written.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_all();
    }

    /// Lets the journal thread look around, after a failure.
    pub(super) fn wake(&self) {
        drop(self.lock());
        self.arrived.notify_all();
    }
}
