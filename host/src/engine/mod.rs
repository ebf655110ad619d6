//! Drives sagas: next, commit, call, commit; retries, timers, recovery, back-pressure.
//!
//! ```text
//!            submit                     due
//!  client ──────────> table of live <────────── timer <── recovery (unfinished sagas)
//!                       sagas                     ^
//!                         │ one driver each       │ nothing to do for a while
//!                         v                       │
//!            machine ──> commit ──> call ──> commit ──> ended: answer waiters
//! ```
//!
//! Invariants: a saga is driven by at most one driver; a saga that is not live is in the store as it is, and if
//! unfinished it is also in the timer, or parked in the queue of a destination (or prepared); no answer is sent before what
//! it says is on disk.
//!
//! The steps of a saga's life are methods of `Inner`, in one file for each subject, since all of them need its parts.

mod admission;
mod attempts;
mod bulkhead;
mod clock;
mod clock_change;
mod conflict;
pub mod counters;
mod counts;
pub mod destinations;
mod driver;
mod error;
mod format;
mod inner;
mod live;
mod output_commit;
mod park;
mod parked_waiters;
mod pinning;
pub mod plan;
mod policy;
mod queries;
mod recovery;
mod retry_all;
mod settings;
mod timer;

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tracing::{error, info};

use self::{
    admission::Entered,
    inner::Inner,
    live::{Submitter, WaitResult},
    plan::Plan,
    recovery::Recovered,
};
pub use self::{
    bulkhead::{Limits, Load},
    clock::{Before1970, Clock},
    counters::Counters,
    counts::Counts,
    error::{ControlError, Error, ShowError, SubmitError},
    format::{Record, SagaId, Unreadable},
    plan::PlanError,
    queries::{Filter, Listed, Page, Taken},
    retry_all::Retried,
    settings::Settings,
};
use crate::{
    branch::{Destination, Directory},
    hidden,
    memory::{Budget, Holder, Reserved},
    saga::{Definition, Event, Policy, Saga, Timestamp},
    store::{Condition, Store},
};

/// A handle of the engine; all handles are the same engine.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

/// The result of a submission.
#[derive(Clone, Debug)]
pub enum Submitted {
    /// The saga is on disk and running.
    Accepted,
    /// The saga's state when it ended, began to wait for a retry, or `wait_max` had passed.
    Waited(Arc<Saga>),
}

impl Engine {
    /// Reads the rows of unfinished sagas and starts to drive them, within `memory`. Call it before serving.
    pub fn start(
        store: Arc<dyn Store>,
        directory: Arc<dyn Directory>,
        settings: Settings,
        clock: Clock,
        memory: Budget,
    ) -> Result<Self, Error> {
        let (inner, granted) = Inner::new(store, directory, settings, clock, memory);
        let inner = Arc::new(inner);
        let Recovered { unread, far_ahead } = inner.recover()?;
        inner.unread.store(unread, Ordering::Relaxed);
        let waits = inner.clone();
        inner
            .drivers
            .spawn(async move { waits.clone().stopping.run_until_cancelled(waits.restart_waits(far_ahead)).await });
        let waker = inner.clone();
        inner.drivers.spawn(async move { waker.clone().stopping.run_until_cancelled(waker.wake_sagas(granted)).await });
        let watch = inner.clone();
        inner.drivers.spawn(async move { watch.stopping.run_until_cancelled(watch.watch_store()).await });
        Ok(Self(inner))
    }

    /// How many unfinished sagas were set aside at the start because their rows cannot be read. The components that
    /// they use are unknown.
    pub fn unread(&self) -> u64 {
        self.0.unread.load(Ordering::Relaxed)
    }

    /// Stores a saga that is to be submitted later.
    pub async fn prepare(&self, definition: Definition) -> Result<(), SubmitError> {
        self.prepare_from(None, definition).await
    }

