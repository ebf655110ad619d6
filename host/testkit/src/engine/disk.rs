//! A disk whose power can be cut.

use std::{
    fs, io,
    io::Write,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use wasaga::store::disk::{Disk, File, Handle, Os, Room};

/// Keeps what is written in memory until it is synced, so that a cut loses everything that is not durable. Its
/// syncs can be held back, counted, and made to fail.
#[derive(Clone, Debug, Default)]
pub struct TestDisk(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    power: Mutex<Power>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Power {
    is_cut: bool,
    is_held: bool,
    /// Syncs of the journal so far.
    syncs: u64,
    /// The sync of the journal, counted from 1, at which the power goes.
    cut_at: Option<u64>,
    /// Bytes that are free; `None`: as many as one likes.
    left: Option<u64>,
    /// Whether the syncs of sled's file and of folders fail.
    handles_fail: bool,
}

impl TestDisk {
    /// From now on nothing reaches the disk any more, and everything fails.
    pub fn cut(&self) {
        self.power().is_cut = true;
        self.0.changed.notify_all();
    }

    /// Cuts the power in place of the `sync`th sync of the journal, counted from 1.
    pub fn cut_at_sync(&self, sync: u64) {
        self.power().cut_at = Some(sync);
    }

    /// Whether the power has been cut.
    pub fn is_cut(&self) -> bool {
        self.power().is_cut
    }

    /// Syncs of the journal wait until [`TestDisk::release`].
    pub fn hold(&self) {
        self.power().is_held = true;
    }

    /// Ends [`TestDisk::hold`].
    pub fn release(&self) {
        self.power().is_held = false;
        self.0.changed.notify_all();
    }

    /// From now on, so many bytes are free; `None`: as many as one likes.
    pub fn leave(&self, bytes: Option<u64>) {
        self.power().left = bytes;
    }

    /// From now on, the syncs of sled's file and of folders fail.
    pub fn fail_handles(&self) {
        self.power().handles_fail = true;
    }

    /// Syncs of the journal so far.
    pub fn syncs(&self) -> u64 {
        self.power().syncs
    }

    fn power(&self) -> MutexGuard<'_, Power> {
        self.0.power.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self) -> io::Result<()> {
        if self.is_cut() { Err(gone()) } else { Ok(()) }
    }

    /// Waits while the disk is held, and counts.
    fn sync_journal(&self) -> io::Result<()> {
        let held = |power: &mut Power| power.is_held && !power.is_cut;
        let mut power = self.0.changed.wait_while(self.power(), held).unwrap_or_else(PoisonError::into_inner);
        power.syncs += 1;
        power.is_cut |= power.cut_at.is_some_and(|at| at <= power.syncs);
        if power.is_cut { Err(gone()) } else { Ok(()) }
    }
}

fn gone() -> io::Error {
    io::Error::other("the power is cut")
}

impl Disk for TestDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.check()?;
        let is_journal = path.extension().is_some_and(|extension| extension == "journal");
        Ok(Box::new(TestFile {
            file: fs::File::create_new(path)?,
            unsynced: Vec::new(),
            is_journal,
            disk: self.clone(),
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Handle>> {
        self.check()?;
        // It must exist.
        drop(Os.open(path)?);
        Ok(Box::new(TestHandle(self.clone())))
    }

    fn mark(&self, path: &Path) -> io::Result<()> {
        self.check()?;
        Os.mark(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check()?;
        Os.rename(from, to)
    }

    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()> {
        self.check()?;
        Os.exchange(a, b)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.check()?;
        Os.remove(path)
    }

    fn room(&self, path: &Path) -> io::Result<Room> {
        let left = self.power().left;
        Ok(Room { free_bytes: left.unwrap_or(u64::MAX), ..Os.room(path)? })
    }
}

#[derive(Debug)]
struct TestHandle(TestDisk);

impl Handle for TestHandle {
    fn sync(&self) -> io::Result<()> {
        // The page cache is enough: it is this process that dies in these tests, not the machine.
        self.0.check()?;
        if self.0.power().handles_fail { Err(io::Error::other("the sync failed")) } else { Ok(()) }
    }
}

struct TestFile {
    file: fs::File,
    unsynced: Vec<u8>,
    is_journal: bool,
    disk: TestDisk,
}

impl File for TestFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.disk.check()?;
        self.unsynced.extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.is_journal {
            self.disk.sync_journal()?;
        } else {
            self.disk.check()?;
        }
        // The page cache is enough: it is this process that dies in these tests, not the machine.
        self.file.write_all(&self.unsynced)?;
        self.unsynced.clear();
        Ok(())
    }
}
