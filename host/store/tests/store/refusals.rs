//! What the system refuses is no damage: no descriptors, no space, no permission.
//!
//! 1. While the store runs, a file that cannot be created now is created later, and the store does not fail.
//! 2. At an opening it is a reason not to start, by name, and nothing is renamed, marked or left behind.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::io::Errno;
use tempfile::{TempDir, tempdir};
use wasaga_store::{
    Condition, LocalStore, Obstacle, OpenError, Read as _, Resource, Settings, StateOrigin, Store,
    disk::{Disk as _, Os, Room},
};

use crate::support::{TestDisk, contents, eventually, files, open, put, segments, small, with_disk};

const REFUSALS: [(Errno, Obstacle); 8] = [
    (Errno::NOSPC, Obstacle::NoSpace),
    (Errno::DQUOT, Obstacle::Quota),
    (Errno::ROFS, Obstacle::ReadOnly),
    (Errno::ACCESS, Obstacle::Denied),
    (Errno::PERM, Obstacle::Denied),
    (Errno::MFILE, Obstacle::Descriptors),
    (Errno::NFILE, Obstacle::SystemDescriptors),
    (Errno::IO, Obstacle::Faulty),
];

/// What may pass while the store runs.
const PASSING: [Errno; 4] = [Errno::MFILE, Errno::NFILE, Errno::NOSPC, Errno::DQUOT];

fn settings(dir: &Path) -> Settings {
    Settings { segment_bytes: 1 << 10, base_bytes: 4 << 10, checkpoint_bytes: 1 << 10, ..small(dir) }
}

fn commit(store: &LocalStore, n: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let ticket = store.commit(put(format!("k{n:04}"), [7; 200])).unwrap();
    runtime.block_on(ticket.durable()).unwrap();
}

fn filled() -> TempDir {
    let dir = tempdir().unwrap();
    let (store, _) = open(settings(dir.path()));
    (0..60).for_each(|n| commit(&store, n));
    eventually("a base", || store.stats().bases > 0);
    dir
}

/// Every file with its content, but those of sled, which may write when it is opened.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().unwrap() != "state" {
            found.extend(tree(&path));
        } else {
            let content = if path.is_dir() { Vec::new() } else { fs::read(&path).unwrap() };
            found.insert(path, content);
        }
    }
    found
}

#[test]
fn no_descriptor_for_a_segment_only_makes_the_last_one_longer() {
    for errno in PASSING {
        let dir = tempdir().unwrap();
        let disk = TestDisk::new();
        let (store, _) = open(with_disk(Settings { base_bytes: u64::MAX, ..settings(dir.path()) }, &disk));
        disk.refuse("create journal", errno);
        (0..30).for_each(|n| commit(&store, n));
        assert!(disk.failures("create journal") > 0, "{errno}: no segment was due");
        assert_eq!(segments(dir.path()).len(), 1, "{errno}");
        disk.mend();
        eventually("a new segment", || {
            commit(&store, 99);
            segments(dir.path()).len() > 1
        });
        store.close().unwrap();
        drop(store);
        fs::remove_dir_all(dir.path().join("state")).unwrap();
        let (store, _) = open(settings(dir.path()));
        assert_eq!(contents(&store).len(), 31, "{errno}");
    }
}

#[test]
fn a_base_that_cannot_be_written_is_given_up_and_written_later() {
    for (operation, errno) in ["create draft", "append draft"].into_iter().flat_map(|o| PASSING.map(|errno| (o, errno)))
    {
        let dir = tempdir().unwrap();
        let disk = TestDisk::new();
        let (store, _) = open(with_disk(settings(dir.path()), &disk));
        disk.refuse(operation, errno);
        eventually("a base is due", || {
            commit(&store, 1);
            disk.failures(operation) > 0
        });
        eventually("its draft is gone", || files(&dir.path().join("base"), "draft").is_empty());
        assert!(matches!(store.condition(), Condition::Sound), "{operation} {errno}");
        disk.mend();
        eventually("a base", || {
            commit(&store, 2);
            store.stats().bases > 0
        });
        store.close().unwrap();
    }
}

/// A base that would take the space which running sagas need is not begun, and given up when the space goes meanwhile.
#[test]
fn a_base_leaves_the_reserve_of_the_disk_alone() {
    let dir = tempdir().unwrap();
    let disk = TestDisk::new();
    let (store, _) = open(with_disk(settings(dir.path()), &disk));
    let room = Os.room(dir.path()).unwrap();
    disk.leave(Room { free_bytes: 100, ..room });
    eventually("the disk is short", || matches!(store.condition(), Condition::Short(_)));
    (0..200).for_each(|n| commit(&store, n));
    eventually("all is in sled", || store.stats().applied == store.stats().accepted);
    assert_eq!((store.stats().bases, files(&dir.path().join("base"), "draft").len()), (0, 0));
    disk.leave(room);
    eventually("a base", || {
        commit(&store, 2);
        store.stats().bases > 0
    });
    store.close().unwrap();
}

