//! The data of a plan: the store's rows as they were first read, and the plan's own writes on top.
//!
//! Every attempt of a plan, in every trace, reads through one [`Snapshot`]. It returns the same rows each time, so all
//! attempts see one state. Whether the store was in that state at one time is checked at the end, by passing everything
//! that was read to [`crate::store::Read::is_current`].

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;

use crate::store::sync::lock;
use crate::store::{self, Batch, CommitError, Range, Read, SCAN_ENTRIES_MAX, Store};

/// Memory of a row besides its bytes, about.
const ROW_BYTES: usize = 64;

/// Rows by key; `None`: there is no such row.
type Rows = BTreeMap<Bytes, Option<Bytes>>;

/// What a plan has read of the store.
pub(super) struct Snapshot {
    base: Arc<dyn Store>,
    known: Mutex<Known>,
}

struct Known {
    rows: Rows,
    /// Of these ranges all live rows are known. In ascending direction, whichever way they were read.
    ranges: Vec<Range>,
    /// How many bytes the plan may still read and write.
    room: usize,
    error: Option<Error>,
}

/// Why a plan stops, whatever its branches do with the error that they were given.
#[derive(Clone, Debug)]
pub(super) enum Error {
    /// It has read and written as much as the limit allows.
    Full,
    /// The store failed.
    Store(store::Error),
}

impl Snapshot {
    /// A snapshot that has read nothing yet. Reads and writes may take `bytes_max` bytes together.
    pub fn new(base: Arc<dyn Store>, bytes_max: usize) -> Arc<Self> {
        let known = Known { rows: Rows::new(), ranges: Vec::new(), room: bytes_max, error: None };
        Arc::new(Self { base, known: Mutex::new(known) })
    }

    /// The first error of a read or a write: then nothing that was read counts.
    pub fn error(&self) -> Option<Error> {
        self.known().error.clone()
    }

    /// Everything that was read, as preconditions.
    pub fn reads(&self) -> Batch {
        let known = self.known();
        let mut reads = Batch::new();
        for range in &known.ranges {
            reads.expect_range(range.clone(), live(&known.rows, range));
        }
        for (key, value) in known.rows.iter().filter(|(key, _)| !known.covers(key)) {
            reads.expect(key, value.clone());
        }
        reads
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, store::Error> {
        let mut known = self.known();
        if let Some(value) = known.rows.get(key) {
            return Ok(value.clone());
        }
        if known.covers(key) {
            return Ok(None);
        }
        let value = self.base.get(key);
        let value = known.note(value)?;
        known.learn(key, value.as_deref())?;
        Ok(value)
    }

    /// The first rows of `range`, in its direction, and the part of it in which these are all.
    fn scan(&self, range: &Range, limit: usize) -> Result<(Vec<(Bytes, Bytes)>, Range), store::Error> {
        let mut known = self.known();
        let seen = if known.ranges.iter().any(|all| all.encloses(range)) {
            range.clone()
        } else {
            let page = self.base.scan(range, limit);
            let page = known.note(page)?;
            let seen = part_read(range, &page, limit);
            for (key, value) in &page {
                // A row that is newer than the plan's first read of its range is not part of the snapshot.
                if !known.rows.contains_key(key) && !known.covers(key) {
                    known.learn(key, Some(value))?;
                }
            }
            known.cover(&seen)?;
            seen
        };
        let mut rows = live(&known.rows, &seen);
        rows.truncate(limit);
        let seen = part_read(&seen, &rows, limit);
        Ok((rows, seen))
    }

    /// Counts what is kept of the plan's own changes.
    fn spend(&self, bytes: usize) -> Result<(), store::Error> {
        self.known().spend(bytes)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.known)
    }
}

impl Known {
    fn covers(&self, key: &[u8]) -> bool {
        self.ranges.iter().any(|range| range.contains(key))
    }

    /// Copies, since what the store gives may share the memory of a large batch.
    fn learn(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), store::Error> {
        self.spend(key.len() + value.map_or(0, <[u8]>::len))?;
        self.rows.insert(Bytes::copy_from_slice(key), value.map(Bytes::copy_from_slice));
        Ok(())
    }

    fn cover(&mut self, seen: &Range) -> Result<(), store::Error> {
        self.spend(seen.start.len() + seen.end.as_ref().map_or(0, Bytes::len))?;
        self.ranges.retain(|known| !seen.encloses(known));
        self.ranges.push(Range { reverse: false, ..seen.clone() });
        Ok(())
    }

    /// Counts memory. Over the limit, branches get an error as of a closed store; the plan stops with `Error::Full`.
    fn spend(&mut self, bytes: usize) -> Result<(), store::Error> {
        let left = self.room.checked_sub(bytes.saturating_add(ROW_BYTES));
        self.room = left.unwrap_or_default();
        if left.is_some() {
            return Ok(());
        }
        self.error.get_or_insert(Error::Full);
        Err(store::Error::Closed)
    }

    fn note<T>(&mut self, read: Result<T, store::Error>) -> Result<T, store::Error> {
        read.inspect_err(|error| {
            self.error.get_or_insert_with(|| Error::Store(error.clone()));
        })
    }
}

