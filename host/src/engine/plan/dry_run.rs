//! Lets a saga happen on paper: the machine decides as it does live, contained branches really run, and nothing of it
//! is kept or sent.
//!
//! Time stands still and one operation runs at a time, so of all the ways in which a concurrent saga may go, this is
//! the one in which the first step that may start always does.

use std::{
    collections::BTreeSet,
    future::ready,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
};

use futures_util::{FutureExt, future::BoxFuture};

use super::{
    super::{Inner, driver, error::Error},
    PlanError,
    report::{Act, Changes, Ending, Plan, Room, Trace, WhatIf, cut},
    state::{Snapshot, State, Trouble},
};
use crate::store::sync::lock;
use crate::{
    branch::{Branch, Containment, Egress, EgressDenied, EgressRequest, Host, Outcome},
    saga::{BranchId, BranchOp, Definition, Event, InFlight, Next, Op, Pins, Saga, Timestamp, Verdict, state::OpState},
    store::{self, Batch, CommitError, Read},
};

/// How often an attempt is made whose effects do not fit what it was given to read. A branch that reads only there
/// needs no second one.
const TRIES: usize = 3;

/// Most requests of one attempt that are listed.
const REQUESTS_MAX: usize = 20;

/// The reason of the failures that are only imagined.
const ASSUMED_FAILURE: &str = "assumed failure";

/// A saga that is tried out on a snapshot.
pub(super) struct Rehearsal<'a> {
    engine: &'a Inner,
    pins: &'a Pins,
    snapshot: Arc<Snapshot>,
    room: Room,
}

/// How far one course of events has come.
#[derive(Clone)]
struct Path {
    saga: Saga,
    data: Arc<State>,
    acts: Vec<Act>,
    not_needed: Vec<BranchId>,
    /// Operations that have succeeded by assumption only.
    assumed: BTreeSet<BranchOp>,
}

impl<'a> Rehearsal<'a> {
    pub fn new(engine: &'a Inner, pins: &'a Pins, snapshot: Arc<Snapshot>) -> Self {
        Self { engine, pins, snapshot, room: Room::new() }
    }

    /// What the saga would do, and what if a step failed.
    pub async fn plan(mut self, definition: Arc<Definition>) -> Result<Plan, PlanError> {
        let mut path = Path::begin(definition.clone(), State::new(self.snapshot.clone()))?;
        let mut failures = Vec::new();
        while let Some(branch_op) = path.next()? {
            let before = path.fork();
            self.perform(&mut path, branch_op).await?;
            if branch_op.op == Op::Action && path.has_succeeded(branch_op) {
                let reached = path.saga.steps().get(branch_op.step).is_some_and(|step| step.reached);
                failures.push(self.what_if(before, branch_op.step, reached).await?);
            }
        }
        Ok(Plan { saga: definition, trace: self.end(path)?, failures })
    }

    /// What would happen if the action of `step` were rejected now. `reached`: after it has been out in the world.
    async fn what_if(&mut self, mut path: Path, step: usize, reached: bool) -> Result<WhatIf, PlanError> {
        let before = path.saga.outputs().map(|(step, _)| BranchId(step)).collect();
        let at = path.now();
        if reached {
            path.apply(&Event::Started { step, op: Op::Action, at })?;
        }
        path.apply(&Event::Rejected { step, reason: ASSUMED_FAILURE.to_owned(), at })?;
        while let Some(branch_op) = path.next()? {
            self.perform(&mut path, branch_op).await?;
        }
        Ok(WhatIf { branch: BranchId(step), before, trace: self.end(path)? })
    }

    fn end(&mut self, path: Path) -> Result<Trace, PlanError> {
        let changes = Changes::between(
            &path.data.origin(),
            &*path.data,
            path.data.written(),
            &mut self.room,
            &*self.engine.directory,
        );
        let changes = changes.map_err(|error| self.stopped_by(error))?;
        let unknown: BTreeSet<_> = path.assumed.iter().map(|branch_op| BranchId(branch_op.step)).collect();
        let Path { saga, acts, not_needed, .. } = path;
        Ok(Trace { status: saga.status(), acts, not_needed, unknown: unknown.into_iter().collect(), changes })
    }

