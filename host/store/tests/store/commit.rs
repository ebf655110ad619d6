//! Order, conflicts, visibility, group commit, back-pressure, failure.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tempfile::tempdir;
use wasaga_store::{Batch, CommitError, Error, LocalStore, Memory, Range, Read, Settings, Store, Ticket};

use crate::support::{TestDisk, contents, eventually, open, put, small, with_disk};

fn conflict(result: Result<Ticket, CommitError>) -> Bytes {
    match result {
        Err(CommitError::Conflict { key }) => key,
        other => panic!("expected a conflict, not {other:?}"),
    }
}

fn with_each_store(check: impl Fn(&dyn Store)) {
    let dir = tempdir().unwrap();
    check(&open(small(dir.path())).0);
    check(&Memory::default());
}

#[tokio::test]
async fn a_commit_is_visible_at_once_and_durable_later() {
    let dir = tempdir().unwrap();
    let disk = TestDisk::new();
    let (store, _) = open(with_disk(small(dir.path()), &disk));
    disk.close_gate("sync journal");
    let ticket = store.commit(put("k", "v")).unwrap();
    assert_eq!((ticket.seq(), ticket.is_durable()), (1, false));
    assert_eq!(store.get(b"k").unwrap().as_deref(), Some(&b"v"[..]));
    assert_eq!(contents(&store), [("k".into(), "v".into())]);
    let barrier = store.barrier();
    assert_eq!((barrier.seq(), barrier.is_durable()), (1, false));
    disk.open_gate();
    ticket.durable().await.unwrap();
    assert!(barrier.is_durable());
}

#[test]
fn the_last_write_of_a_key_in_a_batch_wins() {
    let dir = tempdir().unwrap();
    let (store, _) = open(small(dir.path()));
    let mut batch = put("a", "1");
    batch.delete("a");
    batch.put("b", "1");
    batch.append(put("b", "2"));
    store.commit(batch).unwrap();
    let expected = [(Bytes::from("b"), Bytes::from("2"))];
    assert_eq!(contents(&store), expected);
    store.close().unwrap();
    assert_eq!(contents(&store), expected, "the same from sled");
}

#[test]
fn a_value_that_changed_is_a_conflict_and_one_that_came_back_is_not() {
    let dir = tempdir().unwrap();
    let (store, _) = open(small(dir.path()));
    // Once against the overlay, once against sled.
    for round in 0..2 {
        let commit = |expected: Option<&'static str>, value: &str| {
            let mut batch = put("k", value);
            batch.expect("k", expected.map(Bytes::from));
            store.commit(batch)
        };
        commit(None, "1").unwrap();
        if round == 1 {
            eventually("sled has caught up", || store.stats().overlay_entries == 0);
        }
        assert_eq!(conflict(commit(None, "x")), "k");
        assert_eq!(conflict(commit(Some("0"), "x")), "k");
        commit(Some("1"), "2").unwrap();
        store.commit(put("k", "1")).unwrap();
        commit(Some("1"), "3").unwrap();
        let mut batch = Batch::new();
        batch.delete("k");
        store.commit(batch).unwrap();
    }
    assert_eq!(contents(&store), [], "a refused batch leaves nothing");
    assert_eq!(store.stats().conflicts, 4);
}

