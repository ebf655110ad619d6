//! The engine's parts, and what all of its files use of them.

use std::sync::{Arc, MutexGuard, atomic::AtomicU64};

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    clock::Clock,
    counters::Counters,
    counts::Stats,
    error::{Error, SubmitError},
    live::{Shard, Table},
    settings::Settings,
    timer::Timer,
};
use crate::{
    branch::Directory,
    store::{Condition, Store, Ticket},
};

/// The engine behind its handles. The other files of this folder add the methods that belong to their subjects.
pub(super) struct Inner {
    pub store: Arc<dyn Store>,
    pub directory: Arc<dyn Directory>,
    pub settings: Settings,
    pub clock: Clock,
    pub table: Table,
    pub timer: Timer,
    /// One for every live saga.
    pub places: Arc<Semaphore>,
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
}

impl Inner {
    /// An engine that drives nothing yet.
    pub fn new(store: Arc<dyn Store>, directory: Arc<dyn Directory>, settings: Settings, clock: Clock) -> Self {
        Self {
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
            attempts_cancelled: CancellationToken::new(),
            drivers: TaskTracker::new(),
            unread: AtomicU64::new(0),
            store_failed: CancellationToken::new(),
        }
    }

    /// The shard of this gid. An error when there is none, which does not happen.
    pub fn shard(&self, gid: &str) -> Result<MutexGuard<'_, Shard>, Error> {
        self.table.shard(gid).ok_or(Error::Gone)
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
            self.store_failed.cancel();
        }
    }

    /// Notices when the store fails, also while nothing is committed.
    pub async fn watch_store(&self) {
        self.store.failed().await;
        self.store_failed.cancel();
    }

    /// An error once the store has failed: no saga is driven on it.
    pub fn check_store(&self) -> Result<(), Error> {
        match self.store.condition() {
            Condition::Failed(error) => {
                self.store_failed.cancel();
                Err(error.into())
            }
            Condition::Sound | Condition::Short(_) if self.store_failed.is_cancelled() => Err(Error::Gone),
            Condition::Sound | Condition::Short(_) => Ok(()),
        }
    }

    /// Why nothing answers a client that waits for its saga.
    pub fn gone(&self) -> Error {
        self.check_store().err().unwrap_or(Error::Gone)
    }
}
