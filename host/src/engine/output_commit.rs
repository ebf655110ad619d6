//! Egress for gated attempts, which are contained until they request it.
//!
//! **An attempt sends nothing before its start is on disk.** Until its first request, nothing of the attempt is written,
//! as for any contained attempt. The first request commits its start, and is granted when that is on disk. From then on
//! the saga treats it as an attempt of an external branch: awaited, and compensated. Each later request waits until all
//! commits so far, which the attempt may have read, are on disk.
//!
//! Requests are checked under the core's lock, where attempts are also cancelled. So an attempt that has ended, timed out
//! or was cancelled gets no egress any more, and one that got egress is never cancelled while its saga is driven.

use std::sync::{Arc, Weak};

use futures_util::{
    FutureExt,
    future::{AbortHandle, BoxFuture},
};
use tracing::debug;

use super::{
    inner::Inner,
    live::{Core, Live},
};
use crate::{
    branch::{Egress, EgressDenied, EgressRequest},
    saga::{BranchId, BranchOp, Op, Status},
    store::Ticket,
};

/// The egress of one attempt. Holds its engine weakly, since a guest may keep it longer.
pub(super) struct OutputCommit {
    engine: Weak<Inner>,
    live: Weak<Live>,
    branch_op: BranchOp,
    /// Aborted when the attempt ends or is cancelled, under the core's lock.
    attempt: AbortHandle,
}

impl OutputCommit {
    /// The egress of the attempt of `branch_op` that `attempt` aborts.
    pub fn new(engine: &Arc<Inner>, live: &Arc<Live>, branch_op: BranchOp, attempt: AbortHandle) -> Arc<Self> {
        Arc::new(Self { engine: Arc::downgrade(engine), live: Arc::downgrade(live), branch_op, attempt })
    }

    /// Commits the attempt's start, if this is its first request. When the ticket resolves, that is on disk, and so is
    /// everything that the attempt can have read. Also returns whether it had egress before.
    fn pass(&self, egress_request: &EgressRequest) -> Result<(Ticket, bool), EgressDenied> {
        let (engine, live) = self.host()?;
        let mut core = live.sound_core().ok_or_else(panicked)?;
        let has_left = core.saga().op(self.branch_op).is_some_and(|op| op.open);
        self.check(&core, has_left)?;
        let (gid, branch) = (core.saga().definition().gid(), BranchId(self.branch_op.step));
        debug!(gid = gid.as_str(), %branch, op = self.branch_op.op.as_str(), what = egress_request.what, "leaves the host");
        if has_left {
            return Ok((engine.store.barrier(), has_left));
        }
        let now = engine.clock.now();
        match core.start(self.branch_op, now).and_then(|()| core.save(&*engine.store, now)) {
            Ok(ticket) => Ok((ticket, has_left)),
            Err(error) => {
                engine.notice(&error);
                Err(EgressDenied(format!("its start could not be committed: {error}")))
            }
        }
    }

    /// Denies egress to an attempt that is not current. In a roll-back, an action with egress may end; none gets it.
    fn check(&self, core: &Core, has_left: bool) -> Result<(), EgressDenied> {
        match (self.branch_op.op, core.saga().status()) {
            _ if self.attempt.is_aborted() => Err(denied("the attempt has ended or was cancelled")),
            (Op::Action, Status::Submitted) | (Op::Compensate, Status::Aborting) => Ok(()),
            (Op::Action, Status::Aborting) if has_left => Ok(()),
            (_, status) => Err(EgressDenied(format!("the saga is {} by now", status.as_str()))),
        }
    }

    fn host(&self) -> Result<(Arc<Inner>, Arc<Live>), EgressDenied> {
        self.engine.upgrade().zip(self.live.upgrade()).ok_or_else(|| denied("the saga is no longer driven here"))
    }
}

impl Egress for OutputCommit {
    fn request(&self, egress_request: EgressRequest) -> BoxFuture<'_, Result<(), EgressDenied>> {
        async move {
            let (ticket, has_left) = self.pass(&egress_request)?;
            ticket.durable().await.map_err(|error| EgressDenied(format!("its start is not on disk: {error}")))?;
            let (_, live) = self.host()?;
            let core = live.sound_core().ok_or_else(panicked)?;
            self.check(&core, has_left)
        }
        .boxed()
    }
}

fn panicked() -> EgressDenied {
    denied("the saga's driver has panicked")
}

fn denied(why: &str) -> EgressDenied {
    EgressDenied(why.to_owned())
}
