//! The key ranges that one run has listed, and the keys in them.
//!
//! A range that was listed once has the same keys when it is listed again, and the commit compares it once: ranges that
//! overlap or touch are merged.

use std::{collections::BTreeMap, ops::Bound};

use bytes::Bytes;

use crate::store::{self, Batch, Range, Read};

/// The keys that the store held in ranges that neither overlap nor touch, by the beginning of each range.
#[derive(Debug, Default)]
pub struct Lists(BTreeMap<Bytes, Listed>);

/// All keys of one range, in ascending order.
#[derive(Debug)]
struct Listed {
    /// See [`Range::end`].
    end: Option<Bytes>,
    keys: Vec<Bytes>,
}

impl Listed {
    fn from(&self, start: &Bytes) -> impl Iterator<Item = &Bytes> {
        self.keys.get(self.keys.partition_point(|key| key < start)..).unwrap_or_default().iter()
    }
}

impl Lists {
    /// The first keys of an ascending range: listed parts from here, the rest from `state`. Records nothing.
    pub fn read(&self, state: &dyn Read, range: &Range, limit: usize) -> Result<Vec<Bytes>, store::Error> {
        let mut keys: Vec<Bytes> = Vec::new();
        let mut start = range.start.clone();
        while keys.len() < limit && !is_over(&start, range.end.as_ref()) {
            let room = limit - keys.len();
            let end = if let Some((_, listed)) =
                self.at(&start).filter(|(_, listed)| !is_over(&start, listed.end.as_ref()))
            {
                let within = listed.from(&start).take_while(|key| !is_over(key, range.end.as_ref()));
                keys.extend(within.take(room).cloned());
                listed.end.clone()
            } else {
                let known =
                    self.after(&start).map(|(start, _)| start).filter(|known| !is_over(known, range.end.as_ref()));
                let end = known.or(range.end.as_ref()).cloned();
                let gap = Range { start, end: end.clone(), reverse: false };
                // Copied, since the keys are kept: they may share the memory of large batches.
                keys.extend(state.keys(&gap, room)?.iter().map(|key| Bytes::copy_from_slice(key)));
                end
            };
            match end {
                Some(end) => start = end,
                None => break,
            }
        }
        Ok(keys)
    }

    /// Records all keys of an ascending range. Parts of it that were recorded before have the same keys.
    pub fn remember(&mut self, range: Range, keys: Vec<Bytes>) {
        let Range { start, mut end, .. } = range;
        if is_over(&start, end.as_ref()) {
            return;
        }
        let before = self.at(&start).filter(|(_, listed)| reaches(listed.end.as_ref(), Some(&start)));
        if before.is_some_and(|(_, listed)| reaches(listed.end.as_ref(), end.as_ref())) {
            return;
        }
        let before = before.map(|(start, _)| start.clone());
        let (begin, mut all) = match before.and_then(|before| self.0.remove_entry(&before)) {
            Some((begin, Listed { mut keys, .. })) => {
                keys.truncate(keys.partition_point(|key| *key < start));
                (begin, keys)
            }
            None => (start.clone(), Vec::new()),
        };
        all.extend(keys);
        while let Some(next) =
            self.after(&start).map(|(next, _)| next.clone()).filter(|next| reaches(end.as_ref(), Some(next)))
            && let Some(listed) = self.0.remove(&next)
        {
            if let Some(known) = end.take_if(|end| !reaches(Some(end), listed.end.as_ref())) {
                all.extend(listed.from(&known).cloned());
                end = listed.end;
            }
        }
        self.0.insert(begin, Listed { end, keys: all });
    }

    /// Adds the lists to the preconditions of a batch.
    pub fn expect(&self, batch: &mut Batch) {
        for (start, Listed { end, keys }) in &self.0 {
            batch.expect_keys(Range { start: start.clone(), end: end.clone(), reverse: false }, keys.clone());
        }
    }

    /// The last range that begins here or before.
    fn at(&self, key: &Bytes) -> Option<(&Bytes, &Listed)> {
        self.0.range::<Bytes, _>(..=key).next_back()
    }

    /// The first range that begins after this.
    fn after(&self, key: &Bytes) -> Option<(&Bytes, &Listed)> {
        self.0.range::<Bytes, _>((Bound::Excluded(key), Bound::Unbounded)).next()
    }
}

/// Whether a range with this end is over at a key.
fn is_over(key: &Bytes, end: Option<&Bytes>) -> bool {
    end.is_some_and(|end| end <= key)
}

