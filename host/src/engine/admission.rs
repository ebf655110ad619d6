//! Taking sagas on, and letting go of them: what is refused, which components a saga runs on, and for how long they
//! are kept for it.
//!
//! A saga runs on the components that were current when it was first stored, from its first attempt to its end. The
//! directory keeps them for as long, by a count: **what a component is held for, less what it has been released for, is
//! the number of open sagas that pin it.** Open are those that have a row in the store, and those that are live and not
//! stored yet. So a saga is held for when it is taken on or found at the start, whichever comes first in this process,
//! and let go of once, wherever it ends: both beside the count of open sagas.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    Entered, Inner, driver,
    error::{ControlError, Error, SubmitError},
    format::SagaId,
    live::{Core, Live, Shard},
};
use crate::{
    branch::{Directory, NotFound},
    saga::{BranchOp, Definition, Event, Gid, Op, Pins, Status, Timestamp, state::OpState},
    store::Ticket,
};

/// Components that are held for a saga which is not open yet. Dropping it lets go of them.
pub(super) struct PinGuard<'a> {
    directory: &'a dyn Directory,
    pub(super) pins: Pins,
}

impl PinGuard<'_> {
    /// The saga is open: they are let go of when it ends.
    fn keep(mut self) {
        self.pins = Pins::default();
    }
}

impl Drop for PinGuard<'_> {
    fn drop(&mut self) {
        if !self.pins.is_empty() {
            self.directory.release(self.pins.components());
        }
    }
}

impl Inner {
    /// Stores a saga that is to be submitted later.
    pub(super) fn prepare(&self, definition: Definition) -> Result<Ticket, SubmitError> {
        self.check_room()?;
        let gid = definition.gid().clone();
        let shard = self.shard(gid.as_str())?;
        match self.existing(&shard, gid.as_str())? {
            None => {
                let guard = self.pin(&definition, |_| true)?;
                let mut core = self.create(definition, &guard.pins)?;
                let ticket = core.save_until(&*self.store, None)?;
                guard.keep();
                self.stats.open.fetch_add(1, Ordering::Relaxed);
                Ok(ticket)
            }
            Some(live) => match live.status() {
                Status::Prepared => Ok(self.store.barrier()),
                status => {
                    self.save_if_live(&shard, &live)?;
                    Err(SubmitError::Status(status))
                }
            },
        }
    }

    /// Makes a submitted saga live: a new one, or the one that has this gid.
    pub(super) fn enter(self: &Arc<Self>, definition: Definition) -> Result<Entered, SubmitError> {
        self.check_room()?;
        let place = self.places.clone().try_acquire_owned().map_err(|_| self.busy())?;
        let wait = definition.options().wait_result;
        let gid = definition.gid().clone();
        let mut shard = self.shard(gid.as_str())?;
        let (live, entered, is_first) = if let Some(live) = self.existing(&shard, gid.as_str())? {
            let resubmitted = live.core().resubmit(&definition, self.clock.now());
            if resubmitted.is_err() {
                self.save_if_live(&shard, &live)?;
            }
            let is_first = resubmitted?;
            let entered = self.entered(&live, wait)?;
            (live, entered, is_first)
        } else {
            let guard = self.pin(&definition, |_| true)?;
            let at = definition.created_at();
            let mut core = self.create(definition, &guard.pins)?;
            core.apply(&Event::Submitted { at })?;
            let live = Live::new(core);
            let entered = self.entered(&live, wait)?;
            guard.keep();
            self.stats.open.fetch_add(1, Ordering::Relaxed);
            (live, entered, true)
        };
        self.stats.submitted.fetch_add(is_first.into(), Ordering::Relaxed);
        self.drive(&mut shard, live, place);
        Ok(entered)
    }

    /// A client that does not wait for the saga's end is answered when it is on disk so far.
    fn entered(&self, live: &Live, wait: bool) -> Result<Entered, Error> {
        let mut core = live.core();
        if wait {
            Ok(Entered::Waiting(core.wait()))
        } else {
            Ok(Entered::Durable(core.save(&*self.store, self.clock.now())?))
        }
    }

    /// Takes no place: a full host can still be told what to stop.
    pub(super) fn control(&self, gid: &str, event: impl Fn(Timestamp) -> Event) -> Result<Ticket, ControlError> {
        // As it stands in the table: a second spelling of a gid must not become a second saga.
        let gid = Gid::new(gid).map_err(|_| ControlError::NotFound)?;
        let gid = gid.as_str();
        let shard = self.shard(gid)?;
        let live = self.existing(&shard, gid)?.ok_or(ControlError::NotFound)?;
        let mut core = live.core();
        let status = core.saga().status();
        if status.is_finished() {
            drop(core);
            self.save_if_live(&shard, &live)?;
            return Err(ControlError::Finished(status));
        }
        if core.needs_compaction() {
            self.compact(&mut core)?;
        }
        let now = self.clock.now();
        core.apply(&event(now))?;
        if shard.contains_key(gid) {
            live.changed.notify_one();
            Ok(core.save(&*self.store, now)?)
        } else {
            Ok(driver::park(self, &mut core)?)
        }
    }

