//! Runs the attempts of one saga.

use std::panic::AssertUnwindSafe;

use futures_util::{
    FutureExt, StreamExt,
    future::{AbortRegistration, Abortable, Aborted, BoxFuture},
    stream::FuturesUnordered,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{branch::Outcome, saga::BranchOp};

/// An attempt that has ended.
pub(super) struct Ended {
    pub branch_op: BranchOp,
    pub outcome: Outcome,
}

/// Runs attempts concurrently and returns their outcomes. Dropping it cancels them all.
pub(super) struct Attempts {
    running: FuturesUnordered<Abortable<BoxFuture<'static, Ended>>>,
    /// Attempts of sequential sagas run inside the driver's own task: there is never more than one.
    spawn: bool,
}

impl Attempts {
    /// `parallel`: several may run at once, and on several cores.
    pub fn new(parallel: bool) -> Self {
        Self { running: FuturesUnordered::new(), spawn: parallel }
    }

    /// Starts an attempt. When `registration`'s handle is aborted, it is not polled again and has no outcome. When it
    /// panics, its outcome is unknown: its branch has a bug, and the saga continues.
    pub fn start(
        &mut self,
        branch_op: BranchOp,
        attempt: BoxFuture<'static, Outcome>,
        registration: AbortRegistration,
    ) {
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
        self.running.push(Abortable::new(ended, registration));
    }

    /// The next attempt to end. Waits without end when none is running.
    pub async fn next(&mut self) -> Ended {
        loop {
            match self.running.next().await {
                Some(Ok(ended)) => return ended,
                Some(Err(Aborted)) => {}
                None => std::future::pending().await,
            }
        }
    }
}
