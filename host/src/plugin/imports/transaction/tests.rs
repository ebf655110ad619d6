use std::sync::LazyLock;

use super::*;
use crate::{
    plugin::keyvalue_keys,
    store::{CommitError, LocalStore, Settings, Store},
};

static STORE: LazyLock<Arc<LocalStore>> =
    LazyLock::new(|| Arc::new(LocalStore::open(Settings::new(tempfile::tempdir().unwrap().keep())).unwrap().0));

/// A bucket that no other test uses.
fn bucket(name: &str) -> Bucket {
    Bucket::new(keyvalue_keys::prefix("test", name))
}

fn begin() -> Transaction {
    limited(&Limits::default())
}

fn limited(limits: &Limits) -> Transaction {
    Transaction::new(STORE.clone(), limits)
}

fn commit(transaction: &Transaction) -> Result<(), CommitError> {
    STORE.commit(transaction.effects()).map(drop)
}

/// A change by another attempt.
fn change(bucket: &Bucket, key: &str, value: Option<&str>) {
    let mut transaction = begin();
    match value {
        Some(value) => transaction.set(bucket, key, value.into()).unwrap(),
        None => transaction.delete(bucket, key).unwrap(),
    }
    commit(&transaction).unwrap();
}

fn get(transaction: &mut Transaction, bucket: &Bucket, key: &str) -> Option<String> {
    transaction.get(bucket, key).unwrap().map(|value| String::from_utf8(value.into()).unwrap())
}

/// All pages.
fn list(transaction: &mut Transaction, bucket: &Bucket) -> Vec<String> {
    let mut keys = Vec::new();
    let mut cursor = None;
    loop {
        let page = transaction.list(bucket, cursor.as_deref()).unwrap();
        keys.extend(page.keys);
        cursor = page.cursor;
        if cursor.is_none() {
            return keys;
        }
    }
}

fn conflicts(transaction: &Transaction) -> bool {
    let is_current = transaction.is_current().unwrap();
    let committed = commit(transaction);
    assert_eq!(is_current, committed.is_ok(), "{committed:?}");
    !is_current
}

#[test]
fn only_the_run_itself_sees_its_writes_before_the_commit() {
    let bucket = bucket("own writes");
    change(&bucket, "old", Some("1"));
    let (mut one, mut other) = (begin(), begin());
    one.set(&bucket, "new", "2".into()).unwrap();
    one.delete(&bucket, "old").unwrap();
    assert_eq!((get(&mut one, &bucket, "new"), get(&mut one, &bucket, "old")), (Some("2".into()), None));
    assert!(one.exists(&bucket, "new").unwrap() && !one.exists(&bucket, "old").unwrap());
    assert_eq!((get(&mut other, &bucket, "new"), get(&mut other, &bucket, "old")), (None, Some("1".into())));
    assert!(!conflicts(&one), "what it read it had written itself");
    assert!(conflicts(&other));
    assert_eq!(list(&mut begin(), &bucket), ["new"]);
}

#[test]
fn an_empty_transaction_has_no_preconditions() {
    assert!(begin().effects().is_empty());
    assert!(begin().is_current().unwrap());
}

#[test]
fn a_key_that_is_read_twice_has_one_value() {
    let bucket = bucket("twice");
    change(&bucket, "k", Some("1"));
    let mut transaction = begin();
    assert_eq!(get(&mut transaction, &bucket, "k").as_deref(), Some("1"));
    assert_eq!(get(&mut transaction, &bucket, "none"), None);
    change(&bucket, "k", Some("2"));
    change(&bucket, "none", Some("3"));
    assert_eq!(get(&mut transaction, &bucket, "k").as_deref(), Some("1"));
    assert_eq!(get(&mut transaction, &bucket, "none"), None);
    assert!(conflicts(&transaction));
}

#[test]
fn every_kind_of_read_is_a_precondition() {
    type Operation = fn(&mut Transaction, &Bucket);
    let reads: [(&str, Operation); 5] = [
        ("get", |transaction, bucket| drop(transaction.get(bucket, "k"))),
        ("exists", |transaction, bucket| drop(transaction.exists(bucket, "k"))),
        ("increment", |transaction, bucket| drop(transaction.increment(bucket, "k", 1))),
        ("list", |transaction, bucket| drop(transaction.list(bucket, None))),
        ("marked", |transaction, bucket| {
            let mark = transaction.mark(bucket, "k").unwrap();
            transaction.marked(&mark).unwrap();
        }),
    ];
    for (name, read) in reads {
        for before in [None, Some("1")] {
            let bucket = bucket(&format!("{name} {before:?}"));
            change(&bucket, "k", before);
            let mut transaction = begin();
            read(&mut transaction, &bucket);
            change(&bucket, "k", if before.is_none() { Some("2") } else { None });
            assert!(conflicts(&transaction), "{name} of {before:?}");
        }
    }
}

