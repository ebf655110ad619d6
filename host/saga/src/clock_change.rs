//! What becomes of a saga's waits when the wall clock has gone back.
//!
//! The times in a log come from the wall clock at the start of a process, and only grow while it runs. When the wall clock
//! goes back between two processes (a restored virtual machine, a wrong hardware clock), the log has times that lie ahead.
//! Taken literally, every wait in it would last longer by as much as the clock went back.
//!
//! The rule: **an event whose time lies ahead of the clock counts as recorded when this process started.** It was recorded
//! earlier, but how much of a wait has passed cannot be known, so the wait begins anew: it is delayed by its own length at
//! most. Waits whose events do not lie ahead stay as they are, however long.
//!
//! The new waits are facts that later replays need, whatever their clock says, so they are recorded: as an
//! [`Event::Retried`] without attempts, which has no effect but the new `retry_at`. `timeout_to_fail` has no event that
//! could be recorded anew. It counts from [`Saga::began`], the earliest time in the log, for nothing that is recorded later
//! can have happened earlier.

use crate::{
    definition::{BranchOp, Op, Timestamp},
    event::Event,
    state::{OpState, Saga, Status},
};

impl Saga {
    /// The events that let waits begin anew which were recorded ahead of the clock; none if there are no such waits.
    ///
    /// `now`: the time now. `start`: the time at which this process started. Apply and record them before the saga is
    /// driven; then there are no more of them, also after another start, unless the clock goes back again.
    pub fn restart_waits(&self, now: Timestamp, start: Timestamp) -> Vec<Event> {
        let op = match self.status() {
            Status::Submitted => Op::Action,
            Status::Aborting => Op::Compensate,
            Status::Prepared | Status::Succeed | Status::Failed => return Vec::new(),
        };
        let states = || self.steps().iter().map(|step| step.op(op)).enumerate();
        let restart = |(step, state): (usize, &OpState)| {
            let (retry_at, recorded_at) = (state.retry_at?, state.updated_at?);
            let is_ahead = state.is_pending() && recorded_at > now;
            is_ahead.then(|| {
                waits_until(BranchOp { step, op }, state, Some(start.after(recorded_at.until(retry_at))), start)
            })
        };
        let mut events: Vec<Event> = states().filter_map(restart).collect();
        if events.is_empty() && self.began() > now && self.definition().options().timeout_to_fail_s > 0 {
            // Any event will do, for the timeout to count from its time.
            let may_start = |(step, _): &(usize, &OpState)| self.may_start(BranchOp { step: *step, op });
            let first = states().find(may_start);
            events.extend(first.map(|(step, state)| waits_until(BranchOp { step, op }, state, state.retry_at, start)));
        }
        events
    }
}

