//! The way out of the host for attempts that are contained until they ask for it.
//!
//! **What an attempt lets out follows the entry that says so.** Until it asks, nothing is known of it and nothing is
//! written, as for any contained attempt. When it first asks, that it has started is committed; when that is on disk, it
//! may go, and from then on the saga treats it as an attempt of an external branch: awaited, and compensated. Whatever it
//! lets out later waits for all that is committed by then, which it may have read.
//!
//! Whether it may still go is decided under the core's lock, where attempts are also given up. So of an attempt that is
//! dropped, timed out, or left behind by its driver nothing gets out later; and one that got out is never dropped.

use std::sync::{Arc, Weak};

use futures_util::{FutureExt, future::BoxFuture};
use tracing::debug;

use super::{
    Inner,
    live::{AttemptId, Core, Live},
};
use crate::{
    branch::{Egress, EgressDenied, EgressRequest},
    saga::{BranchId, BranchOp, Op, Status},
    store::Ticket,
};

/// The egress of one attempt. Does not keep its host, should somebody keep it.
pub(super) struct OutputCommit {
    engine: Weak<Inner>,
    live: Weak<Live>,
    branch_op: BranchOp,
    attempt_id: AttemptId,
}

impl OutputCommit {
    pub fn new(engine: &Arc<Inner>, live: &Arc<Live>, branch_op: BranchOp, attempt_id: AttemptId) -> Arc<Self> {
        Arc::new(Self { engine: Arc::downgrade(engine), live: Arc::downgrade(live), branch_op, attempt_id })
    }

    /// Notes that the attempt leaves: the commit point of its start, if it is the first time. When the ticket resolves,
    /// that is on disk, and so is everything that the attempt can have read. Also whether it has left before.
    fn pass(&self, egress_request: &EgressRequest) -> Result<(Ticket, bool), EgressDenied> {
        let (engine, live) = self.host()?;
        let mut core = live.sound_core().ok_or_else(panicked)?;
        let has_left = core.saga().op(self.branch_op).is_some_and(|op| op.open);
        self.check(&core, has_left)?;
        let (gid, branch) = (core.saga().definition().gid(), BranchId(self.branch_op.step));
        debug!(%gid, %branch, op = self.branch_op.op.as_str(), what = egress_request.what, "leaves the host");
        if has_left {
            return Ok((engine.store.barrier(), has_left));
        }
        let now = engine.clock.now();
        match core.start(self.branch_op, now).and_then(|()| core.save(&*engine.store, now)) {
            Ok(ticket) => Ok((ticket, has_left)),
            Err(error) => {
                engine.notice(&error);
                Err(EgressDenied(format!("that it leaves could not be written down: {error}")))
            }
        }
    }

    /// Whether the attempt is still wanted. In a roll-back, an action that is out may come to its end; none begins.
    fn check(&self, core: &Core, has_left: bool) -> Result<(), EgressDenied> {
        match (self.branch_op.op, core.saga().status()) {
            _ if !core.is_current_attempt(self.branch_op, self.attempt_id) => {
                Err(held("the attempt has been given up"))
            }
            (Op::Action, Status::Submitted) | (Op::Compensate, Status::Aborting) => Ok(()),
            (Op::Action, Status::Aborting) if has_left => Ok(()),
            (_, status) => Err(EgressDenied(format!("the saga is {} by now", status.as_str()))),
        }
    }

    fn host(&self) -> Result<(Arc<Inner>, Arc<Live>), EgressDenied> {
        self.engine.upgrade().zip(self.live.upgrade()).ok_or_else(|| held("the saga is no longer driven here"))
    }
}

impl Egress for OutputCommit {
    fn request(&self, egress_request: EgressRequest) -> BoxFuture<'_, Result<(), EgressDenied>> {
        async move {
            let (ticket, has_left) = self.pass(&egress_request)?;
            ticket.durable().await.map_err(|error| EgressDenied(format!("that it leaves is not on disk: {error}")))?;
            let (_, live) = self.host()?;
            let core = live.sound_core().ok_or_else(panicked)?;
            self.check(&core, has_left)
        }
        .boxed()
    }
}

fn panicked() -> EgressDenied {
    held("the saga's driver has panicked")
}

fn held(why: &str) -> EgressDenied {
    EgressDenied(why.to_owned())
}