#[test]
fn a_test_of_existence_does_not_conflict_with_another_value() {
    let bucket = bucket("existence");
    change(&bucket, "k", Some("1"));
    let mut transaction = begin();
    for _ in 0..2 {
        assert!(transaction.exists(&bucket, "k").unwrap());
        change(&bucket, "k", Some("2"));
    }
    assert!(!conflicts(&transaction));
    // Other keys do not conflict either.
    change(&bucket, "k\0", Some("1"));
    assert!(!conflicts(&transaction));
    // The key, and then its absence: that conflicts, also when the key is set again.
    let mut transaction = begin();
    assert!(transaction.exists(&bucket, "k").unwrap());
    change(&bucket, "k", None);
    assert_eq!(get(&mut transaction, &bucket, "k"), None);
    assert!(!transaction.exists(&bucket, "k").unwrap());
    assert!(conflicts(&transaction));
    change(&bucket, "k", Some("3"));
    assert!(conflicts(&transaction), "it has seen the key, and then none");
    // A later read of the value does conflict.
    let mut transaction = begin();
    assert!(transaction.exists(&bucket, "k").unwrap());
    assert_eq!(get(&mut transaction, &bucket, "k").as_deref(), Some("3"));
    change(&bucket, "k", Some("4"));
    assert!(conflicts(&transaction));
}

#[test]
fn blind_writes_never_conflict() {
    let bucket = bucket("blind");
    let mut transaction = begin();
    transaction.set(&bucket, "set", "1".into()).unwrap();
    transaction.delete(&bucket, "deleted").unwrap();
    let mark = transaction.mark(&bucket, "swapped").unwrap();
    assert!(matches!(transaction.swap(mark, "1".into()), Ok(Swapped::Done)));
    for key in ["set", "deleted", "swapped"] {
        change(&bucket, key, Some("2"));
    }
    assert!(!conflicts(&transaction));
    let mut after = begin();
    assert_eq!(get(&mut after, &bucket, "set").as_deref(), Some("1"));
    assert_eq!(get(&mut after, &bucket, "deleted"), None);
    assert_eq!(get(&mut after, &bucket, "swapped").as_deref(), Some("1"));
}

#[test]
fn buckets_do_not_mix() {
    let (one, other) = (bucket("a"), bucket("ab"));
    change(&one, "bk", Some("1"));
    let mut transaction = begin();
    assert_eq!(get(&mut transaction, &other, "k"), None);
    assert_eq!(list(&mut transaction, &other), [""; 0]);
    change(&one, "bl", Some("2"));
    assert!(!conflicts(&transaction));
}

#[test]
fn numbers_are_decimal_text() {
    let bucket = bucket("numbers");
    change(&bucket, "text", Some("many"));
    change(&bucket, "most", Some(&i64::MAX.to_string()));
    change(&bucket, "some", Some("-5"));
    let mut transaction = begin();
    assert_eq!(transaction.increment(&bucket, "some", 7).unwrap(), 2);
    assert_eq!(transaction.increment(&bucket, "some", -12).unwrap(), -10);
    assert_eq!(get(&mut transaction, &bucket, "some").as_deref(), Some("-10"));
    assert_eq!(transaction.increment(&bucket, "new", 3).unwrap(), 3);
    assert!(matches!(transaction.increment(&bucket, "text", 1), Err(Fault::NoNumber)));
    assert!(matches!(transaction.increment(&bucket, "most", 1), Err(Fault::Overflow)));
    assert_eq!(get(&mut transaction, &bucket, "most"), Some(i64::MAX.to_string()), "nothing was changed");
}

#[test]
fn a_swap_goes_through_unless_the_attempt_has_written_the_key() {
    let bucket = bucket("swap");
    change(&bucket, "k", Some("1"));
    let mut transaction = begin();
    let mark = transaction.mark(&bucket, "k").unwrap();
    transaction.set(&bucket, "other", "1".into()).unwrap();
    assert_eq!(transaction.marked(&mark).unwrap().as_deref(), Some(&b"1"[..]));
    assert!(matches!(transaction.swap(mark, "2".into()).unwrap(), Swapped::Done));

    for delete in [false, true] {
        let mark = transaction.mark(&bucket, "k").unwrap();
        if delete {
            transaction.delete(&bucket, "k").unwrap();
        } else {
            transaction.set(&bucket, "k", "3".into()).unwrap();
        }
        let Swapped::Stale(fresh) = transaction.swap(mark, "4".into()).unwrap() else { panic!("it was written") };
        let expected = if delete { None } else { Some(&b"3"[..]) };
        assert_eq!(transaction.marked(&fresh).unwrap().as_deref(), expected);
        assert!(matches!(transaction.swap(fresh, "4".into()).unwrap(), Swapped::Done));
    }
}

