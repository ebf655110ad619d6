//! The state of a saga: the fold of its events, and nothing else.

use std::sync::Arc;

use crate::{
    definition::{BranchOp, Definition, Gid, Op, Timestamp},
    event::{AbortReason, Event, Failure},
    pins::Pins,
};

/// The status of a saga, in DTM's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// Stored, but not to be run yet.
    Prepared,
    /// Going forward.
    Submitted,
    /// Going back.
    Aborting,
    /// Ended: every action took effect.
    Succeed,
    /// Ended: every effect was taken back, or a person stopped it.
    Failed,
}

impl Status {
    /// DTM's word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Submitted => "submitted",
            Self::Aborting => "aborting",
            Self::Succeed => "succeed",
            Self::Failed => "failed",
        }
    }

    /// Whether the saga has ended.
    pub const fn is_finished(self) -> bool {
        matches!(self, Self::Succeed | Self::Failed)
    }
}

/// How far one operation has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// Not called yet, or called without a result.
    #[default]
    Pending,
    /// Took effect.
    Succeeded {
        /// What it gave.
        output: Option<Box<str>>,
    },
    /// Actions only: refused for good.
    Rejected {
        /// The branch's words.
        reason: Box<str>,
    },
    /// Compensations only: there was nothing to take back.
    Skipped,
}

/// What is known of one operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpState {
    /// How far it has come.
    pub progress: Progress,
    /// Attempts that started externally, or ended.
    pub attempts: u32,
    /// Attempts in a row whose result is unknown; sets the backoff.
    pub failures: u32,
    /// An external attempt has started and its end is not in the log.
    pub open: bool,
    /// Not retried before this time.
    pub retry_at: Option<Timestamp>,
    /// The newest error, for people.
    pub last_error: Option<Box<str>>,
    /// The time of the newest event of the operation.
    pub updated_at: Option<Timestamp>,
}

impl OpState {
    /// Whether it may still be called.
    pub fn is_pending(&self) -> bool {
        self.progress == Progress::Pending
    }

    /// Whether it took effect.
    pub fn has_succeeded(&self) -> bool {
        matches!(self.progress, Progress::Succeeded { .. })
    }

    /// Closes the open external attempt, or counts a contained one, which shows in the log only by its end.
    fn end_attempt(&mut self) {
        if !std::mem::take(&mut self.open) {
            self.attempts = self.attempts.saturating_add(1);
        }
    }
}

/// The two operations of one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepState {
    /// The action.
    pub action: OpState,
    /// The compensation.
    pub compensation: OpState,
    /// An external attempt of the action has started: it may have had an effect, whatever it answered.
    pub reached: bool,
}

impl StepState {
    /// The state of one of the two operations.
    pub fn op(&self, op: Op) -> &OpState {
        match op {
            Op::Action => &self.action,
            Op::Compensate => &self.compensation,
        }
    }

    fn op_mut(&mut self, op: Op) -> &mut OpState {
        match op {
            Op::Action => &mut self.action,
            Op::Compensate => &mut self.compensation,
        }
    }

    /// Whether a roll-back must compensate the step.
    pub fn may_have_effect(&self) -> bool {
        self.reached || self.action.has_succeeded()
    }

    /// Whether one of its operations waits for a retry.
    pub fn waits(&self) -> bool {
        self.action.retry_at.is_some() || self.compensation.retry_at.is_some()
    }

    /// Whether nothing of the step is left to compensate: never attempted, compensated, or found without effect.
    pub fn is_rolled_back(&self) -> bool {
        !self.compensation.is_pending() || (self.action.attempts == 0 && !self.may_have_effect())
    }
}

/// Why a saga is being rolled back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// This step's action was rejected; the branch's words are in its state.
    Rejected { step: usize },
    /// A limit of the saga ran out.
    Aborted(AbortReason),
    /// A person stopped it.
    ForceStopped,
}

/// A saga: its definition and its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saga {
    definition: Arc<Definition>,
    status: Status,
    steps: Box<[StepState]>,
    pins: Pins,
    retries: u64,
    reason: Option<Reason>,
    began: Timestamp,
    updated_at: Timestamp,
}

/// An event that cannot follow what is in the log: the log is damaged, or the host has a bug. Concerns this saga alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("saga {gid}, {}: {event:?} cannot happen: {why}", was.as_str())]
pub struct IllegalEvent {
    pub gid: Gid,
    /// The event that does not fit.
    pub event: Box<Event>,
    /// The status it met.
    pub was: Status,
    /// The rule that it breaks.
    pub why: &'static str,
}

