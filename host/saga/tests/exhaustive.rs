//! Every saga of up to three steps, every fate of every attempt, a crash after every commit.
//!
//! The explorer below plays the engine against the pure machine: it commits what the machine decides, starts what it
//! asks for, and branches into every way in which an attempt can end, time can pass and the host can crash. The world
//! keeps score of real effects, independently of the machine, and is asked at every step whether the promises hold.
//!
//! A crash keeps any prefix of the log that reaches at least to the last durability point (the output rule: everything
//! is on disk before an external attempt starts), and forgets all that was in flight. Effects of contained branches
//! live in the log and go with it; effects of external ones stay.

use std::{collections::BTreeMap, sync::Arc};

use wasaga_saga::{
    AbortReason, BranchOp, Definition, Event, Gid, InFlight, Next, Op, Options, Order, Policy, Saga, Status, Step,
    Timestamp, Verdict,
};

/// How an attempt can end. All but the first, and the rejection of an action, count against the budget of troubles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Succeeds,
    IsRejected,
    LostBeforeEffect,
    LostAfterEffect,
    IsOngoing,
}

/// Which saga is explored.
#[derive(Clone, Debug)]
struct Case {
    definition: Arc<Definition>,
    /// By step: whether its effects leave the host.
    external: Vec<bool>,
    /// How many attempts may go wrong without a verdict.
    troubles: u32,
    /// How often the host may crash.
    crashes: u32,
}

/// The machine, what the engine would hold beside it, and the true state of the world.
#[derive(Clone)]
struct World {
    saga: Saga,
    log: Vec<Event>,
    /// Events that no crash can take back.
    durable: usize,
    in_flight: InFlight,
    now: Timestamp,
    troubles: u32,
    crashes: u32,
    /// By step: an effect that has not been taken back.
    effect: Vec<bool>,
    compensation_started: bool,
    depth: u32,
}

#[derive(Default)]
struct Tally {
    runs: u64,
    crashes: u64,
    by_end: BTreeMap<&'static str, u64>,
}

fn explore_all(case: &Case, tally: &mut Tally) {
    let mut saga = Saga::new(case.definition.clone());
    let submitted = Event::Submitted { at: Timestamp(0) };
    saga.apply(&submitted).unwrap();
    let world = World {
        saga,
        log: vec![submitted],
        durable: 1,
        in_flight: InFlight::default(),
        now: Timestamp(0),
        troubles: case.troubles,
        crashes: case.crashes,
        effect: vec![false; case.external.len()],
        compensation_started: false,
        depth: 0,
    };
    world.run(case, tally);
}

impl World {
    /// Does what the machine asks for until it waits or has finished, then branches.
    fn run(mut self, case: &Case, tally: &mut Tally) {
        self.depth += 1;
        assert!(self.depth < 100, "does not come to an end:\n{:#?}", self.log);
        loop {
            match self.saga.next(&self.in_flight, self.now) {
                Next::Decide(event) => self.commit(case, event, tally),
                Next::Call(branch_op) => self.start(case, branch_op, tally),
                Next::Drop(branch_op) => {
                    let finished = self.saga.status().is_finished();
                    assert!(finished || !case.external[branch_op.step], "an external attempt must be awaited");
                    self.in_flight.end(branch_op);
                }
                Next::Wait(wake) => return self.branch(case, wake, tally),
                Next::Finished => return self.check_end(case, tally),
            }
        }
    }

    /// Adds an event to the log, and follows every crash that could come right after it.
    fn commit(&mut self, case: &Case, event: Event, tally: &mut Tally) {
        self.saga.apply(&event).unwrap_or_else(|illegal| panic!("{illegal}\n{:#?}", self.log));
        self.log.push(event);
        let replayed = Saga::replay(case.definition.clone(), &self.log).unwrap();
        assert_eq!(replayed, self.saga, "replay must give the live state");
        if self.crashes > 0 {
            for kept in self.durable..=self.log.len() {
                self.crash(case, kept, tally);
            }
        }
    }

    fn crash(&self, case: &Case, kept: usize, tally: &mut Tally) {
        tally.crashes += 1;
        // An external attempt in flight goes on without us: it has its effect, or it has not.
        let lost: Vec<BranchOp> = self.in_flight.iter().filter(|branch_op| case.external[branch_op.step]).collect();
        for effects in 0..1_u32 << lost.len() {
            let mut world = self.clone();
            world.log.truncate(kept);
            world.durable = kept;
            world.saga = Saga::replay(case.definition.clone(), &world.log).unwrap();
            world.in_flight = InFlight::default();
            world.crashes -= 1;
            for (bit, branch_op) in lost.iter().enumerate() {
                if effects & (1 << bit) != 0 {
                    world.take_effect(*branch_op);
                }
            }
            world.forget_contained(case);
            world.run(case, tally);
        }
    }