    /// Chooses and holds the components for those operations that are `wanted`. One that nothing could carry out
    /// refuses them all.
    pub(super) fn pin(
        &self,
        definition: &Definition,
        wanted: impl Fn(BranchOp) -> bool,
    ) -> Result<PinGuard<'_>, SubmitError> {
        let all =
            (0..definition.steps().len()).flat_map(|step| [Op::Action, Op::Compensate].map(|op| BranchOp { step, op }));
        let branch_ops: Vec<BranchOp> =
            all.filter(|branch_op| !definition.target(*branch_op).is_empty() && wanted(*branch_op)).collect();
        let directory = &*self.directory;
        let refused = |(BranchOp { step, op }, NotFound(reason))| SubmitError::Target { step, op, reason };
        Ok(PinGuard { directory, pins: directory.pin(definition, &branch_ops).map_err(refused)? })
    }

    /// Pins the components of a saga that was stored before sagas pinned any: those of what it may still call.
    pub(super) fn pin_unpinned(&self, core: &mut Core, at: Timestamp) -> Result<(), SubmitError> {
        let saga = core.saga();
        let guard = self.pin(saga.definition(), |branch_op| saga.op(branch_op).is_some_and(OpState::is_pending))?;
        core.pin(&guard.pins, at)?;
        core.save(&*self.store, at)?;
        guard.keep();
        Ok(())
    }

    /// A saga is not open any more: it has ended, or was never stored. Without effect the second time.
    pub(super) fn closed(&self, core: &mut Core) {
        if core.close() {
            self.stats.closed();
            let pins = core.saga().pins();
            if !pins.is_empty() {
                self.directory.release(pins.components());
            }
        }
    }

    /// Refuses what could not be taken on, whatever it is.
    fn check_room(&self) -> Result<(), SubmitError> {
        if self.stopping.is_cancelled() {
            return Err(SubmitError::Stopping);
        }
        if self.stats.open.load(Ordering::Relaxed) >= self.settings.open_max {
            return Err(self.busy());
        }
        Ok(())
    }

    /// Most places are held for milliseconds; a second is a polite pause.
    fn busy(&self) -> SubmitError {
        SubmitError::Busy { retry_after: self.settings.policy.retry_interval.max(Duration::from_secs(1)) }
    }

    fn create(&self, definition: Definition, pins: &Pins) -> Result<Core, Error> {
        let at = definition.created_at();
        let first = SagaId::first_at(at).0;
        let next = |newest: u64| Some(first.max(newest + 1));
        // The closure always gives a value, so this cannot fail; either way the newest id is in it.
        let (Ok(newest) | Err(newest)) = self.newest_id.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let mut core = Core::create(SagaId(first.max(newest + 1)), Arc::new(definition))?;
        core.pin(pins, at)?;
        Ok(core)
    }

    /// The saga with this gid, live or fetched from the store; a fetched one is not in the table yet.
    fn existing(&self, shard: &Shard, gid: &str) -> Result<Option<Arc<Live>>, Error> {
        if let Some(live) = shard.get(gid) {
            return Ok(Some(live.clone()));
        }
        Ok(self.load(gid)?.map(Live::new))
    }

    /// Commits what of a live saga is only in memory. One that was fetched from the store has nothing there.
    fn save_if_live(&self, shard: &Shard, live: &Live) -> Result<(), Error> {
        let mut core = live.core();
        if shard.contains_key(core.saga().definition().gid().as_str()) {
            core.save(&*self.store, self.clock.now())?;
        }
        Ok(())
    }
}

impl Core {
    /// Takes in the submission of a saga that exists: what waits is tried at once, as under DTM; another saga's is
    /// refused. Whether it is the first, after it was prepared.
    fn resubmit(&mut self, definition: &Definition, at: Timestamp) -> Result<bool, SubmitError> {
        let saga = self.saga();
        let same = definition.steps().is_empty() || saga.definition().same_request(definition);
        match saga.status() {
            Status::Aborting | Status::Succeed | Status::Failed => Err(SubmitError::Status(saga.status())),
            Status::Prepared | Status::Submitted if !same => Err(SubmitError::Different),
            Status::Prepared => {
                self.apply(&Event::Submitted { at })?;
                Ok(true)
            }
            Status::Submitted => {
                if saga.steps().iter().any(|step| step.action.retry_at.is_some_and(|due| due > at)) {
                    self.apply(&Event::RetryRequested { at })?;
                }
                Ok(false)
            }
        }
    }
}