#[test]
fn a_list_conflicts_with_changes_of_the_keys_it_has_shown() {
    let bucket = bucket("phantoms");
    for at in 0..PAGE_KEYS + 10 {
        change(&bucket, &format!("k{at:03}"), Some("1"));
    }
    let page = || {
        let mut transaction = begin();
        let page = transaction.list(&bucket, None).unwrap();
        assert_eq!((page.keys.len(), page.cursor.as_deref()), (PAGE_KEYS, Some("k099")));
        transaction
    };
    let transaction = page();
    change(&bucket, "k050", Some("2"));
    assert!(!conflicts(&transaction), "another value");
    let transaction = page();
    change(&bucket, "k105", None);
    change(&bucket, "k105a", Some("1"));
    assert!(!conflicts(&transaction), "beyond the page");
    let transaction = page();
    change(&bucket, "k050a", Some("1"));
    assert!(conflicts(&transaction), "a new key");
    change(&bucket, "k050a", None);
    let transaction = page();
    change(&bucket, "k050", None);
    assert!(conflicts(&transaction), "a key less");

    let mut transaction = begin();
    assert_eq!(transaction.list(&bucket, Some("k108")).unwrap(), Page { keys: vec!["k109".into()], cursor: None });
    change(&bucket, "z", Some("1"));
    assert!(conflicts(&transaction), "it had said that there are no more");
}

/// The commit compares each key once, however often it was listed, and a repeated list has the same keys.
#[test]
fn overlapping_lists_are_merged() {
    let bucket = bucket("overlapping");
    let mut stored = begin();
    let names: Vec<String> = (0..PAGE_KEYS * 2 + 50).map(|at| format!("k{at:03}")).collect();
    for name in &names {
        stored.set(&bucket, name, vec![0; 1000]).unwrap();
    }
    commit(&stored).unwrap();
    let mut transaction = begin();
    transaction.list(&bucket, Some("k120")).unwrap();
    for _ in 0..10 {
        assert_eq!(list(&mut transaction, &bucket), names);
    }
    assert_eq!(format!("{:?}", transaction.reads()).matches("Keys(").count(), 1);
    change(&bucket, "k000a", Some("1"));
    assert_eq!(list(&mut transaction, &bucket), names);
    assert!(conflicts(&transaction));
}

/// Random buckets and random own writes, before and between the pages.
#[test]
fn pages_equal_those_of_a_sorted_set() {
    for seed in wasaga_seed::seeds(200) {
        let mut random = fastrand::Rng::with_seed(seed);
        let bucket = bucket(&format!("pages {seed}"));
        let mut model = BTreeSet::new();
        let name = |random: &mut fastrand::Rng| format!("k{:03}", random.u32(..400));
        let mut stored = begin();
        for _ in 0..random.usize(..400) {
            let key = name(&mut random);
            stored.set(&bucket, &key, Vec::new()).unwrap();
            model.insert(key);
        }
        commit(&stored).unwrap();

        let mut transaction = begin();
        let mut write = |transaction: &mut Transaction, random: &mut fastrand::Rng| {
            let key = name(random);
            if random.bool() {
                transaction.set(&bucket, &key, Vec::new()).unwrap();
                model.insert(key);
            } else {
                transaction.delete(&bucket, &key).unwrap();
                model.remove(&key);
            }
        };
        (0..random.usize(..300)).for_each(|_| write(&mut transaction, &mut random));
        assert_eq!(list(&mut transaction, &bucket), model.iter().cloned().collect::<Vec<_>>(), "seed {seed}");
        assert!(transaction.is_current().unwrap(), "seed {seed}");
    }
}

#[test]
fn a_cursor_stays_valid_while_the_run_writes() {
    let bucket = bucket("cursor");
    let mut stored = begin();
    for at in 0..PAGE_KEYS * 2 {
        stored.set(&bucket, &format!("k{at:03}"), Vec::new()).unwrap();
    }
    commit(&stored).unwrap();
    let mut transaction = begin();
    let first = transaction.list(&bucket, None).unwrap();
    for key in &first.keys {
        transaction.delete(&bucket, key).unwrap();
    }
    transaction.set(&bucket, "a", Vec::new()).unwrap();
    transaction.set(&bucket, "k150a", Vec::new()).unwrap();
    let second = transaction.list(&bucket, first.cursor.as_deref()).unwrap();
    assert_eq!((second.keys.len(), second.keys[51].as_str()), (PAGE_KEYS, "k150a"));
    let third = transaction.list(&bucket, second.cursor.as_deref()).unwrap();
    assert_eq!(third, Page { keys: vec!["k199".into()], cursor: None });
    assert!(!conflicts(&transaction));
}

