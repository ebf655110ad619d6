//! sled damaged, deleted, or contradicting the journal; bases damaged: nothing is lost, and the report says so.

use std::{fs, path::Path};

use bytes::Bytes;
use fastrand::Rng;
use tempfile::{TempDir, tempdir};
use wasaga_store::{Batch, LocalStore, OpenError, Read, Recovery, Settings, StateOrigin, Store};

use crate::support::{TestDisk, contents, eventually, files, open, put, segments, small, with_disk};

fn settings(dir: &Path) -> Settings {
    Settings { segment_bytes: 8 << 10, base_bytes: 32 << 10, ..small(dir) }
}

/// A closed store, written to beyond its second base, and its contents.
fn filled() -> (TempDir, Vec<(Bytes, Bytes)>) {
    let dir = tempdir().unwrap();
    let (store, _) = open(settings(dir.path()));
    let mut rng = wasaga_seed::rng(3);
    let mut commit = || {
        let mut batch = Batch::new();
        for _ in 0..3 {
            let key = format!("k{:03}", rng.u32(..300));
            let length = if rng.u32(..200) == 0 { 100_000 } else { rng.usize(..300) };
            if rng.u32(..4) == 0 { batch.delete(key) } else { batch.put(key, vec![rng.u8(..); length]) }
        }
        store.commit(batch).unwrap();
    };
    eventually("a second base", || {
        (0..50).for_each(|_| commit());
        store.stats().bases >= 2
    });
    (0..50).for_each(|_| commit());
    store.close().unwrap();
    let contents = contents(&store);
    drop(store);
    assert_eq!(files(&dir.path().join("base"), "base").len(), 1, "the old base is gone");
    let first = segments(dir.path())[0].file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap();
    assert!(first > 1, "the first segments are gone");
    (dir, contents)
}

/// Opens the store, compares its contents, and commits and opens it again.
fn reopen(dir: &Path, expected: &[(Bytes, Bytes)], what: &str) -> Recovery {
    let (store, report) = open(settings(dir));
    assert!(contents(&store) == expected, "{what}: {report:?}");
    store.commit(put("k000", "and on")).unwrap();
    store.close().unwrap();
    drop(store);
    let (store, again) = open(settings(dir));
    assert_eq!(again.state, StateOrigin::Kept, "{what}");
    assert_eq!(again.last_seq, report.last_seq + 1);
    assert_eq!(store.get(b"k000").unwrap().unwrap(), "and on");
    report
}

fn reason(report: &Recovery) -> &str {
    match &report.state {
        StateOrigin::Rebuilt { reason, .. } => reason,
        other => panic!("not rebuilt but {other:?}"),
    }
}

#[test]
fn sled_deleted() {
    let (dir, expected) = filled();
    fs::remove_dir_all(dir.path().join("state")).unwrap();
    let report = reopen(dir.path(), &expected, "deleted");
    assert_eq!(reason(&report), "sled's files are missing");
    assert!(matches!(report.state, StateOrigin::Rebuilt { set_aside: None, .. }));
    let (dir, expected) = filled();
    fs::remove_file(dir.path().join("state/db")).unwrap();
    reopen(dir.path(), &expected, "db deleted");
}

#[test]
fn sled_cut() {
    for percent in [0, 1, 10, 50, 90] {
        let (dir, expected) = filled();
        let db = dir.path().join("state/db");
        // sled's file ends in a hole.
        let used = fs::read(&db).unwrap().iter().rposition(|byte| *byte != 0).unwrap() as u64;
        fs::File::options().write(true).open(db).unwrap().set_len(used * percent / 100).unwrap();
        reopen(dir.path(), &expected, &format!("cut at {percent} %"));
    }
}

