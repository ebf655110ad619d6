//! What the engine counts for the metrics that DTM's dashboards show: atomics of a fixed number, so that counting costs
//! nanoseconds and memory does not depend on what clients send.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::saga::{BranchOp, Op, Status};

/// The number of steps with counters of their own; all later steps share one.
pub const BRANCHES: usize = 20;

/// Upper bounds of the classes of [`Durations`], in seconds: those that Prometheus' own clients use by default.
pub const BOUNDS_S: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Two counters: successes and failures.
#[derive(Debug, Default)]
pub struct OkFail {
    ok: AtomicU64,
    fail: AtomicU64,
}

impl OkFail {
    /// Counts one success or failure.
    pub fn count(&self, is_ok: bool) {
        let counter = if is_ok { &self.ok } else { &self.fail };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The successes, then the failures.
    pub fn read(&self) -> [u64; 2] {
        [&self.ok, &self.fail].map(|counter| counter.load(Ordering::Relaxed))
    }
}

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct Durations {
    /// By class of [`BOUNDS_S`]; the last one is unbounded.
    counts: [AtomicU64; BOUNDS_S.len() + 1],
    sum_us: AtomicU64,
}

impl Durations {
    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let class = BOUNDS_S.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS_S.len());
        if let Some(count) = self.counts.get(class) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        // Half a million years fit.
        self.sum_us.fetch_add(u64::try_from(duration.as_micros()).unwrap_or_default(), Ordering::Relaxed);
    }

    /// The number of durations in each class, the unbounded one last.
    pub fn counts(&self) -> [u64; BOUNDS_S.len() + 1] {
        self.counts.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// The sum of all durations.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_us.load(Ordering::Relaxed))
    }
}

/// Attempts and rounds since the host was started.
#[derive(Debug, Default)]
pub struct Counters {
    /// By step, action before compensation.
    branches: [[OkFail; 2]; BRANCHES + 1],
    /// Rounds. A round begins when a saga's driver starts, and ends when the saga ends or waits.
    pub rounds: OkFail,
    /// Age of a saga at the end of each of its rounds.
    pub ages: Durations,
}

impl Counters {
    /// The counters of an operation's attempts. Steps beyond [`BRANCHES`] share theirs.
    pub fn attempts(&self, branch_op: BranchOp) -> Option<&OkFail> {
        let [action, compensation] = self.branches.get(branch_op.step.min(BRANCHES))?;
        Some(if branch_op.op == Op::Action { action } else { compensation })
    }

    /// Counts an attempt that has ended.
    pub(super) fn attempt(&self, branch_op: BranchOp, has_succeeded: bool) {
        if let Some(ratio) = self.attempts(branch_op) {
            ratio.count(has_succeeded);
        }
    }

    /// Counts a round that has ended. As in DTM, a forward round is a success only if the saga succeeded; a roll-back
    /// round always is.
    pub(super) fn round(&self, before: Status, after: Status, age: Duration) {
        self.rounds.count(before == Status::Aborting || after == Status::Succeed);
        self.ages.observe(age);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_classes() {
        let durations = Durations::default();
        for ms in [0, 5, 6, 10_000, 10_001, 1_000_000] {
            durations.observe(Duration::from_millis(ms));
        }
        assert_eq!(durations.counts(), [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(durations.sum(), Duration::from_millis(1_020_012));
    }

    #[test]
    fn steps_beyond_the_last_are_counted_together() {
        let counters = Counters::default();
        for step in 0..1000 {
            counters.attempt(BranchOp { step, op: Op::Compensate }, step % 2 == 0);
        }
        let read = |step, op| counters.attempts(BranchOp { step, op }).unwrap().read();
        assert_eq!(read(0, Op::Compensate), [1, 0]);
        assert_eq!(read(BRANCHES, Op::Compensate), [490, 490]);
        assert_eq!(read(0, Op::Action), [0, 0]);
    }
}
