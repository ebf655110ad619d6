//! A host put together for a test.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use wasaga::{
    branch::Directory,
    engine::{Clock, Engine, Record, Settings},
    memory::Budget,
    saga::{Saga, Status},
    store::{self, LocalStore},
};

use super::{Plan, TestDisk, TestStore};

/// What a host is started from; what is left when it has gone.
#[derive(Clone)]
pub struct Setup {
    pub dir: Arc<TempDir>,
    pub directory: Arc<dyn Directory>,
    pub settings: Settings,
    pub memory: Budget,
    /// Goes on over restarts, for paused time is not the system's.
    pub clock: Clock,
    /// See [`TestStore`].
    pub is_prompt: bool,
}

impl Setup {
    /// For tests in real time.
    pub fn new(directory: Arc<impl Directory>) -> Self {
        // In memory where there is such a place: hundreds of stores are opened, and no real disk is tested here.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let dir = Arc::new(dir.unwrap());
        let (settings, memory) = (Settings::default(), Budget::of(1 << 30));
        Self { dir, directory, settings, memory, clock: Clock::start().unwrap(), is_prompt: false }
    }

    /// For tests in paused time: no time passes while the disk works.
    pub fn paused(directory: Arc<impl Directory>) -> Self {
        Self { is_prompt: true, ..Self::new(directory) }
    }

    /// With other settings.
    pub fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// Opens the store. Its own clock-driven work is put off, so that what it does depends on the test alone.
    pub fn open(&self) -> (Arc<TestStore>, TestDisk) {
        let disk = TestDisk::default();
        let settings = store::Settings {
            disk: Arc::new(disk.clone()),
            gather: Duration::from_millis(1),
            ..store::Settings::new(self.dir.path())
        };
        let (store, _) = LocalStore::open(settings).unwrap();
        (Arc::new(TestStore::new(store, disk.clone(), self.is_prompt)), disk)
    }

    /// Starts a host.
    pub fn start(&self) -> Host {
        let (store, disk) = self.open();
        self.start_on(store, disk)
    }

    /// Starts a host on a store that has been opened before.
    pub fn start_on(&self, store: Arc<TestStore>, disk: TestDisk) -> Host {
        let (directory, settings, memory) = (self.directory.clone(), self.settings.clone(), self.memory.clone());
        let engine = Engine::start(store.clone(), directory, settings, self.clock, memory).unwrap();
        Host { engine, store, disk, setup: self.clone() }
    }
}

/// A running engine with its store.
pub struct Host {
    pub engine: Engine,
    pub store: Arc<TestStore>,
    pub disk: TestDisk,
    pub setup: Setup,
}

impl Host {
    /// Stops it with a grace period. No other task may hold the engine or the store.
    pub async fn stop(self, grace: Duration) -> Setup {
        self.engine.stop(grace).await;
        drop(self.engine);
        // Attempts cancelled on other threads release it shortly after.
        let mut store = Some(self.store);
        until(async || match Arc::try_unwrap(store.take()?) {
            Ok(store) => {
                drop(store);
                Some(())
            }
            Err(shared) => {
                store = Some(shared);
                None
            }
        })
        .await;
        self.setup
    }

    /// Cuts the power: what is not on disk is lost. No other task may hold the engine or the store.
    pub async fn kill(self) -> Setup {
        self.disk.cut();
        self.stop(Duration::ZERO).await
    }

    /// The saga, which must exist.
    pub async fn find(&self, gid: &str) -> Record {
        self.engine.find(gid).await.unwrap().unwrap_or_else(|| panic!("no saga {gid}"))
    }

    /// Waits until the saga has this status.
    pub async fn until_status(&self, gid: &str, status: Status) -> Record {
        until(async || {
            let record = self.engine.find(gid).await.unwrap()?;
            (record.saga.status() == status).then_some(record)
        })
        .await
    }

    /// Waits until the saga has left the table: it has ended, or waits.
    pub async fn until_idle(&self) {
        until(async || (self.engine.counts().live == 0).then_some(())).await;
    }

    /// Submits and hands over what came of it, which must be a settled saga.
    pub fn settle<'a>(&'a self, plan: &Plan) -> impl Future<Output = Arc<Saga>> + use<'a> {
        let definition = plan.now(&self.engine);
        async { settled(self.engine.submit(definition).await.unwrap()) }
    }

    /// Submits without waiting for the result.
    pub async fn submit(&self, plan: &Plan) {
        self.engine.submit(plan.now(&self.engine)).await.unwrap();
    }
}

/// The saga of an answer that has one.
pub fn settled(answer: wasaga::engine::Submitted) -> Arc<Saga> {
    match answer {
        wasaga::engine::Submitted::Waited(saga) => saga,
        wasaga::engine::Submitted::Accepted => panic!("accepted, not settled"),
    }
}

/// Asks again and again, for as long as half a minute of real time, until there is an answer.
pub async fn until<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "it does not come about");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
