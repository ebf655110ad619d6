//! Accepting sagas: submissions, preparations and requests of persons, and why they are refused.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    error::{ControlError, Error, SubmitError},
    format::SagaId,
    inner::Inner,
    live::{Core, Live, Shard, Submitter, WaitResult, is_large, new_bytes},
};
use crate::{
    memory::{Holder, Reserved},
    saga::{BranchOp, Definition, Event, Gid, Op, Pins, Status, Timestamp},
    store::{Condition, Ticket},
};

/// When a client may try again while the disk is nearly full: a person has to make room.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(30);

/// What a submission waits for after it has released its locks.
pub(super) enum Entered {
    Durable(Ticket),
    Waiting(oneshot::Receiver<WaitResult>),
}

impl Inner {
    /// Stores a saga that is to be submitted later.
    pub fn prepare(&self, definition: Definition, client: Option<IpAddr>) -> Result<Ticket, SubmitError> {
        self.check_room()?;
        let room = self.room_for(&definition, &self.memory.payloads_of(client))?;
        let is_large = is_large(&definition);
        let gid = definition.gid().clone();
        let shard = self.shard(gid.as_str())?;
        match self.existing(&shard, gid.as_str())? {
            None => {
                self.check_disk()?;
                let guard = self.pin(&definition, |_| true)?;
                let mut core = self.create(definition, &guard.pins)?;
                let ticket = core.save_until(&*self.store, None)?;
                if is_large {
                    self.release_copies_later(Live::holding(core, room), &ticket);
                }
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
    pub fn enter(self: &Arc<Self>, definition: Definition, submitter: Submitter) -> Result<Entered, SubmitError> {
        self.check_room()?;
        let holder = match &submitter {
            Submitter::Client(client) => self.memory.payloads_of(*client),
            _ => self.memory.payloads_of_due().clone(),
        };
        let place = self.live.try_enter(submitter).ok_or_else(|| {
            self.stats.refused_by_client.fetch_add(1, Ordering::Relaxed);
            self.busy()
        })?;
        let wait = definition.options().wait_result;
        let room = self.room_for(&definition, &holder)?;
        let is_large = is_large(&definition);
        let gid = definition.gid().clone();
        let mut shard = self.shard(gid.as_str())?;
        let (live, entered, is_first) = if let Some(live) = self.existing(&shard, gid.as_str())? {
            if !shard.contains_key(gid.as_str()) {
                // A submission may name a saga that was prepared, without its steps.
                drop(room);
                let bytes = live.core().live_bytes();
                let whole = holder.try_reserve(bytes).ok_or_else(|| self.no_memory())?;
                live.core().hold(whole);
            }
            let resubmitted = live.core().resubmit(&definition, self.clock.now());
            if resubmitted.is_err() {
                self.save_if_live(&shard, &live)?;
            }
            let is_first = resubmitted?;
            let entered = self.entered(&live, wait)?;
            (live, entered, is_first)
        } else {
            self.check_disk()?;
            let guard = self.pin(&definition, |_| true)?;
            self.check_queue(&definition, &guard.pins)?;
            let at = definition.created_at();
            let mut core = self.create(definition, &guard.pins)?;
            core.apply(&Event::Submitted { at })?;
            let live = Live::holding(core, room);
            let entered = self.entered(&live, wait)?;
            guard.keep();
            self.stats.open.fetch_add(1, Ordering::Relaxed);
            (live, entered, true)
        };
        self.stats.submitted.fetch_add(is_first.into(), Ordering::Relaxed);
        if let (true, Entered::Durable(ticket)) = (is_large, &entered) {
            self.release_copies_later(live.clone(), ticket);
        }
        self.drive(&mut shard, live, place.begin(), None);
        Ok(entered)
    }

    /// What the client waits for: the saga's end, or that its submission is on disk.
    fn entered(&self, live: &Live, wait: bool) -> Result<Entered, Error> {
        let mut core = live.core();
        if wait {
            Ok(Entered::Waiting(core.wait()))
        } else {
            Ok(Entered::Durable(core.save(&*self.store, self.clock.now())?))
        }
    }

    /// Applies a person's request to a saga. Needs no permit: a full host can still stop sagas.
    pub fn control(&self, gid: &str, event: impl Fn(Timestamp) -> Event) -> Result<Ticket, ControlError> {
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
            return Ok(core.save(&*self.store, now)?);
        }
        let ticket = self.park(&mut core)?;
        if core.saga().status().is_finished() {
            let waiters = self.parked_waiters.take(core.id);
            core.adopt_waiters(waiters);
            core.answer_waiters(&ticket);
        }
        Ok(ticket)
    }

    /// Refuses every submission while the host is stopping, when its store has failed, or while it has too many open sagas.
    fn check_room(&self) -> Result<(), SubmitError> {
        if self.stopping.is_cancelled() {
            return Err(SubmitError::Stopping);
        }
        if let Some(error) = self.store_failure() {
            return Err(SubmitError::StoreFailed(error));
        }
        if self.stats.open.load(Ordering::Relaxed) >= self.settings.open_max {
            return Err(self.busy());
        }
        Ok(())
    }

    /// Refuses a new saga while the disk is nearly full. One that exists goes on.
    fn check_disk(&self) -> Result<(), SubmitError> {
        match self.store.condition() {
            Condition::Short(shortage) => Err(SubmitError::Full { shortage, retry_after: FULL_RETRY_AFTER }),
            Condition::Sound | Condition::Failed(_) => Ok(()),
        }
    }

    /// Refuses a saga if a quarter of `open_max` waits for its first destination already.
    fn check_queue(&self, definition: &Definition, pins: &Pins) -> Result<(), SubmitError> {
        let most = usize::try_from(self.settings.open_max.div_ceil(4)).unwrap_or(usize::MAX).max(1);
        if !self.destinations.may_have_queue_of(most) {
            return Ok(());
        }
        let first = BranchOp { step: 0, op: Op::Action };
        let found = self.directory.find(definition, first, pins.get(first)).ok();
        match found.and_then(|branch| branch.destination()) {
            Some(destination) if self.destinations.bulkhead(&destination).waiting(&destination) >= most => {
                self.stats.refused_by_destination.fetch_add(1, Ordering::Relaxed);
                self.destinations.bulkhead(&destination).refuse(&destination);
                Err(self.busy())
            }
            _ => Ok(()),
        }
    }

    /// Most places are held for milliseconds, so a second is long enough.
    fn busy(&self) -> SubmitError {
        SubmitError::Busy { retry_after: self.retry_after() }
    }

    fn no_memory(&self) -> SubmitError {
        SubmitError::Memory { retry_after: self.retry_after() }
    }

    fn retry_after(&self) -> Duration {
        self.settings.policy.retry_interval.max(Duration::from_secs(1))
    }

    /// Reserves what a new saga holds.
    fn room_for(&self, definition: &Definition, holder: &Arc<Holder>) -> Result<Reserved, SubmitError> {
        holder.try_reserve(new_bytes(definition)).ok_or_else(|| self.no_memory())
    }

    /// Keeps what is reserved for a large saga until it is on disk, also if it ends before, or if no client waits any more.
    fn release_copies_later(&self, live: Arc<Live>, ticket: &Ticket) {
        let ticket = ticket.clone();
        self.drivers.spawn(async move {
            // If the store has failed, the host is about to stop.
            let _ = ticket.durable().await;
            live.core().release_copies();
        });
    }

    fn create(&self, definition: Definition, pins: &Pins) -> Result<Core, Error> {
        let at = definition.created_at();
        let first = SagaId::first_at(at).0;
        // Raises the newest id to the time of this saga, then takes the next: unique, and in the order of time.
        self.newest_id.fetch_max(first.saturating_sub(1), Ordering::Relaxed);
        let id = SagaId(self.newest_id.fetch_add(1, Ordering::Relaxed) + 1);
        let mut core = Core::create(id, Arc::new(definition))?;
        core.pin(pins, at)?;
        Ok(core)
    }

    /// The saga with this gid, live or read from the store. One that was read is not in the table yet.
    fn existing(&self, shard: &Shard, gid: &str) -> Result<Option<Arc<Live>>, Error> {
        if let Some(live) = shard.get(gid) {
            return Ok(Some(live.clone()));
        }
        Ok(self.load(gid)?.map(Live::new))
    }

    /// Commits a live saga's unsaved events. One that was read from the store has none.
    fn save_if_live(&self, shard: &Shard, live: &Live) -> Result<(), Error> {
        let mut core = live.core();
        if shard.contains_key(core.saga().definition().gid().as_str()) {
            core.save(&*self.store, self.clock.now())?;
        }
        Ok(())
    }
}

impl Core {
    /// Applies the submission of a saga that exists: waiting operations are retried at once, as under DTM; a different
    /// definition is refused. Returns whether it is the first submission, after the saga was prepared.
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