#[test]
fn sled_with_blocks_overwritten() {
    let (filled, expected) = filled();
    let mut rebuilt = 0;
    for seed in wasaga_seed::seeds(40) {
        let mut rng = Rng::with_seed(seed);
        let dir = tempdir().unwrap();
        copy(filled.path(), dir.path());
        let db = dir.path().join("state/db");
        let mut bytes = fs::read(&db).unwrap();
        // Where the data is; sled's file is mostly holes.
        let blocks = bytes.chunks(4096).enumerate().filter(|(_, block)| block.iter().any(|byte| *byte != 0));
        let blocks: Vec<usize> = blocks.map(|(index, _)| index).collect();
        for _ in 0..rng.usize(1..4) {
            let at = rng.choice(&blocks).unwrap() * 4096;
            let end = (at + 4096).min(bytes.len());
            match rng.u32(..3) {
                0 => bytes[at..end].fill(0),
                1 => rng.fill(&mut bytes[at..end]),
                _ => {
                    let from = rng.choice(&blocks).unwrap() * 4096;
                    let from = from.min(bytes.len() - (end - at));
                    bytes.copy_within(from..from + (end - at), at);
                }
            }
        }
        fs::write(&db, bytes).unwrap();
        let report = reopen(dir.path(), &expected, &format!("seed {seed}"));
        rebuilt += usize::from(matches!(report.state, StateOrigin::Rebuilt { .. }));
    }
    assert!(rebuilt > 10, "only {rebuilt} of 40 were noticed: did the damage hit anything?");
}

/// Opens sled directly, and changes it.
fn tamper(dir: &Path, change: impl FnOnce(&sled::Db)) {
    let config = sled::Config::new().path(dir.join("state")).segment_size(8 << 20);
    let mut db = None;
    eventually("sled's file is free", || {
        db = config.open().ok();
        db.is_some()
    });
    let db = db.unwrap();
    change(&db);
    db.flush().unwrap();
}

fn meta(db: &sled::Db) -> Vec<u8> {
    db.get([0]).unwrap().unwrap().to_vec()
}

/// The meta row with its numbers changed and its checksum right.
fn forge(db: &sled::Db, change: impl FnOnce(&mut [u64])) {
    let mut row = meta(db);
    let body = row.len() - 4;
    let mut numbers: Vec<u64> =
        row[1..body].chunks(8).map(|number| u64::from_le_bytes(number.try_into().unwrap())).collect();
    change(&mut numbers);
    row.truncate(1);
    row.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    row.extend(crc32fast::hash(&row).to_le_bytes());
    db.insert([0], row).unwrap();
}

#[test]
fn sled_that_lies() {
    type Lie = (&'static str, fn(&sled::Db), &'static str);
    let lies: [Lie; 7] = [
        ("an entry is lost", |db| drop(db.remove(first_row(db)).unwrap()), "it should hold"),
        ("an entry is invented", |db| drop(db.insert(b"\x01zzz", b"\x00v").unwrap()), "it should hold"),
        ("an entry is stale", |db| drop(db.insert(first_row(db), b"\x00stale").unwrap()), "it should hold"),
        ("the meta row is lost", |db| drop(db.remove([0]).unwrap()), "meta row is missing"),
        ("the meta row is garbage", |db| drop(db.insert([0], b"x").unwrap()), "meta row is unreadable"),
        ("an orphaned chunk", |db| drop(db.insert(b"\x02\0\x01k\0\0\0\0", b"v").unwrap()), "it should hold"),
        ("it claims more than was written", |db| forge(db, |n| (n[0], n[1]) = (1 << 40, 1 << 40)), "it claims to hold"),
    ];
    for (what, lie, expected_reason) in lies {
        let (dir, expected) = filled();
        tamper(dir.path(), lie);
        let report = reopen(dir.path(), &expected, what);
        assert!(reason(&report).contains(expected_reason), "{what}: {report:?}");
    }
}

fn first_row(db: &sled::Db) -> sled::IVec {
    db.range([1]..).next().unwrap().unwrap().0
}

