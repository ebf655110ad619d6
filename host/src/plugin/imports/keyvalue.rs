//! `wasi:keyvalue` for guests: names of buckets, and handles. The operations themselves are in [`Transaction`].
//!
//! A bucket belongs to its plugin and needs no creation. A bucket that the plugin's grants name is shared with all other
//! plugins whose grants name it. The empty name and `default` are the same bucket.

use std::sync::{Arc, Mutex, MutexGuard};

use wasmtime::component::{HasData, Linker, Resource, ResourceTable};

use super::{
    bindings::{
        atomics::{self, CasError},
        batch,
        store::{self, Error, KeyResponse},
    },
    output_gate::Reads,
    transaction::{Bucket, Fault, Mark, Page, Swapped, Transaction},
};
use crate::{
    plugin::{
        grants::entry::Grants,
        keyvalue_keys::{self, BUCKET_BYTES_MAX},
    },
    store::sync::lock,
};

/// The bucket that the empty name means.
const DEFAULT_BUCKET: &str = "default";

/// The data that one run of a plugin's guest can use. Clones share the transaction.
#[derive(Clone)]
pub struct KeyValue {
    owner: Arc<str>,
    grants: Arc<Grants>,
    transaction: Arc<Mutex<Transaction>>,
}

impl KeyValue {
    /// `owner` is the plugin's name.
    pub fn new(owner: Arc<str>, grants: Arc<Grants>, transaction: Transaction) -> Self {
        Self { owner, grants, transaction: Arc::new(Mutex::new(transaction)) }
    }

    /// The reads and writes so far. Release the lock soon: the guest's next operation needs it.
    pub fn transaction(&self) -> MutexGuard<'_, Transaction> {
        lock(&self.transaction)
    }

    /// The plugin's grants.
    pub fn grants(&self) -> &Grants {
        &self.grants
    }

    fn bucket(&self, name: &str) -> Result<Bucket, Error> {
        let name = if name.is_empty() { DEFAULT_BUCKET } else { name };
        if name.len() > BUCKET_BYTES_MAX || name.contains(char::is_control) {
            let rule = format!("a bucket's name has at most {BUCKET_BYTES_MAX} bytes and no control characters");
            return Err(Error::Other(rule));
        }
        let owner = if self.grants.shared.contains(name) { "" } else { &*self.owner };
        Ok(Bucket::new(keyvalue_keys::prefix(owner, name)))
    }
}

impl Reads for KeyValue {
    fn count(&self) -> u64 {
        self.transaction().operations()
    }

    fn are_current(&self) -> Result<bool, crate::store::Error> {
        self.transaction().is_current()
    }
}

/// A guest with data.
pub trait View: Send {
    /// Its data and its handles.
    fn key_value(&mut self) -> Host<'_>;
}

/// Adds the interfaces to the linker.
pub fn add_to_linker<T: View + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    store::add_to_linker::<_, Has>(linker, T::key_value)?;
    atomics::add_to_linker::<_, Has>(linker, T::key_value)?;
    batch::add_to_linker::<_, Has>(linker, T::key_value)
}

struct Has;

impl HasData for Has {
    type Data<'a> = Host<'a>;
}

/// A guest's data and its handles, for one call.
pub struct Host<'a> {
    pub key_value: &'a KeyValue,
    pub table: &'a mut ResourceTable,
}

/// The result of a host function: a trap, an error for the guest, or a value.
type Answer<T, E = Error> = wasmtime::Result<Result<T, E>>;

/// A broken limit is an error that the guest may handle; a failed store is a trap.
fn answer<T>(done: Result<T, Fault>) -> Answer<T> {
    match done {
        Ok(value) => Ok(Ok(value)),
        Err(fault @ (Fault::Store(_) | Fault::NoText)) => Err(fault.into()),
        Err(fault) => Ok(Err(Error::Other(fault.to_string()))),
    }
}

