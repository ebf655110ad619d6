//! Recovery of the journal: torn tails are cut, any other loss is refused.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::tempdir;
use wasaga_store::{Batch, Corruption, LocalStore, OpenError, Settings, StateOrigin, Store};

use crate::support::{TestDisk, contents, eventually, open, put, segments, small, with_disk};

/// No rotation and no bases.
fn settings(dir: &Path) -> Settings {
    Settings { segment_bytes: 1 << 20, base_bytes: u64::MAX, ..small(dir) }
}

fn commit_each(store: &LocalStore, numbers: std::ops::RangeInclusive<u64>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for n in numbers {
        let ticket = store.commit(put(format!("n{n:04}"), format!("value {n}"))).unwrap();
        assert_eq!(ticket.seq(), n);
        runtime.block_on(ticket.durable()).unwrap();
    }
}

/// A closed store with records 1 to `count` in one segment, one sync each; without its sled, so that the journal alone
/// decides.
fn journal_of(dir: &Path, count: u64) -> PathBuf {
    let (store, _) = open(settings(dir));
    commit_each(&store, 1..=count);
    drop(store);
    fs::remove_dir_all(dir.join("state")).unwrap();
    let [segment] = &segments(dir)[..] else { panic!("one segment") };
    segment.clone()
}

/// Offsets at which the records of a segment begin, and its length.
fn offsets(bytes: &[u8]) -> Vec<usize> {
    let mut offsets = vec![24];
    while let Some(length) = bytes.get(*offsets.last().unwrap()..).and_then(|rest| rest.first_chunk::<4>()) {
        offsets.push(offsets.last().unwrap() + 8 + u32::from_le_bytes(*length) as usize);
    }
    offsets
}

fn refusal(settings: Settings) -> Corruption {
    match LocalStore::open(settings) {
        Err(OpenError::Corrupt(corruption)) => corruption,
        other => panic!("expected a refusal, not {other:?}"),
    }
}

#[test]
fn the_bytes_of_a_segment() {
    let dir = tempdir().unwrap();
    let segment = journal_of(dir.path(), 2);
    assert_eq!(segment.file_name().unwrap(), "00000000000000000001.journal");
    let bytes = fs::read(segment).unwrap();
    // Stored bytes: a change of them needs a new version, and a way to read the old one.
    let mut expected = b"wasaga-j\x01\0\0\0\x01\0\0\0\0\0\0\0".to_vec();
    expected.extend(crc32fast::hash(&expected).to_le_bytes());
    for (seq, payload) in [(1_u64, b"\x01\x05\0n0001\x07\0\0\0value 1"), (2, b"\x01\x05\0n0002\x07\0\0\0value 2")] {
        let body = [&seq.to_le_bytes()[..], &(seq - 1).to_le_bytes(), payload].concat();
        expected.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        expected.extend(crc32fast::hash(&body).to_le_bytes());
        expected.extend(body);
    }
    assert_eq!(bytes, expected);
}

#[test]
fn a_torn_tail_is_cut_wherever_it_was_torn() {
    let filled = tempdir().unwrap();
    let segment = journal_of(filled.path(), 3);
    let whole = fs::read(&segment).unwrap();
    let last = offsets(&whole)[2];
    for cut in last..=whole.len() {
        // Cut off; and zeros instead, as a file system may leave it.
        for padded in [false, true] {
            let dir = tempdir().unwrap();
            let journal = dir.path().join("journal");
            fs::create_dir(&journal).unwrap();
            let mut bytes = whole[..cut].to_vec();
            if padded {
                bytes.resize(whole.len() + 100, 0);
            }
            fs::write(journal.join(segment.file_name().unwrap()), &bytes).unwrap();
            let (store, report) = open(settings(dir.path()));
            let kept = if cut == whole.len() { 3 } else { 2 };
            assert_eq!((report.last_seq, report.replayed), (kept, kept), "cut at {cut}");
            let torn = report.torn.map(|torn| (torn.offset, torn.bytes));
            let good = if kept == 3 { whole.len() } else { last };
            let expected = (bytes.len() > good).then_some((good as u64, (bytes.len() - good) as u64));
            assert_eq!(torn, expected, "cut at {cut}");
            // And it goes on from there.
            commit_each(&store, kept + 1..=kept + 1);
            drop(store);
            let (store, report) = open(settings(dir.path()));
            assert_eq!((report.last_seq, report.torn), (kept + 1, None));
            assert_eq!(contents(&store).len() as u64, kept + 1);
        }
    }
}

