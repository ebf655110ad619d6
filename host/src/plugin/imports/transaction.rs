//! The reads and writes of plugins' data by one run of a guest, before they are committed or discarded: optimistic
//! concurrency control with preconditions by value.
//!
//! The run reads the newest state and changes nothing. Each read is recorded with its result; writes are buffered here and
//! seen by the run's own later reads. If the guest succeeds, both go into one batch ([`Transaction::effects`]), which is
//! committed together with the outcome if all reads are still current.
//!
//! **Invariant: every observation of the state by a guest is among the preconditions.** A value, its absence, a page of
//! keys, the end of a list, and a limit that was reached: each depends only on recorded reads. A committed attempt
//! therefore behaved exactly as if it had run alone, at its place in the commit order. A key that was only written is no
//! precondition, so blind writes never conflict; nor is the value of a key of which only the existence was read.
//!
//! Until the commit, a run may see a state that never existed: two values of different times. Its result, even a trap,
//! counts only if [`Transaction::is_current`] is true; see [`operation`](crate::plugin::attempt::operation).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;

use super::lists::Lists;
use crate::{
    plugin::limits::Limits,
    store::{self, Batch, KEY_BYTES_MAX, Range, Read},
};

/// Keys of one page of a list. Commits wait while the store reads a page, so pages are small.
const PAGE_KEYS: usize = 100;

/// One bucket: the prefix of its keys in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket(Arc<[u8]>);

impl Bucket {
    /// See [`keyvalue_keys::prefix`](crate::plugin::keyvalue_keys::prefix).
    pub fn new(prefix: Vec<u8>) -> Self {
        Self(prefix.into())
    }

    fn range(&self) -> Range {
        Range::prefix(&self.0)
    }

    fn key(&self, name: &str) -> Bytes {
        [&self.0, name.as_bytes()].concat().into()
    }

    fn name(&self, key: &[u8]) -> Result<String, Fault> {
        let name = key.strip_prefix(&*self.0).and_then(|name| str::from_utf8(name).ok());
        name.map(str::to_owned).ok_or(Fault::NoText)
    }
}

/// A version of a key within the run, for [`Transaction::swap`]: that succeeds if the run has not written the key since.
/// The commit detects writes of other attempts.
#[derive(Clone, Debug)]
pub struct Mark {
    key: Bytes,
    written: Option<u64>,
}

/// The result of [`Transaction::swap`].
#[derive(Debug)]
pub enum Swapped {
    Done,
    /// The run has written the key since the mark was made; this is the present mark.
    Stale(Mark),
}

/// A page of a bucket's keys, in the order of their bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    pub keys: Vec<String>,
    /// Where the next page begins; `None`: there are no more keys.
    pub cursor: Option<String>,
}

/// Why an operation was refused. It has changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("a key of {bytes} bytes: at most {limit} are allowed (kv_key_bytes)")]
    Key { bytes: usize, limit: usize },
    #[error("a value of {bytes} bytes: at most {limit} are allowed (kv_value_bytes)")]
    Value { bytes: usize, limit: usize },
    #[error("an attempt may write {0} bytes of keys and values (kv_write_bytes)")]
    Writes(usize),
    #[error("an attempt may read {0} bytes of keys and values (kv_read_bytes)")]
    Reads(usize),
    #[error("an attempt may read, write and list {0} keys (kv_operations)")]
    Operations(usize),
    #[error("the value is no number: increment works on integers of 64 bits, written in decimal")]
    NoNumber,
    #[error("the sum does not fit into 64 bits")]
    Overflow,
    /// No plugin can write such a key.
    #[error("the bucket has a key that is no text")]
    NoText,
    #[error("the state cannot be read")]
    Store(#[from] store::Error),
}

/// The reads and writes of one run.
pub struct Transaction {
    state: Arc<dyn Read>,
    limits: Limits,
    /// The value of each key in the store when it was first read.
    reads: BTreeMap<Bytes, Option<Bytes>>,
    /// Keys that are known to exist, but not with which value.
    existing: BTreeSet<Bytes>,
    /// The keys that the store held in the listed ranges.
    lists: Lists,
    writes: BTreeMap<Bytes, Write>,
    operations: u64,
    bytes_read: usize,
    bytes_written: usize,
}

/// The last write of a key; without a value, it deletes.
struct Write {
    value: Option<Bytes>,
    /// The number of the operation that made it; unique within the run.
    number: u64,
}

impl Transaction {
    /// An empty transaction on this state.
    pub fn new(state: Arc<dyn Read>, limits: &Limits) -> Self {
        Self {
            state,
            limits: limits.clone(),
            reads: BTreeMap::new(),
            existing: BTreeSet::new(),
            lists: Lists::default(),
            writes: BTreeMap::new(),
            operations: 0,
            bytes_read: 0,
            bytes_written: 0,
        }
    }

