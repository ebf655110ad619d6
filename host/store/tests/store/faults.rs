//! The process stops at the k-th file operation, for every k: in the middle of a write, between any two steps of a
//! rotation, a checkpoint, a base, a rebuild.

use std::{fs, path::Path};

use tempfile::tempdir;
use wasaga_store::{Batch, LocalStore, Settings, StateOrigin, Store};

use crate::support::{TestDisk, contents, eventually, open, small, with_disk};

fn settings(dir: &Path) -> Settings {
    Settings { segment_bytes: 1 << 10, base_bytes: 3 << 10, checkpoint_bytes: 1 << 10, ..small(dir) }
}

/// Commit `n`: its own key, and the count.
fn batch(n: u64) -> Batch {
    let mut batch = Batch::new();
    batch.put(format!("n{:02}", n % 10), format!("{n}{}", "x".repeat(300)));
    batch.put("count", n.to_string());
    batch
}

fn count(store: &dyn Store) -> u64 {
    store.get(b"count").unwrap().map_or(0, |count| std::str::from_utf8(&count).unwrap().parse().unwrap())
}

/// How many commits it takes to go through everything at least twice.
const COMMITS: u64 = 40;

/// Commits up to [`COMMITS`], each awaited; returns the last that was acknowledged.
fn write(store: &LocalStore, runtime: &tokio::runtime::Runtime) -> u64 {
    let mut n = count(store);
    while n < COMMITS {
        let Ok(ticket) = store.commit(batch(n + 1)) else { return n };
        if runtime.block_on(ticket.durable()).is_err() {
            return n;
        }
        n += 1;
    }
    n
}

/// What the store holds must be what it held after some commit, and no acknowledged one may be missing.
fn check(dir: &Path, acknowledged: u64, k: usize) {
    let (store, _) = open(settings(dir));
    let count = count(&store);
    assert!(count >= acknowledged, "stopped at operation {k}: {acknowledged} acknowledged, {count} found");
    let mut expected: Vec<_> = (count.saturating_sub(9).max(1)..=count)
        .flat_map(|n| batch(n).writes().map(|(k, v)| (k.to_vec(), v.unwrap().to_vec())).collect::<Vec<_>>())
        .filter(|(key, value)| key != b"count" || *value == count.to_string().into_bytes())
        .collect();
    expected.sort();
    let found: Vec<_> = contents(&store).into_iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
    assert_eq!(found, expected, "stopped at operation {k}");
}

/// Runs `scenario` on disks that stop at each operation in turn, until one lets it finish.
fn stop_everywhere(prepare: impl Fn(&Path), mut scenario: impl FnMut(&Path, Settings) -> (u64, bool)) -> usize {
    for k in 0.. {
        let dir = tempdir().unwrap();
        prepare(dir.path());
        let disk = TestDisk::failing_from(k);
        let (acknowledged, finished) = scenario(dir.path(), with_disk(settings(dir.path()), &disk));
        if finished {
            return k;
        }
        check(dir.path(), acknowledged, k);
    }
    unreachable!()
}

#[test]
fn a_stop_between_any_two_steps_loses_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let operations = stop_everywhere(
        |_| {},
        |_, settings| {
            let Ok((store, _)) = LocalStore::open(settings) else { return (0, false) };
            let acknowledged = write(&store, &runtime);
            (acknowledged, store.close().is_ok() && acknowledged == COMMITS)
        },
    );
    assert!(operations > 120, "only {operations} operations: rotation and bases were not covered");
}

#[test]
fn the_scenario_does_go_through_every_mechanism() {
    let dir = tempdir().unwrap();
    let disk = TestDisk::new();
    let (store, _) = open(with_disk(settings(dir.path()), &disk));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(write(&store, &runtime), COMMITS);
    eventually("a second base", || store.stats().bases > 1);
    store.close().unwrap();
    let log = disk.log();
    for operation in [
        "create journal",
        "append journal",
        "sync journal",
        "sync_dir journal",
        "remove journal",
        "create draft",
        "sync draft",
        "rename draft",
        "sync_dir base",
        "remove base",
        "sync db",
    ] {
        assert!(log.iter().any(|done| done == operation), "never happened: {operation}");
    }
}

#[test]
fn a_stop_in_the_middle_of_a_rebuild_only_delays_it() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let filled = tempdir().unwrap();
    let (store, _) = open(settings(filled.path()));
    assert_eq!(write(&store, &runtime), COMMITS);
    eventually("a base", || store.stats().bases > 0);
    drop(store);
    fs::write(filled.path().join("state/db"), b"this is no sled").unwrap();
    // A torn tail besides, so that cutting it is covered too.
    let last = crate::support::segments(filled.path()).pop().unwrap();
    let mut bytes = fs::read(&last).unwrap();
    bytes.extend_from_slice(b"torn");
    fs::write(&last, bytes).unwrap();
    let operations = stop_everywhere(
        |dir| copy(filled.path(), dir),
        |_, settings| match LocalStore::open(settings) {
            Ok((store, report)) => {
                assert!(matches!(report.state, StateOrigin::Rebuilt { set_aside: Some(_), .. }), "{report:?}");
                (COMMITS, store.close().is_ok())
            }
            Err(_) => (COMMITS, false),
        },
    );
    assert!(operations > 8, "only {operations}");
}

#[test]
fn a_stop_while_a_torn_segment_is_put_aside_loses_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let filled = tempdir().unwrap();
    let (store, _) = open(settings(filled.path()));
    assert_eq!(write(&store, &runtime), COMMITS);
    drop(store);
    let next = filled.path().join("journal").join(format!("{:020}.journal", COMMITS + 1));
    let mut bytes = fs::read(crate::support::segments(filled.path()).pop().unwrap()).unwrap();
    // The right header, and a record of which the end is missing.
    bytes.truncate(60);
    bytes[12..20].copy_from_slice(&(COMMITS + 1).to_le_bytes());
    let crc = crc32fast::hash(&bytes[..20]).to_le_bytes();
    bytes[20..24].copy_from_slice(&crc);
    fs::write(next, &bytes).unwrap();
    let operations = stop_everywhere(
        |dir| copy(filled.path(), dir),
        |dir, settings| {
            let opened = LocalStore::open(settings);
            let kept = crate::support::files(&dir.join("journal"), "damaged");
            let torn = dir.join("journal").join(format!("{:020}.journal", COMMITS + 1));
            let is_kept = kept.iter().chain([&torn]).any(|file| fs::read(file).is_ok_and(|kept| kept == bytes));
            assert!(is_kept, "the torn segment is lost");
            (COMMITS, opened.is_ok_and(|(store, _)| store.close().is_ok()))
        },
    );
    assert!(operations > 4, "only {operations}");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { fs::copy(&path, &target).map(drop).unwrap() }
    }
}