impl Saga {
    /// A saga that is not submitted yet.
    pub fn new(definition: Arc<Definition>) -> Self {
        let steps = vec![StepState::default(); definition.steps().len()].into_boxed_slice();
        let (began, updated_at) = (definition.created_at(), definition.created_at());
        let (status, pins) = (Status::Prepared, Pins::default());
        Self { definition, status, steps, pins, retries: 0, reason: None, began, updated_at }
    }

    /// The saga that this log gives. An error: the events do not follow the rules.
    pub fn replay<'a>(
        definition: Arc<Definition>,
        log: impl IntoIterator<Item = &'a Event>,
    ) -> Result<Self, IllegalEvent> {
        let mut saga = Self::new(definition);
        log.into_iter().try_for_each(|event| saga.apply(event))?;
        Ok(saga)
    }

    /// What the client submitted.
    pub fn definition(&self) -> &Arc<Definition> {
        &self.definition
    }

    /// Its status.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Its steps, in the order of submission.
    pub fn steps(&self) -> &[StepState] {
        &self.steps
    }

    /// The state of one operation; `None` without such a step.
    pub fn op(&self, branch_op: BranchOp) -> Option<&OpState> {
        self.steps.get(branch_op.step).map(|step| step.op(branch_op.op))
    }

    /// The components that carry it out.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Failed attempts of actions so far, over all steps: what `retry_limit` limits.
    pub fn retries(&self) -> u64 {
        self.retries
    }

    /// Why it is being, or was, rolled back.
    pub fn reason(&self) -> Option<&Reason> {
        self.reason.as_ref()
    }

    /// The earliest time in its log: its creation, unless the clock has gone back since. `timeout_to_fail` counts from it.
    pub fn began(&self) -> Timestamp {
        self.began
    }

    /// The time of its newest event.
    pub fn updated_at(&self) -> Timestamp {
        self.updated_at
    }

    /// Outputs of the actions that have succeeded, by index of the step; empty for those that gave none.
    pub fn outputs(&self) -> impl Iterator<Item = (usize, &str)> {
        self.steps.iter().enumerate().filter_map(|(step, state)| match &state.action.progress {
            Progress::Succeeded { output } => Some((step, output.as_deref().unwrap_or_default())),
            _ => None,
        })
    }

    /// Applies one event. State changes in no other way, live and in recovery alike.
    ///
    /// An event that the rules do not allow is an error and leaves the saga as it was.
    pub fn apply(&mut self, event: &Event) -> Result<(), IllegalEvent> {
        if let Err(why) = self.check(event) {
            let gid = self.definition.gid().clone();
            return Err(IllegalEvent { gid, event: Box::new(event.clone()), was: self.status, why });
        }
        self.take(event);
        self.finish_if_done();
        self.began = self.began.min(event.at());
        self.updated_at = event.at();
        Ok(())
    }

    /// The rules: which event may follow which state.
    fn check(&self, event: &Event) -> Result<(), &'static str> {
        let status = self.status;
        match event {
            _ if status.is_finished() => Err("the saga has ended"),
            Event::Submitted { .. } if status != Status::Prepared => Err("it has been submitted already"),
            Event::Aborted { .. } if status != Status::Submitted => Err("only a saga going forward can turn back"),
            Event::Pinned { .. } if !self.pins.is_empty() => Err("its components have been decided already"),
            Event::Submitted { .. }
            | Event::Aborted { .. }
            | Event::ForceStopped { .. }
            | Event::RetryRequested { .. }
            | Event::Pinned { .. } => Ok(()),
            Event::Skipped { step, .. } => match self.steps.get(*step) {
                None => Err("there is no such step"),
                Some(_) if status != Status::Aborting => Err("compensations belong to a roll-back"),
                Some(state) if !state.compensation.is_pending() => Err("the compensation has a result"),
                Some(state) if state.may_have_effect() => Err("the action may have had an effect"),
                Some(_) => Ok(()),
            },
            Event::Started { step, op, .. }
            | Event::Succeeded { step, op, .. }
            | Event::Failed { step, op, .. }
            | Event::Retried { step, op, .. } => {
                let starts = matches!(event, Event::Started { .. } | Event::Retried { .. });
                self.check_call(BranchOp { step: *step, op: *op }, starts)
            }
            Event::Rejected { step, .. } => self.check_call(BranchOp { step: *step, op: Op::Action }, false),
        }
    }

    /// Whether the operation may be called now (`starts`), or may have a result now.
    fn check_call(&self, branch_op: BranchOp, starts: bool) -> Result<(), &'static str> {
        let Some(state) = self.steps.get(branch_op.step) else { return Err("there is no such step") };
        if !state.op(branch_op.op).is_pending() {
            return Err("the operation has a result");
        }
        match (branch_op.op, self.status) {
            (Op::Action, Status::Submitted) => {
                let ready = self.definition.predecessors(branch_op.step).all(|before| self.has_succeeded(before));
                if ready { Ok(()) } else { Err("an action it waits for has not succeeded") }
            }
            (Op::Action, Status::Aborting) if starts => Err("no action starts in a roll-back"),
            (Op::Action, Status::Aborting) if !state.action.open => Err("no attempt of the action was open"),
            (Op::Action, Status::Aborting) if state.compensation.attempts > 0 => Err("its compensation has started"),
            (Op::Action, Status::Aborting) => Ok(()),
            (Op::Compensate, Status::Aborting) if state.may_have_effect() => Ok(()),
            (Op::Compensate, Status::Aborting) => Err("there is nothing to compensate"),
            (Op::Compensate, _) => Err("compensations belong to a roll-back"),
            (Op::Action, _) => Err("the saga has not been submitted"),
        }
    }

    /// Whether an attempt of this operation may start.
    pub(crate) fn may_start(&self, branch_op: BranchOp) -> bool {
        self.check_call(branch_op, true).is_ok()
    }

    /// Whether this step's action has taken effect.
    pub(crate) fn has_succeeded(&self, step: usize) -> bool {
        self.steps.get(step).is_some_and(|state| state.action.has_succeeded())
    }

    /// Applies an event that has been checked.
    fn take(&mut self, event: &Event) {
        if let Some(branch_op) = event.branch_op()
            && let Some(state) = self.steps.get_mut(branch_op.step)
        {
            Self::take_in_step(state, branch_op.op, event);
        }
        match event {
            Event::Submitted { .. } => self.status = Status::Submitted,
            Event::Rejected { step, .. } if self.status == Status::Submitted => {
                self.status = Status::Aborting;
                self.reason = Some(Reason::Rejected { step: *step });
            }
            Event::Aborted { reason, .. } => {
                self.status = Status::Aborting;
                self.reason = Some(Reason::Aborted(*reason));
            }
            Event::ForceStopped { .. } => {
                self.status = Status::Failed;
                self.reason = self.reason.take().or(Some(Reason::ForceStopped));
            }
            Event::Failed { op: Op::Action, .. } if self.status == Status::Submitted => {
                self.retries = self.retries.saturating_add(1);
            }
            Event::Pinned { pins, .. } => self.pins = pins.clone(),
            Event::Retried { retries, .. } => self.retries = self.retries.saturating_add(*retries),
            Event::RetryRequested { .. } => {
                for step in &mut self.steps {
                    step.action.retry_at = None;
                    step.compensation.retry_at = None;
                }
            }
            _ => {}
        }
    }

    fn take_in_step(state: &mut StepState, op: Op, event: &Event) {
        let op_state = state.op_mut(op);
        op_state.updated_at = Some(event.at());
        match event {
            Event::Started { .. } => {
                op_state.attempts = op_state.attempts.saturating_add(1);
                op_state.open = true;
                state.reached |= op == Op::Action;
            }
            Event::Succeeded { output, .. } => {
                op_state.end_attempt();
                op_state.progress = Progress::Succeeded { output: output.as_deref().map(Box::from) };
                op_state.last_error = None;
            }
            Event::Rejected { reason, .. } => {
                op_state.end_attempt();
                op_state.progress = Progress::Rejected { reason: reason.as_str().into() };
            }
            Event::Failed { failure, retry_at, .. } => {
                op_state.end_attempt();
                op_state.retry_at = Some(*retry_at);
                if let Failure::Unknown { error } = failure {
                    op_state.failures = op_state.failures.saturating_add(1);
                    op_state.last_error = Some(error.as_str().into());
                }
            }
            Event::Skipped { .. } => op_state.progress = Progress::Skipped,
            Event::Retried { attempts, failures, reached, retry_at, last_error, .. } => {
                op_state.attempts = op_state.attempts.saturating_add(*attempts);
                op_state.failures = op_state.failures.saturating_add(*failures);
                op_state.retry_at = *retry_at;
                op_state.last_error = last_error.as_deref().map(Box::from);
                state.reached |= reached;
            }
            Event::Submitted { .. }
            | Event::Aborted { .. }
            | Event::ForceStopped { .. }
            | Event::RetryRequested { .. }
            | Event::Pinned { .. } => {}
        }
    }

    /// Sets the two final statuses, which follow from the steps and have no events of their own.
    fn finish_if_done(&mut self) {
        match self.status {
            Status::Submitted if self.steps.iter().all(|step| step.action.has_succeeded()) => {
                self.status = Status::Succeed;
            }
            Status::Aborting if self.steps.iter().all(StepState::is_rolled_back) => self.status = Status::Failed,
            _ => {}
        }
    }
}
