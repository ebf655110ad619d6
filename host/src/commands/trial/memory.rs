//! A store in memory.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;

use crate::store::{self, Batch, Error, Range, Read};

/// All rows, by key.
pub type Data = BTreeMap<Bytes, Bytes>;

/// A store in memory that counts reads. Clones share it.
#[derive(Clone, Default)]
pub struct Memory {
    store: store::Memory,
    reads: Arc<AtomicU64>,
}

impl Memory {
    /// A copy of all rows.
    pub fn data(&self) -> Data {
        self.store.entries()
    }

    /// Another store with the same rows.
    pub fn copy(&self) -> Self {
        Self { store: store::Memory::of(self.data()), reads: Arc::default() }
    }

    /// The number of reads so far.
    pub fn reads(&self) -> u64 {
        self.reads.load(Relaxed)
    }

    /// Applies the writes of a batch.
    pub fn commit(&self, batch: &Batch) {
        self.store.apply(batch);
    }
}

impl Read for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.reads.fetch_add(1, Relaxed);
        self.store.get(key)
    }

    fn scan(&self, range: &Range, limit: usize) -> Result<Vec<(Bytes, Bytes)>, Error> {
        self.reads.fetch_add(1, Relaxed);
        self.store.scan(range, limit)
    }

    fn is_current(&self, batch: &Batch) -> Result<bool, Error> {
        self.store.is_current(batch)
    }
}