#[test]
fn a_segment_that_was_never_begun_is_forgotten() {
    for cut in 0..=24 {
        let dir = tempdir().unwrap();
        let segment = journal_of(dir.path(), 2);
        let next = segment.with_file_name("00000000000000000003.journal");
        let mut header = fs::read(&segment).unwrap()[..24].to_vec();
        header[12] = 3;
        let crc = crc32fast::hash(&header[..20]).to_le_bytes();
        header[20..].copy_from_slice(&crc);
        fs::write(&next, &header[..cut]).unwrap();
        let (store, report) = open(settings(dir.path()));
        assert_eq!(report.last_seq, 2, "cut at {cut}");
        commit_each(&store, 3..=3);
    }
}

#[test]
fn damage_before_acknowledged_records_is_refused_at_any_byte() {
    let dir = tempdir().unwrap();
    let segment = journal_of(dir.path(), 4);
    let whole = fs::read(&segment).unwrap();
    let offsets = offsets(&whole);
    // Records 1 and 2: the record after the next one, at the latest, states that they were acknowledged.
    for at in 0..offsets[2] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x41;
        fs::write(&segment, &bytes).unwrap();
        let found = refusal(settings(dir.path()));
        let record = offsets.iter().filter(|offset| **offset <= at).count();
        assert_eq!(found.file, segment, "byte {at}");
        assert_eq!(found.first_seq, record.max(1) as u64, "byte {at}: {found}");
        assert_eq!(found.offset, if record == 0 { 0 } else { offsets[record - 1] as u64 }, "byte {at}");
        assert_eq!(fs::read(&segment).unwrap(), bytes, "nothing was changed");
    }
    let message = OpenError::Corrupt(refusal(settings(dir.path()))).to_string();
    assert!(message.contains("offset") && message.contains("Restore") && message.contains("salvage"), "{message}");
}

#[test]
fn a_damaged_header_before_a_record_is_refused() {
    let dir = tempdir().unwrap();
    let segment = journal_of(dir.path(), 1);
    let mut bytes = fs::read(&segment).unwrap();
    bytes[3] ^= 1;
    fs::write(&segment, bytes).unwrap();
    // No other record confirms it here, but a header is on disk before any record is.
    assert_eq!(refusal(settings(dir.path())).offset, 0);
}

#[test]
fn a_gap_in_the_last_group_is_a_torn_tail() {
    let dir = tempdir().unwrap();
    let segment = journal_of(dir.path(), 2);
    let mut bytes = fs::read(&segment).unwrap();
    let good = bytes.len();
    // Records 3 to 5 of one write, of which the disk has kept the last: none of them was acknowledged.
    for seq in 3_u64..=5 {
        let body = [&seq.to_le_bytes()[..], &2_u64.to_le_bytes(), b"\x02\x01\0k"].concat();
        let at = bytes.len();
        bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        bytes.extend(crc32fast::hash(&body).to_le_bytes());
        bytes.extend(&body);
        if seq == 3 {
            bytes[at..].fill(0);
        }
    }
    fs::write(&segment, &bytes).unwrap();
    let (_store, report) = open(settings(dir.path()));
    assert_eq!(report.last_seq, 2);
    assert_eq!(report.torn.unwrap().offset, good as u64);
}

/// Records 1 to 30 in several segments.
fn segmented(dir: &Path) -> Vec<PathBuf> {
    let (store, _) = open(Settings { segment_bytes: 300, ..settings(dir) });
    commit_each(&store, 1..=30);
    drop(store);
    let segments = segments(dir);
    assert!(segments.len() > 4, "{segments:?}");
    segments
}