/// Whether one end is not before another.
fn reaches(end: Option<&Bytes>, other: Option<&Bytes>) -> bool {
    match (end, other) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(end), Some(other)) => end >= other,
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::BTreeSet};

    use super::*;

    fn key(n: usize) -> Bytes {
        format!("k{n:02}").into()
    }

    /// Random listings in any order: the recorded keys are those of the store, and no range is recorded twice.
    #[test]
    fn recorded_ranges_are_the_listed_ones() {
        for seed in wasaga_seed::seeds(300) {
            let mut random = fastrand::Rng::with_seed(seed);
            let stored: BTreeSet<Bytes> = (0..60).filter(|_| random.bool()).map(key).collect();
            let mut lists = Lists::default();
            let mut known = BTreeSet::new();
            for _ in 0..random.usize(1..12) {
                let start = random.usize(..60);
                let end = start + random.usize(..20);
                let range = Range { start: key(start), end: (random.u8(..8) > 0).then(|| key(end)), reverse: false };
                let inside = |key: &&Bytes| **key >= range.start && !is_over(key, range.end.as_ref());
                known.extend((start..if range.end.is_some() { end } else { 100 }).map(key));
                lists.remember(range.clone(), stored.iter().filter(inside).cloned().collect());
                let mut last: Option<Option<Bytes>> = None;
                for (begin, Listed { end, keys }) in &lists.0 {
                    assert!(last.is_none_or(|last| last.is_some_and(|last| last < begin)), "seed {seed}: {lists:?}");
                    let inside = |key: &&Bytes| *key >= begin && !is_over(key, end.as_ref());
                    assert!(keys.iter().eq(stored.iter().filter(inside)), "seed {seed}: {lists:?}");
                    last = Some(end.clone());
                }
                let covered = |key: &Bytes| lists.at(key).is_some_and(|(_, listed)| !is_over(key, listed.end.as_ref()));
                assert!((0..100).map(key).all(|key| covered(&key) == known.contains(&key)), "seed {seed}: {lists:?}");
            }
        }
    }

    /// A state that records the ranges it is asked for. It has no values.
    struct Asked {
        stored: BTreeSet<Bytes>,
        gaps: std::sync::Mutex<Vec<Range>>,
    }

    impl Read for Asked {
        fn get(&self, _key: &[u8]) -> Result<Option<Bytes>, store::Error> {
            panic!("a list needs no values")
        }

        fn scan(&self, _range: &Range, _limit: usize) -> Result<Vec<(Bytes, Bytes)>, store::Error> {
            panic!("a list needs no values")
        }

        fn keys(&self, range: &Range, limit: usize) -> Result<Vec<Bytes>, store::Error> {
            self.gaps.lock().unwrap().push(range.clone());
            let inside = |key: &&Bytes| **key >= range.start && !is_over(key, range.end.as_ref());
            Ok(self.stored.iter().filter(inside).take(limit).cloned().collect())
        }

        fn is_current(&self, _batch: &Batch) -> Result<bool, store::Error> {
            panic!("a list compares nothing")
        }
    }

    #[test]
    fn only_unlisted_ranges_are_read() {
        let state = Asked { stored: (0..40).map(key).collect(), gaps: std::sync::Mutex::default() };
        let lists = RefCell::new(Lists::default());
        let list = |start: usize, end: usize, limit: usize| {
            let range = Range { start: key(start), end: Some(key(end)), reverse: false };
            let keys = lists.borrow().read(&state, &range, limit).unwrap();
            assert!(keys.iter().cloned().eq((start..end.min(40)).map(key).take(limit)), "{keys:?}");
            let seen = if keys.len() == limit { range.through(keys.last().unwrap()) } else { range };
            lists.borrow_mut().remember(seen, keys);
            std::mem::take(&mut *state.gaps.lock().unwrap()).len()
        };
        assert_eq!(list(0, 10, 100), 1);
        assert_eq!(list(0, 10, 100), 0);
        assert_eq!(list(2, 8, 3), 0);
        assert_eq!(list(20, 30, 100), 1);
        assert_eq!(list(5, 50, 100), 2, "between, and beyond");
        assert_eq!(list(0, 50, 100), 0);
        assert_eq!(lists.borrow().0.len(), 1);
        assert_eq!(list(50, 60, 100), 1);
        assert_eq!(lists.borrow().0.len(), 1, "ranges that touch are merged");
    }
}
