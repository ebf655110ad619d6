//! The engine's parts, and what all of its files use of them.

use std::sync::{
    Arc, MutexGuard,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::sync::{Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    bulkhead::{Bulkhead, Limits},
    clock::Clock,
    counters::Counters,
    counts::Stats,
    destinations::{AttemptPlace, Destinations},
    error::{Error, SubmitError},
    format::SagaId,
    live::{Shard, Submitter, Table},
    parked_waiters::ParkedWaiters,
    settings::Settings,
    timer::Timer,
};
use crate::{
    branch::Directory,
    memory::Budget,
    store::{self, Condition, Store, Ticket},
};

/// Lists that are read at once; further ones wait. Few, as they leave the processors to sagas.
const LISTS_AT_ONCE: usize = 2;

/// Part of the places of live sagas that is kept for those that are due: one of so many.
const PART_FOR_DUE: usize = 8;

/// Sagas that are read at once for clients; further ones wait.
const VIEWS_AT_ONCE: usize = 16;

/// The engine behind its handles. The other files of this folder add the methods that belong to their subjects.
pub(super) struct Inner {
    pub store: Arc<dyn Store>,
    pub directory: Arc<dyn Directory>,
    pub settings: Settings,
    pub clock: Clock,
    pub table: Table,
    pub memory: Budget,
    /// One for each list that is being read. Each holds one saga at a time.
    pub lists: Arc<Semaphore>,
    /// One for each saga that is being read for a client.
    pub views: Arc<Semaphore>,
    pub timer: Timer,
    /// One place for every live saga.
    pub live: Bulkhead<Submitter>,
    /// Of these places those that only sagas have that are due: however many clients submit, retries go on. `None`: the host
    /// has too few places to keep some.
    pub live_due: Option<Bulkhead<Submitter>>,
    /// One place for every attempt.
    pub destinations: Destinations,
    pub parked_waiters: ParkedWaiters,
    /// One for every plan that is being made.
    pub plans: Semaphore,
    pub newest_id: AtomicU64,
    pub stats: Stats,
    pub counters: Counters,
    /// Cancelled when the host stops: no attempt starts any more.
    pub stopping: CancellationToken,
    /// Cancelled after the grace period: running attempts are not awaited any more.
    pub attempts_cancelled: CancellationToken,
    pub drivers: TaskTracker,
    /// See [`Engine::unread`].
    pub unread: AtomicU64,
    /// Cancelled when the store has failed: nothing is driven any more, and the host must stop and recover.
    pub store_failed: CancellationToken,
    /// The same, to be read without a lock: every round of every driver asks.
    pub has_store_failed: AtomicBool,
}

impl Inner {
    /// An engine that drives nothing yet, and the receiver of the sagas whose turn at their destination has come.
    pub fn new(
        store: Arc<dyn Store>,
        directory: Arc<dyn Directory>,
        settings: Settings,
        clock: Clock,
        memory: Budget,
    ) -> (Self, mpsc::UnboundedReceiver<(SagaId, AttemptPlace)>) {
        let (destinations, granted) = Destinations::new(settings.attempts, settings.live_max);
        let places = |total| {
            // Nothing parks here: a client is refused, and a saga that is due is awaited.
            let (unused, _) = mpsc::unbounded_channel();
            Bulkhead::new(Limits { total, per_holder: total }, unused)
        };
        let due = settings.live_max / PART_FOR_DUE;
        let inner = Self {
            live: places(settings.live_max - due),
            live_due: (due > 0).then(|| places(due)),
            destinations,
            parked_waiters: ParkedWaiters::default(),
            plans: Semaphore::new(settings.plan.at_once.min(Semaphore::MAX_PERMITS)),
            lists: Arc::new(Semaphore::new(LISTS_AT_ONCE)),
            views: Arc::new(Semaphore::new(VIEWS_AT_ONCE)),
            memory,
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
            attempts_cancelled: CancellationToken::new(),
            drivers: TaskTracker::new(),
            unread: AtomicU64::new(0),
            store_failed: CancellationToken::new(),
            has_store_failed: AtomicBool::new(false),
        };
        (inner, granted)
    }

    /// The shard of this gid. An error when there is none, which does not happen.
    pub fn shard(&self, gid: &str) -> Result<MutexGuard<'_, Shard>, Error> {
        self.table.shard(gid).ok_or(Error::Gone)
    }

    /// Runs `read` on a thread where it may take long, behind those that have the permits now. Its result is returned when
    /// what it has read is on disk.
    pub async fn off_the_workers<T: Send + 'static>(
        &self,
        permits: &Arc<Semaphore>,
        read: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let permit = permits.clone().acquire_owned().await;
        let read = tokio::task::spawn_blocking(move || {
            // Held here, since the task goes on when its client has gone.
            let _permit = permit;
            read()
        });
        let read = read.await.unwrap_or(Err(Error::NotShown)).inspect_err(|error| self.notice(error))?;
        self.durable(&self.store.barrier()).await?;
        Ok(read)
    }

    /// Waits until a commit is on disk.
    pub async fn durable(&self, ticket: &Ticket) -> Result<(), Error> {
        ticket.durable().await.map_err(Error::from).inspect_err(|error| self.notice(error))
    }

    /// A refusal tells the status of another saga, so that status must be on disk before the refusal is returned.
    pub async fn refuse(&self, refusal: SubmitError) -> SubmitError {
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

    /// Reports a failure of the store, which stops the host.
    pub fn notice(&self, failure: &Error) {
        if failure.is_of_the_store() {
            self.end_driving();
        }
    }

    /// Notices when the store fails, also while nothing is committed.
    pub async fn watch_store(&self) {
        self.store.failed().await;
        self.end_driving();
    }

    /// Ends all drivers, since the store has failed, and tells the clients that wait.
    pub fn end_driving(&self) {
        self.has_store_failed.store(true, Ordering::Release);
        self.store_failed.cancel();
        self.attempts_cancelled.cancel();
        // The senders of the clients of parked sagas are dropped.
        self.parked_waiters.take_all();
    }

    /// An error once the store has failed: no saga is driven on it.
    pub fn check_store(&self) -> Result<(), Error> {
        match self.store_failure() {
            Some(error) => Err(error.into()),
            None if self.has_store_failed.load(Ordering::Acquire) => Err(Error::Gone),
            None => Ok(()),
        }
    }

    /// The store's failure, if it has failed: nothing is driven any more then.
    pub fn store_failure(&self) -> Option<store::Error> {
        let Condition::Failed(error) = self.store.condition() else { return None };
        self.end_driving();
        Some(error)
    }

    /// Why nothing answers a client that waits for its saga.
    pub fn gone(&self) -> Error {
        self.check_store().err().unwrap_or(Error::Gone)
    }
}