    /// Finds out what would come of an operation, and lets the saga go on from there.
    async fn perform(&mut self, path: &mut Path, branch_op: BranchOp) -> Result<(), PlanError> {
        let component = self.pins.get(branch_op).cloned();
        let mut act =
            Act { branch_op, component, ending: NOT_UNDONE, requests: Vec::new(), changes: Changes::default() };
        let mut departures = Vec::new();
        let mut is_external = false;
        match self.engine.directory.find(path.saga.definition(), branch_op, act.component.as_ref()) {
            Err(not_found) => act.ending = unknown(not_found.0),
            Ok(branch) if branch.containment() == Containment::External => {
                act.ending = NOT_SENT;
                is_external = true;
                departures.extend(
                    branch
                        .egress_request(&driver::call(self.engine, &path.saga, branch_op))
                        .map(|egress_request| cut(egress_request.what)),
                );
            }
            // What an action has changed that was only assumed to succeed is not there to be taken back.
            Ok(_) if path.assumed.contains(&BranchOp { op: Op::Action, ..branch_op }) => {}
            Ok(branch) => departures = self.run(&*branch, path, &mut act).await?,
        }
        let has_left = is_external || !departures.is_empty();
        act.requests = departures.into_iter().filter(|what| self.room.take(what.len())).collect();
        path.take(act, has_left, self.engine)
    }

    /// Makes a contained attempt, and one that is gated up to the door. Gives what it wanted to let out.
    async fn run(&mut self, branch: &dyn Branch, path: &mut Path, act: &mut Act) -> Result<Vec<String>, PlanError> {
        for _ in 0..TRIES {
            let door = Arc::new(DenyEgress::default());
            let egress = (branch.containment() == Containment::Gated).then(|| door.clone() as Arc<dyn Egress>);
            let call = driver::call(self.engine, &path.saga, act.branch_op);
            let host = Host { state: path.data.clone() as Arc<dyn Read>, egress, is_dry_run: true };
            let outcome = AssertUnwindSafe(branch.call(&call, &host)).catch_unwind().await;
            drop(host);
            if let Some(trouble) = self.snapshot.trouble() {
                return Err(self.engine.stopped_by(trouble));
            }
            let departures = door.departures();
            if let Some(on) = departures.first() {
                act.ending = Ending::Depends { on: on.clone() };
                return Ok(departures);
            }
            let ending = match outcome {
                Ok(Outcome::Ended { verdict: Verdict::Succeeded { output }, effects }) => {
                    self.keep(path, act, output, &effects)?
                }
                Ok(Outcome::Ended { verdict, .. }) => Some(Ending::of(verdict)),
                Ok(Outcome::Stale) => None,
                Err(_) => Some(unknown("the branch panicked: its message is in the log")),
            };
            if let Some(ending) = ending {
                act.ending = ending;
                return Ok(Vec::new());
            }
        }
        act.ending = unknown("its effects do not fit the data that it was given");
        Ok(Vec::new())
    }

    /// Keeps what an attempt has changed for those that follow. `None` if it has read what is not so.
    fn keep(
        &mut self,
        path: &mut Path,
        act: &mut Act,
        output: Option<String>,
        effects: &Batch,
    ) -> Result<Option<Ending>, PlanError> {
        if !driver::has_room(&path.saga, output.as_deref()) {
            return Ok(Some(unknown(driver::too_much_output())));
        }
        let before = path.data.clone();
        match Arc::make_mut(&mut path.data).commit(effects) {
            Ok(()) => {}
            Err(CommitError::Conflict { .. }) => return Ok(None),
            Err(CommitError::Store(error)) => return Err(self.stopped_by(error)),
            Err(too_large @ CommitError::TooLarge { .. }) => {
                return Ok(Some(unknown(driver::uncommittable(&too_large))));
            }
        }
        let written: BTreeSet<_> = effects.writes().map(|(key, _)| key).collect();
        let changes =
            Changes::between(&*before, &*path.data, written.into_iter(), &mut self.room, &*self.engine.directory);
        act.changes = changes.map_err(|error| self.stopped_by(error))?;
        Ok(Some(Ending::Verdict(Verdict::Succeeded { output })))
    }