/// A [`Snapshot`] and the writes made on it. Each attempt reads from one that does not change any more.
#[derive(Clone)]
pub(super) struct SnapshotFork {
    snapshot: Arc<Snapshot>,
    writes: Rows,
}

impl SnapshotFork {
    /// Without writes.
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        Self { snapshot, writes: Rows::new() }
    }

    /// Commits an attempt's effects, unless the store would refuse them.
    pub fn commit(&mut self, effects: &Batch) -> Result<(), CommitError> {
        effects.check(self)?;
        for (key, value) in effects.writes() {
            self.snapshot.spend(key.len() + value.map_or(0, <[u8]>::len))?;
            self.writes.insert(Bytes::copy_from_slice(key), value.map(Bytes::copy_from_slice));
        }
        Ok(())
    }

    /// The snapshot without the writes.
    pub fn origin(&self) -> Self {
        Self::new(self.snapshot.clone())
    }

    /// All keys that were written, whether or not their values differ.
    pub fn written(&self) -> impl Iterator<Item = &[u8]> {
        self.writes.keys().map(|key| &**key)
    }
}

impl Read for SnapshotFork {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, store::Error> {
        self.writes.get(key).map_or_else(|| self.snapshot.get(key), |value| Ok(value.clone()))
    }

    fn scan(&self, range: &Range, limit: usize) -> Result<Vec<(Bytes, Bytes)>, store::Error> {
        if limit > SCAN_ENTRIES_MAX {
            return Err(store::Error::ScanTooLong(limit));
        }
        let mut found = Vec::new();
        let mut rest = range.clone();
        while found.len() < limit && !rest.is_empty() {
            let (rows, seen) = self.snapshot.scan(&rest, limit)?;
            let mut rows: Rows = rows.into_iter().map(|(key, value)| (key, Some(value))).collect();
            rows.extend(within(&self.writes, &seen).map(|(key, value)| (key.clone(), value.clone())));
            found.extend(live(&rows, &seen));
            if seen == rest {
                break;
            }
            // Own deletions may hide all rows that were seen: then the rest of the range has more.
            rest = if range.reverse {
                Range { end: Some(seen.start), ..rest }
            } else {
                Range { start: seen.end.unwrap_or_default(), ..rest }
            };
        }
        found.truncate(limit);
        Ok(found)
    }

    fn is_current(&self, batch: &Batch) -> Result<bool, store::Error> {
        match batch.check(self) {
            Err(CommitError::Conflict { .. }) => Ok(false),
            Err(CommitError::Store(error)) => Err(error),
            Ok(()) | Err(CommitError::TooLarge { .. }) => Ok(true),
        }
    }
}

/// The part of `range` that a scan has seen which found these rows.
fn part_read(range: &Range, rows: &[(Bytes, Bytes)], limit: usize) -> Range {
    match rows.last() {
        Some((last, _)) if rows.len() >= limit => range.clone().through(last),
        _ => range.clone(),
    }
}

/// The rows of a range that are there, in its direction.
fn live(rows: &Rows, range: &Range) -> Vec<(Bytes, Bytes)> {
    let rows = within(rows, range).filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
    if range.reverse { rows.rev().collect() } else { rows.collect() }
}