    /// As [`Engine::prepare`], for a client with this address.
    pub async fn prepare_from(&self, client: Option<IpAddr>, definition: Definition) -> Result<(), SubmitError> {
        match self.0.prepare(definition, client) {
            Ok(ticket) => Ok(self.0.durable(&ticket).await?),
            Err(refusal) => Err(self.0.refuse(refusal).await),
        }
    }

    /// As [`Engine::submit_from`], for a client without an address.
    pub async fn submit(&self, definition: Definition) -> Result<Submitted, SubmitError> {
        self.submit_from(None, definition).await
    }

    /// Stores a saga and runs it. Returns when it is on disk; with `wait_result`, when it has ended or waits for a
    /// retry, or after [`Settings::wait_max`]. A client takes the places of no other.
    pub async fn submit_from(&self, client: Option<IpAddr>, definition: Definition) -> Result<Submitted, SubmitError> {
        let gid = definition.gid().clone();
        let entered = match self.0.enter(definition, Submitter::client(client)) {
            Ok(entered) => entered,
            Err(refusal) => return Err(self.0.refuse(refusal).await),
        };
        match entered {
            Entered::Durable(ticket) => {
                self.0.durable(&ticket).await?;
                Ok(Submitted::Accepted)
            }
            Entered::Waiting(result) => match tokio::time::timeout(self.0.settings.wait_max, result).await {
                Ok(Ok(WaitResult { saga, ticket })) => {
                    self.0.durable(&ticket).await?;
                    Ok(Submitted::Waited(saga))
                }
                Ok(Err(_)) => Err(self.0.gone().into()),
                Err(_) => match self.find(gid.as_str()).await? {
                    Some(record) => Ok(Submitted::Waited(Arc::new(record.saga))),
                    None => Err(Error::Gone.into()),
                },
            },
        }
    }

    /// Ends a saga as it is, without compensation.
    pub async fn force_stop(&self, gid: &str) -> Result<(), ControlError> {
        self.control(gid, |at| Event::ForceStopped { at }).await
    }

    /// Retries the saga's waiting operations now.
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

    /// The time now on the engine's clock.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// How sagas are retried.
    pub fn policy(&self) -> &Policy {
        &self.0.settings.policy
    }

    /// The headers whose values are not shown.
    pub fn hidden_headers(&self) -> &hidden::Headers {
        &self.0.settings.hidden_headers
    }

    /// The numbers of sagas, by state.
    pub fn counts(&self) -> Counts {
        let stats = &self.0.stats;
        Counts {
            submitted: stats.submitted.load(Ordering::Relaxed),
            succeeded: stats.succeeded.load(Ordering::Relaxed),
            failed: stats.failed.load(Ordering::Relaxed),
            open: stats.open.load(Ordering::Relaxed),
            live: self.0.table.len() as u64,
            conflicts: stats.conflicts.load(Ordering::Relaxed),
            refused_by_client: stats.refused_by_client.load(Ordering::Relaxed),
            refused_by_destination: stats.refused_by_destination.load(Ordering::Relaxed),
        }
    }

    /// The plugins and services that attempts run or wait at, sorted; those without attempts for a while, too.
    pub fn destinations(&self) -> Vec<Load<Destination>> {
        self.0.destinations.loads()
    }

    /// The longest time of one attempt of this saga.
    pub fn request_timeout(&self, saga: &Saga) -> Duration {
        self.0.request_timeout(saga)
    }

    /// The budget of memory that the engine was started with.
    pub fn memory(&self) -> &Budget {
        &self.0.memory
    }

    /// The counters of attempts and rounds since the start.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Resolves when the store has failed. No saga is accepted any more and no acknowledged one is lost: restart the
    /// host.
    pub async fn store_failed(&self) {
        self.0.store_failed.cancelled().await;
    }

    /// Whether the store works, and whether it has room for new sagas.
    pub fn store_condition(&self) -> Condition {
        self.0.store.condition()
    }

