//! The store against a map, through every mechanism at once.

use std::collections::BTreeMap;

use bytes::Bytes;
use fastrand::Rng;
use tempfile::tempdir;
use wasaga_store::{Batch, CommitError, Memory, Range, Settings, StateOrigin, Store};

use crate::support::{contents, open, small};

type Model = BTreeMap<Bytes, Bytes>;

#[test]
fn it_behaves_as_a_map_does() {
    for seed in wasaga_seed::seeds(6) {
        run(seed);
    }
}

fn run(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let dir = tempdir().unwrap();
    let settings = Settings { verify_on_open: true, ..small(dir.path()) };
    let mut model = Model::new();
    let (mut store, _) = open(settings.clone());
    for step in 0..3000 {
        match rng.u32(..1000) {
            0..3 => {
                drop(store);
                let (reopened, report) = open(settings.clone());
                store = reopened;
                assert!(!matches!(report.state, StateOrigin::Rebuilt { .. }), "seed {seed}: {report:?}");
                assert_eq!(report.entries, model.len() as u64, "seed {seed} step {step}");
                assert_same(&contents(&store), &model, seed, step);
            }
            _ => step_of_any_store(&mut rng, &store, &mut model, (seed, step)),
        }
    }
    assert_same(&contents(&store), &model, seed, 0);
    store.close().unwrap();
    assert!(store.stats().bases + store.stats().checkpoints > 0);
}

#[test]
fn memory_behaves_as_a_map_does() {
    for seed in wasaga_seed::seeds(6) {
        let (mut rng, mut model, store) = (Rng::with_seed(seed), Model::new(), Memory::default());
        for step in 0..3000 {
            step_of_any_store(&mut rng, &store, &mut model, (seed, step));
        }
        assert_same(&contents(&store), &model, seed, 0);
        assert_eq!(store.entries(), model);
        assert_eq!(Memory::of(model).entries(), store.entries());
    }
}

fn step_of_any_store(rng: &mut Rng, store: &dyn Store, model: &mut Model, at: (u64, i32)) {
    match rng.u32(..10) {
        0..5 => write(rng, store, model, at),
        5..7 => {
            let key = key(rng);
            assert_eq!(store.get(&key).unwrap(), model.get(&key).cloned(), "{at:?}");
        }
        _ => read_range(rng, store, model, at),
    }
}

fn key(rng: &mut Rng) -> Bytes {
    let length = if rng.u32(..50) == 0 { rng.usize(..1024) } else { rng.usize(..3) };
    std::iter::repeat_with(|| [0, b'a', b'b', 0xff][rng.usize(..4)]).take(length).collect()
}

fn value(rng: &mut Rng) -> Vec<u8> {
    let length = match rng.u32(..100) {
        0..2 => rng.usize(30_000..200_000),
        2..5 => [32 << 10, (32 << 10) + 1, 64 << 10, (64 << 10) + 1][rng.usize(..4)],
        _ => rng.usize(..200),
    };
    vec![rng.u8(..); length]
}

fn write(rng: &mut Rng, store: &dyn Store, model: &mut Model, at: (u64, i32)) {
    let mut batch = Batch::new();
    let mut after = model.clone();
    for _ in 0..rng.u32(1..5) {
        let key = key(rng);
        if rng.u32(..3) == 0 {
            batch.delete(&key);
            after.remove(&key);
        } else {
            let value = value(rng);
            batch.put(&key, &value);
            after.insert(key, value.into());
        }
    }
    // Some batches have preconditions, of which some do not hold.
    let mut is_so = true;
    if rng.u32(..3) == 0 {
        let key = key(rng);
        let expected = if rng.u32(..4) == 0 { Some(Bytes::from("never")) } else { model.get(&key).cloned() };
        is_so = expected == model.get(&key).cloned();
        batch.expect(key, expected);
    }
    if rng.u32(..3) == 0 {
        let range = range(rng);
        let mut rows = rows(model, &range);
        if rng.u32(..4) == 0 && !rows.is_empty() {
            rows.remove(rng.usize(..rows.len()));
            is_so = false;
        }
        if rng.bool() {
            batch.expect_range(range, rows);
        } else {
            batch.expect_keys(range, rows.into_iter().map(|(key, _)| key).collect());
        }
    }
    assert_eq!(store.is_current(&batch).unwrap(), is_so, "{at:?}");
    match store.commit(batch) {
        Ok(_) if is_so => *model = after,
        Err(CommitError::Conflict { .. }) if !is_so => {}
        other => panic!("{other:?} at {at:?}"),
    }
}

fn range(rng: &mut Rng) -> Range {
    let (start, end) = (key(rng), (rng.u32(..4) > 0).then(|| key(rng)));
    Range { start, end, reverse: rng.bool() }
}

fn rows(model: &Model, range: &Range) -> Vec<(Bytes, Bytes)> {
    let in_range = |key: &Bytes| *key >= range.start && range.end.as_ref().is_none_or(|end| key < end);
    let rows = model.iter().filter(|(key, _)| in_range(key)).map(|(key, value)| (key.clone(), value.clone()));
    let mut rows: Vec<_> = rows.collect();
    if range.reverse {
        rows.reverse();
    }
    rows
}

fn read_range(rng: &mut Rng, store: &dyn Store, model: &Model, at: (u64, i32)) {
    let (range, limit) = (range(rng), rng.usize(..50));
    let mut expected = rows(model, &range);
    expected.truncate(limit);
    assert!(store.scan(&range, limit).unwrap() == expected, "{range:?} {limit} at {at:?}");
    let keys = store.keys(&range, limit).unwrap();
    assert!(keys.iter().eq(expected.iter().map(|(key, _)| key)), "{range:?} {limit} at {at:?}");
}

fn assert_same(found: &[(Bytes, Bytes)], model: &Model, seed: u64, step: i32) {
    assert!(found.iter().map(|(key, value)| (key, value)).eq(model), "seed {seed} step {step}");
}