    /// The number of operations so far: while it stays the same, the guest has learned nothing new about the state.
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// The value of a key.
    pub fn get(&mut self, bucket: &Bucket, key: &str) -> Result<Option<Bytes>, Fault> {
        let key = self.begin(bucket, key)?;
        self.read(&key)
    }

    /// Whether a key exists. Later changes of the value of an existing key do not conflict.
    pub fn exists(&mut self, bucket: &Bucket, key: &str) -> Result<bool, Fault> {
        let key = self.begin(bucket, key)?;
        if self.writes.contains_key(&key) || self.reads.contains_key(&key) {
            return Ok(self.read(&key)?.is_some());
        }
        self.has_room_to_read()?;
        self.bytes_read += key.len();
        if self.existing.contains(&key) {
            return Ok(true);
        }
        let value = self.state.get(&key)?;
        self.bytes_read += value.as_ref().map_or(0, Bytes::len);
        let exists = value.is_some();
        if exists {
            self.existing.insert(key);
        } else {
            self.reads.insert(key, None);
        }
        Ok(exists)
    }

    /// Sets the value of a key.
    pub fn set(&mut self, bucket: &Bucket, key: &str, value: Vec<u8>) -> Result<(), Fault> {
        let key = self.begin(bucket, key)?;
        self.write(key, Some(value.into()))
    }

    /// Removes a key, which need not exist.
    pub fn delete(&mut self, bucket: &Bucket, key: &str) -> Result<(), Fault> {
        let key = self.begin(bucket, key)?;
        self.write(key, None)
    }

    /// Adds to a number and returns the sum. Numbers are kept as decimal text, as other hosts of `wasi:keyvalue` and
    /// Redis do, so that `get` shows them and `set` can begin one; a key that does not exist counts as 0.
    pub fn increment(&mut self, bucket: &Bucket, key: &str, delta: i64) -> Result<i64, Fault> {
        let key = self.begin(bucket, key)?;
        let number: i64 = match self.read(&key)? {
            Some(text) => str::from_utf8(&text).ok().and_then(|text| text.parse().ok()).ok_or(Fault::NoNumber)?,
            None => 0,
        };
        let sum = number.checked_add(delta).ok_or(Fault::Overflow)?;
        self.write(key, Some(sum.to_string().into()))?;
        Ok(sum)
    }

    /// Marks the present version of a key. Reads nothing: mark and swap are committed together, so no other attempt can
    /// come between them.
    pub fn mark(&mut self, bucket: &Bucket, key: &str) -> Result<Mark, Fault> {
        let key = self.begin(bucket, key)?;
        Ok(self.mark_now(key))
    }

    /// The value of a marked key.
    pub fn marked(&mut self, mark: &Mark) -> Result<Option<Bytes>, Fault> {
        self.count()?;
        self.read(&mark.key)
    }

    /// Sets the value of a marked key, unless the run has written or deleted it since.
    pub fn swap(&mut self, mark: Mark, value: Vec<u8>) -> Result<Swapped, Fault> {
        self.count()?;
        let now = self.mark_now(mark.key);
        if now.written != mark.written {
            return Ok(Swapped::Stale(now));
        }
        self.write(now.key, Some(value.into()))?;
        Ok(Swapped::Done)
    }

    /// The keys after `after`, or from the first, own writes included. A page may be empty and yet not be the last.
    ///
    /// A cursor is the last key of its page, so it stays valid after any write.
    pub fn list(&mut self, bucket: &Bucket, after: Option<&str>) -> Result<Page, Fault> {
        self.count()?;
        let range = match after {
            Some(name) => bucket.range().beyond(&self.key(bucket, name)?),
            None => bucket.range(),
        };
        self.has_room_to_read()?;
        let mut stored = self.lists.read(&*self.state, &range, PAGE_KEYS)?;
        let mut last = stored.last().filter(|_| stored.len() == PAGE_KEYS).cloned();
        let mut keys = self.merged(&stored, &seen(&range, last.as_ref()));
        if let Some(full) = keys.iter().nth(PAGE_KEYS - 1).cloned() {
            // Keys beyond the page are not shown, so they must not become preconditions.
            keys.retain(|key| *key <= full);
            stored.retain(|key| *key <= full);
            last = Some(full);
        }
        let page = Page {
            keys: keys.iter().map(|key| bucket.name(key)).collect::<Result<_, _>>()?,
            cursor: last.as_ref().map(|key| bucket.name(key)).transpose()?,
        };
        // The commit compares each listed key, so each counts as an operation.
        self.operations += stored.len().max(page.keys.len()) as u64;
        let bytes: usize = stored.iter().map(Bytes::len).sum();
        self.bytes_read += bytes.max(page.keys.iter().map(String::len).sum());
        self.lists.remember(seen(&range, last.as_ref()), stored);
        Ok(page)
    }