    /// Starts no more attempts, waits up to `grace` for the running ones, then cancels them. Unfinished sagas are on
    /// disk and continue at the next start.
    pub async fn stop(&self, grace: Duration) {
        self.0.stopping.cancel();
        self.0.answer_parked_waiters();
        self.0.drivers.close();
        if tokio::time::timeout(grace, self.0.drivers.wait()).await.is_err() {
            let live = self.0.table.len();
            info!(live, "attempts given up after the grace period; they are repeated at the next start");
            self.0.attempts_cancelled.cancel();
            self.0.drivers.wait().await;
        }
        // Those that were parked meanwhile.
        self.0.answer_parked_waiters();
        if let Err(error) = self.0.store.barrier().durable().await {
            error!(%error, "the last commits could not be made durable");
        }
    }

    /// The saga with this gid. What the record says is on disk.
    pub async fn find(&self, gid: &str) -> Result<Option<Record>, Error> {
        let found = self.0.find(gid).inspect_err(|error| self.0.notice(error))?;
        self.0.durable(&self.0.store.barrier()).await?;
        Ok(found)
    }

    /// The sagas that match, newest first. What the page says is on disk. For few small sagas: [`Engine::show_list`] reads
    /// one at a time, off the async workers.
    pub async fn list(&self, filter: &Filter) -> Result<Page, Error> {
        let mut sagas = Vec::new();
        let take = |saga, _| {
            sagas.push(saga);
            Taken::AndMore
        };
        let listed =
            self.0.list(filter, &self.0.memory.requests_of(None), take).inspect_err(|error| self.0.notice(error))?;
        self.0.durable(&self.0.store.barrier()).await?;
        Ok(Page { sagas, next: listed.next })
    }

    /// What `show` makes of the saga with this gid. `show` runs off the async workers, and gets the reservation of all that
    /// is read and of `copies` of it in all, which `room` holds. What it makes is returned when what the saga says is on disk.
    pub async fn show<T: Send + 'static>(
        &self,
        gid: &str,
        copies: usize,
        room: Arc<Holder>,
        show: impl FnOnce(Option<Record>, Reserved) -> T + Send + 'static,
    ) -> Result<T, ShowError> {
        let (engine, gid) = (self.0.clone(), gid.to_owned());
        let shown = self.0.off_the_workers(&self.0.views, move || {
            let found = engine.find_within(&gid, copies, &room)?;
            Ok(found.map(|(record, room)| show(record, room)))
        });
        shown.await?.ok_or(ShowError::Memory)
    }

    /// What `push` adds to a list of the sagas that match, newest first and one at a time, until it takes the last. Also
    /// returns where the list ended. It runs off the async workers, and is returned when what it says is on disk.
    pub async fn show_list<L: Send + 'static>(
        &self,
        filter: Filter,
        room: Arc<Holder>,
        mut list: L,
        push: impl Fn(&mut L, Record, Reserved) -> Taken + Send + 'static,
    ) -> Result<(L, Listed), Error> {
        let engine = self.0.clone();
        let listed = self.0.off_the_workers(&self.0.lists, move || {
            let listed = engine.list(&filter, &room, |record, room| push(&mut list, record, room))?;
            Ok((list, listed))
        });
        listed.await
    }

    /// Retries now up to `limit` unfinished sagas that wait until later than `time`, but no more than 10,000: those that
    /// would wait longest.
    ///
    /// Prepared and running sagas do not count. Scans all unfinished sagas, about a second for a million of them, and
    /// yields to other tasks after each page.
    pub async fn retry_all_due_after(&self, time: Timestamp, limit: u64) -> Result<Retried, Error> {
        self.0.retry_all_due_after(time, limit).await
    }

    /// A dry run: what this saga would do if it were submitted now, and what if a step failed. Whether its gid is taken
    /// makes no difference.
    pub async fn plan(&self, definition: Definition) -> Result<Plan, PlanError> {
        self.0.plan(definition).await
    }
}
