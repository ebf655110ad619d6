//! A disk that forgets what a failed sync did not write, as Linux does: the pages stay readable, count as clean, and a later
//! sync of them reports success. They are gone when the power goes.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use tempfile::tempdir;
use wasaga_store::{
    LocalStore, Read as _, Settings, Store,
    disk::{Disk, File, Handle, Os, Room},
};

use crate::support::{TestDisk, eventually, files, open, put, segments, small, with_disk};

/// What became of the bytes of each file, by inode, in the order in which they were written.
type Ranges = HashMap<u64, Vec<(u64, Fate)>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Not yet synced.
    Dirty,
    /// A sync has failed: readable, and never written.
    Forgotten,
    OnDisk,
}

#[derive(Clone, Debug, Default)]
struct Lossy(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    ranges: Ranges,
    /// The next sync of a file with this extension fails.
    fail: Option<&'static str>,
}

impl Lossy {
    fn fail_next_sync_of(&self, extension: &'static str) {
        self.0.lock().unwrap().fail = Some(extension);
    }

    /// What is left in `dir` when the power goes: files written through this disk end where the disk has nothing. Of sled
    /// nothing is left, as nothing relies on it.
    fn cut_power(&self, dir: &Path) {
        let state = self.0.lock().unwrap();
        for folder in ["journal", "base"].map(|name| dir.join(name)) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let Some(ranges) = state.ranges.get(&fs::metadata(&path).unwrap().ino()) else { continue };
                let kept = ranges.iter().take_while(|(_, fate)| *fate == Fate::OnDisk).map(|(length, _)| length).sum();
                fs::File::options().write(true).open(path).unwrap().set_len(kept).unwrap();
            }
        }
        fs::remove_dir_all(dir.join("state")).unwrap();
    }
}

struct LossyFile {
    file: fs::File,
    path: PathBuf,
    disk: Lossy,
}

impl File for LossyFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        File::append(&mut self.file, bytes)?;
        let inode = self.file.metadata()?.ino();
        let mut state = self.disk.0.lock().unwrap();
        state.ranges.entry(inode).or_default().push((bytes.len() as u64, Fate::Dirty));
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let inode = self.file.metadata()?.ino();
        let mut state = self.disk.0.lock().unwrap();
        let fails =
            state.fail.take_if(|extension| self.path.extension().is_some_and(|found| found == *extension)).is_some();
        let fate = if fails { Fate::Forgotten } else { Fate::OnDisk };
        for (_, known) in state.ranges.entry(inode).or_default() {
            if *known == Fate::Dirty {
                *known = fate;
            }
        }
        if fails { Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())) } else { Ok(()) }
    }
}

impl Disk for Lossy {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let file = fs::File::create_new(path)?;
        // The inode of a file that was removed may be given to this one.
        self.0.lock().unwrap().ranges.insert(file.metadata()?.ino(), Vec::new());
        Ok(Box::new(LossyFile { file, path: path.to_owned(), disk: self.clone() }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Handle>> {
        // Reports success, as there is nothing dirty: the pages of a failed sync count as clean.
        Os.open(path)
    }

    fn mark(&self, path: &Path) -> io::Result<()> {
        Os.mark(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Os.rename(from, to)
    }

    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()> {
        Os.exchange(a, b)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Os.remove(path)
    }

    fn room(&self, path: &Path) -> io::Result<Room> {
        Os.room(path)
    }
}

fn settings(dir: &Path, disk: &Lossy) -> Settings {
    Settings { disk: Arc::new(disk.clone()), ..small(dir) }
}

fn durable(store: &LocalStore, key: &str) -> Result<(), wasaga_store::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(store.commit(put(key, "value")).map_err(|_| wasaga_store::Error::Closed)?.durable())
}

/// A store that has failed: the record `before` is on the disk, and the sync of `unknown` has failed.
fn fail_a_sync(dir: &Path, disk: &Lossy) {
    let (store, _) = open(settings(dir, disk));
    durable(&store, "before").unwrap();
    disk.fail_next_sync_of("journal");
    durable(&store, "unknown").unwrap_err();
}

#[test]
fn what_a_start_has_read_survives_the_power_also_after_a_failed_sync() {
    let dir = tempdir().unwrap();
    let disk = Lossy::default();
    fail_a_sync(dir.path(), &disk);

    // The process is started again, without a reboot: it reads the record whose sync has failed, and shows it.
    let (store, report) = open(settings(dir.path(), &disk));
    assert_eq!(report.last_seq, 2);
    assert!(store.barrier().is_durable(), "so it may be told to anybody");
    assert_eq!(store.get(b"unknown").unwrap().unwrap(), "value");
    durable(&store, "after").unwrap();
    drop(store);

    disk.cut_power(dir.path());
    let (store, report) = open(settings(dir.path(), &disk));
    assert_eq!(report.last_seq, 3, "{report:?}");
    for key in ["before", "unknown", "after"] {
        assert_eq!(store.get(key.as_bytes()).unwrap().as_deref(), Some(&b"value"[..]), "{key} was told to be durable");
    }
}

#[test]
fn a_start_that_cannot_write_the_segment_anew_is_no_start() {
    let dir = tempdir().unwrap();
    let disk = Lossy::default();
    fail_a_sync(dir.path(), &disk);
    // The sync of the copy fails too, again and again.
    for _ in 0..3 {
        disk.fail_next_sync_of("draft");
        LocalStore::open(settings(dir.path(), &disk)).unwrap_err();
    }
    let (store, _) = open(settings(dir.path(), &disk));
    assert_eq!(store.get(b"unknown").unwrap().unwrap(), "value");
    drop(store);
    disk.cut_power(dir.path());
    let (store, _) = open(settings(dir.path(), &disk));
    assert_eq!(store.get(b"unknown").unwrap().unwrap(), "value");
    assert!(files(&dir.path().join("journal"), "draft").is_empty());
}

#[test]
fn every_start_writes_the_last_segment_anew_whatever_ended_the_one_before() {
    let fail: [fn(&LocalStore, &TestDisk); 5] = [
        |store, _| store.close().unwrap(),
        |_, disk| disk.fail("sync journal"),
        |_, disk| disk.fail("append journal"),
        |_, disk| disk.fail("sync db"),
        |_, disk| disk.fail("sync_dir journal"),
    ];
    for (case, fail) in fail.into_iter().enumerate() {
        let dir = tempdir().unwrap();
        let disk = TestDisk::new();
        let (store, _) = open(with_disk(small(dir.path()), &disk));
        durable(&store, "first").unwrap();
        fail(&store, &disk);
        if case > 0 {
            eventually("it has failed", || {
                let _ = store.commit(put("more", [0; 10_000]));
                store.health().is_err()
            });
        }
        drop(store);
        let last = segments(dir.path()).pop().unwrap();
        let inode = || fs::metadata(&last).unwrap().ino();
        let before = inode();
        let disk = TestDisk::new();
        // A directory entry that keeps the old file, so that its inode is not given to the new one.
        fs::hard_link(&last, dir.path().join("old")).unwrap();
        let (store, _) = open(with_disk(small(dir.path()), &disk));
        let log = disk.log();
        let at =
            |operation: &str| log.iter().position(|done| done == operation).unwrap_or_else(|| panic!("{operation}"));
        let steps = ["create draft", "append draft", "sync draft", "rename draft", "sync_dir journal"].map(at);
        assert!(steps.is_sorted(), "case {case}: {log:?}");
        // Unless it was the segment that had just been begun, which goes.
        assert!(!last.exists() || inode() != before, "case {case}");
        drop(store);
    }
}