#[test]
fn a_running_store_opens_nothing_to_sync_it() {
    let dir = tempdir().unwrap();
    let disk = TestDisk::new();
    let (store, _) = open(with_disk(settings(dir.path()), &disk));
    disk.refuse("open", Errno::MFILE);
    (0..60).for_each(|n| commit(&store, n));
    eventually("a base and checkpoints", || store.stats().bases > 0 && store.stats().checkpoints > 1);
    store.close().unwrap();
    assert_eq!(disk.failures("open"), 0);
}

#[test]
fn damage_is_marked_without_a_descriptor() {
    let dir = filled();
    let db = sled::Config::new().path(dir.path().join("state")).segment_size(8 << 20).open().unwrap();
    let row = db.range([1]..).next().unwrap().unwrap().0;
    db.insert(&row, b"\x07 no such kind of row").unwrap();
    db.flush().unwrap();
    drop(db);
    let disk = TestDisk::new();
    let (store, _) = open(with_disk(Settings { verify_on_open: false, ..settings(dir.path()) }, &disk));
    // The way that the mark does not take.
    disk.refuse("create", Errno::MFILE);
    store.get(&row[1..]).unwrap_err();
    assert!(dir.path().join("REBUILD").exists());
}

#[test]
fn an_opening_that_the_system_refuses_names_it_and_changes_nothing() {
    let filled = filled();
    let before = tree(filled.path());
    for (errno, obstacle) in REFUSALS {
        for operation in ["create PROBE", "append PROBE", "sync PROBE", "create draft", "append draft", "open db"] {
            let disk = TestDisk::new();
            disk.refuse(operation, errno);
            let error = LocalStore::open(with_disk(settings(filled.path()), &disk)).unwrap_err();
            assert!(
                matches!(&error, OpenError::Refused { obstacle: found, .. } if *found == obstacle),
                "{operation} {errno}: {error:?}"
            );
            assert!(error.to_string().contains(&obstacle.to_string()), "{error}");
            let mut after = tree(filled.path());
            // What is being written at the refusal; the next start removes it.
            after.retain(|path, _| path.extension().is_none_or(|extension| extension != "draft"));
            assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "{operation} {errno}");
        }
    }
    let (store, report) = open(settings(filled.path()));
    assert_eq!(report.state, StateOrigin::Kept);
    assert_eq!(contents(&store).len(), 60);
}

#[test]
fn a_full_disk_is_found_before_anything_is_written() {
    let dir = filled();
    let before = tree(dir.path());
    let disk = TestDisk::new();
    let room = Os.room(dir.path()).unwrap();
    disk.leave(Room { free_bytes: 64 << 10, ..room });
    fs::create_dir(dir.path().join("state.damaged-1")).unwrap();
    let error = LocalStore::open(with_disk(settings(dir.path()), &disk)).unwrap_err();
    assert!(matches!(&error, OpenError::Refused { obstacle: Obstacle::NoSpace, .. }), "{error:?}");
    assert!(error.to_string().contains("state.damaged-1"), "it says what may be deleted: {error}");
    fs::remove_dir(dir.path().join("state.damaged-1")).unwrap();
    assert_eq!(tree(dir.path()), before);
    // The same error with no inode left is named otherwise.
    disk.leave(Room { files: 100, free_files: 0, ..room });
    disk.refuse("create PROBE", Errno::NOSPC);
    let error = LocalStore::open(with_disk(settings(dir.path()), &disk)).unwrap_err();
    assert!(matches!(&error, OpenError::Refused { obstacle: Obstacle::NoInodes, .. }), "{error:?}");
}

/// Whether this process obeys the permissions of files: root does not.
fn obeys_permissions(dir: &Path) -> bool {
    let file = dir.join("locked");
    fs::write(&file, "").unwrap();
    let mut permissions = fs::metadata(&file).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&file, permissions).unwrap();
    fs::File::options().append(true).open(&file).is_err()
}

#[test]
fn a_state_that_cannot_be_read_is_not_called_damaged() {
    let dir = filled();
    if !obeys_permissions(tempdir().unwrap().path()) {
        return;
    }
    let db = dir.path().join("state/db");
    let mut permissions = fs::metadata(&db).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&db, permissions).unwrap();
    let error = LocalStore::open(settings(dir.path())).unwrap_err();
    assert!(matches!(&error, OpenError::Refused { obstacle: Obstacle::Denied, .. }), "{error:?}");
    assert!(!dir.path().join("REBUILD").exists() && db.exists());
}

