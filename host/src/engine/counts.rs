//! How many sagas there are: the numbers that `Engine::counts` returns.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::saga::Status;

/// The numbers of sagas, by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Accepted by this process.
    pub submitted: u64,
    /// Ended in this process, with every action done.
    pub succeeded: u64,
    /// Ended in this process, rolled back or stopped.
    pub failed: u64,
    /// Unfinished now.
    pub open: u64,
    /// Driven now; the other open ones wait.
    pub live: u64,
    /// Attempts of this process that ended in a write conflict.
    pub conflicts: u64,
    /// Submissions to this process that were refused because their client had its share of `live_max`.
    pub refused_by_client: u64,
    /// Submissions to this process that were refused because too many attempts waited for their destination.
    pub refused_by_destination: u64,
}

/// [`Counts`] as they are counted.
#[derive(Default)]
pub(super) struct Stats {
    pub submitted: AtomicU64,
    pub succeeded: AtomicU64,
    pub failed: AtomicU64,
    pub open: AtomicU64,
    pub conflicts: AtomicU64,
    pub refused_by_client: AtomicU64,
    pub refused_by_destination: AtomicU64,
}

impl Stats {
    /// Counts one open saga less. Never below zero: the count decides about admission.
    pub fn closed(&self) {
        let less = |open: u64| Some(open.saturating_sub(1));
        // The closure always gives a value, so this cannot fail.
        let _ = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Counts a saga that has ended.
    pub fn finished(&self, status: Status) {
        let ended = if status == Status::Succeed { &self.succeeded } else { &self.failed };
        ended.fetch_add(1, Ordering::Relaxed);
    }
}
