//! What a saga does next: a function of its state, the attempts in flight and the time.
//!
//! The rules are those of DTM (its `ProcessOnce` for sagas), with these differences: which branches are compensated
//! follows from what can have had an effect; a compensation never races its action; retries back off with a cap and
//! with jitter; `retry_limit` waits between attempts and does not apply once the saga is being rolled back.

use std::time::Duration;

use crate::{
    definition::{BranchOp, Op, Timestamp},
    event::{AbortReason, Event, Failure},
    in_flight::InFlight,
    state::{OpState, Saga, Status},
};

/// The host's settings that decisions depend on. Events record the results, so replay does not depend on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Wait before the first retry when the saga does not say.
    pub retry_interval: Duration,
    /// Longest wait between two attempts, unless the saga's own interval is longer.
    pub retry_interval_max: Duration,
    /// Shortest wait between two attempts, which a branch can ask for by "ongoing": keeps it from spinning through the
    /// host.
    pub ongoing_min: Duration,
    /// Longest wait that a branch can ask for by "ongoing".
    pub ongoing_max: Duration,
    /// Failed attempts of one operation after which a saga is stuck: a person should look, though it goes on.
    pub stuck_after: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            retry_interval: Duration::from_secs(1),
            retry_interval_max: Duration::from_mins(1),
            ongoing_min: Duration::from_millis(50),
            ongoing_max: Duration::from_hours(24),
            stuck_after: 10,
        }
    }
}

impl Policy {
    /// Longest wait before a retry that a host chooses by itself. Sagas and branches may ask for longer ones.
    pub fn backoff_max(&self) -> Duration {
        let wait = self.retry_interval.max(self.ongoing_min).max(self.retry_interval_max);
        with_jitter(wait, 1.0)
    }
}

/// The next thing to do for a saga. Ask again after doing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Commit this event and apply it.
    Decide(Event),
    /// Start an attempt of this operation.
    Call(BranchOp),
    /// Cancel the running attempt: it is contained and has had no effect, or the saga has ended.
    Drop(BranchOp),
    /// Nothing until an attempt ends, an operation is unblocked, or until this time.
    Wait(Option<Timestamp>),
    /// Nothing more: the saga has ended.
    Finished,
}

/// The result of an attempt, as far as the saga is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It took effect.
    Succeeded {
        /// What later branches, its own compensation and people may read; JSON text for a Wasm branch.
        output: Option<String>,
    },
    /// It did not take effect and never will: the saga is rolled back.
    Rejected {
        /// For people: the saga's rollback reason.
        reason: String,
    },
    /// It is not finished: retry it, which is no failure.
    Ongoing {
        /// When to retry; after the saga's retry interval if not given.
        retry_after: Option<Duration>,
    },
    /// It is unknown whether it took effect (trap, timeout, crash, status 500): retry it with backoff.
    Unknown {
        /// For people: the cause and, if known, the mend.
        error: String,
    },
}

impl Saga {
    /// The next thing to do, given the attempts in flight and the time.
    pub fn next<T>(&self, in_flight: &InFlight<T>, now: Timestamp) -> Next {
        match self.status() {
            Status::Prepared => Next::Wait(None),
            Status::Submitted => self.next_forward(in_flight, now),
            Status::Aborting => self.next_back(in_flight, now),
            Status::Succeed | Status::Failed => in_flight.iter().next().map_or(Next::Finished, Next::Drop),
        }
    }

    /// The event that records an attempt's verdict. `jitter` is a random number from 0 to 1.
    pub fn conclude(
        &self,
        branch_op: BranchOp,
        verdict: Verdict,
        now: Timestamp,
        policy: &Policy,
        jitter: f64,
    ) -> Event {
        let BranchOp { step, op } = branch_op;
        let at = now;
        let failed = |failure, wait| Event::Failed { step, op, failure, retry_at: now.after(wait), at };
        match (verdict, op) {
            (Verdict::Succeeded { output }, _) => Event::Succeeded { step, op, output, at },
            (Verdict::Rejected { reason }, Op::Action) => Event::Rejected { step, reason, at },
            (Verdict::Ongoing { retry_after }, _) => {
                // Not `clamp`, which panics if the settings have the bounds in the wrong order.
                let within = |asked: Duration| asked.min(policy.ongoing_max).max(policy.ongoing_min);
                let wait = retry_after.map_or_else(|| self.retry_interval(policy), within);
                failed(Failure::Ongoing, wait)
            }
            // A compensation never fails: a rejected one is retried.
            (Verdict::Unknown { error } | Verdict::Rejected { reason: error }, _) => {
                let wait = self.backoff(branch_op, policy, jitter);
                failed(Failure::Unknown { error }, wait)
            }
        }
    }

    /// Whether an operation has failed so often that a person should look.
    pub fn is_stuck(&self, policy: &Policy) -> bool {
        let stuck = |op: &OpState| op.is_pending() && op.failures > policy.stuck_after;
        !self.status().is_finished() && self.steps().iter().any(|step| stuck(&step.action) || stuck(&step.compensation))
    }

