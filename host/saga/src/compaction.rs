//! Compaction of a long log: a saga that is retried without end must not have a log that grows without end.
//!
//! Of each operation, the events of the newest attempt are kept. The attempts before it become one [`Event::Retried`]
//! with their combined effect on the state. Replay of the compacted log gives exactly the same state.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    clock_change::waits_until,
    definition::{BranchOp, Definition, Op},
    event::Event,
    state::{OpState, Saga, StepState},
};

/// Whether a log of this many events should be compacted. A compacted log has at most three events of each operation
/// and the retry requests between them, less than ten a step: far below this limit.
pub fn needs_compaction(definition: &Definition, events: usize) -> bool {
    events > 128 + 16 * definition.steps().len()
}

/// The same saga in fewer events. `None` if that is not possible, or if `log` is not a valid log of a saga.
pub fn compact(definition: &Arc<Definition>, log: &[Event]) -> Option<Vec<Event>> {
    let mut saga = Saga::new(definition.clone());
    let mut runs = runs(log);
    let mut compacted = Vec::new();
    for (index, event) in log.iter().enumerate() {
        let began = saga.began();
        saga.apply(event).ok()?;
        match event.branch_op().and_then(|branch_op| Some((branch_op, runs.get_mut(&branch_op)?))) {
            Some((branch_op, run)) if index <= run.last => {
                run.retries += retries(event);
                if index == run.last {
                    compacted.push(retried(&saga, branch_op, run.retries, event)?);
                } else if saga.began() < began {
                    // The clock has gone back: this time stays in the log, since `timeout_to_fail` counts from it.
                    compacted.push(waits_until(branch_op, &OpState::default(), None, event.at()));
                }
            }
            _ => compacted.push(event.clone()),
        }
    }
    let (compacted, same) = drop_redundant_retry_requests(definition, compacted)?;
    (same == saga && compacted.len() < log.len()).then_some(compacted)
}

/// The attempts of one operation that become one event.
struct Run {
    /// Index of the last event about them.
    last: usize,
    /// How many of them `retry_limit` counts.
    retries: u64,
}

/// By operation: its events before the newest attempt or the result, if there is more than one.
fn runs(log: &[Event]) -> BTreeMap<BranchOp, Run> {
    let mut indexes: BTreeMap<BranchOp, Vec<usize>> = BTreeMap::new();
    for (index, event) in log.iter().enumerate() {
        if let Some(branch_op) = event.branch_op() {
            indexes.entry(branch_op).or_default().push(index);
        }
    }
    let starts = |index: &usize| matches!(log.get(*index), Some(Event::Started { .. }));
    indexes
        .into_iter()
        .filter_map(|(branch_op, mut indexes)| {
            let newest = indexes.pop()?;
            if !starts(&newest) {
                indexes.pop_if(|before| starts(before));
            }
            let last = *indexes.last()?;
            (indexes.len() > 1).then_some((branch_op, Run { last, retries: 0 }))
        })
        .collect()
}

fn retries(event: &Event) -> u64 {
    match event {
        Event::Failed { op: Op::Action, .. } => 1,
        Event::Retried { retries, .. } => *retries,
        _ => 0,
    }
}

/// The state of the operation, as an event.
fn retried(saga: &Saga, branch_op: BranchOp, retries: u64, newest: &Event) -> Option<Event> {
    let step = saga.steps().get(branch_op.step)?;
    let state = step.op(branch_op.op);
    Some(Event::Retried {
        step: branch_op.step,
        op: branch_op.op,
        attempts: state.attempts,
        failures: state.failures,
        retries,
        reached: branch_op.op == Op::Action && step.reached,
        retry_at: state.retry_at,
        last_error: state.last_error.as_deref().map(Into::into),
        at: newest.at(),
    })
}