impl Host<'_> {
    /// Carries out an operation on a bucket.
    fn with<T>(
        &self,
        bucket: &Resource<Bucket>,
        operation: impl FnOnce(&mut Transaction, &Bucket) -> Result<T, Fault>,
    ) -> Answer<T> {
        let bucket = self.table.get(bucket)?;
        answer(operation(&mut self.key_value.transaction(), bucket))
    }
}

impl store::Host for Host<'_> {
    fn open(&mut self, identifier: String) -> Answer<Resource<Bucket>> {
        match self.key_value.bucket(&identifier) {
            Ok(bucket) => Ok(Ok(self.table.push(bucket)?)),
            Err(error) => Ok(Err(error)),
        }
    }
}

impl store::HostBucket for Host<'_> {
    fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<Option<Vec<u8>>> {
        self.with(&bucket, |transaction, bucket| Ok(transaction.get(bucket, &key)?.map(Vec::from)))
    }

    fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Answer<()> {
        self.with(&bucket, |transaction, bucket| transaction.set(bucket, &key, value))
    }

    fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<()> {
        self.with(&bucket, |transaction, bucket| transaction.delete(bucket, &key))
    }

    fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<bool> {
        self.with(&bucket, |transaction, bucket| transaction.exists(bucket, &key))
    }

    fn list_keys(&mut self, bucket: Resource<Bucket>, cursor: Option<String>) -> Answer<KeyResponse> {
        self.with(&bucket, |transaction, bucket| {
            let Page { keys, cursor } = transaction.list(bucket, cursor.as_deref())?;
            Ok(KeyResponse { keys, cursor })
        })
    }

    fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for Host<'_> {
    fn increment(&mut self, bucket: Resource<Bucket>, key: String, delta: i64) -> Answer<i64> {
        self.with(&bucket, |transaction, bucket| transaction.increment(bucket, &key, delta))
    }

    fn swap(&mut self, cas: Resource<Mark>, value: Vec<u8>) -> Answer<(), CasError> {
        let mark = self.table.delete(cas)?;
        match answer(self.key_value.transaction().swap(mark, value))? {
            Ok(Swapped::Done) => Ok(Ok(())),
            Ok(Swapped::Stale(mark)) => Ok(Err(CasError::CasFailed(self.table.push(mark)?))),
            Err(error) => Ok(Err(CasError::StoreError(error))),
        }
    }
}

impl atomics::HostCas for Host<'_> {
    fn new(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<Resource<Mark>> {
        match self.with(&bucket, |transaction, bucket| transaction.mark(bucket, &key))? {
            Ok(mark) => Ok(Ok(self.table.push(mark)?)),
            Err(error) => Ok(Err(error)),
        }
    }

    fn current(&mut self, cas: Resource<Mark>) -> Answer<Option<Vec<u8>>> {
        let mark = self.table.get(&cas)?;
        answer(self.key_value.transaction().marked(mark).map(|value| value.map(Vec::from)))
    }

    fn drop(&mut self, cas: Resource<Mark>) -> wasmtime::Result<()> {
        self.table.delete(cas)?;
        Ok(())
    }
}

/// Each operation stops at the first error; what it did before stays.
impl batch::Host for Host<'_> {
    fn get_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Answer<Vec<Option<(String, Vec<u8>)>>> {
        self.with(&bucket, |transaction, bucket| {
            let get = |key: String| Ok(transaction.get(bucket, &key)?.map(|value| (key, value.into())));
            keys.into_iter().map(get).collect()
        })
    }

    fn set_many(&mut self, bucket: Resource<Bucket>, key_values: Vec<(String, Vec<u8>)>) -> Answer<()> {
        self.with(&bucket, |transaction, bucket| {
            key_values.into_iter().try_for_each(|(key, value)| transaction.set(bucket, &key, value))
        })
    }

    fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Answer<()> {
        self.with(&bucket, |transaction, bucket| keys.iter().try_for_each(|key| transaction.delete(bucket, key)))
    }
}
