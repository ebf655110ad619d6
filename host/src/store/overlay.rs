//! What has been committed, but is not in sled yet.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::{Range, codec};

/// The newest value of each key that sled does not have yet. While a key is here, readers do not ask sled for it, so
/// the follower can change it there unseen.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    entries: BTreeMap<Bytes, Entry>,
}

#[derive(Debug)]
pub(super) struct Entry {
    seq: u64,
    /// `None`: deleted.
    pub(super) value: Option<Bytes>,
}

impl Overlay {
    /// Makes the writes of an encoded batch visible. Keys and values share its memory.
    pub(super) fn insert(&mut self, seq: u64, encoded: &Bytes) {
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

    /// Forgets `keys` where nothing newer than `applied` has been written: sled has them now.
    pub(super) fn prune<'a>(&mut self, keys: impl Iterator<Item = &'a Bytes>, applied: u64) {
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