fn within<'a>(rows: &'a Rows, range: &Range) -> impl DoubleEndedIterator<Item = (&'a Bytes, &'a Option<Bytes>)> {
    rows.range::<Bytes, _>(range.bounds())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{LocalStore, Settings};

    /// A store with some of the keys `k0` to `k39`.
    fn store(random: &mut fastrand::Rng) -> (tempfile::TempDir, Arc<LocalStore>) {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = LocalStore::open(Settings::new(dir.path())).unwrap();
        store.commit(some_writes(random, 60)).unwrap();
        (dir, Arc::new(store))
    }

    fn some_key(random: &mut fastrand::Rng) -> String {
        format!("k{}", random.u8(..40))
    }

    fn some_writes(random: &mut fastrand::Rng, count: usize) -> Batch {
        let mut batch = Batch::new();
        for _ in 0..count {
            match random.u8(..3) {
                0 => batch.delete(some_key(random)),
                value => batch.put(some_key(random), [value]),
            }
        }
        batch
    }

    fn some_range(random: &mut fastrand::Rng) -> Range {
        let end = random.bool().then(|| some_key(random).into());
        let start = if random.bool() { some_key(random).into() } else { Bytes::new() };
        Range { start, end, reverse: random.bool() }
    }

    fn some_reads(random: &mut fastrand::Rng, state: &dyn Read) -> Batch {
        let mut reads = Batch::new();
        for _ in 0..random.u8(1..4) {
            let (range, key) = (some_range(random), some_key(random));
            let rows = state.scan(&range, SCAN_ENTRIES_MAX).unwrap();
            match random.u8(..3) {
                0 => reads.expect(&key, state.get(key.as_bytes()).unwrap()),
                1 => reads.expect_range(range, rows),
                _ => reads.expect_keys(range, rows.into_iter().map(|(key, _)| key).collect()),
            }
        }
        reads
    }

    fn first_rows(rows: &Rows, range: &Range, limit: usize) -> Vec<(Bytes, Bytes)> {
        let mut rows = live(rows, range);
        rows.truncate(limit);
        rows
    }

    fn all(store: &LocalStore) -> Rows {
        let rows = store.scan(&Range::default(), SCAN_ENTRIES_MAX).unwrap();
        rows.into_iter().map(|(key, value)| (key, Some(value))).collect()
    }

    #[test]
    fn a_state_is_what_the_store_held_and_what_was_written() {
        for seed in wasaga_seed::seeds(50) {
            let random = &mut fastrand::Rng::with_seed(seed);
            let (_dir, store) = store(random);
            let mut model = all(&store);
            let mut state = SnapshotFork::new(Snapshot::new(store, usize::MAX));
            for _ in 0..100 {
                let (key, range, limit) = (some_key(random), some_range(random), random.usize(..9));
                assert_eq!(
                    state.get(key.as_bytes()).unwrap(),
                    model.get(key.as_bytes()).cloned().flatten(),
                    "seed {seed}"
                );
                assert_eq!(
                    state.scan(&range, limit).unwrap(),
                    first_rows(&model, &range, limit),
                    "seed {seed} {range:?}"
                );
                let writes = some_writes(random, 2);
                state.commit(&writes).unwrap();
                for (key, value) in writes.writes() {
                    model.insert(Bytes::copy_from_slice(key), value.map(Bytes::copy_from_slice));
                }
            }
        }
    }

    /// A snapshot's answers agree with each other, whatever has happened to the store between them.
    #[test]
    fn what_a_snapshot_has_answered_once_it_answers_for_ever() {
        for seed in wasaga_seed::seeds(50) {
            let random = &mut fastrand::Rng::with_seed(seed);
            let (_dir, store) = store(random);
            let state = SnapshotFork::new(Snapshot::new(store.clone(), usize::MAX));
            let (mut keys, mut ranges) = (Vec::new(), Vec::new());
            for _ in 0..30 {
                let key = some_key(random);
                keys.push((key.clone(), state.get(key.as_bytes()).unwrap()));
                store.commit(some_writes(random, 3)).unwrap();
                let (range, limit) = (some_range(random), random.usize(1..9));
                ranges.push((range.clone(), limit, state.scan(&range, limit).unwrap()));
                store.commit(some_writes(random, 3)).unwrap();
            }
            // By now all is known: the whole is what every part was.
            let whole: Rows = state
                .scan(&Range::default(), SCAN_ENTRIES_MAX)
                .unwrap()
                .into_iter()
                .map(|(k, v)| (k, Some(v)))
                .collect();
            for (key, value) in keys {
                assert_eq!(whole.get(key.as_bytes()).cloned().flatten(), value, "seed {seed} {key}");
            }
            for (range, limit, rows) in ranges {
                assert_eq!(first_rows(&whole, &range, limit), rows, "seed {seed} {range:?}");
            }
        }
    }

    #[test]
    fn its_reads_hold_for_as_long_as_nothing_of_it_changes() {
        let mut verdicts = [0; 2];
        for seed in wasaga_seed::seeds(200) {
            let random = &mut fastrand::Rng::with_seed(seed);
            let (_dir, store) = store(random);
            let snapshot = Snapshot::new(store.clone(), usize::MAX);
            let state = SnapshotFork::new(snapshot.clone());
            let read = some_reads(random, &state);
            let before = all(&store);
            store.commit(some_writes(random, 1)).unwrap();
            let is_current = store.is_current(&snapshot.reads()).unwrap();
            verdicts[usize::from(is_current)] += 1;
            assert!(is_current || before != all(&store), "seed {seed}");
            // What was read itself is a part of that.
            assert!(!is_current || store.is_current(&read).unwrap(), "seed {seed}");
            assert!(state.is_current(&read).unwrap(), "seed {seed}");
        }
        assert!(verdicts.iter().all(|count| *count > 20), "{verdicts:?}");
    }

    #[test]
    fn a_batch_is_judged_as_the_store_judges_it() {
        let mut verdicts = [0; 2];
        for seed in wasaga_seed::seeds(200) {
            let random = &mut fastrand::Rng::with_seed(seed);
            let (_dir, store) = store(random);
            let mut batch = some_reads(random, &*store);
            store.commit(some_writes(random, 2)).unwrap();
            let state = SnapshotFork::new(Snapshot::new(store.clone(), usize::MAX));
            let is_current = store.is_current(&batch).unwrap();
            verdicts[usize::from(is_current)] += 1;
            assert_eq!(state.is_current(&batch).unwrap(), is_current, "seed {seed} {batch:?}");
            batch.append(some_writes(random, 1));
            let judged = state.clone().commit(&batch);
            let committed = store.commit(batch);
            assert_eq!(format!("{:?}", judged.err()), format!("{:?}", committed.err()), "seed {seed}");
        }
        assert!(verdicts.iter().all(|count| *count > 20), "{verdicts:?}");
    }
}
