//! What has happened to a saga. A saga's log is its definition and then these, in order.
//!
//! Events are facts: everything random or read from a clock (the time, the jitter of a retry) is in them, so
//! that applying them again gives the same state. They are stored; see `engine::format` before changing them.

use crate::{
    definition::{BranchOp, Op, Timestamp},
    pins::Pins,
};

/// One entry of a saga's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The client asked for it to run. Without this entry a saga is only prepared.
    Submitted { at: Timestamp },
    /// An attempt is about to act outside the host: from here on it may have had an effect. On disk before it does.
    ///
    /// Attempts that stay in the host have no such entry: until their outcome is committed they have done nothing.
    Started { step: usize, op: Op, at: Timestamp },
    /// The operation took effect.
    Succeeded {
        step: usize,
        op: Op,
        /// What the action gave.
        output: Option<String>,
        at: Timestamp,
    },
    /// The action definitely did not take effect and never will. Turns the saga to aborting.
    Rejected {
        step: usize,
        /// The branch's words.
        reason: String,
        at: Timestamp,
    },
    /// The attempt ended without a result.
    Failed {
        step: usize,
        op: Op,
        failure: Failure,
        /// Not retried before this time.
        retry_at: Timestamp,
        at: Timestamp,
    },
    /// The compensation is not needed: no attempt of the action can have had an effect.
    Skipped { step: usize, at: Timestamp },
    /// The saga is rolled back from now on.
    Aborted { reason: AbortReason, at: Timestamp },
    /// A person ended it as it was, without compensation.
    ForceStopped { at: Timestamp },
    /// A person requested that the waiting operations are retried now.
    RetryRequested { at: Timestamp },
    /// Attempts without a result that a compacted log has combined: their effect on the state. See
    /// [`crate::compaction`]. Without attempts: a wait that begins anew, see [`crate::clock_change`].
    Retried {
        step: usize,
        op: Op,
        /// How many there were.
        attempts: u32,
        /// How many have an unknown result.
        failures: u32,
        /// How many of them `retry_limit` counts.
        retries: u64,
        /// Whether one of them was an external one of the action.
        reached: bool,
        /// Not retried before this time.
        retry_at: Option<Timestamp>,
        /// The newest error.
        last_error: Option<String>,
        /// When the last of them began or ended.
        at: Timestamp,
    },
    /// The saga's components, chosen once, before its first attempt. Sagas that use none have no such event.
    Pinned { pins: Pins, at: Timestamp },
}

/// How an attempt without a result ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The branch is not finished.
    Ongoing,
    /// It is unknown whether it took effect.
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
    /// The time at which it happened.
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