/// The event that changes when an operation is retried, and nothing else.
pub(crate) fn waits_until(
    BranchOp { step, op }: BranchOp,
    state: &OpState,
    retry_at: Option<Timestamp>,
    at: Timestamp,
) -> Event {
    let last_error = state.last_error.as_deref().map(Into::into);
    Event::Retried { step, op, attempts: 0, failures: 0, retries: 0, reached: false, retry_at, last_error, at }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{AbortReason, Definition, Failure, Gid, InFlight, Next, Options, Order, Step};

    const HOUR: u64 = 3_600_000;

    fn submitted(created_at: u64, timeout_to_fail_s: u64) -> Saga {
        let step = Step { action: "a".into(), compensation: "c".into(), payload: "".into() };
        let options = Options { timeout_to_fail_s, ..Options::default() };
        let gid = Gid::new("g").unwrap();
        let at = Timestamp(created_at);
        let definition = Definition::new(gid, vec![step.clone(), step], Order::default(), options, at).unwrap();
        let mut saga = Saga::new(Arc::new(definition));
        assert!(saga.restart_waits(Timestamp(0), Timestamp(0)).is_empty(), "a prepared saga waits for nothing");
        saga.apply(&Event::Submitted { at }).unwrap();
        saga
    }

    fn fail(saga: &mut Saga, at: u64, wait: u64) {
        let failure = Failure::Unknown { error: "no".into() };
        let (step, op) = (0, Op::Action);
        saga.apply(&Event::Started { step, op, at: Timestamp(at) }).unwrap();
        saga.apply(&Event::Failed { step, op, failure, retry_at: Timestamp(at + wait), at: Timestamp(at) }).unwrap();
    }

    /// As a process that starts at this time.
    fn start(saga: &mut Saga, at: u64) -> usize {
        let (now, start) = (Timestamp(at + 7), Timestamp(at));
        let events = saga.restart_waits(now, start);
        for event in &events {
            saga.apply(event).unwrap();
        }
        assert!(saga.restart_waits(now, start).is_empty(), "once");
        events.len()
    }

    fn next(saga: &Saga, now: u64) -> Next {
        saga.next(&InFlight::<()>::default(), Timestamp(now))
    }

    #[test]
    fn a_wait_recorded_ahead_of_the_clock_begins_at_the_start_and_nothing_else_changes() {
        let mut saga = submitted(9 * HOUR, 0);
        fail(&mut saga, 10 * HOUR, 5000);
        let before = saga.clone();
        assert_eq!(start(&mut saga, 4 * HOUR), 1);
        assert_eq!(next(&saga, 4 * HOUR), Next::Wait(Some(Timestamp(4 * HOUR + 5000))));
        let (was, is) = (&before.steps()[0].action, &saga.steps()[0].action);
        assert_eq!((was.attempts, was.failures, &was.last_error), (is.attempts, is.failures, &is.last_error));
        assert_eq!((before.retries(), before.steps()[0].reached), (saga.retries(), saga.steps()[0].reached));
        // The clock goes back again.
        assert_eq!(start(&mut saga, 3 * HOUR), 1);
        assert_eq!(next(&saga, 3 * HOUR), Next::Wait(Some(Timestamp(3 * HOUR + 5000))));
    }

    #[test]
    fn an_attempt_that_was_cut_off_is_repeated_at_once() {
        let mut saga = submitted(9 * HOUR, 0);
        fail(&mut saga, 10 * HOUR, 5000);
        saga.apply(&Event::Started { step: 0, op: Op::Action, at: Timestamp(10 * HOUR + 6000) }).unwrap();
        start(&mut saga, 4 * HOUR);
        let action = BranchOp { step: 0, op: Op::Action };
        assert_eq!(next(&saga, 4 * HOUR), Next::Call(action));
        assert_eq!(saga.attempt(action), 2, "it is still open");
    }

    #[test]
    fn a_timeout_counts_from_the_start_that_found_the_clock_set_back() {
        for has_failed in [false, true] {
            let mut saga = submitted(9 * HOUR, 60);
            if has_failed {
                fail(&mut saga, 9 * HOUR, HOUR);
            }
            assert_eq!(start(&mut saga, 4 * HOUR), 1);
            let deadline = Timestamp(4 * HOUR).after(Duration::from_mins(1));
            // Also when the clock has passed what was recorded before.
            for now in [deadline.0, 20 * HOUR] {
                let aborted = Event::Aborted { reason: AbortReason::Timeout, at: Timestamp(now) };
                assert_eq!(next(&saga, now), Next::Decide(aborted));
            }
            assert!(!matches!(next(&saga, deadline.0 - 1), Next::Decide(_)));
        }
    }

    #[test]
    fn what_does_not_lie_ahead_stays() {
        let mut saga = submitted(HOUR, 86_400);
        fail(&mut saga, 2 * HOUR, 20 * HOUR);
        assert_eq!(start(&mut saga, 3 * HOUR), 0);
        assert_eq!(next(&saga, 3 * HOUR), Next::Wait(Some(Timestamp(22 * HOUR))));
        // Nothing waits, and there is no timeout.
        assert_eq!(start(&mut submitted(9 * HOUR, 0), 4 * HOUR), 0);
    }
}
