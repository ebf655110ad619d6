//! Drives sagas: next, commit, call, commit; retries, timers, recovery, back-pressure.
//!
//! ```text
//!            submit                     due
//!  client ──────────> table of live <────────── timer <── recovery (unfinished sagas)
//!                       sagas                     ^
//!                         │ one driver each       │ nothing to do for a while
//!                         v                       │
//!            machine ──> commit ──> call ──> commit ──> ended: tell who waits
//! ```
//!
//! Invariants: a saga is driven by at most one driver; a saga that is not live is in the store as it is, and if
//! unfinished it is also in the timer (or prepared); nothing is told to anybody before it is on disk.

mod attempts;
mod clock;
mod driver;
mod error;
mod find;
mod hasten;
mod live;
pub mod plan;
mod record;
pub mod tally;
mod timer;

use std::{
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as duration;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info};

pub use self::{
    clock::Clock,
    error::{ControlError, Error, SubmitError},
    find::{Filter, Page},
    hasten::Hastened,
    plan::PlanError,
    record::{Record, SagaId, Unreadable},
    tally::Tally,
};
use self::{
    live::{Core, Live, Settled, Shard, Table},
    record::{OPEN, Open},
    timer::Timer,
};
use crate::{
    branch::Directory,
    saga::{Definition, Event, Gid, Op, Policy, Saga, Slot, Status, Timestamp},
    store::{self, Range, Store, Ticket},
};

/// The engine's limits.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How sagas are retried.
    #[serde(rename = "retry")]
    pub policy: Policy,
    /// Longest time of one attempt, when the saga does not say. DTM: 3 s.
    #[serde(with = "duration")]
    pub request_timeout: Duration,
    /// Most sagas driven at once; more are answered "busy". Bounds memory: a live saga holds its payloads.
    pub live_max: usize,
    /// Most unfinished sagas, those that wait for a retry included; more are answered "busy".
    pub open_max: u64,
    /// Longest time that a submission with `wait_result` is held.
    #[serde(with = "duration")]
    pub wait_max: Duration,
    /// What plans may cost.
    pub plan: plan::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            request_timeout: Duration::from_secs(3),
            live_max: 4096,
            open_max: 10_000_000,
            wait_max: Duration::from_secs(30),
            plan: plan::Settings::default(),
        }
    }
}

/// How many sagas there were and are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Accepted by this process.
    pub submitted: u64,
    /// Ended in this process, with every action done.
    pub succeeded: u64,
    /// Ended in this process, rolled back or stopped.
    pub failed: u64,
    /// Unfinished now.
    pub open: u64,
    /// Driven now; the other open ones wait.
    pub live: u64,
}

#[derive(Default)]
struct Stats {
    submitted: AtomicU64,
    succeeded: AtomicU64,
    failed: AtomicU64,
    open: AtomicU64,
}

impl Stats {
    /// One open saga less. Never below none: the count decides about admission.
    fn closed(&self) {
        let less = |open: u64| Some(open.saturating_sub(1));
        // The closure always gives a value, so this cannot fail.
        let _ = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    fn finished(&self, status: Status) {
        let ended = if status == Status::Succeed { &self.succeeded } else { &self.failed };
        ended.fetch_add(1, Ordering::Relaxed);
        self.closed();
    }
}

/// A handle of the engine; all handles are the same engine.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    directory: Arc<dyn Directory>,
    settings: Settings,
    clock: Clock,
    table: Table,
    timer: Timer,
    /// One for every live saga.
    places: Arc<Semaphore>,
    /// One for every plan that is being made.
    plans: Semaphore,
    newest_id: AtomicU64,
    stats: Stats,
    tally: Tally,
    /// No attempt starts any more.
    stopping: CancellationToken,
    /// Nobody waits for running attempts any more.
    given_up: CancellationToken,
    drivers: TaskTracker,
    /// Becomes true when the store has failed: the host must stop and recover.
    store_failed: watch::Sender<bool>,
}

/// What came of a submission.
#[derive(Clone, Debug)]
pub enum Submitted {
    /// It is on disk and running.
    Accepted,
    /// How it stands after it has ended, or now that it waits for a retry or for longer than the client can.
    Settled(Arc<Saga>),
}

/// What a submission leaves behind while it holds no locks.
enum Entered {
    Durable(Ticket),
    Waiting(oneshot::Receiver<Settled>),
}

