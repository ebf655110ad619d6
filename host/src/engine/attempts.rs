//! The attempts of one saga that are running.

use std::panic::AssertUnwindSafe;

use futures_util::{
    FutureExt, StreamExt,
    future::{AbortHandle, Abortable, Aborted, BoxFuture},
    stream::FuturesUnordered,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{branch::Outcome, saga::BranchOp};

/// An attempt that has ended.
pub(super) struct Ended {
    /// Of which operation.
    pub branch_op: BranchOp,
    /// What came of it.
    pub outcome: Outcome,
}

/// Runs attempts side by side and hands them over as they end. Dropping it gives them all up.
pub(super) struct Attempts {
    running: FuturesUnordered<Abortable<BoxFuture<'static, Ended>>>,
    handles: Vec<(BranchOp, AbortHandle)>,
    /// Attempts of sequential sagas run inside the driver's own task: there is never more than one.
    spawn: bool,
}

impl Attempts {
    /// `parallel`: several may run at once, and on several cores.
    pub fn new(parallel: bool) -> Self {
        Self { running: FuturesUnordered::new(), handles: Vec::new(), spawn: parallel }
    }

    /// Starts an attempt. One that panics is one whose result nobody knows: its branch has a bug, the saga goes on.
    pub fn start(&mut self, branch_op: BranchOp, attempt: BoxFuture<'static, Outcome>) {
        let spawn = self.spawn;
        let ended = Box::pin(async move {
            let outcome = if spawn {
                AbortOnDropHandle::new(tokio::spawn(attempt)).await.ok()
            } else {
                AssertUnwindSafe(attempt).catch_unwind().await.ok()
            };
            let broken_off = || Outcome::unknown("the branch panicked: its message is in the log");
            Ended { branch_op, outcome: outcome.unwrap_or_else(broken_off) }
        });
        let (handle, registration) = AbortHandle::new_pair();
        self.handles.push((branch_op, handle));
        self.running.push(Abortable::new(ended, registration));
    }

    /// Gives an attempt up: it is not polled again, and its end is never reported.
    pub fn stop(&mut self, branch_op: BranchOp) {
        for (_, handle) in self.handles.extract_if(.., |(running, _)| *running == branch_op) {
            handle.abort();
        }
    }

    /// Whether nothing is running.
    pub fn is_empty(&self) -> bool {
        self.handles.is_empty()
    }

    /// The next attempt to end; never, when none is running.
    pub async fn next(&mut self) -> Ended {
        loop {
            match self.running.next().await {
                Some(Ok(ended)) => {
                    self.handles.retain(|(branch_op, _)| *branch_op != ended.branch_op);
                    return ended;
                }
                Some(Err(Aborted)) => {}
                None => std::future::pending().await,
            }
        }
    }
}