/// Drops `RetryRequested` events that had no waiting operation, unless it is the newest event, or has the earliest time
/// so far, which the state keeps. Also returns the state.
fn drop_redundant_retry_requests(definition: &Arc<Definition>, log: Vec<Event>) -> Option<(Vec<Event>, Saga)> {
    let mut saga = Saga::new(definition.clone());
    let mut kept = Vec::with_capacity(log.len());
    let newest = log.len().checked_sub(1)?;
    for (index, event) in log.into_iter().enumerate() {
        let is_redundant = matches!(event, Event::RetryRequested { .. }) && !saga.steps().iter().any(StepState::waits);
        if is_redundant && index != newest && event.at() >= saga.began() {
            continue;
        }
        saga.apply(&event).ok()?;
        kept.push(event);
    }
    Some((kept, saga))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{AbortReason, Gid, InFlight, Next, Options, Order, Policy, Status, Step, Timestamp, Verdict};

    fn define(steps: usize, order: Order, options: Options) -> Arc<Definition> {
        define_at(Timestamp(0), steps, order, options)
    }

    fn define_at(at: Timestamp, steps: usize, order: Order, options: Options) -> Arc<Definition> {
        let step = Step { action: "a".into(), compensation: "c".into(), payload: "".into() };
        let gid = Gid::new("g").unwrap();
        Arc::new(Definition::new(gid, vec![step; steps], order, options, at).unwrap())
    }

    /// An engine that plays dice: every attempt may fail, be cut off by a crash, or turn out external.
    struct Dice {
        saga: Saga,
        in_flight: InFlight,
        now: Timestamp,
        random: fastrand::Rng,
        /// In percent: attempts without a result.
        troubles: u8,
        /// Events of a new process that finds its clock set back.
        restarted: Vec<Event>,
        /// How often the clock has gone back.
        jumps: u32,
    }

    impl Dice {
        fn new(definition: &Arc<Definition>, random: fastrand::Rng, troubles: u8) -> Self {
            let mut saga = Saga::new(definition.clone());
            let now = definition.created_at();
            saga.apply(&Event::Submitted { at: now }).unwrap();
            Self { saga, in_flight: InFlight::default(), now, random, troubles, restarted: Vec::new(), jumps: 0 }
        }

        /// What happens next; `None` at the end.
        fn throw(&mut self) -> Option<Event> {
            loop {
                if let Some(event) = self.restarted.pop() {
                    return Some(event);
                }
                self.now = self.now.after(Duration::from_millis(1));
                if !self.saga.status().is_finished() && self.random.u8(0..20) == 0 {
                    return Some(Event::RetryRequested { at: self.now });
                }
                if self.random.u8(0..30) == 0 {
                    // A crash: what runs is forgotten.
                    self.in_flight = InFlight::default();
                    if self.random.u8(0..20) == 0 {
                        self.now = Timestamp(self.random.u64(0..=self.now.0));
                        self.restarted = self.saga.restart_waits(self.now, self.now);
                        self.jumps += u32::from(!self.restarted.is_empty());
                        continue;
                    }
                }
                match self.saga.next(&self.in_flight, self.now) {
                    Next::Decide(event) => return Some(event),
                    Next::Call(branch_op) => {
                        self.in_flight.begin(branch_op, ());
                        if self.random.bool() {
                            return Some(Event::Started { step: branch_op.step, op: branch_op.op, at: self.now });
                        }
                    }
                    Next::Drop(branch_op) => drop(self.in_flight.end(branch_op)),
                    Next::Wait(until) => {
                        let running = self.in_flight.iter().next();
                        match running.filter(|_| until.is_none() || self.random.bool()) {
                            Some(branch_op) => return Some(self.end(branch_op)),
                            None => self.now = until?,
                        }
                    }
                    Next::Finished => return None,
                }
            }
        }

        fn end(&mut self, branch_op: BranchOp) -> Event {
            self.in_flight.end(branch_op);
            let error = "e".repeat(self.random.usize(0..3));
            let verdict = match self.random.u8(0..100) {
                roll if roll < self.troubles / 2 => Verdict::Unknown { error },
                roll if roll < self.troubles => Verdict::Ongoing { retry_after: None },
                99 => Verdict::Rejected { reason: "no".into() },
                _ => Verdict::Succeeded { output: None },
            };
            self.saga.conclude(branch_op, verdict, self.now, &Policy::default(), self.random.f64())
        }
    }

    #[test]
    fn a_compacted_log_gives_the_same_state_whenever_it_is_compacted() {
        let mut ends = BTreeMap::<&str, u32>::new();
        let (mut compactions, mut jumps) = (0, 0);
        for seed in wasaga_seed::seeds(600) {
            let mut random = fastrand::Rng::with_seed(seed);
            let steps = random.usize(1..4);
            let after = if random.bool() { BTreeMap::from([(steps - 1, vec![0])]) } else { BTreeMap::new() };
            let after = if steps == 1 { BTreeMap::new() } else { after };
            let options = Options {
                retry_limit: [0, 100][random.usize(0..2)],
                timeout_to_fail_s: [0, 10_000][random.usize(0..2)],
                ..Options::default()
            };
            let definition = define_at(
                Timestamp(random.u64(0..2) * 3_600_000),
                steps,
                Order { concurrent: random.bool(), after },
                options,
            );
            let mut dice = Dice::new(&definition, random.fork(), 97);
            let mut log = vec![Event::Submitted { at: definition.created_at() }];
            for _ in 0..random.usize(1..800) {
                let Some(event) = dice.throw() else { break };
                dice.saga.apply(&event).unwrap();
                log.push(event);
                if random.u8(0..10) == 0 {
                    if let Some(compacted) = compact(&definition, &log) {
                        assert!(compacted.len() < log.len());
                        assert!(!needs_compaction(&definition, compacted.len()), "{compacted:#?}");
                        log = compacted;
                        compactions += 1;
                    }
                    assert_eq!(Saga::replay(definition.clone(), &log).unwrap(), dice.saga, "{log:#?}");
                }
            }
            assert_eq!(Saga::replay(definition.clone(), &log).unwrap(), dice.saga, "{log:#?}");
            *ends.entry(dice.saga.status().as_str()).or_default() += 1;
            jumps += dice.jumps;
        }
        assert!(compactions > 1000 && jumps > 100, "{compactions} {jumps}");
        assert!(ends.keys().eq(["aborting", "failed", "submitted", "succeed"].iter()), "{ends:?}");
    }

    #[test]
    fn ten_thousand_attempts_become_one_event() {
        let definition = define(1, Order::default(), Options::default());
        let mut saga = Saga::new(definition.clone());
        let mut log = Vec::new();
        let take = |saga: &mut Saga, log: &mut Vec<Event>, event: Event| {
            saga.apply(&event).unwrap();
            log.push(event);
            if needs_compaction(&definition, log.len()) {
                *log = compact(&definition, log).unwrap();
                assert!(log.len() < 10);
            }
        };
        let branch_op = BranchOp { step: 0, op: Op::Action };
        take(&mut saga, &mut log, Event::Submitted { at: Timestamp(0) });
        for n in 0..10_000 {
            let now = Timestamp(n);
            take(&mut saga, &mut log, Event::Started { step: 0, op: Op::Action, at: now });
            let verdict = Verdict::Unknown { error: n.to_string() };
            let event = saga.conclude(branch_op, verdict, now, &Policy::default(), 0.5);
            take(&mut saga, &mut log, event);
        }
        let action = &saga.steps()[0].action;
        assert_eq!((action.attempts, action.failures, saga.retries()), (10_000, 10_000, 10_000));
        assert_eq!(Saga::replay(definition.clone(), &log).unwrap(), saga);
    }

    #[test]
    fn a_log_that_cannot_be_compacted_is_left_as_it_is() {
        let definition = define(2, Order::default(), Options::default());
        let at = Timestamp(1);
        let log = [
            Event::Submitted { at },
            Event::Started { step: 0, op: Op::Action, at },
            Event::Succeeded { step: 0, op: Op::Action, output: None, at },
            Event::Aborted { reason: AbortReason::Timeout, at },
            Event::Succeeded { step: 0, op: Op::Compensate, output: None, at },
        ];
        assert_eq!(Saga::replay(definition.clone(), &log).unwrap().status(), Status::Failed);
        assert_eq!(compact(&definition, &log), None);
        assert_eq!(compact(&definition, &[]), None);
        assert_eq!(compact(&definition, &log[1..]), None, "not the log of a saga");
    }
}