impl Engine {
    /// Reads which sagas are unfinished and starts to drive them. Call it before listening.
    pub fn start(
        store: Arc<dyn Store>,
        directory: Arc<dyn Directory>,
        settings: Settings,
        clock: Clock,
    ) -> Result<Self, Error> {
        let inner = Arc::new(Inner {
            places: Arc::new(Semaphore::new(settings.live_max.clamp(1, Semaphore::MAX_PERMITS))),
            plans: Semaphore::new(settings.plan.at_once.min(Semaphore::MAX_PERMITS)),
            store,
            directory,
            settings,
            clock,
            table: Table::new(),
            timer: Timer::default(),
            newest_id: AtomicU64::new(0),
            stats: Stats::default(),
            tally: Tally::default(),
            stopping: CancellationToken::new(),
            given_up: CancellationToken::new(),
            drivers: TaskTracker::new(),
            store_failed: watch::Sender::new(false),
        });
        inner.recover()?;
        let timer = inner.clone();
        inner.drivers.spawn(async move { timer.clone().stopping.run_until_cancelled(timer.wake_the_due()).await });
        Ok(Self(inner))
    }

    /// Stores a saga that is to be submitted later.
    pub async fn prepare(&self, definition: Definition) -> Result<(), SubmitError> {
        match self.0.prepare(definition) {
            Ok(ticket) => Ok(self.0.durable(&ticket).await?),
            Err(refusal) => Err(self.0.refuse(refusal).await),
        }
    }

    /// Stores a saga and runs it. Returns when it is on disk; with `wait_result`, when it has ended or has come to
    /// wait for a retry, or after [`Settings::wait_max`].
    pub async fn submit(&self, definition: Definition) -> Result<Submitted, SubmitError> {
        let gid = definition.gid().clone();
        let entered = match self.0.enter(definition) {
            Ok(entered) => entered,
            Err(refusal) => return Err(self.0.refuse(refusal).await),
        };
        match entered {
            Entered::Durable(ticket) => {
                self.0.durable(&ticket).await?;
                Ok(Submitted::Accepted)
            }
            Entered::Waiting(settled) => match tokio::time::timeout(self.0.settings.wait_max, settled).await {
                Ok(Ok(Settled { saga, ticket })) => {
                    self.0.durable(&ticket).await?;
                    Ok(Submitted::Settled(saga))
                }
                Ok(Err(_)) => Err(Error::Gone.into()),
                Err(_) => match self.find(gid.as_str()).await? {
                    Some(record) => Ok(Submitted::Settled(Arc::new(record.saga))),
                    None => Err(Error::Gone.into()),
                },
            },
        }
    }

    /// Ends a saga as it is, without compensation.
    pub async fn force_stop(&self, gid: &str) -> Result<(), ControlError> {
        self.control(gid, |at| Event::ForceStopped { at }).await
    }

    /// Retries now whatever the saga waits to retry.
    pub async fn hasten(&self, gid: &str) -> Result<(), ControlError> {
        self.control(gid, |at| Event::Hastened { at }).await
    }

    async fn control(&self, gid: &str, event: impl Fn(Timestamp) -> Event) -> Result<(), ControlError> {
        let ticket = match self.0.control(gid, event) {
            Ok(ticket) => ticket,
            Err(ControlError::Engine(error)) => {
                self.0.notice(&error);
                return Err(error.into());
            }
            Err(refusal) => {
                self.0.durable(&self.0.store.barrier()).await?;
                return Err(refusal);
            }
        };
        Ok(self.0.durable(&ticket).await?)
    }

    /// What time it is for sagas.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// How sagas are retried.
    pub fn policy(&self) -> &Policy {
        &self.0.settings.policy
    }

    /// How many sagas there were and are.
    pub fn counts(&self) -> Counts {
        let stats = &self.0.stats;
        Counts {
            submitted: stats.submitted.load(Ordering::Relaxed),
            succeeded: stats.succeeded.load(Ordering::Relaxed),
            failed: stats.failed.load(Ordering::Relaxed),
            open: stats.open.load(Ordering::Relaxed),
            live: self.0.table.len() as u64,
        }
    }

    /// What has been attempted so far.
    pub fn tally(&self) -> &Tally {
        &self.0.tally
    }

    /// Resolves when the store has failed. Nothing is accepted any more, nothing acknowledged is lost: the host has to
    /// be started again.
    pub async fn store_failed(&self) {
        let mut failed = self.0.store_failed.subscribe();
        // The sender lives as long as this handle.
        let _ = failed.wait_for(|failed| *failed).await;
    }

