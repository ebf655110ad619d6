//! Committed writes that are not in sled yet.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Mutex, MutexGuard},
};

use bytes::Bytes;

use crate::{
    batch::{Expected, Scope},
    codec,
    range::Range,
    sync::lock,
};

/// The newest value of each key whose value is not in sled yet. While a key is here, readers do not look it up in sled,
/// so they do not see the follower change it there.
///
/// A check of preconditions takes time, and ends by comparing what was written since it began. So entries newer than
/// the oldest running check stay, even when sled has them.
#[derive(Debug)]
pub(crate) struct Overlay {
    entries: BTreeMap<Bytes, Entry>,
    /// The last record that was made visible.
    newest: u64,
    /// How many running checks began when this was the newest record.
    checks: Mutex<BTreeMap<u64, usize>>,
    /// Keys that sled has, and that stay here for a running check.
    kept: Vec<Bytes>,
}

#[derive(Debug)]
pub(crate) struct Entry {
    seq: u64,
    /// `None`: deleted.
    pub(crate) value: Option<Bytes>,
}

impl Overlay {
    /// The overlay of a store that begins after record `last_seq`.
    pub(crate) fn starting_after(last_seq: u64) -> Self {
        Self { entries: BTreeMap::new(), newest: last_seq, checks: Mutex::default(), kept: Vec::new() }
    }

    /// Makes the writes of an encoded batch visible. Keys and values share its memory.
    pub(crate) fn insert(&mut self, seq: u64, encoded: &Bytes) {
        self.newest = seq;
        for write in codec::decode(encoded) {
            let value = write.value.map(|value| encoded.slice_ref(value));
            self.entries.insert(encoded.slice_ref(write.key), Entry { seq, value });
        }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// The entries of `range`, least key first.
    pub(crate) fn range(&self, range: &Range) -> impl DoubleEndedIterator<Item = (&Bytes, &Entry)> {
        self.entries.range::<Bytes, _>(range.bounds())
    }

    /// Begins a check. Returns the newest record, for [`Overlay::first_change`] and [`Overlay::end_check`].
    pub(crate) fn begin_check(&self) -> u64 {
        *self.checks().entry(self.newest).or_default() += 1;
        self.newest
    }

    pub(crate) fn end_check(&self, since: u64) {
        let mut checks = self.checks();
        if let Some(count) = checks.get_mut(&since) {
            *count -= 1;
            if *count == 0 {
                checks.remove(&since);
            }
        }
    }

    /// The first precondition violated by a record after `since`. The caller has checked all of them against a state at
    /// or after `since`, and that check is still running. Reads only what was written since, so it is short.
    pub(crate) fn first_change(&self, since: u64, expected: &[Expected]) -> Option<Bytes> {
        if self.newest == since {
            return None;
        }
        expected.iter().find_map(|expected| {
            let differs = |key: &Bytes, entry: &Entry| entry.seq > since && !expected.admits(key, entry.value.as_ref());
            match expected.scope() {
                Scope::Key(key) => self.entries.get(key).filter(|entry| differs(key, entry)).map(|_| key.clone()),
                Scope::Range(range) => {
                    self.range(range).find(|(key, entry)| differs(key, entry)).map(|(key, _)| key.clone())
                }
            }
        })
    }

    /// Removes `keys`, and those kept for earlier checks, unless they were written after `applied`: sled has them now.
    /// Keys that a running check may need stay.
    pub(crate) fn prune<'a>(&mut self, keys: impl Iterator<Item = &'a Bytes>, applied: u64) {
        let oldest_check = self.checks().keys().next().copied();
        let forgettable = oldest_check.map_or(applied, |oldest| oldest.min(applied));
        for key in mem::take(&mut self.kept) {
            self.forget(&key, forgettable, applied);
        }
        keys.for_each(|key| self.forget(key, forgettable, applied));
    }

    fn forget(&mut self, key: &Bytes, forgettable: u64, applied: u64) {
        match self.entries.get(key).map(|entry| entry.seq) {
            Some(seq) if seq <= forgettable => {
                self.entries.remove(key);
            }
            Some(seq) if seq <= applied => self.kept.push(key.clone()),
            // A newer write is removed after a later round.
            _ => {}
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn checks(&self) -> MutexGuard<'_, BTreeMap<u64, usize>> {
        lock(&self.checks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(overlay: &mut Overlay, seq: u64, key: &[u8], value: Option<&[u8]>) {
        let mut out = Vec::new();
        codec::encode(&mut out, key, value);
        overlay.insert(seq, &out.into());
    }

    #[test]
    fn what_has_been_written_since_is_compared_with_what_is_expected() {
        let mut overlay = Overlay::starting_after(4);
        write(&mut overlay, 5, b"k2", Some(b"old"));
        let since = overlay.begin_check();
        assert_eq!(since, 5);
        let row = |key: &'static str, value: &'static str| (Bytes::from(key), Bytes::from(value));
        for reverse in [false, true] {
            let range = Range { reverse, ..Range::prefix(b"k") };
            let mut rows = vec![row("k1", "1"), row("k2", "old"), row("k3", "3")];
            if reverse {
                rows.reverse();
            }
            let keys = rows.iter().map(|(key, _)| key.clone()).collect();
            let expected = [
                Expected::Key("k2".into(), Some("old".into())),
                Expected::Range(range.clone(), rows),
                Expected::Keys(range, keys),
            ];
            let changed = |key: &[u8], value: Option<&[u8]>| {
                let mut overlay = Overlay::starting_after(4);
                write(&mut overlay, 5, b"k2", Some(b"old"));
                write(&mut overlay, 6, key, value);
                [0, 1, 2].map(|at| overlay.first_change(since, &expected[at..=at]).is_some())
            };
            assert_eq!(changed(b"x", Some(b"1")), [false; 3], "out of scope");
            assert_eq!(changed(b"k2", Some(b"old")), [false; 3], "the same again");
            assert_eq!(changed(b"k4", None), [false; 3], "what was not there is removed");
            assert_eq!(changed(b"k2", Some(b"new")), [true, true, false]);
            assert_eq!(changed(b"k2", None), [true; 3]);
            assert_eq!(changed(b"k3", Some(b"4")), [false, true, false]);
            assert_eq!(changed(b"k25", Some(b"1")), [false, true, true]);
        }
    }

    #[test]
    fn what_is_newer_than_a_check_stays_until_it_ends() {
        let mut overlay = Overlay::starting_after(4);
        let keys: [Bytes; 3] = ["a".into(), "b".into(), "c".into()];
        write(&mut overlay, 5, b"a", Some(b"1"));
        let (since, same) = (overlay.begin_check(), overlay.begin_check());
        write(&mut overlay, 6, b"b", Some(b"1"));
        write(&mut overlay, 7, b"c", Some(b"1"));
        overlay.prune(keys.iter(), 6);
        assert_eq!((overlay.get(b"a").is_some(), overlay.get(b"b").is_some(), overlay.len()), (false, true, 2));
        let expected = [Expected::Key("b".into(), None)];
        assert_eq!(overlay.first_change(since, &expected), Some("b".into()));
        overlay.end_check(since);
        overlay.prune(std::iter::empty(), 6);
        assert_eq!(overlay.len(), 2, "another check is under way");
        overlay.end_check(same);
        overlay.prune(std::iter::empty(), 6);
        assert_eq!((overlay.get(b"b").is_some(), overlay.get(b"c").is_some()), (false, true));
        overlay.prune(keys.iter(), 7);
        assert_eq!(overlay.len(), 0);
    }
}
