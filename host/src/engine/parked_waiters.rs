//! The clients that wait for sagas which wait for their destination without a driver.
//!
//! To a client, such a saga is running: the client is answered when the saga has a result, or after `wait_max`.

use std::{collections::HashMap, sync::Mutex};

use super::{format::SagaId, live::Waiter};
use crate::store::sync::lock;

/// The waiting clients, by saga.
#[derive(Default)]
pub(super) struct ParkedWaiters(Mutex<Waiters>);

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
        let mut waiters = lock(&self.0);
        if waiters.by_saga.len() >= waiters.prune_at.max(Self::PRUNE_MIN) {
            waiters.by_saga.retain(|_, waiting| waiting.iter().any(|waiter| !waiter.is_closed()));
            // Twice as many before the next search, so that the searches cost a constant time for each saga.
            waiters.prune_at = 2 * waiters.by_saga.len();
        }
        waiters.by_saga.entry(id).or_default().extend(waiting);
    }

    /// Removes and returns a saga's waiting clients.
    pub fn take(&self, id: SagaId) -> Vec<Waiter> {
        let mut waiters = lock(&self.0);
        if waiters.by_saga.is_empty() { Vec::new() } else { waiters.by_saga.remove(&id).unwrap_or_default() }
    }

    /// Removes and returns all.
    pub fn take_all(&self) -> HashMap<SagaId, Vec<Waiter>> {
        std::mem::take(&mut lock(&self.0).by_saga)
    }
}