#[test]
fn a_snapshot_that_sled_did_not_finish_is_no_damage() {
    let dir = filled();
    // It sorts after every other one, and sled would read it as if it were whole.
    fs::write(dir.path().join("state/snap.FFFFFFFFFFFFFFFF.generating"), [7; 100]).unwrap();
    let (store, report) = open(settings(dir.path()));
    assert_eq!(report.state, StateOrigin::Kept, "{report:?}");
    assert_eq!(contents(&store).len(), 60);
}

#[test]
fn a_failed_store_is_known_without_a_commit() {
    let dir = tempdir().unwrap();
    let disk = TestDisk::new();
    let settings = Settings { checkpoint_interval: Duration::from_millis(50), ..small(dir.path()) };
    let (store, _) = open(with_disk(settings, &disk));
    let failed = store.failed();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    disk.fail("sync db");
    commit(&store, 1);
    let cause = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), failed).await.unwrap() });
    assert!(cause.to_string().contains("restart"), "{cause}");
    assert!(matches!(store.condition(), Condition::Failed(_)));
    // Also for later calls.
    runtime.block_on(store.failed());
    assert!(!dir.path().join("REBUILD").exists(), "a failed sync is no damage");
}

#[test]
fn a_disk_without_room_is_said_so_until_it_has_room_again() {
    let dir = tempdir().unwrap();
    let disk = TestDisk::new();
    let room = Room { bytes: 100 << 30, free_bytes: 50 << 30, files: 0, free_files: 0 };
    disk.leave(Room { free_bytes: 1000, ..room });
    // Too little to open it, however small it is.
    assert!(LocalStore::open(with_disk(small(dir.path()), &disk)).is_err());
    disk.leave(Room { free_bytes: 30 << 20, ..room });
    let (store, _) = open(with_disk(small(dir.path()), &disk));
    let Condition::Short(shortage) = store.condition() else { panic!("{:?}", store.condition()) };
    assert_eq!((shortage.of, shortage.free, shortage.wanted), (Resource::Bytes, 30 << 20, 1 << 30));
    commit(&store, 1);
    disk.leave(room);
    eventually("it has room", || matches!(store.condition(), Condition::Sound));
    disk.leave(Room { files: 1000, free_files: 3, ..room });
    eventually(
        "inodes are short",
        || matches!(store.condition(), Condition::Short(shortage) if shortage.of == Resource::Files),
    );
    store.close().unwrap();
}

#[test]
fn copies_of_damaged_databases_give_way_when_a_rebuild_needs_their_room() {
    let dir = filled();
    let copies = || {
        let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("state.damaged")).count()
    };
    for n in 0..2 {
        let copy = dir.path().join(format!("state.damaged-{n}"));
        fs::create_dir(&copy).unwrap();
        fs::write(copy.join("db"), [1; 10_000]).unwrap();
    }
    open(settings(dir.path()));
    assert_eq!(copies(), 2, "there is room");
    fs::write(dir.path().join("state/db"), b"no sled").unwrap();
    let disk = TestDisk::new();
    disk.leave(Room { free_bytes: 3 << 20, ..Os.room(dir.path()).unwrap() });
    let (store, report) = open(with_disk(settings(dir.path()), &disk));
    assert!(matches!(report.state, StateOrigin::Rebuilt { .. }));
    assert_eq!(copies(), 0);
    assert_eq!(contents(&store).len(), 60);
}

#[cfg(target_os = "linux")]
#[test]
fn copies_of_damaged_files_have_a_bound_together() {
    let dir = filled();
    let journal = dir.path().join("journal");
    let copy = |name: &str| {
        let file = journal.join(name);
        let created = fs::File::create(&file).unwrap();
        // Takes space without being written.
        rustix::fs::fallocate(created, rustix::fs::FallocateFlags::empty(), 0, 300 << 20).unwrap();
        file
    };
    let kept = ["1.journal.damaged", "1.journal.damaged-1", "2.journal.damaged", "3.journal.damaged"].map(copy);
    let lost = journal.join("4.journal.lost");
    fs::write(&lost, "records").unwrap();
    open(settings(dir.path()));
    let left = kept.iter().filter(|file| file.exists()).count();
    assert_eq!(left, 3, "1.2 GB are more than 1 GiB");
    assert!(!kept[0].exists(), "the oldest goes");
    assert!(lost.exists(), "what salvage has cut off stays");
}