#[test]
fn concurrent_transactions_are_as_good_as_one_after_the_other() {
    const WRITERS: u32 = 4;
    const EACH: u32 = 50;
    let dir = tempdir().unwrap();
    let (store, _) = open(Settings { gather: Duration::ZERO, ..small(dir.path()) });
    // Compared after the counter, and long enough for other commits to get in between.
    let mut still = Batch::new();
    (0..2000).for_each(|n| still.put(format!("still/{n:04}"), "v"));
    store.commit(still).unwrap();
    let still = store.scan(&Range::prefix(b"still/"), 2000).unwrap();
    let number = |value: Option<&Bytes>| value.map_or(0, |value| std::str::from_utf8(value).unwrap().parse().unwrap());
    // Each adds 1 to a counter that it has read, and takes the number after the last of a range that it has read.
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (store, still) = (&store, &still);
            scope.spawn(move || {
                let mut left = EACH;
                while left > 0 {
                    let counter = store.get(b"counter").unwrap();
                    let range = Range::prefix(b"ticket/").reversed();
                    let last = store.scan(&range, 1).unwrap();
                    let next: u32 = number(last.first().map(|(key, _)| key.slice(7..)).as_ref()) + 1;
                    let mut batch = put("counter", (number(counter.as_ref()) + 1).to_string());
                    batch.put(format!("ticket/{next:06}"), writer.to_string());
                    batch.expect("counter", counter);
                    let seen = last.first().map_or(range.clone(), |(key, _)| range.clone().through(key));
                    batch.expect_range(seen, last);
                    batch.expect_range(Range::prefix(b"still/"), still.clone());
                    match store.commit(batch) {
                        Ok(_) => left -= 1,
                        Err(CommitError::Conflict { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    let total = WRITERS * EACH;
    assert_eq!(store.get(b"counter").unwrap().unwrap(), total.to_string());
    let found: Vec<Bytes> = contents(&store).into_iter().map(|(key, _)| key).skip(1 + 2000).collect();
    assert!(found.iter().eq((1..=total).map(|n| format!("ticket/{n:06}")).collect::<Vec<_>>().iter()));
}

/// A commit compares its preconditions before it takes the lock that every commit needs. Writes made meanwhile are
/// noticed, although the follower applies them to sled at once: no commit gets in between a list and its commit.
#[test]
fn long_lists_of_keys_are_compared_while_others_commit() {
    const WRITERS: u32 = 3;
    const EACH: u32 = 60;
    let dir = tempdir().unwrap();
    let (store, _) = open(Settings { gather: Duration::ZERO, ..small(dir.path()) });
    let mut still = Batch::new();
    (0..3000).for_each(|n| still.put(format!("k/{n:04}"), "v"));
    store.commit(still).unwrap();
    let range = Range::prefix(b"k/");
    // Each adds a key whose name is the number of keys there are.
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                let mut left = EACH;
                while left > 0 {
                    let keys = store.keys(&range, 4096).unwrap();
                    let mut batch = put(format!("k/{:04}", keys.len()), "v");
                    batch.expect_keys(range.clone(), keys);
                    match store.commit(batch) {
                        Ok(_) => left -= 1,
                        Err(CommitError::Conflict { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                    // No conflict: the keys stay the same, only a value changes.
                    store.commit(put("k/0000", left.to_string())).unwrap();
                }
            });
        }
    });
    let keys = store.keys(&range, 4096).unwrap();
    assert!(keys.iter().eq((0..3000 + WRITERS * EACH).map(|n| format!("k/{n:04}")).collect::<Vec<_>>().iter()));
}

/// Preconditions longer than any page are compared in pages, by [`Batch::check`] as by a store.
#[test]
fn preconditions_longer_than_a_scan_are_checked_to_their_end() {
    const COUNT: usize = 9000;
    let entries = (0..COUNT).map(|n| (Bytes::from(format!("k{n:05}")), Bytes::from("v"))).collect();
    let store = Memory::of(entries);
    let rows: Vec<_> = store.entries().into_iter().collect();
    for reverse in [false, true] {
        let range = Range { reverse, ..Range::prefix(b"k") };
        let mut rows = rows.clone();
        if reverse {
            rows.reverse();
        }
        let check = |rows: Vec<(Bytes, Bytes)>| {
            let (mut by_row, mut by_key) = (Batch::new(), Batch::new());
            by_key.expect_keys(range.clone(), rows.iter().map(|(key, _)| key.clone()).collect());
            by_row.expect_range(range.clone(), rows);
            [by_row, by_key].map(|batch| {
                let checked = batch.check(&store);
                assert_eq!(store.is_current(&batch).unwrap(), checked.is_ok());
                checked.err().map(|error| conflict(Err(error)))
            })
        };
        assert_eq!(check(rows.clone()), [None, None]);
        for at in [0, 15, 16, 255, 256, 4094, 4095, 4096, 8190, COUNT - 1] {
            let mut fewer = rows.clone();
            let (key, _) = fewer.remove(at);
            assert_eq!(check(fewer), [Some(key.clone()), Some(key)], "{at}");
        }
    }
}

#[test]
fn a_big_value_is_read_whole_while_it_is_replaced() {
    let dir = tempdir().unwrap();
    let (store, _) = open(Settings { gather: Duration::ZERO, ..small(dir.path()) });
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut last = 0;
            while !done.load(Ordering::Relaxed) {
                let Some(value) = store.get(b"big").unwrap() else { continue };
                assert!(value.len() == 10 || value.len() == 8 << 20, "a mixture");
                assert!(value[0] >= last, "back in time");
                last = value[0];
            }
        });
        // Collecting the chunks of the big value takes long enough for it to be replaced meanwhile.
        for n in 1..=30 {
            let length = if n % 2 == 1 { 8 << 20 } else { 10 };
            store.commit(put("big", vec![n; length])).unwrap();
            eventually("sled has caught up", || store.stats().overlay_entries == 0 || reader.is_finished());
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_refused_batch_has_no_effect_at_all() {
    with_each_store(refused_batch);
}

fn refused_batch(store: &dyn Store) {
    let before = store.commit(put("k", "v")).unwrap().seq();
    let mut batch = put("other", "x");
    batch.append(put("k", "x"));
    batch.expect("k", None);
    assert_eq!(conflict(store.commit(batch)), "k");
    assert_eq!(contents(store), [("k".into(), "v".into())]);
    assert_eq!(store.barrier().seq(), before, "no number is spent");
}

#[test]
fn phantoms_are_conflicts_and_neighbours_are_not() {
    with_each_store(phantoms);
}

fn phantoms(store: &dyn Store) {
    for key in ["a", "k1", "k3", "k5", "z"] {
        store.commit(put(key, "v")).unwrap();
    }
    for reversed in [false, true] {
        let range = if reversed { Range::prefix(b"k").reversed() } else { Range::prefix(b"k") };
        let all = store.scan(&range, 10).unwrap();
        let two = store.scan(&range, 2).unwrap();
        let seen = range.clone().through(&two[1].0);
        let check = |range: &Range, entries: &[(Bytes, Bytes)]| {
            let mut batch = Batch::new();
            batch.expect_range(range.clone(), entries.to_vec());
            store.commit(batch)
        };
        check(&range, &all).unwrap();
        check(&seen, &two).unwrap();
        assert_eq!(conflict(check(&range, &two)), all[2].0, "an entry more than was read");
        // Outside what was read: no conflict.
        store.commit(put("b", "x")).unwrap();
        store.commit(put(if reversed { "k2" } else { "k4" }, "x")).unwrap();
        check(&seen, &two).unwrap();
        // Inside: new, changed, gone.
        let inside = if reversed { "k4" } else { "k2" };
        store.commit(put(inside, "x")).unwrap();
        assert_eq!(conflict(check(&seen, &two)), inside);
        let mut batch = put("k3", "changed");
        batch.delete(inside);
        store.commit(batch).unwrap();
        assert_eq!(conflict(check(&seen, &two)), "k3");
        let mut batch = Batch::new();
        for key in ["k2", "k3", "k4"] {
            batch.delete(key);
        }
        store.commit(batch).unwrap();
        check(&seen, &two).unwrap_err();
        store.commit(put("k3", "v")).unwrap();
        check(&range, &all).unwrap();
    }
}

#[test]
fn a_batch_without_writes_stands_for_what_it_may_have_seen() {
    let dir = tempdir().unwrap();
    let (store, _) = open(small(dir.path()));
    batch_without_writes(&store);
    assert_eq!(store.stats().commits, 1);
    batch_without_writes(&Memory::default());
}

fn batch_without_writes(store: &dyn Store) {
    let wrote = store.commit(put("k", "v")).unwrap();
    let mut batch = Batch::new();
    batch.expect("k", Some("v".into()));
    assert!(!batch.is_empty() && !batch.has_writes());
    assert_eq!(store.commit(batch).unwrap().seq(), wrote.seq());
    assert_eq!(store.commit(Batch::new()).unwrap().seq(), wrote.seq());
}

#[tokio::test]
async fn whatever_gathers_during_a_sync_shares_the_next_one() {
    let dir = tempdir().unwrap();
    let disk = TestDisk::new();
    let (store, _) = open(with_disk(Settings::new(dir.path()), &disk));
    disk.close_gate("sync journal");
    let first = store.commit(put("first", "")).unwrap();
    disk.wait_until_stopped();
    let store = Arc::new(store);
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let store = Arc::clone(&store);
            std::thread::spawn(move || {
                (0..100).map(|n| store.commit(put(format!("{writer}-{n}"), "v")).unwrap()).collect::<Vec<_>>()
            })
        })
        .collect();
    let tickets: Vec<Ticket> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
    assert!(!first.is_durable() && tickets.iter().all(|ticket| !ticket.is_durable()));
    disk.open_gate();
    for ticket in &tickets {
        ticket.durable().await.unwrap();
    }
    assert!(first.is_durable());
    assert_eq!(store.stats().syncs, 2, "one for the first commit, one for the 800 after it");
}

#[tokio::test]
async fn each_waiter_is_woken_when_its_own_turn_has_come() {
    let dir = tempdir().unwrap();
    let disk = TestDisk::new();
    let (store, _) = open(with_disk(Settings::new(dir.path()), &disk));
    disk.close_gate("sync journal");
    let early = store.commit(put("early", "")).unwrap();
    disk.wait_until_stopped();
    let late = store.commit(put("late", "")).unwrap();
    let wait = |ticket: Ticket| tokio::spawn(async move { ticket.durable().await });
    let (early_waits, late_waits, gives_up) = (wait(early.clone()), wait(late.clone()), wait(late.clone()));
    tokio::task::yield_now().await;
    gives_up.abort();
    disk.open_gate();
    early_waits.await.unwrap().unwrap();
    late_waits.await.unwrap().unwrap();
    assert!(gives_up.await.unwrap_err().is_cancelled());
    late.durable().await.unwrap();
}

#[tokio::test]
async fn a_failed_sync_is_final() {
    for broken in ["sync journal", "append journal"] {
        let dir = tempdir().unwrap();
        let disk = TestDisk::new();
        let (store, _) = open(with_disk(small(dir.path()), &disk));
        let safe = store.commit(put("safe", "v")).unwrap();
        safe.durable().await.unwrap();
        disk.fail(broken);
        let lost = store.commit(put("lost", "v")).unwrap();
        let waits = tokio::spawn({
            let lost = lost.clone();
            async move { lost.durable().await }
        });
        assert!(matches!(waits.await.unwrap(), Err(Error::Failed(_))), "{broken}");
        assert!(!lost.is_durable());
        assert!(matches!(store.commit(put("more", "v")), Err(CommitError::Store(Error::Failed(_)))));
        safe.durable().await.unwrap();
        let syncs = disk.log().iter().filter(|operation| operation.contains("sync journal")).count();
        store.close().unwrap_err();
        let after = disk.log().iter().filter(|operation| operation.contains("sync journal")).count();
        assert_eq!(after, syncs, "a sync is never tried again");
        drop(store);
        let (store, _) = open(small(dir.path()));
        assert_eq!(store.get(b"safe").unwrap().as_deref(), Some(&b"v"[..]));
        assert_eq!(store.get(b"more").unwrap(), None);
    }
}

#[tokio::test]
async fn the_journal_waits_for_a_follower_that_is_too_far_behind() {
    let dir = tempdir().unwrap();
    let disk = TestDisk::new();
    let settings = Settings { lag_bytes_max: 64 << 10, checkpoint_bytes: 0, ..small(dir.path()) };
    let (store, _) = open(with_disk(settings, &disk));
    // The follower stops in its first checkpoint.
    disk.close_gate("sync db");
    store.commit(put("k", "v")).unwrap().durable().await.unwrap();
    disk.wait_until_stopped();
    store.commit(put("big", vec![0; 100 << 10])).unwrap().durable().await.unwrap();
    let stalled = store.commit(put("stalled", vec![0; 100 << 10])).unwrap();
    assert_eq!(store.get(b"stalled").unwrap().map(|value| value.len()), Some(100 << 10), "accepting goes on");
    let waited = tokio::time::timeout(Duration::from_millis(200), stalled.durable()).await;
    assert!(waited.is_err(), "memory would grow without a bound");
    assert!(store.stats().lag_bytes < 128 << 10);
    disk.open_gate();
    stalled.durable().await.unwrap();
    store.close().unwrap();
    assert_eq!(store.stats().lag_bytes, 0);
}

#[test]
fn the_follower_writes_only_the_last_value_and_nothing_for_what_came_and_went() {
    let dir = tempdir().unwrap();
    // One round: it ends when the store is closed, not after an hour.
    let settings = Settings { gather: Duration::from_hours(1), ..Settings::new(dir.path()) };
    let (store, _) = open(settings);
    for n in 0..1000 {
        store.commit(put("kept", n.to_string())).unwrap();
        store.commit(put(format!("gone{n}"), "v")).unwrap();
        let mut batch = Batch::new();
        batch.delete(format!("gone{n}"));
        store.commit(batch).unwrap();
    }
    store.close().unwrap();
    let stats = store.stats();
    assert_eq!((stats.rounds, stats.entries, stats.rows), (1, 1, 1), "{stats:?}");
    assert_eq!(contents(&store), [("kept".into(), "999".into())]);
}

#[tokio::test]
async fn a_closed_store_has_everything_on_disk_and_accepts_nothing() {
    let dir = tempdir().unwrap();
    let (store, _) = open(Settings::new(dir.path()));
    let tickets: Vec<Ticket> = (0..100).map(|n| store.commit(put(format!("{n}"), "v")).unwrap()).collect();
    store.close().unwrap();
    store.close().unwrap();
    assert!(tickets.iter().all(Ticket::is_durable));
    assert!(matches!(store.commit(put("k", "v")), Err(CommitError::Store(Error::Closed))));
    assert_eq!((store.stats().applied, store.stats().overlay_entries), (100, 0));
    drop(store);
    let (store, report) = LocalStore::open(Settings::new(dir.path())).unwrap();
    assert_eq!((report.replayed, report.entries, report.last_seq), (0, 100, 100));
    drop(store);
}
