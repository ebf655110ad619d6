//! The real store, with faults on demand.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use bytes::Bytes;
use wasaga::store::{Batch, CommitError, Condition, Error, Failure, LocalStore, Range, Read, Store, Ticket};

use super::TestDisk;

/// Keys that begin so are effects of contained branches in these tests.
pub const EFFECTS: &[u8] = b"k";

/// A [`LocalStore`] that counts commits and can be made to refuse them.
pub struct TestStore {
    inner: LocalStore,
    /// Every commit is on disk when it returns: for tests in paused time, which must not run on while a disk works.
    is_prompt: bool,
    script: Mutex<Script>,
    disk: TestDisk,
}

#[derive(Default)]
struct Script {
    commits: u64,
    fail_from: Option<u64>,
    /// The next read of a key with this prefix panics.
    trap: Option<Vec<u8>>,
    /// How many of the next commits that carry effects are refused, and how.
    refusals: Vec<CommitError>,
}

impl TestStore {
    pub fn new(inner: LocalStore, disk: TestDisk, is_prompt: bool) -> Self {
        Self { inner, is_prompt, script: Mutex::default(), disk }
    }

    /// The real store.
    pub fn local(&self) -> &LocalStore {
        &self.inner
    }

    /// Commits asked for so far, empty ones not counted.
    pub fn commits(&self) -> u64 {
        self.script().commits
    }

    /// The `commit`th commit, counted from 1, fails as a store that has lost its disk does, and all after it.
    pub fn fail_from(&self, commit: u64) {
        self.script().fail_from = Some(commit);
    }

    /// Whether a commit has failed so.
    pub fn has_failed(&self) -> bool {
        let script = self.script();
        script.fail_from.is_some_and(|from| from <= script.commits)
    }

    /// The next read of a key that begins with `prefix` panics.
    pub fn trap(&self, prefix: &[u8]) {
        self.script().trap = Some(prefix.into());
    }

    /// The next `count` commits that carry effects meet a conflict.
    pub fn conflict_next(&self, count: usize) {
        let conflict = CommitError::Conflict { key: Bytes::from_static(EFFECTS) };
        self.script().refusals.extend(std::iter::repeat_n(conflict, count));
    }

    /// The next `count` commits that carry effects are too large.
    pub fn too_large_next(&self, count: usize) {
        let too_large = CommitError::TooLarge { what: "batch", bytes: 2, max: 1 };
        self.script().refusals.extend(std::iter::repeat_n(too_large, count));
    }

    /// All keys that begin with `prefix`, with their values.
    pub fn rows(&self, prefix: &[u8]) -> Vec<(Bytes, Bytes)> {
        self.inner.scan(&Range::prefix(prefix), 4096).unwrap()
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a commit, and refuses it if the script says so.
    fn refuse(&self, batch: &Batch) -> Result<(), CommitError> {
        let mut script = self.script();
        script.commits += 1;
        if script.fail_from.is_some_and(|from| from <= script.commits) {
            return Err(failed().into());
        }
        let has_effects = || batch.writes().any(|(key, _)| key.starts_with(EFFECTS));
        if !script.refusals.is_empty() && has_effects() {
            return Err(script.refusals.remove(0));
        }
        Ok(())
    }

    fn settle(&self, ticket: Ticket) -> Ticket {
        if self.is_prompt && block_on(ticket.durable()).is_ok() { Ticket::settled(ticket.seq()) } else { ticket }
    }
}

impl Drop for TestStore {
    /// A test that fails while the disk is held must not hang: the real store finishes its work when it is dropped.
    fn drop(&mut self) {
        self.disk.release();
    }
}

impl Read for TestStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let trapped = self.script().trap.take_if(|prefix| key.starts_with(prefix)).is_some();
        assert!(!trapped, "the test lets the store panic");
        self.inner.get(key)
    }

    fn scan(&self, range: &Range, limit: usize) -> Result<Vec<(Bytes, Bytes)>, Error> {
        self.inner.scan(range, limit)
    }

    fn is_current(&self, batch: &Batch) -> Result<bool, Error> {
        self.inner.is_current(batch)
    }
}

impl Store for TestStore {
    fn commit(&self, batch: Batch) -> Result<Ticket, CommitError> {
        if batch.has_writes() {
            self.refuse(&batch)?;
        }
        Ok(self.settle(self.inner.commit(batch)?))
    }

    fn barrier(&self) -> Ticket {
        self.settle(self.inner.barrier())
    }

    fn condition(&self) -> Condition {
        if self.has_failed() { Condition::Failed(failed()) } else { self.inner.condition() }
    }

    fn failed(&self) -> Pin<Box<dyn Future<Output = Error> + Send>> {
        self.inner.failed()
    }
}

fn failed() -> Error {
    let source = std::io::Error::other("scripted");
    Error::Failed(Arc::new(Failure::Disk { action: "write", path: "scripted".into(), source }))
}

/// Waits on this thread, inside a runtime too.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread, AtomicBool);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.1.store(true, Ordering::Release);
            self.0.unpark();
        }
    }
    let unpark = Arc::new(Unpark(thread::current(), AtomicBool::new(false)));
    let waker = Waker::from(unpark.clone());
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        while !unpark.1.swap(false, Ordering::Acquire) {
            thread::park();
        }
    }
}