#[test]
fn keys_and_values_are_limited() {
    let bucket = bucket("sizes");
    let mut transaction = begin();
    let Limits { kv_key_bytes, kv_value_bytes, .. } = Limits::default();
    let longest = "k".repeat(kv_key_bytes);
    transaction.set(&bucket, &longest, vec![0; kv_value_bytes]).unwrap();
    assert!(matches!(transaction.set(&bucket, "k", vec![0; kv_value_bytes + 1]), Err(Fault::Value { .. })));
    let too_long = longest + "k";
    assert!(matches!(transaction.get(&bucket, &too_long), Err(Fault::Key { bytes: 513, limit: 512 })));
    assert!(matches!(transaction.list(&bucket, Some(&too_long)), Err(Fault::Key { .. })));
    commit(&transaction).unwrap();
    // The store's own limit holds also if the setting is higher.
    let mut transaction = limited(&Limits { kv_key_bytes: 5000, ..Limits::default() });
    let longest = KEY_BYTES_MAX - keyvalue_keys::prefix("test", "sizes").len();
    transaction.set(&bucket, &"k".repeat(longest), Vec::new()).unwrap();
    assert!(transaction.set(&bucket, &"k".repeat(longest + 1), Vec::new()).is_err());
    commit(&transaction).unwrap();
}

#[test]
fn writes_are_limited_by_the_size_of_the_commit() {
    let bucket = bucket("writes");
    let mut transaction = limited(&Limits { kv_write_bytes: 100, ..Limits::default() });
    let key = transaction.begin(&bucket, "k").unwrap().len();
    for _ in 0..10 {
        transaction.set(&bucket, "k", vec![0; 100 - key]).unwrap();
    }
    assert!(matches!(transaction.set(&bucket, "k", vec![0; 101 - key]), Err(Fault::Writes(100))));
    assert!(matches!(transaction.delete(&bucket, "l"), Err(Fault::Writes(100))));
    transaction.delete(&bucket, "k").unwrap();
    transaction.set(&bucket, "l", vec![0; 100 - 2 * key]).unwrap();
    assert_eq!(
        transaction.effects().writes().map(|(key, value)| key.len() + value.map_or(0, <[u8]>::len)).sum::<usize>(),
        100
    );
}

#[test]
fn repeated_reads_count_for_the_limit() {
    type Operation = fn(&mut Transaction, &Bucket) -> Result<(), Fault>;
    let bucket = bucket("reads");
    change(&bucket, "k", Some(&"v".repeat(500)));
    let reads: [Operation; 3] = [
        |transaction, bucket| transaction.get(bucket, "k").map(drop),
        |transaction, bucket| transaction.get(bucket, "own").map(drop),
        |transaction, bucket| transaction.list(bucket, None).map(drop),
    ];
    for read in reads {
        let mut transaction = limited(&Limits { kv_read_bytes: 1000, ..Limits::default() });
        transaction.set(&bucket, "own", vec![0; 500]).unwrap();
        let done = (0..2000).take_while(|_| read(&mut transaction, &bucket).is_ok()).count();
        assert!((2..1000).contains(&done), "{done} reads");
        assert!(matches!(read(&mut transaction, &bucket), Err(Fault::Reads(1000))));
        transaction.set(&bucket, "after", Vec::new()).unwrap();
        assert!(!conflicts(&transaction), "what was read is still so");
    }
}

#[test]
fn operations_and_listed_keys_are_limited() {
    let bucket = bucket("operations");
    for key in ["a", "b", "c"] {
        change(&bucket, key, Some("1"));
    }
    let mut transaction = limited(&Limits { kv_operations: 6, ..Limits::default() });
    transaction.get(&bucket, "a").unwrap();
    transaction.list(&bucket, None).unwrap();
    let mark = transaction.mark(&bucket, "a").unwrap();
    assert!(matches!(transaction.get(&bucket, "a"), Err(Fault::Operations(6))));
    assert!(matches!(transaction.list(&bucket, None), Err(Fault::Operations(6))));
    assert!(matches!(transaction.marked(&mark), Err(Fault::Operations(6))));
    assert!(matches!(transaction.swap(mark, Vec::new()), Err(Fault::Operations(6))));
}