#[test]
fn sled_that_has_fallen_behind_is_brought_up() {
    let (dir, expected) = filled();
    // To the base: replaying records that it has already is harmless.
    let base = files(&dir.path().join("base"), "base").remove(0);
    let seq: u64 = base.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    tamper(dir.path(), |db| forge(db, |numbers| numbers[0] = seq));
    let report = reopen(dir.path(), &expected, "behind");
    assert_eq!(report.state, StateOrigin::Kept);
    assert_eq!(report.replayed, report.last_seq - seq);
    // Further back than the journal reaches: it is rebuilt from the base.
    let (dir, expected) = filled();
    tamper(dir.path(), |db| forge(db, |numbers| numbers[0] = 1));
    let report = reopen(dir.path(), &expected, "far behind");
    assert!(reason(&report).contains("records up to 1 only"), "{report:?}");
}

#[test]
fn a_damaged_base_is_replaced_while_sled_is_sound_and_refused_when_it_is_needed() {
    let (dir, expected) = filled();
    let base = files(&dir.path().join("base"), "base").remove(0);
    let whole = fs::read(&base).unwrap();
    let mut rng = wasaga_seed::rng(1);
    for _ in 0..20 {
        let mut bytes = whole.clone();
        match rng.u32(..2) {
            0 => bytes.truncate(rng.usize(..whole.len())),
            _ => bytes[rng.usize(..whole.len())] ^= 1,
        }
        let broken = tempdir().unwrap();
        copy(dir.path(), broken.path());
        let base = files(&broken.path().join("base"), "base").remove(0);
        fs::write(&base, &bytes).unwrap();
        fs::remove_dir_all(broken.path().join("state")).unwrap();
        let refused = LocalStore::open(settings(broken.path())).unwrap_err();
        assert!(matches!(&refused, OpenError::NoBase { base: named, .. } if *named == base), "{refused}");
        assert_eq!(fs::read(&base).unwrap(), bytes, "nothing was changed");
    }
    fs::write(&base, &whole[..whole.len() - 1]).unwrap();
    let (store, report) = open(settings(dir.path()));
    assert_eq!(report.state, StateOrigin::Kept);
    store.commit(put("k000", "new")).unwrap();
    eventually("a new base", || store.stats().bases == 1);
    drop(store);
    fs::remove_dir_all(dir.path().join("state")).unwrap();
    let (store, _) = open(settings(dir.path()));
    assert_eq!(contents(&store).len(), expected.iter().filter(|(key, _)| key != "k000").count() + 1);
}

#[test]
fn an_old_base_that_a_crash_has_left_goes_at_the_next_start() {
    let (dir, expected) = filled();
    let bases = dir.path().join("base");
    let newest = files(&bases, "base").remove(0);
    fs::write(bases.join("00000000000000000007.base"), &fs::read(&newest).unwrap()[..100]).unwrap();
    reopen(dir.path(), &expected, "two bases");
    assert!(files(&bases, "base").iter().all(|base| *base >= newest));
}

