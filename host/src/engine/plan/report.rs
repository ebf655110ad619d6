//! The report of a plan: the operations that would be called, their results, and the changes of the data.
//!
//! Texts of guests are cut here, and a plan as a whole is no longer than [`Budget`] allows.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    branch::{DataKey, Directory},
    saga::{BranchId, BranchOp, Definition, Op, Pin, Status, Verdict, text},
    store::{Error, Read},
};

/// Most changes that one list shows; the others are counted.
const CHANGES_MAX: usize = 100;

/// How much of a value is shown, in bytes.
const VALUE_BYTES_MAX: usize = 4 << 10;

/// Longest text of a branch that is repeated (a reason, an error, a request), in bytes.
const TEXT_BYTES_MAX: usize = 1 << 10;

/// Bytes of changes and requests of one plan, all lists together, beyond which they are only counted.
const REPORT_BYTES_MAX: usize = 4 << 20;

/// What a saga would do.
#[derive(Clone, Debug)]
pub struct Plan {
    pub saga: Arc<Definition>,
    /// What would happen.
    pub trace: Trace,
    /// What would happen if a step failed, for each step whose action does not fail by itself.
    pub failures: Vec<WhatIf>,
}

/// What would happen if one step failed.
#[derive(Clone, Debug)]
pub struct WhatIf {
    pub branch: BranchId,
    /// The branches whose actions had succeeded before.
    pub before: Vec<BranchId>,
    /// What would happen from then on.
    pub trace: Trace,
}

/// What would happen, until the saga ends.
#[derive(Clone, Debug)]
pub struct Trace {
    /// How it ends: [`Status::Succeed`] or [`Status::Failed`].
    pub status: Status,
    /// The operations, in the order in which they would be called.
    pub ops: Vec<TracedOp>,
    /// The branches whose action would have been tried without effect, so that nothing is compensated.
    pub not_needed: Vec<BranchId>,
    /// The branches of which an operation is only assumed to succeed: what it changes is not known.
    pub unknown: Vec<BranchId>,
    /// What would be different in the plugins' data at the end from what it is now, as far as it is known.
    pub changes: Changes,
}

/// One operation of a trace, and its result. (A saga's step has two operations, so this is no step.)
#[derive(Clone, Debug)]
pub struct TracedOp {
    pub branch_op: BranchOp,
    /// The component that carries it out; none for a service.
    pub component: Option<Pin>,
    pub ending: Ending,
    /// The requests that it would send, as text for people.
    pub requests: Vec<String>,
    /// What it would change in the plugins' data.
    pub changes: Changes,
}

impl TracedOp {
    /// Whether the plan assumes that the operation succeeds, because its result is unknown.
    pub fn is_assumed(&self) -> bool {
        match self.ending {
            Ending::Verdict(Verdict::Succeeded { .. }) => false,
            // A compensation never fails: it is retried until it succeeds.
            Ending::Verdict(Verdict::Rejected { .. }) => self.branch_op.op == Op::Compensate,
            Ending::Verdict(_) | Ending::NotCalled { .. } | Ending::Depends { .. } => true,
        }
    }
}

/// The result of an operation in a dry run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The operation was called and gave this verdict.
    Verdict(Verdict),
    NotCalled {
        why: &'static str,
    },
    /// It asked for egress, which a plan denies: its verdict depends on the reply.
    Depends {
        /// The first request, for people.
        on: String,
    },
}

impl Ending {
    /// The verdict, its text cut to what a plan repeats. (The output is not cut: later steps get it.)
    pub(super) fn of(verdict: Verdict) -> Self {
        Self::Verdict(match verdict {
            Verdict::Rejected { reason } => Verdict::Rejected { reason: cut(reason) },
            Verdict::Unknown { error } => Verdict::Unknown { error: cut(error) },
            Verdict::Succeeded { .. } | Verdict::Ongoing { .. } => verdict,
        })
    }
}

/// Changes of plugins' data, in the order of their keys.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// The first of them.
    pub shown: Vec<Change>,
    /// How many more there are.
    pub left_out: usize,
}

impl Changes {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.shown.is_empty() && self.left_out == 0
    }

    /// How these keys differ. Keys that are not plugins' data are none of a client's business, nor are secrets in them.
    pub(super) fn between<'a>(
        before: &dyn Read,
        after: &dyn Read,
        keys: impl Iterator<Item = &'a [u8]>,
        budget: &mut Budget,
        directory: &dyn Directory,
    ) -> Result<Self, Error> {
        let mut changes = Self::default();
        for key in keys {
            let Some(DataKey { owner, bucket, key: name }) = directory.describe(key) else { continue };
            let (before, after) = (before.get(key)?, after.get(key)?);
            if before == after {
                continue;
            }
            let value = |value: Option<Bytes>| value.map(|value| Value::new(&directory.shown(&value)));
            let change = Change { owner, bucket, key: name, before: value(before), after: value(after) };
            if changes.shown.len() < CHANGES_MAX && budget.take(change.bytes()) {
                changes.shown.push(change);
            } else {
                changes.left_out += 1;
            }
        }
        Ok(changes)
    }
}

/// A changed row of a plugin's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The plugin; empty for a bucket that plugins share.
    pub owner: String,
    pub bucket: String,
    pub key: String,
    /// `None` if the row did not exist.
    pub before: Option<Value>,
    /// `None` if the row is deleted.
    pub after: Option<Value>,
}

impl Change {
    fn bytes(&self) -> usize {
        let values = self.before.iter().chain(&self.after).map(|value| value.start.len()).sum::<usize>();
        self.owner.len() + self.bucket.len() + self.key.len() + values
    }
}

/// A value as it is shown, or the beginning of a long one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    pub start: Bytes,
    /// The length of the whole value.
    pub bytes: usize,
}

impl Value {
    fn new(whole: &[u8]) -> Self {
        let start = whole.get(..VALUE_BYTES_MAX).unwrap_or(whole);
        Self { start: Bytes::copy_from_slice(start), bytes: whole.len() }
    }
}

/// The bytes that may still be added to the plan.
pub(super) struct Budget(usize);

impl Budget {
    /// All of `REPORT_BYTES_MAX`.
    pub fn new() -> Self {
        Self(REPORT_BYTES_MAX)
    }

    /// Spends bytes of the budget. `false` if it has less: then nothing is spent.
    pub fn take(&mut self, bytes: usize) -> bool {
        let left = self.0.checked_sub(bytes);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }
}

/// A text of a branch, not longer than it may be.
pub(super) fn cut(whole: String) -> String {
    text::cut_owned(whole, TEXT_BYTES_MAX)
}
