//! The dry run of a saga: the machine decides as it does live, contained branches really run, and nothing is committed or
//! sent.
//!
//! Time stands still and one operation runs at a time. Of all the orders in which a concurrent saga may run, this is the
//! one in which the first step that can start always starts.

use std::{
    collections::BTreeSet,
    future::ready,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
};

use futures_util::{FutureExt, future::BoxFuture};

use super::{
    error::PlanError,
    report::{Budget, Changes, Ending, Plan, Trace, TracedOp, WhatIf, cut},
    snapshot::{self, Snapshot, SnapshotFork},
};
use crate::{
    branch::{Branch, Containment, Egress, EgressDenied, EgressRequest, Host, Outcome, Place},
    engine::{driver, error::Error, inner::Inner},
    saga::{BranchId, BranchOp, Definition, Event, InFlight, Next, Op, Pins, Saga, Timestamp, Verdict, state::OpState},
    store::{self, Batch, CommitError, Read, sync::lock},
};

/// How often an attempt is made whose effects do not fit what it was given to read. A branch that reads only there
/// needs no second one.
const TRIES: usize = 3;

/// Most requests of one attempt that are listed.
const REQUESTS_MAX: usize = 20;

/// The rejection reason of failures that the plan assumes.
const ASSUMED_FAILURE: &str = "assumed failure";

/// The dry run of one saga on one snapshot.
pub(super) struct DryRun<'a> {
    engine: &'a Inner,
    pins: &'a Pins,
    snapshot: Arc<Snapshot>,
    budget: Budget,
}

/// The state of one trace.
#[derive(Clone)]
struct State {
    saga: Saga,
    data: Arc<SnapshotFork>,
    ops: Vec<TracedOp>,
    not_needed: Vec<BranchId>,
    /// Operations that have succeeded by assumption only.
    assumed: BTreeSet<BranchOp>,
}

impl<'a> DryRun<'a> {
    /// A dry run on the pinned components and the data of the snapshot.
    pub fn new(engine: &'a Inner, pins: &'a Pins, snapshot: Arc<Snapshot>) -> Self {
        Self { engine, pins, snapshot, budget: Budget::new() }
    }

    /// What the saga would do, and what if a step failed.
    pub async fn plan(mut self, definition: Arc<Definition>) -> Result<Plan, PlanError> {
        let mut state = State::begin(definition.clone(), SnapshotFork::new(self.snapshot.clone()))?;
        let mut failures = Vec::new();
        while let Some(branch_op) = state.next()? {
            let before = state.fork();
            self.perform(&mut state, branch_op).await?;
            if branch_op.op == Op::Action && state.has_succeeded(branch_op) {
                let reached = state.saga.steps().get(branch_op.step).is_some_and(|step| step.reached);
                failures.push(self.what_if(before, branch_op.step, reached).await?);
            }
        }
        Ok(Plan { saga: definition, trace: self.end(state)?, failures })
    }

    /// What would happen if the action of `step` were rejected now. `reached`: after its attempt had egress.
    async fn what_if(&mut self, mut state: State, step: usize, reached: bool) -> Result<WhatIf, PlanError> {
        let before = state.saga.outputs().map(|(step, _)| BranchId(step)).collect();
        let at = state.now();
        if reached {
            state.apply(&Event::Started { step, op: Op::Action, at })?;
        }
        state.apply(&Event::Rejected { step, reason: ASSUMED_FAILURE.to_owned(), at })?;
        while let Some(branch_op) = state.next()? {
            self.perform(&mut state, branch_op).await?;
        }
        Ok(WhatIf { branch: BranchId(step), before, trace: self.end(state)? })
    }

    fn end(&mut self, state: State) -> Result<Trace, PlanError> {
        let changes = Changes::between(
            &state.data.origin(),
            &*state.data,
            state.data.written(),
            &mut self.budget,
            &*self.engine.directory,
        );
        let changes = changes.map_err(|error| self.stopped_by(error))?;
        let unknown: BTreeSet<_> = state.assumed.iter().map(|branch_op| BranchId(branch_op.step)).collect();
        let State { saga, ops, not_needed, .. } = state;
        Ok(Trace { status: saga.status(), ops, not_needed, unknown: unknown.into_iter().collect(), changes })
    }

