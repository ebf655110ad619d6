//! A store in memory.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;

use crate::store::sync::lock;
use crate::store::{Batch, CommitError, Error, Range, Read};

/// All rows, by key.
pub type Data = BTreeMap<Bytes, Bytes>;

/// A store in memory that counts reads. Clones share it.
#[derive(Clone, Default)]
pub struct Memory {
    data: Arc<Mutex<Data>>,
    reads: Arc<AtomicU64>,
}

impl Memory {
    /// A copy of all rows.
    pub fn data(&self) -> Data {
        self.lock().clone()
    }

    /// Another store with the same rows.
    pub fn copy(&self) -> Self {
        Self { data: Arc::new(Mutex::new(self.data())), reads: Arc::default() }
    }

    /// The number of reads so far.
    pub fn reads(&self) -> u64 {
        self.reads.load(Relaxed)
    }

    /// Applies the writes of a batch.
    pub fn commit(&self, batch: &Batch) {
        let mut data = self.lock();
        for (key, value) in batch.writes() {
            let key = Bytes::copy_from_slice(key);
            match value {
                Some(value) => data.insert(key, Bytes::copy_from_slice(value)),
                None => data.remove(&key),
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Data> {
        lock(&self.data)
    }
}

impl Read for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.reads.fetch_add(1, Relaxed);
        Ok(self.lock().get(key).cloned())
    }

    fn scan(&self, range: &Range, limit: usize) -> Result<Vec<(Bytes, Bytes)>, Error> {
        self.reads.fetch_add(1, Relaxed);
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let end = range.end.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let data = self.lock();
        let rows = data.range::<Bytes, _>((Bound::Included(&range.start), end));
        let row = |(key, value): (&Bytes, &Bytes)| (key.clone(), value.clone());
        Ok(if range.reverse { rows.rev().take(limit).map(row).collect() } else { rows.take(limit).map(row).collect() })
    }

    fn is_current(&self, batch: &Batch) -> Result<bool, Error> {
        match batch.check(self) {
            Ok(()) => Ok(true),
            Err(CommitError::Store(failed)) => Err(failed),
            Err(CommitError::Conflict { .. } | CommitError::TooLarge { .. }) => Ok(false),
        }
    }
}
