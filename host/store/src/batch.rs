//! Batches: atomic changes with preconditions.

use bytes::Bytes;

use crate::{codec, error::CommitError, limits::KEY_BYTES_MAX, range::Range};

/// An atomic change, and the preconditions under which it is made.
///
/// Writes are encoded as they are added, so that accepting the batch has nothing left to do but number it. A new
/// batch allocates nothing.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    writes: Vec<u8>,
    expected: Vec<Expected>,
    refused: Option<CommitError>,
}

/// A precondition: what was read, and must be there again at the commit point.
#[derive(Clone, Debug)]
pub(crate) enum Expected {
    Key(Bytes, Option<Bytes>),
    Range(Range, Vec<(Bytes, Bytes)>),
    Keys(Range, Vec<Bytes>),
}

impl Batch {
    /// An empty batch.
    pub const fn new() -> Self {
        Self { writes: Vec::new(), expected: Vec::new(), refused: None }
    }

    /// Sets `key` to `value`. Within a batch, the last write of a key wins.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.write(key.as_ref(), Some(value.as_ref()));
    }

    /// Removes `key`, which need not exist.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) {
        self.write(key.as_ref(), None);
    }

    /// Requires that `key` has this value (`None`: that it does not exist) when the batch is committed.
    ///
    /// The comparison is by value, before the writes of this batch.
    pub fn expect(&mut self, key: impl AsRef<[u8]>, as_read: Option<Bytes>) {
        self.expected.push(Expected::Key(Bytes::copy_from_slice(key.as_ref()), as_read));
    }

    /// Requires that `range` holds exactly these entries, in its direction, when the batch is committed.
    ///
    /// A scan that stopped at its limit has read only a part: give [`Range::through`] its last key.
    pub fn expect_range(&mut self, range: Range, as_read: Vec<(Bytes, Bytes)>) {
        self.expected.push(Expected::Range(range, as_read));
    }

    /// As [`Batch::expect_range`], but only the keys must be the same: for a list of keys whose values
    /// were not read.
    pub fn expect_keys(&mut self, range: Range, as_read: Vec<Bytes>) {
        self.expected.push(Expected::Keys(range, as_read));
    }

    /// Adds the writes and preconditions of `other` after those of this batch. All preconditions are checked before
    /// any write.
    pub fn append(&mut self, other: Self) {
        if self.writes.is_empty() {
            self.writes = other.writes;
        } else {
            self.writes.extend_from_slice(&other.writes);
        }
        if self.expected.is_empty() {
            self.expected = other.expected;
        } else {
            self.expected.extend(other.expected);
        }
        self.refused = self.refused.take().or(other.refused);
    }

    /// Whether it has neither writes nor preconditions.
    pub fn is_empty(&self) -> bool {
        !self.has_writes() && self.expected.is_empty()
    }

    /// Whether it has writes.
    pub fn has_writes(&self) -> bool {
        !self.writes.is_empty()
    }

    /// The writes in order: key, and value or `None` for a deletion.
    pub fn writes(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        codec::decode(&self.writes).map(|write| (write.key, write.value))
    }

    /// The error of the first write that was over its limit.
    pub(crate) fn refused(&self) -> Option<&CommitError> {
        self.refused.as_ref()
    }

    pub(crate) fn encoded(&self) -> &[u8] {
        &self.writes
    }

    pub(crate) fn expected(&self) -> &[Expected] {
        &self.expected
    }

    /// The encoded writes and the preconditions, if the batch keeps within the limits.
    pub(crate) fn into_parts(self, bytes_max: usize) -> Result<(Bytes, Vec<Expected>), CommitError> {
        match self.refused {
            Some(error) => Err(error),
            None if self.writes.len() > bytes_max => {
                Err(CommitError::TooLarge { what: "batch", bytes: self.writes.len(), max: bytes_max })
            }
            None => Ok((self.writes.into(), self.expected)),
        }
    }

    fn write(&mut self, key: &[u8], value: Option<&[u8]>) {
        if key.len() > KEY_BYTES_MAX {
            self.refused.get_or_insert_with(|| CommitError::key_too_large(key.len()));
            return;
        }
        codec::encode(&mut self.writes, key, value);
    }
}

/// The part of the keyspace that a precondition is about.
pub(crate) enum Scope<'a> {
    Key(&'a Bytes),
    Range(&'a Range),
}

impl Expected {
    pub(crate) fn scope(&self) -> Scope<'_> {
        match self {
            Self::Key(key, _) => Scope::Key(key),
            Self::Range(range, _) | Self::Keys(range, _) => Scope::Range(range),
        }
    }

    /// Whether a precondition that held still holds after a key in its scope was given this value.
    pub(crate) fn admits(&self, key: &Bytes, value: Option<&Bytes>) -> bool {
        match self {
            Self::Key(_, expected) => expected.as_ref() == value,
            Self::Range(range, rows) => entry(range, rows, key, |(key, _)| key).map(|(_, value)| value) == value,
            Self::Keys(range, keys) => entry(range, keys, key, |key| key).is_some() == value.is_some(),
        }
    }
}

/// The entry of a key among those of a range, which are in its direction.
fn entry<'a, T>(range: &Range, entries: &'a [T], key: &Bytes, key_of: impl Fn(&T) -> &Bytes) -> Option<&'a T> {
    let ordered = |entry: &T| {
        let order = key_of(entry).cmp(key);
        if range.reverse { order.reverse() } else { order }
    };
    entries.binary_search_by(ordered).ok().and_then(|at| entries.get(at))
}