    /// Finds out the result of an operation, and applies it.
    async fn perform(&mut self, state: &mut State, branch_op: BranchOp) -> Result<(), PlanError> {
        let component = self.pins.get(branch_op).cloned();
        let mut op =
            TracedOp { branch_op, component, ending: NOT_UNDONE, requests: Vec::new(), changes: Changes::default() };
        let mut requests = Vec::new();
        let mut is_external = false;
        match self.engine.directory.find(state.saga.definition(), branch_op, op.component.as_ref()) {
            Err(not_found) => op.ending = unknown(not_found.0),
            Ok(branch) if branch.containment() == Containment::External => {
                op.ending = NOT_SENT;
                is_external = true;
                requests.extend(
                    branch
                        .egress_request(&self.engine.call_of(&state.saga, branch_op))
                        .map(|egress_request| cut(egress_request.what)),
                );
            }
            // The effect of an action that is only assumed to succeed is not there to be compensated.
            Ok(_) if state.assumed.contains(&BranchOp { op: Op::Action, ..branch_op }) => {}
            Ok(branch) => requests = self.run(&*branch, state, &mut op).await?,
        }
        let has_left = is_external || !requests.is_empty();
        op.requests = requests.into_iter().filter(|what| self.budget.take(what.len())).collect();
        state.take(op, has_left, self.engine)
    }

    /// Makes the attempt of a contained branch, or of a gated one up to its first request. Returns its requests.
    async fn run(
        &mut self,
        branch: &dyn Branch,
        state: &mut State,
        op: &mut TracedOp,
    ) -> Result<Vec<String>, PlanError> {
        let place = match branch.destination() {
            Some(destination) => Some(Place::new(self.engine.destinations.enter(destination).await)),
            None => None,
        };
        for _ in 0..TRIES {
            let denied = Arc::new(DenyEgress::default());
            let egress = (branch.containment() == Containment::Gated).then(|| denied.clone() as Arc<dyn Egress>);
            let call = self.engine.call_of(&state.saga, op.branch_op);
            let host =
                Host { state: state.data.clone() as Arc<dyn Read>, egress, is_dry_run: true, place: place.clone() };
            let outcome = AssertUnwindSafe(branch.call(&call, &host)).catch_unwind().await;
            drop(host);
            if let Some(error) = self.snapshot.error() {
                return Err(self.stopped(error));
            }
            let requests = denied.requests();
            if let Some(on) = requests.first() {
                op.ending = Ending::Depends { on: on.clone() };
                return Ok(requests);
            }
            let ending = match outcome {
                Ok(Outcome::Ended { verdict: Verdict::Succeeded { output }, effects }) => {
                    self.keep(state, op, output, &effects)?
                }
                Ok(Outcome::Ended { verdict, .. }) => Some(Ending::of(verdict)),
                Ok(Outcome::Stale) => None,
                Err(_) => Some(unknown("the branch panicked: its message is in the log")),
            };
            if let Some(ending) = ending {
                op.ending = ending;
                return Ok(Vec::new());
            }
        }
        op.ending = unknown("its effects do not fit the data that it was given");
        Ok(Vec::new())
    }

    /// Keeps an attempt's effects for the attempts after it. `None` if the attempt is stale.
    fn keep(
        &mut self,
        state: &mut State,
        op: &mut TracedOp,
        output: Option<String>,
        effects: &Batch,
    ) -> Result<Option<Ending>, PlanError> {
        if !driver::has_room(&state.saga, output.as_deref()) {
            return Ok(Some(unknown(driver::too_much_output())));
        }
        let before = state.data.clone();
        match Arc::make_mut(&mut state.data).commit(effects) {
            Ok(()) => {}
            Err(CommitError::Conflict { .. }) => return Ok(None),
            Err(CommitError::Store(error)) => return Err(self.stopped_by(error)),
            Err(too_large @ CommitError::TooLarge { .. }) => {
                return Ok(Some(unknown(driver::uncommittable(&too_large))));
            }
        }
        let written: BTreeSet<_> = effects.writes().map(|(key, _)| key).collect();
        let changes =
            Changes::between(&*before, &*state.data, written.into_iter(), &mut self.budget, &*self.engine.directory);
        op.changes = changes.map_err(|error| self.stopped_by(error))?;
        Ok(Some(Ending::Verdict(Verdict::Succeeded { output })))
    }

