//! The store of one process: its handle and its threads.

use std::{
    fs, future,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use bytes::Bytes;

use crate::{
    batch::Batch,
    check::Source,
    counters::{Counters, Stats, add},
    disk::{Disk, create_dirs},
    error::{CommitError, Error, Failure, OpenError},
    files,
    journal::{
        segments::Segments,
        sequencer::{Queue, Sequencer},
        writer::Journal,
    },
    limits::{PAYLOAD_BYTES_MAX, SCAN_ENTRIES_MAX},
    lookout,
    range::Range,
    recovery::{self, Recovered, Recovery},
    room,
    settings::Settings,
    shared::{Held, Shared},
    state::{
        follower::Follower,
        lag::Lag,
        view::{Refusal, View},
    },
    sync::lock,
    ticket::{Progress, Ticket},
    traits::{Condition, Read, Store},
};

/// A [`Store`] in one directory of this machine. Dropping it closes it.
#[derive(Debug)]
pub struct LocalStore {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Dropped to end the thread that looks at the disk's room.
    looking: Mutex<Option<mpsc::Sender<()>>>,
    /// Released last, when nothing uses the directory any more.
    _lock: DirLock,
}

impl LocalStore {
    /// Opens the directory, recovers what it holds, and starts the threads. Blocks while it replays.
    pub fn open(settings: Settings) -> Result<(Self, Recovery), OpenError> {
        let (dir, disk) = (settings.dir.clone(), Arc::clone(&settings.disk));
        Self::try_open(settings).map_err(|error| recovery::say_what_helps(error, &dir, disk.as_ref()))
    }

    fn try_open(settings: Settings) -> Result<(Self, Recovery), OpenError> {
        let lock = lock_dir(&settings.dir, settings.disk.as_ref())?;
        let Recovered { state, state_file, segments, start, last_seq, report } = recovery::recover(&settings)?;
        let held = Held::open(&settings, state_file)?;
        let counters = Counters::default();
        counters.applied.store(start.meta.applied, Ordering::Relaxed);
        counters.entries.store(start.meta.sum.count, Ordering::Relaxed);
        let shared = Arc::new(Shared {
            progress: Arc::new(Progress::starting_at(last_seq)),
            sequencer: Sequencer::starting_after(last_seq),
            view: View::new(state, last_seq),
            lag: Lag::new(settings.lag_bytes_max),
            segments: Segments::new(segments),
            counters,
            held,
            room: room::Seen::default(),
            settings,
        });
        shared.look_at_room();
        let journal = Journal::begin(Arc::clone(&shared))?;
        let follower = Follower::new(Arc::clone(&shared), start);
        let (looking, stop) = mpsc::channel();
        let room = Arc::clone(&shared);
        let store = Self { shared, threads: Mutex::default(), looking: Mutex::new(Some(looking)), _lock: lock };
        store.spawn("journal", move || journal.run())?;
        store.spawn("follower", move || follower.run())?;
        store.spawn("room", move || lookout::run(&room, &stop))?;
        Ok((store, report))
    }

    /// Makes everything accepted durable, applies it to sled, and stops the threads. Later commits are refused, reads
    /// still work. Returns an error if the store has failed. Blocks; safe to call twice.
    pub fn close(&self) -> Result<(), Error> {
        self.shared.sequencer.close();
        drop(lock(&self.looking).take());
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads {
            // A panic there has already failed the store.
            let _ = thread.join();
        }
        self.health()
    }

    /// The error that has stopped the store, if one has.
    pub fn health(&self) -> Result<(), Error> {
        self.shared.progress.failure().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Counters and sizes, for metrics.
    pub fn stats(&self) -> Stats {
        let counters = &self.shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            commits: read(&counters.commits),
            conflicts: read(&counters.conflicts),
            syncs: read(&counters.syncs),
            journal_bytes: read(&counters.journal_bytes),
            segments: self.shared.segments.len() as u64,
            accepted: self.shared.sequencer.lock().last_seq(),
            durable: self.shared.progress.durable(),
            applied: read(&counters.applied),
            overlay_entries: self.shared.view.overlay().len() as u64,
            lag_bytes: self.shared.lag.bytes() as u64,
            rows: read(&counters.rows),
            rounds: read(&counters.rounds),
            checkpoints: read(&counters.checkpoints),
            bases: read(&counters.bases),
            entries: read(&counters.entries),
        }
    }

    fn spawn(&self, name: &'static str, run: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
        let thread = thread::Builder::new().name(format!("store-{name}")).spawn(run);
        let thread = thread.map_err(Failure::disk("start a thread for", &self.shared.settings.dir))?;
        lock(&self.threads).push(thread);
        Ok(())
    }

    fn refuse(&self, refusal: Refusal) -> CommitError {
        match refusal {
            Refusal::Conflict(key) => {
                add(&self.shared.counters.conflicts, 1);
                CommitError::Conflict { key }
            }
            Refusal::Failed(failure) => self.shared.fail(failure).into(),
        }
    }

    fn may_accept(&self, queue: &Queue) -> Result<(), Error> {
        self.health()?;
        if queue.is_closed() { Err(Error::Closed) } else { Ok(()) }
    }
}

impl Read for LocalStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.shared.view.get(key).map_err(|failure| self.shared.fail(failure))
    }

    fn scan(&self, range: &Range, limit: usize) -> Result<Vec<(Bytes, Bytes)>, Error> {
        if limit > SCAN_ENTRIES_MAX {
            return Err(Error::ScanTooLong(limit));
        }
        self.shared.view.scan(range, limit).map_err(|failure| self.shared.fail(failure))
    }

    fn keys(&self, range: &Range, limit: usize) -> Result<Vec<Bytes>, Error> {
        if limit > SCAN_ENTRIES_MAX {
            return Err(Error::ScanTooLong(limit));
        }
        self.shared.view.keys(range, limit).map_err(|failure| self.shared.fail(failure))
    }

    fn is_current(&self, batch: &Batch) -> Result<bool, Error> {
        let view = &self.shared.view;
        let check = view.begin_check();
        match view.check(batch.expected()) {
            // Compares again what was written during the check: the answer is for the state at this call.
            Ok(()) => Ok(check.first_change(batch.expected()).is_none()),
            Err(Refusal::Conflict(_)) => Ok(false),
            Err(Refusal::Failed(failure)) => Err(self.shared.fail(failure)),
        }
    }
}

