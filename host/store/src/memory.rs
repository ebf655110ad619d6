//! A store in memory.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future,
    pin::Pin,
    sync::{Arc, Mutex},
};

use bytes::Bytes;

use crate::{
    batch::{Batch, Expected},
    check::{self, PageSizes, Source},
    codec,
    error::{CommitError, Error},
    limits::{PAYLOAD_BYTES_MAX, SCAN_ENTRIES_MAX},
    range::Range,
    sync::lock,
    ticket::Ticket,
    traits::{Condition, Read, Store},
};

/// A [`Store`] without files, for tests and dry runs. Order, conflicts and limits are those of
/// [`LocalStore`](crate::LocalStore) with the greatest `batch_bytes_max`; its tickets are durable when they are made.
/// Clones are the same store.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    entries: BTreeMap<Bytes, Bytes>,
    /// The last batch with writes in it.
    last_seq: u64,
}

impl Memory {
    /// A store that holds these entries.
    pub fn of(entries: BTreeMap<Bytes, Bytes>) -> Self {
        Self(Arc::new(Mutex::new(Contents { entries, last_seq: 0 })))
    }

    /// Applies the writes of a batch, whatever it expects.
    pub fn apply(&self, batch: &Batch) {
        lock(&self.0).apply(&Bytes::copy_from_slice(batch.encoded()));
    }

    /// Everything that it holds.
    pub fn entries(&self) -> BTreeMap<Bytes, Bytes> {
        lock(&self.0).entries.clone()
    }
}

impl Read for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(infallible(lock(&self.0).get(key)))
    }

    fn scan(&self, range: &Range, limit: usize) -> Result<Vec<(Bytes, Bytes)>, Error> {
        if limit > SCAN_ENTRIES_MAX {
            return Err(Error::ScanTooLong(limit));
        }
        Ok(infallible(lock(&self.0).scan(range, limit)))
    }

    fn keys(&self, range: &Range, limit: usize) -> Result<Vec<Bytes>, Error> {
        if limit > SCAN_ENTRIES_MAX {
            return Err(Error::ScanTooLong(limit));
        }
        Ok(infallible(lock(&self.0).keys(range, limit)))
    }

    fn is_current(&self, batch: &Batch) -> Result<bool, Error> {
        Ok(lock(&self.0).first_difference(batch.expected()).is_none())
    }
}

impl Store for Memory {
    fn commit(&self, batch: Batch) -> Result<Ticket, CommitError> {
        let (encoded, expected) = batch.into_parts(PAYLOAD_BYTES_MAX)?;
        let mut contents = lock(&self.0);
        if let Some(key) = contents.first_difference(&expected) {
            return Err(CommitError::Conflict { key });
        }
        contents.apply(&encoded);
        Ok(Ticket::settled(contents.last_seq))
    }

    fn barrier(&self) -> Ticket {
        Ticket::settled(lock(&self.0).last_seq)
    }

    fn condition(&self) -> Condition {
        Condition::Sound
    }

    fn failed(&self) -> Pin<Box<dyn Future<Output = Error> + Send>> {
        Box::pin(future::pending())
    }
}

impl Contents {
    fn first_difference(&self, expected: &[Expected]) -> Option<Bytes> {
        let whole = PageSizes { rows: usize::MAX - 1, keys: usize::MAX - 1 };
        infallible(check::first_difference(self, expected, whole))
    }

    fn apply(&mut self, encoded: &Bytes) {
        for write in codec::decode(encoded) {
            let key = encoded.slice_ref(write.key);
            match write.value {
                Some(value) => self.entries.insert(key, encoded.slice_ref(value)),
                None => self.entries.remove(&key),
            };
        }
        self.last_seq += u64::from(!encoded.is_empty());
    }

    /// The entries of `range`, in its direction.
    fn range<'a>(&'a self, range: &'a Range) -> Box<dyn Iterator<Item = (&'a Bytes, &'a Bytes)> + 'a> {
        let entries = self.entries.range::<Bytes, _>(range.bounds());
        if range.reverse { Box::new(entries.rev()) } else { Box::new(entries) }
    }
}

impl Source for Contents {
    type Error = Infallible;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Infallible> {
        Ok(self.entries.get(key).cloned())
    }

    fn scan(&self, range: &Range, limit: usize) -> Result<Vec<(Bytes, Bytes)>, Infallible> {
        Ok(self.range(range).take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn keys(&self, range: &Range, limit: usize) -> Result<Vec<Bytes>, Infallible> {
        Ok(self.range(range).take(limit).map(|(key, _)| key.clone()).collect())
    }
}

fn infallible<T>(result: Result<T, Infallible>) -> T {
    result.unwrap_or_else(|never| match never {})
}
