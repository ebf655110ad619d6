//! The attempts of a saga that are running.

use crate::definition::{BranchOp, Timestamp};

/// The attempts of one saga that are running, and the delays of attempts that the log does not know of: pauses before
/// retries, and operations that are blocked because their destination has no room.
///
/// Lost with the process, and so no part of the saga's state. `T` is what the caller keeps of an attempt, such as a
/// handle that aborts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InFlight<T = ()> {
    /// In the order of the operations. One operation has at most one attempt.
    attempts: Vec<(BranchOp, T)>,
    pauses: Vec<(BranchOp, Timestamp)>,
    blocked: Vec<BranchOp>,
}

impl<T> Default for InFlight<T> {
    fn default() -> Self {
        Self { attempts: Vec::new(), pauses: Vec::new(), blocked: Vec::new() }
    }
}

impl<T> InFlight<T> {
    /// Adds the attempt that starts, and ends the operation's pause and block. Returns the attempt that it replaces: there should be
    /// none, as an operation has at most one.
    pub fn begin(&mut self, branch_op: BranchOp, attempt: T) -> Option<T> {
        self.pauses.retain(|(paused, _)| *paused != branch_op);
        self.unblock(branch_op);
        match self.find(branch_op) {
            Ok(at) => self.attempts.get_mut(at).map(|running| std::mem::replace(&mut running.1, attempt)),
            Err(at) => {
                self.attempts.insert(at, (branch_op, attempt));
                None
            }
        }
    }

    /// Removes the attempt that ended or is cancelled. `None` if no attempt of the operation is running.
    pub fn end(&mut self, branch_op: BranchOp) -> Option<T> {
        self.find(branch_op).ok().map(|at| self.attempts.remove(at).1)
    }

    /// Removes all attempts, pauses and blocks.
    pub fn end_all(&mut self) -> impl Iterator<Item = T> {
        std::mem::take(self).attempts.into_iter().map(|(_, attempt)| attempt)
    }

    /// Whether an attempt of this operation is running.
    pub fn contains(&self, branch_op: BranchOp) -> bool {
        self.find(branch_op).is_ok()
    }

    /// Whether no attempt is running.
    pub fn is_empty(&self) -> bool {
        self.attempts.is_empty()
    }

    /// The operations with a running attempt, by step, action before compensation.
    pub fn iter(&self) -> impl Iterator<Item = BranchOp> {
        self.attempts.iter().map(|(branch_op, _)| *branch_op)
    }

    /// Delays the next attempt of an operation that is not running.
    pub fn pause(&mut self, branch_op: BranchOp, until: Timestamp) {
        self.pauses.push((branch_op, until));
    }

    /// Delays the next attempt of an operation that is not running until it is unblocked.
    pub fn block(&mut self, branch_op: BranchOp) {
        if !self.is_blocked(branch_op) {
            self.blocked.push(branch_op);
        }
    }

    /// Ends a block, if there is one.
    pub fn unblock(&mut self, branch_op: BranchOp) {
        self.blocked.retain(|blocked| *blocked != branch_op);
    }

    /// Ends all blocks.
    pub fn unblock_all(&mut self) {
        self.blocked.clear();
    }

    pub(crate) fn is_blocked(&self, branch_op: BranchOp) -> bool {
        self.blocked.contains(&branch_op)
    }

    /// Whether a pause ends at this time or later.
    pub fn is_paused_until(&self, time: Timestamp) -> bool {
        self.pauses.iter().any(|(_, until)| *until >= time)
    }

    /// The end of the operation's pause.
    pub(crate) fn pause_of(&self, branch_op: BranchOp) -> Option<Timestamp> {
        self.pauses.iter().find(|(paused, _)| *paused == branch_op).map(|(_, until)| *until)
    }

    fn find(&self, branch_op: BranchOp) -> Result<usize, usize> {
        self.attempts.binary_search_by_key(&branch_op, |(branch_op, _)| *branch_op)
    }
}
