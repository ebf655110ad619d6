//! The cache on a disk that loses what was not synced, and may be cut off.

use std::{
    fs,
    sync::atomic::{AtomicUsize, Ordering},
    sync::{Mutex, MutexGuard},
};

use wasmtime::Config;

use super::*;
use crate::{
    plugin::name::digest,
    store::disk::{self, File, Room},
};

/// The smallest component: it has nothing.
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

/// A disk of which the real folder has only what is durable: bytes get there when their file is synced, names when their
/// folder is. From one operation on it fails, as if the power were cut there.
#[derive(Debug)]
struct Volatile {
    left: AtomicUsize,
    renamed: Mutex<Vec<(PathBuf, PathBuf)>>,
}

impl Volatile {
    fn cut_after(operations: usize) -> Arc<Self> {
        Arc::new(Self { left: operations.into(), renamed: Mutex::default() })
    }

    fn renamed(&self) -> MutexGuard<'_, Vec<(PathBuf, PathBuf)>> {
        self.renamed.lock().unwrap()
    }

    fn step(&self) -> io::Result<()> {
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.map(drop).map_err(|_| io::Error::other("the power is cut"))
    }
}

struct VolatileFile {
    file: Box<dyn File>,
    unsynced: Vec<u8>,
    disk: Arc<Volatile>,
}

impl File for VolatileFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.disk.step()?;
        self.unsynced.extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        // Half of it gets there.
        if let Err(cut) = self.disk.step() {
            self.file.append(&self.unsynced[..self.unsynced.len() / 2])?;
            return Err(cut);
        }
        self.file.append(&std::mem::take(&mut self.unsynced))
    }
}

/// The handle that the cache has.
#[derive(Debug)]
struct Handle(Arc<Volatile>);

impl Disk for Handle {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.0.step()?;
        Ok(Box::new(VolatileFile { file: Os.create(path)?, unsynced: Vec::new(), disk: self.0.clone() }))
    }

    fn open(&self, _path: &Path) -> io::Result<Box<dyn disk::Handle>> {
        unreachable!("files are synced by what created them")
    }

    fn mark(&self, _path: &Path) -> io::Result<()> {
        unreachable!("the cache has no empty files")
    }

    fn room(&self, _path: &Path) -> io::Result<Room> {
        unreachable!("the cache does not ask for room")
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        self.0.step()?;
        self.0.renamed().drain(..).try_for_each(|(from, to)| fs::rename(from, to))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.step()?;
        self.0.renamed().push((from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn exchange(&self, _a: &Path, _b: &Path) -> io::Result<()> {
        unreachable!("the cache swaps no names")
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.step()?;
        Os.remove(path)
    }
}

struct World {
    dir: tempfile::TempDir,
    engine: Engine,
    component: Component,
}

impl World {
    fn new() -> Self {
        let engine = Engine::default();
        let component = Component::from_binary(&engine, COMPONENT).unwrap();
        Self { dir: tempfile::tempdir().unwrap(), engine, component }
    }

    fn cache(&self) -> Cache {
        Cache::open(self.dir.path(), &self.engine).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

#[test]
fn compiled_code_survives_a_power_loss_and_is_whole_or_absent_when_saving_is_cut_off() {
    let digest = digest(COMPONENT);
    let mut cuts = 0;
    loop {
        let world = World::new();
        let disk = Arc::new(Handle(Volatile::cut_after(cuts)));
        let cache = Cache::open_on(disk, world.dir.path(), &world.engine).unwrap();
        let is_saved = cache.save(digest, &world.component).is_ok();
        // The next start finds what was durable.
        let cache = world.cache();
        assert_eq!(cache.load(&world.engine, digest).is_some(), is_saved, "cut at {cuts}");
        cache.sweep(|_| true).unwrap();
        assert_eq!(world.names().len(), usize::from(is_saved), "cut at {cuts}: {:?}", world.names());
        cache.save(digest, &world.component).unwrap();
        assert!(cache.load(&world.engine, digest).is_some(), "cut at {cuts}");
        if is_saved {
            break;
        }
        cuts += 1;
    }
    assert_eq!(cuts, 6, "create, two parts, sync, rename, sync of the folder");
}

#[test]
fn a_sweep_leaves_what_is_used_and_what_is_not_surely_ours() {
    let world = World::new();
    let other = Engine::new(Config::new().epoch_interruption(true)).unwrap();
    let of_other = Component::from_binary(&other, COMPONENT).unwrap();
    let (used, unknown) = (digest(COMPONENT), digest(b"gone"));
    let cache = world.cache();
    cache.save(used, &world.component).unwrap();
    cache.save(unknown, &world.component).unwrap();
    Cache::open(world.dir.path(), &other).unwrap().save(used, &of_other).unwrap();
    // Of a newer version, perhaps: the names are ours, the form is not.
    let newer = format!("{used}-{:016x}.cwasm", 1);
    let others = [newer.as_str(), "notes.txt", "x.cwasm", ".0123.tmp", "backup.tmp"];
    for name in others {
        fs::write(world.dir.path().join(name), "another form").unwrap();
    }
    fs::create_dir(world.dir.path().join(".0123456789abcdef.tmp")).unwrap();
    for leftover in ["0123456789abcdef.tmp", ".fedcba9876543210.tmp"] {
        fs::write(world.dir.path().join(leftover), "half").unwrap();
    }
    let swept = cache.sweep(|digest| digest == used).unwrap();
    assert_eq!(swept.files, 4, "of another engine, of a component that is gone, and two leftovers: {swept:?}");
    assert!(swept.bytes > 8);
    let mut wanted: Vec<String> = others.map(str::to_owned).into();
    wanted.extend([cache.name(used), ".0123456789abcdef.tmp".to_owned()]);
    let mut left = world.names();
    wanted.sort();
    left.sort();
    assert_eq!(left, wanted);
    assert!(cache.load(&world.engine, used).is_some());
    assert_eq!(cache.sweep(|_| true).unwrap(), Swept::default(), "nothing is left to sweep");
}