    /// The plan's error for an error of the store, which may be the plan's own limit.
    fn stopped_by(&self, error: store::Error) -> PlanError {
        self.stopped(self.snapshot.error().unwrap_or(snapshot::Error::Store(error)))
    }

    fn stopped(&self, error: snapshot::Error) -> PlanError {
        match error {
            snapshot::Error::Full => PlanError::TooMuchData { max: self.engine.settings.plan.data_bytes_max },
            snapshot::Error::Store(error) => Error::from(error).into(),
        }
    }
}

impl State {
    fn begin(definition: Arc<Definition>, data: SnapshotFork) -> Result<Self, PlanError> {
        let (ops, not_needed, assumed) = (Vec::new(), Vec::new(), BTreeSet::new());
        let mut state = Self { saga: Saga::new(definition), data: Arc::new(data), ops, not_needed, assumed };
        state.apply(&Event::Submitted { at: state.now() })?;
        Ok(state)
    }

    /// A second trace that starts from this state.
    fn fork(&self) -> Self {
        let Self { saga, data, assumed, .. } = self;
        let (saga, data, assumed) = (saga.clone(), data.clone(), assumed.clone());
        Self { saga, data, ops: Vec::new(), not_needed: Vec::new(), assumed }
    }

    /// The time, which stands still.
    fn now(&self) -> Timestamp {
        self.saga.definition().created_at()
    }

    fn has_succeeded(&self, branch_op: BranchOp) -> bool {
        self.saga.op(branch_op).is_some_and(OpState::has_succeeded)
    }

    fn apply(&mut self, event: &Event) -> Result<(), PlanError> {
        Ok(self.saga.apply(event).map_err(Error::from)?)
    }

    /// Takes the machine's decisions up to the next operation that has an address.
    fn next(&mut self) -> Result<Option<BranchOp>, PlanError> {
        loop {
            let event = match self.saga.next(&InFlight::<()>::default(), self.now()) {
                Next::Decide(event) => event,
                Next::Call(branch_op) => return Ok(Some(branch_op)),
                // Nothing runs and nothing is retried, so the machine never waits for anything.
                Next::Finished | Next::Wait(_) | Next::Drop(_) => return Ok(None),
            };
            match event {
                Event::Skipped { step, .. } => self.not_needed.push(BranchId(step)),
                Event::Succeeded { step, op, .. } => self.ops.push(TracedOp {
                    branch_op: BranchOp { step, op },
                    component: None,
                    ending: Ending::Verdict(Verdict::Succeeded { output: None }),
                    requests: Vec::new(),
                    changes: Changes::default(),
                }),
                _ => {}
            }
            self.apply(&event)?;
        }
    }

    /// Applies the result of an operation. `has_left`: the operation would have acted outside the host.
    fn take(&mut self, op: TracedOp, has_left: bool, engine: &Inner) -> Result<(), PlanError> {
        let (branch_op, at) = (op.branch_op, self.now());
        if has_left {
            self.apply(&Event::Started { step: branch_op.step, op: branch_op.op, at })?;
        }
        let verdict = match &op.ending {
            Ending::Verdict(verdict) if !op.is_assumed() => verdict.clone(),
            _ => {
                self.assumed.insert(branch_op);
                Verdict::Succeeded { output: None }
            }
        };
        let event = self.saga.conclude(branch_op, verdict, at, &engine.settings.policy, 0.0);
        self.ops.push(op);
        self.apply(&event)
    }
}

/// The egress of a dry run: denies all requests, and lists them.
#[derive(Default)]
struct DenyEgress(Mutex<Vec<String>>);

impl DenyEgress {
    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.0))
    }
}

impl Egress for DenyEgress {
    fn request(&self, egress_request: EgressRequest) -> BoxFuture<'_, Result<(), EgressDenied>> {
        let mut requests = lock(&self.0);
        if requests.len() < REQUESTS_MAX {
            requests.push(cut(egress_request.what));
        }
        ready(Err(EgressDenied("this is a dry run: nothing is sent".to_owned()))).boxed()
    }
}

const NOT_SENT: Ending = Ending::NotCalled { why: "nothing is sent in a plan" };

const NOT_UNDONE: Ending =
    Ending::NotCalled { why: "its action is only assumed to succeed, so there is nothing to try it on" };

fn unknown(error: impl Into<String>) -> Ending {
    Ending::of(Verdict::Unknown { error: error.into() })
}
