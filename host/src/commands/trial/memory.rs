//! A store for one trial, in memory, that counts how often it is read.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;

use crate::store::{self, Batch, Error, Range, Read};

/// All data, by key.
pub type Data = BTreeMap<Bytes, Bytes>;

/// Clones are the same store.
#[derive(Clone, Default)]
pub struct Memory {
    store: store::Memory,
    reads: Arc<AtomicU64>,
}

impl Memory {
    /// All that it holds.
    pub fn data(&self) -> Data {
        self.store.entries()
    }

    /// Another store with the same data.
    pub fn copy(&self) -> Self {
        Self { store: store::Memory::of(self.data()), reads: Arc::default() }
    }

    /// How often it was read.
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