    /// All reads as preconditions.
    pub fn reads(&self) -> Batch {
        let mut batch = Batch::new();
        for (key, value) in &self.reads {
            batch.expect(key, value.clone());
        }
        for key in &self.existing {
            batch.expect_keys(Range::prefix(key).through(key), vec![key.clone()]);
        }
        self.lists.expect(&mut batch);
        batch
    }

    /// All reads as preconditions, and all writes: the batch of an attempt that succeeds.
    pub fn effects(&self) -> Batch {
        let mut batch = self.reads();
        for (key, write) in &self.writes {
            match &write.value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        batch
    }

    /// Whether all reads are current, compared with one state of the store.
    pub fn is_current(&self) -> Result<bool, store::Error> {
        let reads = self.reads();
        if reads.is_empty() { Ok(true) } else { self.state.is_current(&reads) }
    }

    /// Counts an operation on a key.
    fn begin(&mut self, bucket: &Bucket, key: &str) -> Result<Bytes, Fault> {
        self.count()?;
        self.key(bucket, key)
    }

    fn key(&self, bucket: &Bucket, key: &str) -> Result<Bytes, Fault> {
        let limit = self.limits.kv_key_bytes.min(KEY_BYTES_MAX.saturating_sub(bucket.0.len()));
        if key.len() > limit { Err(Fault::Key { bytes: key.len(), limit }) } else { Ok(bucket.key(key)) }
    }

    fn count(&mut self) -> Result<(), Fault> {
        let limit = self.limits.kv_operations;
        if self.operations >= limit as u64 {
            return Err(Fault::Operations(limit));
        }
        self.operations += 1;
        Ok(())
    }

    /// Checked before a read, so that its result does not decide whether it is allowed: the last read may exceed the limit.
    fn has_room_to_read(&self) -> Result<(), Fault> {
        let limit = self.limits.kv_read_bytes;
        if self.bytes_read >= limit { Err(Fault::Reads(limit)) } else { Ok(()) }
    }

    fn read(&mut self, key: &Bytes) -> Result<Option<Bytes>, Fault> {
        self.has_room_to_read()?;
        let value = if let Some(write) = self.writes.get(key) {
            write.value.clone()
        } else if let Some(value) = self.reads.get(key) {
            value.clone()
        } else {
            let value = self.state.get(key)?.map(|value| Bytes::copy_from_slice(&value));
            self.reads.insert(key.clone(), value.clone());
            value
        };
        self.bytes_read += key.len() + value.as_ref().map_or(0, Bytes::len);
        Ok(value)
    }

    fn write(&mut self, key: Bytes, value: Option<Bytes>) -> Result<(), Fault> {
        let bytes = value.as_ref().map_or(0, Bytes::len);
        let limit = self.limits.kv_value_bytes;
        if bytes > limit {
            return Err(Fault::Value { bytes, limit });
        }
        let replaced = self.writes.get(&key).map_or(0, |write| write.bytes(&key));
        let write = Write { value, number: self.operations };
        let written = self.bytes_written - replaced + write.bytes(&key);
        if written > self.limits.kv_write_bytes {
            return Err(Fault::Writes(self.limits.kv_write_bytes));
        }
        self.bytes_written = written;
        self.writes.insert(key, write);
        Ok(())
    }

    fn mark_now(&self, key: Bytes) -> Mark {
        let written = self.writes.get(&key).map(|write| write.number);
        Mark { key, written }
    }

    /// The stored keys of a range with the run's own writes applied.
    fn merged(&self, stored: &[Bytes], range: &Range) -> BTreeSet<Bytes> {
        let mut keys: BTreeSet<Bytes> = stored.iter().filter(|key| !self.writes.contains_key(*key)).cloned().collect();
        let written = self.writes.range::<Bytes, _>(range.bounds());
        keys.extend(written.filter(|(_, write)| write.value.is_some()).map(|(key, _)| key.clone()));
        keys
    }
}

impl Write {
    fn bytes(&self, key: &Bytes) -> usize {
        key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// The part of a range up to `last`, the end of a page; all of the range if the page is the last one.
fn seen(range: &Range, last: Option<&Bytes>) -> Range {
    last.map_or_else(|| range.clone(), |last| range.clone().through(last))
}

#[cfg(test)]
mod tests;
