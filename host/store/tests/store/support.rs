//! A store that is small enough to rotate and rewrite all the time, and a disk that can be stopped and broken.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustix::io::Errno;
use wasaga_store::{
    Batch, LocalStore, Range, Recovery, Settings, Store,
    disk::{Disk, File, Handle as Open, Os, Room},
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
    /// Operations that begin with this fail, with this error of the system (`None`: with another one).
    fail: Option<(&'static str, Option<Errno>)>,
    /// What the disk says of its room.
    room: Option<Room>,
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
        self.plan().fail = Some((what, None));
    }

    /// From now on, the system refuses operations that begin with `what`.
    pub fn refuse(&self, what: &'static str, errno: Errno) {
        self.plan().fail = Some((what, Some(errno)));
    }

    /// From now on, operations succeed again.
    pub fn mend(&self) {
        self.plan().fail = None;
    }

    /// From now on, this is left of the disk.
    pub fn leave(&self, room: Room) {
        self.plan().room = Some(room);
    }

    /// How often an operation that begins with `what` has failed.
    pub fn failures(&self, what: &str) -> usize {
        self.log().iter().filter(|operation| operation.starts_with(&format!("failed {what}"))).count()
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
        let refused = plan.fail.filter(|(fail, _)| operation.starts_with(fail)).map(|(_, errno)| errno);
        if plan.fail_from.is_some_and(|from| plan.log.len() >= from) || refused.is_some() {
            plan.log.push(format!("failed {operation}"));
            return Err(refused.flatten().map_or_else(|| io::Error::other("injected"), Into::into));
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

    fn open(&self, path: &Path) -> io::Result<Box<dyn Open>> {
        self.0.enter("open", path)?;
        let what = if path.is_dir() { "sync_dir" } else { "sync" };
        Ok(Box::new(TestHandle { disk: Arc::clone(&self.0), path: path.to_owned(), what, handle: Os.open(path)? }))
    }

    fn mark(&self, path: &Path) -> io::Result<()> {
        self.0.enter("mark", path)?;
        Os.mark(path)
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

    fn room(&self, path: &Path) -> io::Result<Room> {
        let scripted = self.0.plan().room;
        scripted.map_or_else(|| Os.room(path), Ok)
    }
}

#[derive(Debug)]
struct TestHandle {
    disk: Arc<TestDisk>,
    path: PathBuf,
    what: &'static str,
    handle: Box<dyn Open>,
}

impl Open for TestHandle {
    fn sync(&self) -> io::Result<()> {
        self.disk.enter(self.what, &self.path)?;
        self.handle.sync()
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