    /// What contained branches did is what the surviving log says, and a roll-back that only they saw may be forgotten.
    fn forget_contained(&mut self, case: &Case) {
        self.compensation_started = self.saga.steps().iter().any(|step| step.compensation.attempts > 0);
        for step in (0..case.external.len()).filter(|step| !case.external[*step]) {
            let state = &self.saga.steps()[step];
            self.effect[step] = state.action.has_succeeded() && !state.compensation.has_succeeded();
        }
    }

    fn start(&mut self, case: &Case, branch_op: BranchOp, tally: &mut Tally) {
        assert!(!self.in_flight.contains(branch_op), "the operation is running already");
        self.check_start(case, branch_op);
        if case.external[branch_op.step] {
            self.commit(case, Event::Started { step: branch_op.step, op: branch_op.op, at: self.now }, tally);
            self.durable = self.log.len();
        }
        self.in_flight.begin(branch_op, ());
        self.compensation_started |= branch_op.op == Op::Compensate;
    }

    /// What must hold whenever an operation is called.
    fn check_start(&self, case: &Case, branch_op: BranchOp) {
        let step = branch_op.step;
        match branch_op.op {
            Op::Action => {
                assert!(!self.compensation_started, "an action after the first compensation\n{:#?}", self.log);
                for before in case.definition.predecessors(step) {
                    assert!(self.saga.steps()[before].action.has_succeeded(), "an action before its predecessor");
                }
            }
            Op::Compensate => {
                let racing = self.in_flight.contains(BranchOp { step, op: Op::Action });
                assert!(!racing, "a compensation races its action");
                if !case.external[step] {
                    assert!(self.effect[step], "a contained branch without effect is compensated");
                }
                for later in 0..case.external.len() {
                    if case.definition.predecessors(later).any(|before| before == step) {
                        assert!(!self.effect[later], "compensation out of order: {step} before {later}");
                        let running = self.in_flight.contains(BranchOp { step: later, op: Op::Action });
                        assert!(!running, "compensation while a later action runs");
                    }
                }
            }
        }
    }

    fn take_effect(&mut self, branch_op: BranchOp) {
        self.effect[branch_op.step] = branch_op.op == Op::Action;
    }

    /// Everything that can happen next.
    fn branch(self, case: &Case, wake: Option<Timestamp>, tally: &mut Tally) {
        let in_flight: Vec<BranchOp> = self.in_flight.iter().collect();
        for &branch_op in &in_flight {
            for fate in self.fates(case, branch_op) {
                let mut world = self.clone();
                world.end_attempt(case, branch_op, fate, tally);
                world.run(case, tally);
            }
        }
        if let Some(wake) = wake {
            let mut world = self.clone();
            world.now = world.now.max(wake);
            world.run(case, tally);
        } else {
            assert!(!in_flight.is_empty(), "waits for nothing:\n{:#?}", self.log);
        }
        if self.crashes > 0 && !in_flight.is_empty() {
            self.crash(case, self.log.len(), tally);
        }
    }

    fn fates(&self, case: &Case, branch_op: BranchOp) -> Vec<Fate> {
        let mut fates = vec![Fate::Succeeds];
        if branch_op.op == Op::Action || self.troubles > 0 {
            fates.push(Fate::IsRejected);
        }
        if self.troubles > 0 {
            fates.extend([Fate::LostBeforeEffect, Fate::IsOngoing]);
            if case.external[branch_op.step] {
                fates.push(Fate::LostAfterEffect);
            }
        }
        fates
    }

    fn end_attempt(&mut self, case: &Case, branch_op: BranchOp, fate: Fate, tally: &mut Tally) {
        self.in_flight.end(branch_op);
        if matches!(fate, Fate::Succeeds | Fate::LostAfterEffect) {
            self.take_effect(branch_op);
        }
        let verdict = match fate {
            Fate::Succeeds => Verdict::Succeeded { output: None },
            Fate::IsRejected => Verdict::Rejected { reason: "no".into() },
            Fate::LostBeforeEffect | Fate::LostAfterEffect => Verdict::Unknown { error: "lost".into() },
            Fate::IsOngoing => Verdict::Ongoing { retry_after: None },
        };
        let settled = fate == Fate::Succeeds || (fate == Fate::IsRejected && branch_op.op == Op::Action);
        self.troubles -= u32::from(!settled);
        let event = self.saga.conclude(branch_op, verdict, self.now, &Policy::default(), 0.5);
        self.commit(case, event, tally);
    }