    /// What an error of the data means for the plan: it may be the plan's own limit.
    fn stopped_by(&self, error: store::Error) -> PlanError {
        self.engine.stopped_by(self.snapshot.trouble().unwrap_or(Trouble::Store(error)))
    }
}

impl Path {
    fn begin(definition: Arc<Definition>, data: State) -> Result<Self, PlanError> {
        let (acts, not_needed, assumed) = (Vec::new(), Vec::new(), BTreeSet::new());
        let mut path = Self { saga: Saga::new(definition), data: Arc::new(data), acts, not_needed, assumed };
        path.apply(&Event::Submitted { at: path.now() })?;
        Ok(path)
    }

    /// Another course of events from here on, which tells only what happens from here on.
    fn fork(&self) -> Self {
        let Self { saga, data, assumed, .. } = self;
        let (saga, data, assumed) = (saga.clone(), data.clone(), assumed.clone());
        Self { saga, data, acts: Vec::new(), not_needed: Vec::new(), assumed }
    }

    /// No time passes in a plan.
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
            let event = match self.saga.next(&InFlight::default(), self.now()) {
                Next::Decide(event) => event,
                Next::Call(branch_op) => return Ok(Some(branch_op)),
                // Nothing runs and nothing is tried again, so nothing can be waited for.
                Next::Finished | Next::Wait(_) | Next::Drop(_) => return Ok(None),
            };
            match event {
                Event::Skipped { step, .. } => self.not_needed.push(BranchId(step)),
                Event::Succeeded { step, op, .. } => self.acts.push(Act {
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

    /// Lets the saga go on after an operation. `has_left`: the operation would have been out in the world.
    fn take(&mut self, act: Act, has_left: bool, engine: &Inner) -> Result<(), PlanError> {
        let (branch_op, at) = (act.branch_op, self.now());
        if has_left {
            self.apply(&Event::Started { step: branch_op.step, op: branch_op.op, at })?;
        }
        let verdict = match &act.ending {
            Ending::Verdict(verdict) if !act.is_assumed() => verdict.clone(),
            _ => {
                self.assumed.insert(branch_op);
                Verdict::Succeeded { output: None }
            }
        };
        let event = self.saga.conclude(branch_op, verdict, at, &engine.settings.policy, 0.0);
        self.acts.push(act);
        self.apply(&event)
    }
}

/// The way out of a dry_run: it stays shut, and what wanted to leave is noted.
#[derive(Default)]
struct DenyEgress(Mutex<Vec<String>>);

impl DenyEgress {
    fn departures(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.0))
    }
}

impl Egress for DenyEgress {
    fn request(&self, egress_request: EgressRequest) -> BoxFuture<'_, Result<(), EgressDenied>> {
        let mut departures = lock(&self.0);
        if departures.len() < REQUESTS_MAX {
            departures.push(cut(egress_request.what));
        }
        ready(Err(EgressDenied("this is a dry_run: nothing is sent".to_owned()))).boxed()
    }
}

const NOT_SENT: Ending = Ending::NotCalled { why: "nothing is sent in a plan" };

const NOT_UNDONE: Ending =
    Ending::NotCalled { why: "its action is only assumed to succeed, so there is nothing to try it on" };

fn unknown(error: impl Into<String>) -> Ending {
    Ending::of(Verdict::Unknown { error: error.into() })
}
