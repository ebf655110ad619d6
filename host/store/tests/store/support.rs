//! A store that is small enough to rotate and rewrite all the time, and a disk that can be stopped and broken.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use bytes::Bytes;
use wasaga_store::{
    Batch, LocalStore, Range, Recovery, Settings, Store,
    disk::{Disk, File, Os},
};

/// Settings under which every mechanism runs within a few hundred commits.
pub fn small(dir: &Path) -> Settings {
    Settings {
        segment_bytes: 16 << 10,
        base_bytes: 48 << 10,
        gather: Duration::from_millis(1),
        checkpoint_interval: Duration::from_millis(5),
        cache_bytes: 8 << 20,
        ..Settings::new(dir)
    }
}

pub fn open(settings: Settings) -> (LocalStore, Recovery) {
    LocalStore::open(settings).unwrap()
}

pub fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Batch {
    let mut batch = Batch::new();
    batch.put(key, value);
    batch
}

/// Everything in the store, read in pages.
pub fn contents(store: &dyn Store) -> Vec<(Bytes, Bytes)> {
    let mut found: Vec<(Bytes, Bytes)> = Vec::new();
    let mut range = Range::default();
    loop {
        let page = store.scan(&range, 100).unwrap();
        let Some((last, _)) = page.last() else { return found };
        range = range.beyond(last);
        found.extend(page);
    }
}

/// Waits for something that another thread does.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The files with this extension, in order.
pub fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|found| found == extension));
    found.sort();
    found
}

pub fn segments(dir: &Path) -> Vec<PathBuf> {
    files(&dir.join("journal"), "journal")
}

/// A real disk that counts, stops and fails.
#[derive(Debug, Default)]
pub struct TestDisk {
    plan: Mutex<Plan>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Plan {
    /// The operations so far, as `sync journal`.
    log: Vec<String>,
    /// Operations that begin with this wait.
    gate: Option<&'static str>,
    /// How many wait.
    waiting: usize,
    /// The operation of this number, and all after it, fail.
    fail_from: Option<usize>,
    /// Operations that begin with this fail.
    fail: Option<&'static str>,
}

impl TestDisk {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn failing_from(operation: usize) -> Arc<Self> {
        let disk = Self::new();
        disk.plan().fail_from = Some(operation);
        disk
    }

    /// From now on, operations that begin with `what` wait.
    pub fn close_gate(&self, what: &'static str) {
        self.plan().gate = Some(what);
    }

    pub fn open_gate(&self) {
        self.plan().gate = None;
        self.changed.notify_all();
    }

    pub fn wait_until_stopped(&self) {
        eventually("an operation stops at the gate", || self.plan().waiting > 0);
    }

    /// From now on, operations that begin with `what` fail.
    pub fn fail(&self, what: &'static str) {
        self.plan().fail = Some(what);
    }

    pub fn log(&self) -> Vec<String> {
        self.plan().log.clone()
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap()
    }

    fn enter(&self, what: &str, path: &Path) -> io::Result<()> {
        let name = path.extension().or(path.file_name()).unwrap().to_string_lossy();
        let operation = format!("{what} {name}");
        let mut plan = self.plan();
        if plan.fail_from.is_some_and(|from| plan.log.len() >= from)
            || plan.fail.is_some_and(|fail| operation.starts_with(fail))
        {
            plan.log.push(format!("failed {operation}"));
            return Err(io::Error::other("injected"));
        }
        plan.waiting += 1;
        let is_closed = |plan: &mut Plan| plan.gate.is_some_and(|gate| operation.starts_with(gate));
        // Bounded, so that a test which fails meanwhile ends.
        plan = self.changed.wait_timeout_while(plan, Duration::from_secs(20), is_closed).unwrap().0;
        plan.waiting -= 1;
        plan.log.push(operation);
        Ok(())
    }
}

/// The handle that goes into the settings.
#[derive(Clone, Debug)]
pub struct Handle(pub Arc<TestDisk>);

impl Disk for Handle {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.0.enter("create", path)?;
        Ok(Box::new(TestFile { disk: Arc::clone(&self.0), path: path.to_owned(), file: Os.create(path)? }))
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.0.enter("sync", path)?;
        Os.sync(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.enter("sync_dir", path)?;
        Os.sync_dir(path)
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        self.0.enter("truncate", path)?;
        Os.truncate(path, len)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.enter("rename", from)?;
        Os.rename(from, to)
    }

    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()> {
        self.0.enter("exchange", a)?;
        Os.exchange(a, b)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.enter("remove", path)?;
        Os.remove(path)
    }
}

struct TestFile {
    disk: Arc<TestDisk>,
    path: PathBuf,
    file: Box<dyn File>,
}

impl File for TestFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.disk.enter("append", &self.path) {
            // As a process leaves it that dies during a write.
            self.file.append(&bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        self.file.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.enter("sync", &self.path)?;
        self.file.sync()
    }
}

pub fn with_disk(settings: Settings, disk: &Arc<TestDisk>) -> Settings {
    Settings { disk: Arc::new(Handle(Arc::clone(disk))), ..settings }
}