impl Store for LocalStore {
    fn commit(&self, batch: Batch) -> Result<Ticket, CommitError> {
        let shared = &self.shared;
        let (encoded, expected) = batch.into_parts(shared.settings.batch_bytes_max.min(PAYLOAD_BYTES_MAX))?;
        // The check has two phases. The long one, which reads sled and compares everything, runs without the lock that
        // every commit needs. Under the lock, only what was written since the check began is compared.
        let check = (!expected.is_empty()).then(|| shared.view.begin_check());
        shared.view.check(&expected).map_err(|refusal| self.refuse(refusal))?;
        let queue = shared.sequencer.lock();
        self.may_accept(&queue)?;
        if let Some(key) = check.and_then(|check| check.first_change(&expected)) {
            return Err(self.refuse(Refusal::Conflict(key)));
        }
        let seq = if encoded.is_empty() {
            queue.last_seq()
        } else {
            add(&shared.counters.commits, 1);
            // Visible before the lock is released: the next batch's preconditions see it.
            shared.sequencer.accept(queue, encoded, |seq, encoded| shared.view.overlay_mut().insert(seq, encoded))
        };
        Ok(Ticket::new(seq, Arc::clone(&shared.progress)))
    }

    fn barrier(&self) -> Ticket {
        let seq = self.shared.sequencer.lock().last_seq();
        Ticket::new(seq, Arc::clone(&self.shared.progress))
    }

    fn condition(&self) -> Condition {
        match (self.health(), self.shared.room.shortage()) {
            (Err(error), _) => Condition::Failed(error),
            (Ok(()), Some(shortage)) => Condition::Short(shortage),
            (Ok(()), None) => Condition::Sound,
        }
    }

    fn failed(&self) -> Pin<Box<dyn Future<Output = Error> + Send>> {
        let never = Ticket::never(Arc::clone(&self.shared.progress));
        Box::pin(async move {
            match never.durable().await {
                Err(error) => error,
                Ok(()) => future::pending().await,
            }
        })
    }
}

impl Drop for LocalStore {
    fn drop(&mut self) {
        // A failure has been logged when it happened.
        let _ = self.close();
    }
}

/// Keeps other processes out of the directory. The kernel releases the lock however the process ends.
#[derive(Debug)]
struct DirLock(fs::File);

impl Drop for DirLock {
    fn drop(&mut self) {
        // Closing the file is not enough: a child process that is being started may hold a copy of it.
        let _ = self.0.unlock();
    }
}

fn lock_dir(dir: &Path, disk: &dyn Disk) -> Result<DirLock, OpenError> {
    if !dir.exists() {
        create_dirs(dir).map_err(Failure::disk("create", dir))?;
        // Without this sync a power cut can remove the directory, and with it what is durable in it.
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        disk.sync_dir(parent).map_err(Failure::disk("sync", parent))?;
    }
    let path = files::lock(dir);
    let file = fs::File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(Failure::disk("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(DirLock(file)),
        Err(fs::TryLockError::WouldBlock) => Err(OpenError::Locked { dir: dir.to_owned() }),
        Err(fs::TryLockError::Error(source)) => Err(Failure::disk("lock", path)(source).into()),
    }
}
