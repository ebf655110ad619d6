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

mod admission;
mod attempts;
mod clock;
mod conflict;
pub mod counters;
mod driver;
mod error;
mod find;
mod format;
mod live;
mod output_commit;
pub mod plan;
mod policy;
mod retry_now;
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
    counters::Counters,
    error::{ControlError, Error, SubmitError},
    find::{Filter, Page},
    format::{Record, SagaId, Unreadable},
    plan::PlanError,
    retry_now::RetriedNow,
};
use self::{
    format::{OPEN, Open},
    live::{Live, Settled, Shard, Table},
    timer::Timer,
};
use crate::{
    branch::Directory,
    keys,
    saga::{Definition, Event, Policy, Saga, Status, Timestamp},
    store::{self, Range, Store, Ticket},
};

/// The engine's limits.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How sagas are retried.
    #[serde(rename = "retry", with = "policy")]
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
    /// Attempts that came to nothing in this process, since others had changed what they had read.
    pub conflicts: u64,
}

#[derive(Default)]
struct Stats {
    submitted: AtomicU64,
    succeeded: AtomicU64,
    failed: AtomicU64,
    open: AtomicU64,
    conflicts: AtomicU64,
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
    counters: Counters,
    /// No attempt starts any more.
    stopping: CancellationToken,
    /// Nobody waits for running attempts any more.
    given_up: CancellationToken,
    drivers: TaskTracker,
    /// See [`Engine::unread`].
    unread: AtomicU64,
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
            counters: Counters::default(),
            stopping: CancellationToken::new(),
            given_up: CancellationToken::new(),
            drivers: TaskTracker::new(),
            unread: AtomicU64::new(0),
            store_failed: watch::Sender::new(false),
        });
        inner.unread.store(inner.recover()?, Ordering::Relaxed);
        let timer = inner.clone();
        inner.drivers.spawn(async move { timer.clone().stopping.run_until_cancelled(timer.wake_the_due()).await });
        Ok(Self(inner))
    }

    /// How many unfinished sagas were set aside at the start because this version cannot read their rows. Which
    /// components they need nobody knows.
    pub fn unread(&self) -> u64 {
        self.0.unread.load(Ordering::Relaxed)
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
    pub async fn retry_now(&self, gid: &str) -> Result<(), ControlError> {
        self.control(gid, |at| Event::RetryRequested { at }).await
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
            conflicts: stats.conflicts.load(Ordering::Relaxed),
        }
    }

    /// What has been attempted so far.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
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
    /// Returns how many rows are damaged. Rows of a newer version are an error: nothing has been driven then.
    fn recover(&self) -> Result<u64, Error> {
        if let Some(unknown) = keys::find_unknown(&*self.store)? {
            return Err(unknown.into());
        }
        let mut range = Range::prefix(OPEN);
        let (mut open, mut unread) = (0, 0);
        loop {
            let page = self.store.scan(&range, store::SCAN_ENTRIES_MAX)?;
            let Some((last, _)) = page.last() else { break };
            range = range.beyond(last);
            for (key, value) in &page {
                open += 1;
                let error = match (format::id_in(key), format::read_open(value)) {
                    (Some(id), Ok(row)) => {
                        self.recover_saga(id, &row);
                        continue;
                    }
                    (_, Err(source)) if source.is_newer() => {
                        return Err(Error::Unreadable { gid: format!("with the key {}", key.escape_ascii()), source });
                    }
                    (_, Err(error)) => error.to_string(),
                    (None, Ok(_)) => "its key is not that of a saga".to_owned(),
                };
                unread += 1;
                error!(error, key = %key.escape_ascii(), "an unfinished saga is set aside");
            }
        }
        let newest = self.store.scan(&Range::prefix(format::LOGS).reversed(), 1)?;
        let newest = newest.first().and_then(|(key, _)| format::id_in(key)).unwrap_or(SagaId(0));
        self.newest_id.store(newest.0, Ordering::Relaxed);
        self.stats.open.store(open, Ordering::Relaxed);
        info!(open, "recovered");
        Ok(unread)
    }

    fn recover_saga(&self, id: SagaId, row: &Open) {
        if let Some(pins) = row.pins.as_deref().filter(|pins| !pins.is_empty()) {
            self.directory.hold(pins);
        }
        if let Some(due) = row.due {
            self.timer.push(due, id);
        }
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
        let Some(row) = self.store.get(&format::open_key(id))? else { return Ok(()) };
        let open = format::read_open(&row)
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
        let mut shard = self.table.shard(gid.as_str());
        if let Some(shard) = &mut shard {
            shard.remove(gid.as_str());
        }
        let mut core = live.core();
        core.cancel_all();
        // What counts is the store. If that cannot be asked, the host is about to stop.
        let has_row = self.store.get(&format::open_key(core.id)).map_or(true, |row| row.is_some());
        if !core.is_stored() || !has_row {
            self.closed(&mut core);
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