#[test]
fn a_base_that_was_copied_while_everything_changed_is_as_good_as_any() {
    let dir = tempdir().unwrap();
    let disk = TestDisk::new();
    let settings = |dir: &Path| Settings { segment_bytes: 1 << 20, base_bytes: 11 << 20, ..settings(dir) };
    let (store, _) = open(with_disk(settings(dir.path()), &disk));
    // The copy stops at its first sync, two thirds through.
    disk.close_gate("sync draft");
    for n in 0..400 {
        store.commit(put(format!("k{n:04}"), vec![1; 30_000])).unwrap();
    }
    disk.wait_until_stopped();
    // Changes before and after its cursor.
    let mut rng = wasaga_seed::rng(5);
    for n in 0..200 {
        let mut batch = Batch::new();
        batch.put(format!("k{:04}", rng.u32(..800)), n.to_string());
        batch.delete(format!("k{:04}", rng.u32(..800)));
        store.commit(batch).unwrap();
    }
    eventually("they are durable", || store.barrier().is_durable());
    disk.open_gate();
    eventually("the base is done", || store.stats().bases > 0);
    store.close().unwrap();
    let expected = contents(&store);
    drop(store);
    fs::remove_dir_all(dir.path().join("state")).unwrap();
    let (store, report) = open(settings(dir.path()));
    assert!(report.replayed > 0, "{report:?}");
    assert!(contents(&store) == expected);
    drop(store);

    // Without the journal up to where the copy ended, it is a mixture of states that never were.
    let base = files(&dir.path().join("base"), "base").remove(0);
    let number = |path: &Path| path.file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap();
    let reached = fs::read(&base).unwrap().last_chunk().map(|reached| u64::from_le_bytes(*reached)).unwrap();
    assert!(reached > number(&base) + 1, "nothing was committed while it was copied");
    fs::remove_dir_all(dir.path().join("state")).unwrap();
    let (kept, later): (Vec<_>, Vec<_>) =
        segments(dir.path()).into_iter().partition(|segment| number(segment) <= number(&base) + 1);
    for segment in later {
        fs::remove_file(segment).unwrap();
    }
    let segment = kept.last().unwrap();
    let mut bytes = fs::read(segment).unwrap();
    let (mut at, mut seq) = (24, number(segment));
    while seq <= number(&base) + 1 {
        at += 8 + u32::from_le_bytes(*bytes[at..].first_chunk().unwrap()) as usize;
        seq += 1;
    }
    bytes.truncate(at);
    fs::write(segment, bytes).unwrap();
    match LocalStore::open(settings(dir.path())) {
        Err(OpenError::Corrupt(found)) => assert_eq!((found.first_seq, found.last_seq), (seq, reached), "{found}"),
        other => panic!("expected a refusal, not {other:?}"),
    }
}

#[test]
fn a_base_and_its_journal_are_a_backup() {
    let (dir, expected) = filled();
    let backup = tempdir().unwrap();
    for part in ["base", "journal"] {
        copy(&dir.path().join(part), &backup.path().join(part));
    }
    reopen(backup.path(), &expected, "backup");
}

#[test]
fn damage_found_while_running_stops_the_store_and_the_next_start_rebuilds() {
    let (dir, expected) = filled();
    let row = {
        let mut row = None;
        tamper(dir.path(), |db| {
            let first = first_row(db);
            db.insert(&first, b"\x07 no such kind of row").unwrap();
            row = Some(first);
        });
        row.unwrap()
    };
    let (store, _) = open(Settings { verify_on_open: false, ..settings(dir.path()) });
    let error = store.get(&row[1..]).unwrap_err();
    assert!(error.to_string().contains("restart"), "{error}");
    store.commit(put("k", "v")).unwrap_err();
    store.close().unwrap_err();
    drop(store);
    let report = reopen(dir.path(), &expected, "after the restart");
    assert!(reason(&report).contains("earlier run"), "{report:?}");
}

#[test]
fn a_base_is_not_made_of_a_damaged_state() {
    let (dir, expected) = filled();
    tamper(dir.path(), |db| drop(db.remove(first_row(db)).unwrap()));
    let base = files(&dir.path().join("base"), "base");
    let (store, _) = open(Settings { verify_on_open: false, ..settings(dir.path()) });
    eventually("the copy does not add up", || {
        let _ = store.commit(put("k000", [0; 10_000]));
        store.health().is_err()
    });
    drop(store);
    assert_eq!(files(&dir.path().join("base"), "base"), base, "the old base is still the one");
    let (store, report) = open(settings(dir.path()));
    assert!(reason(&report).contains("earlier run"), "{report:?}");
    let others =
        |entries: Vec<(Bytes, Bytes)>| entries.into_iter().filter(|(key, _)| key != "k000").collect::<Vec<_>>();
    assert!(others(contents(&store)) == others(expected));
}

#[test]
fn only_a_few_damaged_states_are_kept() {
    let (dir, _) = filled();
    for _ in 0..5 {
        fs::write(dir.path().join("state/db"), b"no sled").unwrap();
        open(settings(dir.path()));
    }
    let kept = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let kept: Vec<_> = kept.filter(|name| name.to_str().unwrap().starts_with("state.damaged")).collect();
    assert_eq!(kept.len(), 3, "{kept:?}");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { fs::copy(&path, &target).map(drop).unwrap() }
    }
}
