//! One owner, and a bound on everything.

use tempfile::tempdir;
use wasaga_store::{
    Batch, CommitError, Error, KEY_BYTES_MAX, LocalStore, Memory, OpenError, Range, Read, SCAN_ENTRIES_MAX, Settings,
    StateOrigin, Store,
};

use crate::support::{contents, open, put, small};

#[test]
fn a_directory_has_one_owner() {
    let dir = tempdir().unwrap();
    let (store, _) = open(small(dir.path()));
    let refused = LocalStore::open(small(dir.path())).unwrap_err();
    assert!(matches!(&refused, OpenError::Locked { dir: locked } if locked == dir.path()), "{refused}");
    assert!(refused.to_string().contains("in use by another process"));
    drop(store);
    open(small(dir.path()));
}

#[test]
fn somebody_in_sleds_files_is_no_damage() {
    let dir = tempdir().unwrap();
    open(small(dir.path())).0.commit(put("k", "v")).unwrap();
    let intruder = std::fs::File::open(dir.path().join("state/db")).unwrap();
    intruder.lock().unwrap();
    let refused = LocalStore::open(small(dir.path())).unwrap_err();
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
    drop(intruder);
    let (store, report) = open(small(dir.path()));
    assert_eq!((report.state, contents(&store).len()), (StateOrigin::Kept, 1));
}

#[test]
fn a_key_has_a_limit() {
    let dir = tempdir().unwrap();
    key_limit(&open(small(dir.path())).0);
    key_limit(&Memory::default());
}

fn key_limit(store: &dyn Store) {
    store.commit(put(vec![b'k'; KEY_BYTES_MAX], "v")).unwrap();
    let mut batch = put("innocent", "v");
    batch.append(put(vec![b'k'; KEY_BYTES_MAX + 1], "v"));
    let refused = store.commit(batch).unwrap_err();
    assert!(
        matches!(refused, CommitError::TooLarge { what: "key", bytes: 1025, max: 1024 }),
        "names the limit: {refused}"
    );
    assert_eq!(contents(store).len(), 1);
    assert_eq!(store.get(&[b'k'; KEY_BYTES_MAX + 1]).unwrap(), None);
}

#[test]
fn a_batch_has_a_limit() {
    let dir = tempdir().unwrap();
    let (store, _) = open(Settings { batch_bytes_max: 1000, ..small(dir.path()) });
    // A put of a key of 1 byte: 7 bytes for the frame.
    store.commit(put("k", vec![0; 992])).unwrap();
    let refused = store.commit(put("k", vec![0; 993])).unwrap_err();
    assert!(matches!(refused, CommitError::TooLarge { what: "batch", bytes: 1001, max: 1000 }), "{refused}");
    let mut batch = put("a", vec![0; 600]);
    batch.append(put("b", vec![0; 600]));
    store.commit(batch).unwrap_err();
}

#[test]
fn the_largest_batch_goes_through_everything() {
    let dir = tempdir().unwrap();
    let value: Vec<u8> = (0..64 << 20 >> 2).flat_map(|n: u32| n.to_le_bytes()).take((64 << 20) - 8).collect();
    let (store, _) = open(Settings::new(dir.path()));
    store.commit(put("k", &value)).unwrap();
    assert_eq!(store.get(b"k").unwrap().as_deref(), Some(&value[..]));
    store.close().unwrap();
    assert_eq!(store.stats().overlay_entries, 0);
    assert!(store.get(b"k").unwrap().unwrap() == value, "from sled");
    drop(store);
    let (store, report) = open(Settings::new(dir.path()));
    assert_eq!((report.entries, report.replayed), (1, 0));
    assert!(store.get(b"k").unwrap().unwrap() == value, "after a restart");
}

#[test]
fn a_scan_has_a_limit() {
    let dir = tempdir().unwrap();
    scan_limit(&open(small(dir.path())).0);
    scan_limit(&Memory::default());
}

fn scan_limit(store: &dyn Store) {
    let mut batch = Batch::new();
    for n in 0..=SCAN_ENTRIES_MAX {
        batch.put(format!("{n:06}"), "v");
    }
    store.commit(batch).unwrap();
    assert_eq!(store.scan(&Range::default(), SCAN_ENTRIES_MAX).unwrap().len(), SCAN_ENTRIES_MAX);
    let refused = store.scan(&Range::default(), SCAN_ENTRIES_MAX + 1).unwrap_err();
    assert!(matches!(refused, Error::ScanTooLong(_)), "{refused}");
    assert!(matches!(store.keys(&Range::default(), SCAN_ENTRIES_MAX + 1), Err(Error::ScanTooLong(_))));
    assert_eq!(contents(store).len(), SCAN_ENTRIES_MAX + 1, "pages");
    assert_eq!(store.scan(&Range { start: "b".into(), end: Some("a".into()), reverse: false }, 1).unwrap(), []);
}
