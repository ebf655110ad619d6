//! What has happened to a saga. A saga's log is its definition and then these, in order.
//!
//! Events are facts: everything random or read from a clock (the moment, the jittered time of a retry) is in them, so
//! that folding them again gives the same state. They are stored; see `engine::record` before changing them.

use super::{BranchOp, Op, Pins, Timestamp};

/// One entry of a saga's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The client asked for it to run. Without this entry a saga is only prepared.
    Submitted {
        /// When.
        at: Timestamp,
    },
    /// An attempt is about to act outside the host: from here on it may have had an effect. On disk before it does.
    ///
    /// Attempts that stay in the host have no such entry: until their outcome is committed they have done nothing.
    Started {
        /// Of which step.
        step: usize,
        /// Which operation.
        op: Op,
        /// When.
        at: Timestamp,
    },
    /// The operation took effect.
    Succeeded {
        /// Of which step.
        step: usize,
        /// Which operation.
        op: Op,
        /// What the action gave.
        output: Option<String>,
        /// When.
        at: Timestamp,
    },
    /// The action definitely did not take effect and never will. Turns the saga to aborting.
    Rejected {
        /// Of which step.
        step: usize,
        /// The branch's words.
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// The attempt ended without a result.
    Failed {
        /// Of which step.
        step: usize,
        /// Which operation.
        op: Op,
        /// How.
        failure: Failure,
        /// Not tried again before this moment.
        retry_at: Timestamp,
        /// When.
        at: Timestamp,
    },
    /// The compensation is not needed: no attempt of the action can have had an effect.
    Skipped {
        /// Of which step.
        step: usize,
        /// When.
        at: Timestamp,
    },
    /// The saga gives up going forward.
    Aborted {
        /// Why.
        reason: AbortReason,
        /// When.
        at: Timestamp,
    },
    /// A person ended it as it was, without compensation.
    ForceStopped {
        /// When.
        at: Timestamp,
    },
    /// A person asked for the waiting operations to be tried now.
    RetryRequested {
        /// When.
        at: Timestamp,
    },
    /// Attempts without a result, which a long log no longer tells one by one: where they have led. See
    /// [`super::compaction`].
    Retried {
        /// Of which step.
        step: usize,
        /// Which operation.
        op: Op,
        /// How many there were.
        attempts: u32,
        /// Of how many nobody knows the result.
        failures: u32,
        /// How many of them `retry_limit` counts.
        retries: u64,
        /// Whether one of them was an external one of the action.
        reached: bool,
        /// Not tried again before this moment.
        retry_at: Option<Timestamp>,
        /// The newest error.
        last_error: Option<String>,
        /// When the last of them began or ended.
        at: Timestamp,
    },
    /// Which components carry it out, decided once, before anything of it runs. Sagas that use none have no such entry.
    Pinned {
        /// By operation.
        pins: Pins,
        /// When.
        at: Timestamp,
    },
}

/// How an attempt ended that has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The branch asked to be asked again.
    Ongoing,
    /// Nobody knows whether it took effect.
    Unknown {
        /// For people.
        error: String,
    },
}

/// Why a saga was rolled back though no branch rejected it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortReason {
    /// `timeout_to_fail` ran out.
    Timeout,
    /// More failed attempts than `retry_limit`.
    RetryLimit,
}

impl Event {
    /// When it happened.
    pub fn at(&self) -> Timestamp {
        match self {
            Self::Submitted { at }
            | Self::Started { at, .. }
            | Self::Succeeded { at, .. }
            | Self::Rejected { at, .. }
            | Self::Failed { at, .. }
            | Self::Skipped { at, .. }
            | Self::Aborted { at, .. }
            | Self::ForceStopped { at }
            | Self::RetryRequested { at }
            | Self::Retried { at, .. }
            | Self::Pinned { at, .. } => *at,
        }
    }

    /// The operation it is about, if it is about one.
    pub fn branch_op(&self) -> Option<BranchOp> {
        match *self {
            Self::Started { step, op, .. }
            | Self::Succeeded { step, op, .. }
            | Self::Failed { step, op, .. }
            | Self::Retried { step, op, .. } => Some(BranchOp { step, op }),
            Self::Rejected { step, .. } => Some(BranchOp { step, op: Op::Action }),
            Self::Skipped { step, .. } => Some(BranchOp { step, op: Op::Compensate }),
            Self::Submitted { .. }
            | Self::Aborted { .. }
            | Self::ForceStopped { .. }
            | Self::RetryRequested { .. }
            | Self::Pinned { .. } => None,
        }
    }
}
