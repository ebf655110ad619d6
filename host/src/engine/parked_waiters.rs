//! The clients that wait for sagas which wait for their destination without a driver.
//!
//! To a client, such a saga is running: the client is answered when the saga has a result, or after `wait_max`.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{format::SagaId, live::Waiter};
use crate::store::sync::lock;

/// The waiting clients, by saga.
#[derive(Default)]
pub(super) struct ParkedWaiters {
    waiters: Mutex<Waiters>,
    /// The number of sagas, to be read without the lock: every saga that is driven asks.
    sagas: AtomicUsize,
}

#[derive(Default)]
struct Waiters {
    by_saga: HashMap<SagaId, Vec<Waiter>>,
    /// The number of sagas from which on those are removed whose clients have all disconnected.
    prune_at: usize,
}

impl ParkedWaiters {
    /// The least number of sagas that is worth a search for clients that have disconnected.
    const PRUNE_MIN: usize = 1024;

    /// Keeps a saga's waiting clients until the saga is driven again.
    pub fn park(&self, id: SagaId, waiting: Vec<Waiter>) {
        if waiting.is_empty() {
            return;
        }
        let mut waiters = lock(&self.waiters);
        if waiters.by_saga.len() >= waiters.prune_at.max(Self::PRUNE_MIN) {
            waiters.by_saga.retain(|_, waiting| waiting.iter().any(|waiter| !waiter.is_closed()));
            // Twice as many before the next search, so that the searches cost a constant time for each saga.
            waiters.prune_at = 2 * waiters.by_saga.len();
        }
        waiters.by_saga.entry(id).or_default().extend(waiting);
        self.sagas.store(waiters.by_saga.len(), Ordering::Release);
    }

    /// Removes and returns a saga's waiting clients.
    pub fn take(&self, id: SagaId) -> Vec<Waiter> {
        // A saga is parked and taken up again under its shard's lock, so its own waiters are always seen.
        if self.sagas.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let mut waiters = lock(&self.waiters);
        let taken = waiters.by_saga.remove(&id).unwrap_or_default();
        self.sagas.store(waiters.by_saga.len(), Ordering::Release);
        taken
    }

    /// Removes and returns all.
    pub fn take_all(&self) -> HashMap<SagaId, Vec<Waiter>> {
        let mut waiters = lock(&self.waiters);
        self.sagas.store(0, Ordering::Release);
        std::mem::take(&mut waiters.by_saga)
    }
}