    /// The number of the attempt that would start, or has started externally and is open, now.
    pub fn attempt(&self, branch_op: BranchOp) -> u32 {
        self.op(branch_op).map_or(1, |op| if op.open { op.attempts } else { op.attempts + 1 })
    }

    fn next_forward<T>(&self, in_flight: &InFlight<T>, now: Timestamp) -> Next {
        let options = self.definition().options();
        if options.retry_limit > 0 && self.retries() > options.retry_limit {
            return Next::Decide(Event::Aborted { reason: AbortReason::RetryLimit, at: now });
        }
        let deadline = match options.timeout_to_fail_s {
            0 => None,
            s => Some(self.began().after(Duration::from_secs(s))),
        };
        if deadline.is_some_and(|deadline| deadline <= now) {
            return Next::Decide(Event::Aborted { reason: AbortReason::Timeout, at: now });
        }
        let mut wake = deadline;
        for (step, state) in self.steps().iter().enumerate() {
            let branch_op = BranchOp { step, op: Op::Action };
            if state.action.is_pending()
                && !in_flight.contains(branch_op)
                && self.definition().predecessors(step).all(|before| self.has_succeeded(before))
            {
                match self.due(branch_op, in_flight, now) {
                    Due::Now(next) => return next,
                    Due::Later(at) => wake = Some(wake.map_or(at, |wake| wake.min(at))),
                    Due::Blocked => {}
                }
            }
        }
        Next::Wait(wake)
    }

    fn next_back<T>(&self, in_flight: &InFlight<T>, now: Timestamp) -> Next {
        // A running action that has had no effect is dropped; one that may have had an effect is awaited, so that its
        // compensation never races it.
        let droppable =
            |branch_op: &BranchOp| branch_op.op == Op::Action && self.op(*branch_op).is_some_and(|action| !action.open);
        if let Some(branch_op) = in_flight.iter().find(droppable) {
            return Next::Drop(branch_op);
        }
        let blocked = self.blocked_compensations();
        let mut wake = None;
        for (step, state) in self.steps().iter().enumerate().rev() {
            let branch_op = BranchOp { step, op: Op::Compensate };
            if state.is_rolled_back()
                || in_flight.contains(branch_op)
                || in_flight.contains(BranchOp { step, op: Op::Action })
            {
                continue;
            }
            if !state.may_have_effect() {
                return Next::Decide(Event::Skipped { step, at: now });
            }
            if blocked.get(step) == Some(&false) {
                match self.due(branch_op, in_flight, now) {
                    Due::Now(next) => return next,
                    Due::Later(at) => wake = Some(wake.map_or(at, |wake: Timestamp| wake.min(at))),
                    Due::Blocked => {}
                }
            }
        }
        Next::Wait(wake)
    }

    /// By step: whether a later step that waited for it is not rolled back yet. Compensation runs against the order.
    fn blocked_compensations(&self) -> Vec<bool> {
        let mut blocked = vec![false; self.steps().len()];
        for (step, state) in self.steps().iter().enumerate() {
            if !state.is_rolled_back() {
                for before in self.definition().predecessors(step) {
                    if let Some(flag) = blocked.get_mut(before) {
                        *flag = true;
                    }
                }
            }
        }
        blocked
    }

    /// The next thing to do for an operation that waits for no other.
    fn due<T>(&self, branch_op: BranchOp, in_flight: &InFlight<T>, now: Timestamp) -> Due {
        match self.op(branch_op).and_then(|op| op.retry_at).max(in_flight.pause_of(branch_op)) {
            Some(at) if at > now => Due::Later(at),
            _ if self.definition().target(branch_op).is_empty() => Due::Now(Next::Decide(Event::Succeeded {
                step: branch_op.step,
                op: branch_op.op,
                output: None,
                at: now,
            })),
            _ if in_flight.is_blocked(branch_op) => Due::Blocked,
            _ => Due::Now(Next::Call(branch_op)),
        }
    }

    fn retry_interval(&self, policy: &Policy) -> Duration {
        match self.definition().options().retry_interval_s {
            0 => policy.retry_interval.max(policy.ongoing_min),
            s => Duration::from_secs(s),
        }
    }

    /// The retry interval, doubled for every failure before this one, up to the cap; plus up to a quarter at random, so
    /// that sagas that failed together do not retry together.
    fn backoff(&self, branch_op: BranchOp, policy: &Policy, jitter: f64) -> Duration {
        let interval = self.retry_interval(policy);
        let doublings = self.op(branch_op).map_or(0, |op| op.failures.min(31));
        let wait = interval.saturating_mul(1 << doublings).min(policy.retry_interval_max.max(interval));
        with_jitter(wait, jitter)
    }
}

fn with_jitter(wait: Duration, jitter: f64) -> Duration {
    wait.saturating_add(wait.mul_f64(jitter.clamp(0.0, 1.0) / 4.0))
}

enum Due {
    Now(Next),
    Later(Timestamp),
    /// Until the caller unblocks it.
    Blocked,
}