    /// Starts nothing new, lets the running attempts end for as long as `grace`, then gives them up. What is unfinished
    /// is on disk and goes on at the next start.
    pub async fn stop(&self, grace: Duration) {
        self.0.stopping.cancel();
        self.0.drivers.close();
        if tokio::time::timeout(grace, self.0.drivers.wait()).await.is_err() {
            let live = self.0.table.len();
            info!(live, "attempts given up after the grace period; they are repeated at the next start");
            self.0.given_up.cancel();
            self.0.drivers.wait().await;
        }
        if let Err(error) = self.0.store.barrier().durable().await {
            error!(%error, "the last commits could not be made durable");
        }
    }
}

impl Inner {
    fn prepare(self: &Arc<Self>, definition: Definition) -> Result<Ticket, SubmitError> {
        self.admit(&definition)?;
        let gid = definition.gid().clone();
        let shard = self.shard(gid.as_str())?;
        match self.existing(&shard, gid.as_str())? {
            None => {
                let mut core = self.create(definition)?;
                let ticket = core.save_until(&*self.store, None)?;
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
    fn enter(self: &Arc<Self>, definition: Definition) -> Result<Entered, SubmitError> {
        self.admit(&definition)?;
        let place = self.places.clone().try_acquire_owned().map_err(|_| self.busy())?;
        let wait = definition.options().wait_result;
        let gid = definition.gid().clone();
        let mut shard = self.shard(gid.as_str())?;
        let existing = self.existing(&shard, gid.as_str())?;
        let is_new = existing.is_none();
        let (live, is_first) = if let Some(live) = existing {
            let resubmitted = live.core().resubmit(&definition, self.clock.now());
            if resubmitted.is_err() {
                self.save_if_live(&shard, &live)?;
            }
            (live, resubmitted?)
        } else {
            let at = definition.created_at();
            let mut core = self.create(definition)?;
            core.apply(&Event::Submitted { at })?;
            (Live::new(core), true)
        };
        let entered = if wait {
            Entered::Waiting(live.core().wait())
        } else {
            Entered::Durable(live.core().save(&*self.store, self.clock.now())?)
        };
        self.stats.open.fetch_add(is_new.into(), Ordering::Relaxed);
        self.stats.submitted.fetch_add(is_first.into(), Ordering::Relaxed);
        self.drive(&mut shard, live, place);
        Ok(entered)
    }

    /// Takes no place: a full host can still be told what to stop.
    fn control(&self, gid: &str, event: impl Fn(Timestamp) -> Event) -> Result<Ticket, ControlError> {
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
        if core.is_long() {
            self.shorten(&mut core)?;
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

    /// Refuses what could not be taken on, or could never work.
    fn admit(&self, definition: &Definition) -> Result<(), SubmitError> {
        if self.stopping.is_cancelled() {
            return Err(SubmitError::Stopping);
        }
        if self.stats.open.load(Ordering::Relaxed) >= self.settings.open_max {
            return Err(self.busy());
        }
        for step in 0..definition.steps().len() {
            for op in [Op::Action, Op::Compensate] {
                let slot = Slot { step, op };
                if !definition.target(slot).is_empty() {
                    self.directory.find(definition, slot, None).map_err(|nowhere| SubmitError::Target {
                        step,
                        op,
                        reason: nowhere.0,
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Most places are held for milliseconds; a second is a polite pause.
    fn busy(&self) -> SubmitError {
        SubmitError::Busy { retry_after: self.settings.policy.retry_interval.max(Duration::from_secs(1)) }
    }

    fn create(&self, definition: Definition) -> Result<Core, Error> {
        let first = SagaId::first_at(definition.created_at()).0;
        let next = |newest: u64| Some(first.max(newest + 1));
        // The closure always gives a value, so this cannot fail; either way the newest id is in it.
        let (Ok(newest) | Err(newest)) = self.newest_id.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        Core::create(SagaId(first.max(newest + 1)), Arc::new(definition))
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

    /// Puts a saga into the table with a driver, or wakes the driver that it has.
    fn drive(self: &Arc<Self>, shard: &mut Shard, live: Arc<Live>, place: OwnedSemaphorePermit) {
        let gid: Arc<str> = live.core().saga().definition().gid().as_str().into();
        if shard.contains_key(&gid) {
            live.changed.notify_one();
            return;
        }
        shard.insert(gid, live.clone());
        let engine = self.clone();
        self.drivers.spawn(async move {
            driver::drive(engine, live).await;
            drop(place);
        });
    }

    fn shard(&self, gid: &str) -> Result<std::sync::MutexGuard<'_, Shard>, Error> {
        self.table.shard(gid).ok_or(Error::Gone)
    }

    /// Fills the timer from the rows of unfinished sagas. There is no other recovery: a saga is replayed when it is due.
    fn recover(&self) -> Result<(), Error> {
        let mut range = Range::prefix(OPEN);
        let mut open = 0;
        loop {
            let page = self.store.scan(&range, store::SCAN_ENTRIES_MAX)?;
            let Some((last, _)) = page.last() else { break };
            range = range.beyond(last);
            for (key, value) in &page {
                open += 1;
                match (record::id_in(key), record::read_open(value)) {
                    (Some(id), Ok(Open { due: Some(due), .. })) => self.timer.push(due, id),
                    (Some(_), Ok(Open { due: None, .. })) => {}
                    (_, Err(error)) => error!(%error, key = %key.escape_ascii(), "an unfinished saga is set aside"),
                    (None, Ok(_)) => error!(key = %key.escape_ascii(), "a row of an unfinished saga has a bad key"),
                }
            }
        }
        let newest = self.store.scan(&Range::prefix(record::LOGS).reversed(), 1)?;
        let newest = newest.first().and_then(|(key, _)| record::id_in(key)).unwrap_or(SagaId(0));
        self.newest_id.store(newest.0, Ordering::Relaxed);
        self.stats.open.store(open, Ordering::Relaxed);
        info!(open, "recovered");
        Ok(())
    }

    async fn wake_the_due(self: Arc<Self>) {
        loop {
            let id = self.timer.next(&self.clock).await;
            let Ok(place) = self.places.clone().acquire_owned().await else { return };
            // A panic over one saga must not keep all others asleep.
            let woken = panic::catch_unwind(AssertUnwindSafe(|| self.wake(id, place)));
            if let Err(error) = woken.unwrap_or(Err(Error::Panicked)) {
                error!(id = id.0, error = &error as &dyn std::error::Error, "a saga that is due is set aside");
                self.notice(&error);
            }
        }
    }

    /// Makes a parked saga live, if it is due: the timer's entry may be out of date.
    fn wake(self: &Arc<Self>, id: SagaId, place: OwnedSemaphorePermit) -> Result<(), Error> {
        let Some(row) = self.store.get(&record::open_key(id))? else { return Ok(()) };
        let open = record::read_open(&row)
            .map_err(|source| Error::Unreadable { gid: format!("with the id {}", id.0), source })?;
        let gid = open.gid.as_str();
        let mut shard = self.shard(gid)?;
        if open.due.is_none_or(|due| due > self.clock.now()) || shard.contains_key(gid) {
            return Ok(());
        }
        // The row was read before the shard was locked; what counts is the saga as it is now.
        if let Some(core) = self.load(gid)?
            && !core.saga().status().is_finished()
        {
            self.drive(&mut shard, Live::new(core), place);
        }
        Ok(())
    }

    /// A saga that cannot go on leaves the table; its row stays, so the next start tries it again.
    fn set_aside(&self, live: &Live, failure: &Error) {
        let gid = live.core().saga().definition().gid().clone();
        error!(%gid, error = failure as &dyn std::error::Error, "saga set aside");
        if let Some(mut shard) = self.table.shard(gid.as_str()) {
            shard.remove(gid.as_str());
        }
        if !live.core().is_stored() {
            self.stats.closed();
        }
        self.notice(failure);
    }

    /// Waits for the disk.
    async fn durable(&self, ticket: &Ticket) -> Result<(), Error> {
        ticket.durable().await.map_err(Error::from).inspect_err(|error| self.notice(error))
    }

    /// A refusal tells of how another saga stands, so that must be on disk before it is given.
    async fn refuse(&self, refusal: SubmitError) -> SubmitError {
        match refusal {
            SubmitError::Status(_) | SubmitError::Different => {
                self.durable(&self.store.barrier()).await.map_or_else(SubmitError::from, |()| refusal)
            }
            SubmitError::Engine(error) => {
                self.notice(&error);
                error.into()
            }
            refusal => refusal,
        }
    }

    /// A store that has failed stops the host, whoever finds out.
    fn notice(&self, failure: &Error) {
        if matches!(failure, Error::Store(_) | Error::Commit(store::CommitError::Store(_))) {
            self.store_failed.send_replace(true);
        }
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
                    self.apply(&Event::Hastened { at })?;
                }
                Ok(false)
            }
        }
    }
}