    /// What must hold when a saga has ended.
    fn check_end(&self, case: &Case, tally: &mut Tally) {
        tally.runs += 1;
        *tally.by_end.entry(self.saga.status().as_str()).or_default() += 1;
        let mut steps = 0..case.external.len();
        match self.saga.status() {
            Status::Succeed => {
                assert!(!self.compensation_started, "a saga that succeeded has compensated");
                assert!(steps.all(|step| self.effect[step]), "an effect is missing\n{:#?}", self.log);
            }
            Status::Failed => {
                for step in steps {
                    assert!(!self.effect[step], "the effect of step {step} has leaked\n{:#?}", self.log);
                }
            }
            other => panic!("ended as {}", other.as_str()),
        }
    }
}

/// Every acyclic order of so many steps.
fn all_orders(steps: usize) -> Vec<Order> {
    let edges: Vec<(usize, usize)> =
        (0..steps).flat_map(|a| (0..steps).filter(move |b| a != *b).map(move |b| (a, b))).collect();
    let mut orders = Vec::new();
    for concurrent in [false, true] {
        for chosen in 0..1_u32 << edges.len() {
            let mut after: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
            for (bit, (step, before)) in edges.iter().enumerate() {
                if chosen & (1 << bit) != 0 {
                    after.entry(*step).or_default().push(*before);
                }
            }
            let order = Order { concurrent, after };
            if define(steps, order.clone(), Options::default()).is_some() {
                orders.push(order);
            }
        }
    }
    orders
}

fn define(steps: usize, order: Order, options: Options) -> Option<Arc<Definition>> {
    let step = Step { action: "a".into(), compensation: "c".into(), payload: "".into() };
    Definition::new(Gid::new("g").unwrap(), vec![step; steps], order, options, Timestamp(0)).ok().map(Arc::new)
}

fn explore(steps: usize, orders: Vec<Order>, options: &Options, troubles: u32, crashes: u32) -> Tally {
    let mut tally = Tally::default();
    for order in orders {
        for mask in 0..1_u32 << steps {
            let external = (0..steps).map(|step| mask & (1 << step) != 0).collect();
            let definition = define(steps, order.clone(), options.clone()).unwrap();
            explore_all(&Case { definition, external, troubles, crashes }, &mut tally);
        }
    }
    tally
}

/// Explores with each kind of option: none, a timer that may fire at any time, a limit of retries.
fn explore_with_options(steps: usize, budgets: &[(u32, u32)]) {
    let options = [
        ("no options", Options::default()),
        ("timeout_to_fail", Options { timeout_to_fail_s: 2, ..Options::default() }),
        ("retry_limit", Options { retry_limit: 1, ..Options::default() }),
    ];
    for (name, options) in options {
        for &budget in budgets {
            explore_with(steps, all_orders(steps), name, &options, budget);
        }
    }
}

fn explore_with(steps: usize, orders: Vec<Order>, name: &str, options: &Options, (troubles, crash_budget): (u32, u32)) {
    let Tally { runs, crashes, by_end } = explore(steps, orders, options, troubles, crash_budget);
    println!(
        "{steps} steps, {name}, {troubles} troubles, {crash_budget} crashes a run: \
         {runs} runs, {crashes} crashes, {by_end:?}"
    );
    assert!(by_end["succeed"] > 0 && by_end["failed"] > 0);
    assert_eq!(crashes > 0, crash_budget > 0);
}

#[test]
fn every_saga_of_one_step() {
    explore_with_options(1, &[(3, 1), (1, 2)]);
}

#[test]
fn every_saga_of_two_steps() {
    explore_with_options(2, &[(2, 0), (1, 1)]);
}

#[test]
fn every_saga_of_three_steps() {
    explore_with_options(3, &[(1, 0), (0, 1)]);
    // Two failures, so that the limit of one retry is passed.
    explore_with(3, all_orders(3), "retry_limit", &Options { retry_limit: 1, ..Options::default() }, (2, 0));
    // A failure and a crash in one run; one order only, as there are hundreds of times more of these.
    explore_with(3, vec![Order::default()], "sequential", &Options::default(), (1, 1));
}

/// The explorer must be able to see a breach: a log that hides an effect ends in a leak.
#[test]
#[should_panic(expected = "has leaked")]
fn the_explorer_notices_a_leaked_effect() {
    let definition = define(1, Order::default(), Options::default()).unwrap();
    let case = Case { definition: definition.clone(), external: vec![true], troubles: 0, crashes: 0 };
    let log =
        vec![Event::Submitted { at: Timestamp(0) }, Event::Aborted { reason: AbortReason::Timeout, at: Timestamp(0) }];
    let world = World {
        saga: Saga::replay(definition, &log).unwrap(),
        durable: log.len(),
        log,
        in_flight: InFlight::default(),
        now: Timestamp(0),
        troubles: 0,
        crashes: 0,
        effect: vec![true],
        compensation_started: false,
        depth: 0,
    };
    world.run(&case, &mut Tally::default());
}
