//! What has been committed, but is not in sled yet.

use std::{collections::BTreeMap, ops::Bound};

use bytes::Bytes;

use super::{Range, batch::Expected, codec};

/// The newest value of each key that sled does not have yet. While a key is here, readers do not ask sled for it, so
/// the follower can change it there unseen.
#[derive(Debug)]
pub(super) struct Overlay {
    entries: BTreeMap<Bytes, Entry>,
    /// The last record that was made visible.
    newest: u64,
    /// No record after this one has been forgotten.
    forgotten: u64,
}

#[derive(Debug)]
pub(super) struct Entry {
    seq: u64,
    /// `None`: deleted.
    pub(super) value: Option<Bytes>,
}

impl Overlay {
    /// The overlay of a store that begins after record `last_seq`.
    pub(super) fn starting_after(last_seq: u64) -> Self {
        Self { entries: BTreeMap::new(), newest: last_seq, forgotten: last_seq }
    }

    /// Makes the writes of an encoded batch visible. Keys and values share its memory.
    pub(super) fn insert(&mut self, seq: u64, encoded: &Bytes) {
        self.newest = seq;
        for write in codec::decode(encoded) {
            let value = write.value.map(|value| encoded.slice_ref(value));
            self.entries.insert(encoded.slice_ref(write.key), Entry { seq, value });
        }
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// The entries of `range`, least key first.
    pub(super) fn range(&self, range: &Range) -> impl DoubleEndedIterator<Item = (&Bytes, &Entry)> {
        let end = range.end.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        // `BTreeMap::range` panics on an inverted range.
        (!range.is_empty())
            .then(|| self.entries.range::<Bytes, _>((Bound::Included(&range.start), end)))
            .into_iter()
            .flatten()
    }

    /// The last record that was made visible.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// Whether it is certain that nothing has been written to what is expected since record `seq` was the newest.
    pub(super) fn is_untouched_since(&self, seq: u64, expected: &[Expected]) -> bool {
        let is_older = |entry: &Entry| entry.seq <= seq;
        expected.is_empty()
            || self.forgotten <= seq
                && expected.iter().all(|expected| match expected {
                    Expected::Key(key, _) => self.entries.get(key).is_none_or(is_older),
                    Expected::Range(range, _) | Expected::Keys(range, _) => {
                        self.range(range).all(|(_, entry)| is_older(entry))
                    }
                })
    }

    /// Forgets `keys` where nothing newer than `applied` has been written: sled has them now.
    pub(super) fn prune<'a>(&mut self, keys: impl Iterator<Item = &'a Bytes>, applied: u64) {
        self.forgotten = applied;
        for key in keys {
            if self.entries.get(key).is_some_and(|entry| entry.seq <= applied) {
                self.entries.remove(key);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_is_touched_by_newer_writes_and_by_whatever_has_been_forgotten() {
        let mut overlay = Overlay::starting_after(4);
        let encoded = |key: &[u8]| {
            let mut out = Vec::new();
            codec::encode(&mut out, key, None);
            Bytes::from(out)
        };
        overlay.insert(5, &encoded(b"b"));
        let key = |key: &'static str| [Expected::Key(key.into(), None)];
        let range = |prefix: &str| [Expected::Range(Range::prefix(prefix.as_bytes()), vec![])];
        assert_eq!(overlay.newest(), 5);
        assert!(overlay.is_untouched_since(5, &key("b")) && overlay.is_untouched_since(5, &range("")));
        assert!(!overlay.is_untouched_since(4, &key("b")) && !overlay.is_untouched_since(4, &range("b")));
        assert!(overlay.is_untouched_since(4, &key("c")) && overlay.is_untouched_since(4, &range("c")));
        overlay.prune([Bytes::from("b")].iter(), 5);
        assert_eq!(overlay.len(), 0);
        assert!(!overlay.is_untouched_since(4, &key("c")), "nobody knows any more");
        assert!(overlay.is_untouched_since(5, &key("b")) && overlay.is_untouched_since(0, &[]));
    }
}