#[test]
fn a_missing_damaged_or_cut_segment_is_refused() {
    let middle = |segments: &[PathBuf]| segments[2].clone();
    let breakages: [fn(&Path); 4] = [
        |path| fs::remove_file(path).unwrap(),
        |path| fs::write(path, b"").unwrap(),
        |path| fs::write(path, &fs::read(path).unwrap()[..100]).unwrap(),
        |path| {
            let mut bytes = fs::read(path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(path, bytes).unwrap();
        },
    ];
    for (index, breakage) in breakages.into_iter().enumerate() {
        let dir = tempdir().unwrap();
        let segments = segmented(dir.path());
        breakage(&middle(&segments));
        // sled has these records: they are not needed.
        let (store, report) = open(settings(dir.path()));
        assert_eq!((report.state, report.last_seq), (StateOrigin::Kept, 30), "breakage {index}");
        assert_eq!(contents(&store).len(), 30);
        // But sled cannot be rebuilt any more, so a base is written at once.
        eventually("a base", || store.stats().bases == 1);
        drop(store);
        fs::remove_dir_all(dir.path().join("state")).unwrap();
        let (store, _) = open(settings(dir.path()));
        assert_eq!(contents(&store).len(), 30, "breakage {index}");

        let dir = tempdir().unwrap();
        let segments = segmented(dir.path());
        breakage(&middle(&segments));
        fs::remove_dir_all(dir.path().join("state")).unwrap();
        let found = refusal(settings(dir.path()));
        assert!(found.first_seq <= found.last_seq && found.last_seq < 30, "breakage {index}: {found}");
    }
}

#[test]
fn segments_stay_until_sled_is_on_disk_beyond_them() {
    let dir = tempdir().unwrap();
    let disk = TestDisk::new();
    let settings = Settings {
        segment_bytes: 300,
        base_bytes: 1000,
        checkpoint_interval: Duration::from_hours(1),
        ..settings(dir.path())
    };
    let (store, _) = open(with_disk(settings, &disk));
    commit_each(&store, 1..=100);
    eventually("a base", || store.stats().bases > 0);
    let removed = || disk.log().iter().any(|operation| operation == "remove journal");
    assert!(!removed(), "a base covers them, but a start would miss them");
    store.close().unwrap();
    assert!(removed());
}

#[test]
fn a_journal_that_was_removed_is_refused() {
    let dir = tempdir().unwrap();
    segmented(dir.path());
    fs::remove_dir_all(dir.path().join("journal")).unwrap();
    assert_eq!(refusal(settings(dir.path())).what, "the journal has no files");
}

#[test]
fn a_torn_record_that_sled_has_is_not_lost() {
    let dir = tempdir().unwrap();
    let (store, _) = open(settings(dir.path()));
    commit_each(&store, 1..=10);
    drop(store);
    let segment = segments(dir.path()).pop().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&segment, bytes).unwrap();
    let (store, report) = open(settings(dir.path()));
    assert_eq!((report.state, report.last_seq), (StateOrigin::Kept, 10));
    assert!(report.torn.is_some());
    eventually("a base, since the journal has a hole now", || store.stats().bases == 1);
    commit_each(&store, 11..=12);
    drop(store);
    fs::remove_dir_all(dir.path().join("state")).unwrap();
    let (store, _) = open(settings(dir.path()));
    assert_eq!(contents(&store).len(), 12);
}

#[test]
fn salvage_keeps_what_comes_before_the_damage_and_puts_the_rest_aside() {
    let dir = tempdir().unwrap();
    let segment = segmented(dir.path())[2].clone();
    let mut bytes = fs::read(&segment).unwrap();
    let second = offsets(&bytes)[1];
    bytes[second + 10] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    fs::remove_dir_all(dir.path().join("state")).unwrap();
    let found = refusal(settings(dir.path()));
    let (store, report) = open(Settings { salvage: true, ..settings(dir.path()) });
    assert_eq!(report.salvaged, Some(found.clone()));
    assert_eq!(report.last_seq, found.first_seq - 1);
    assert_eq!(contents(&store).len() as u64, found.first_seq - 1);
    commit_each(&store, found.first_seq..=found.first_seq + 3);
    drop(store);
    let (store, report) = open(settings(dir.path()));
    assert_eq!((report.salvaged, contents(&store).len() as u64), (None, found.first_seq + 3));
    let aside = crate::support::files(&dir.path().join("journal"), "lost");
    assert_eq!(fs::read(&aside[0]).unwrap(), bytes, "the original is kept");
}

/// Sagas have ascending keys, so a copy of all rows that takes a slice between two rounds of writes could go on for ever,
/// and the journal with it.
#[test]
fn a_base_is_ended_while_rows_are_put_ahead_of_it() {
    const VALUE_BYTES: usize = 128 << 10;
    let dir = tempdir().unwrap();
    let settings = Settings {
        segment_bytes: 1 << 20,
        base_bytes: 1 << 20,
        gather: Duration::from_millis(20),
        lag_bytes_max: 16 << 20,
        ..small(dir.path())
    };
    let (store, _) = open(settings);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let key = |n: u64| format!("n{n:012}");
    for n in 1..=2048_u64 {
        let mut batch = Batch::new();
        batch.put(key(n), vec![0; VALUE_BYTES]);
        batch.delete(key(n.saturating_sub(32)));
        let ticket = store.commit(batch).unwrap();
        if n.is_multiple_of(32) {
            runtime.block_on(ticket.durable()).unwrap();
        }
        if store.stats().bases > 0 {
            return;
        }
    }
    panic!("no base in 256 MiB: {:?}", store.stats());
}
