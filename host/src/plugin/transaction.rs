//! What one attempt reads and writes of the plugins' data, before it is committed or forgotten.
//!
//! The attempt reads the newest state and changes nothing. What it has read is remembered with what it found there;
//! what it writes is kept here and seen by its own later reads. When it succeeds, both go into one batch
//! ([`Transaction::effects`]), which is committed together with its outcome if all that was read is still so.
//!
//! **Invariant: whatever a guest can tell of the state is among the preconditions.** A value, that there is none, a
//! page of keys, that there are no more keys, and that a limit was reached: each depends on nothing but what is
//! remembered. A committed attempt therefore did exactly what it would have done alone, at its place in the commit
//! order. What was only written is no precondition, so blind writes never conflict; nor is the value of a key of which
//! only its existence was asked.
//!
//! Until then an attempt may see a state that never was: two values of different times. What it makes of that, even a
//! trap, counts only if [`Transaction::is_current`] says so; see [`attempt`](super::attempt).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;

use self::lists::Lists;
use super::limits::Limits;
use crate::store::{self, Batch, KEY_BYTES_MAX, Range, Read};

mod lists;

/// Keys that one page of a list has at most. Commits are held back while the store reads one, so pages are small.
const PAGE_KEYS: usize = 100;

/// One bucket, by the prefix that its keys have in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket(Arc<[u8]>);

impl Bucket {
    /// See [`data::prefix`](super::data::prefix).
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

/// A key as it was at one moment of the attempt: [`Transaction::swap`] goes through if the attempt has not written it
/// since. Whether somebody else has is for the commit to see.
#[derive(Clone, Debug)]
pub struct Mark {
    key: Bytes,
    written: Option<u64>,
}

/// What came of [`Transaction::swap`].
#[derive(Debug)]
pub enum Swapped {
    /// The value is the new one.
    Done,
    /// The key had been written since; here is how it is now.
    Stale(Mark),
}

/// A page of a bucket's keys, in the order of their bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// The keys.
    pub keys: Vec<String>,
    /// What to ask for the next page with; `None`: there are no more keys.
    pub cursor: Option<String>,
}

/// Why an operation was not done. It has changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A key that the store cannot hold.
    #[error("a key of {bytes} bytes: at most {limit} are allowed (kv_key_bytes)")]
    Key {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A value over the limit.
    #[error("a value of {bytes} bytes: at most {limit} are allowed (kv_value_bytes)")]
    Value {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Too much was written.
    #[error("an attempt may write {0} bytes of keys and values (kv_write_bytes)")]
    Writes(usize),
    /// Too much was read.
    #[error("an attempt may read {0} bytes of keys and values (kv_read_bytes)")]
    Reads(usize),
    /// Too many operations.
    #[error("an attempt may read, write and list {0} keys (kv_operations)")]
    Operations(usize),
    /// To be incremented.
    #[error("the value is no number: increment works on integers of 64 bits, written in decimal")]
    NoNumber,
    /// By an increment.
    #[error("the sum does not fit into 64 bits")]
    Overflow,
    /// In the store under this bucket. No plugin can write such a key.
    #[error("the bucket has a key that is no text")]
    NoText,
    /// The store itself cannot go on.
    #[error("the state cannot be read")]
    Store(#[from] store::Error),
}

/// See the module.
pub struct Transaction {
    state: Arc<dyn Read>,
    limits: Limits,
    /// What the store held under each key when it was first read.
    reads: BTreeMap<Bytes, Option<Bytes>>,
    /// Keys of which is known that it held them, and not more.
    existing: BTreeSet<Bytes>,
    /// The keys that it held in the ranges that were listed.
    lists: Lists,
    writes: BTreeMap<Bytes, Write>,
    operations: u64,
    bytes_read: usize,
    bytes_written: usize,
}

/// The last write of a key; without a value, it deletes.
struct Write {
    value: Option<Bytes>,
    /// The operation that made it; no two have the same number.
    number: u64,
}

impl Transaction {
    /// One that has read and written nothing.
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

    /// How many operations there have been: as long as it is the same, nothing has been learned of the state.
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// The value of a key.
    pub fn get(&mut self, bucket: &Bucket, key: &str) -> Result<Option<Bytes>, Fault> {
        let key = self.begin(bucket, key)?;
        self.read(&key)
    }

    /// Whether there is such a key. If there is, later changes of its value make no difference.
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

    /// Gives a key a value.
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

    /// Marks a key as it is now. Reads nothing: nobody else can come between the mark and the swap of an attempt that
    /// is committed as one.
    pub fn mark(&mut self, bucket: &Bucket, key: &str) -> Result<Mark, Fault> {
        let key = self.begin(bucket, key)?;
        Ok(self.mark_now(key))
    }

    /// The value of a marked key.
    pub fn marked(&mut self, mark: &Mark) -> Result<Option<Bytes>, Fault> {
        self.count()?;
        self.read(&mark.key)
    }

    /// Gives a marked key a value, unless the attempt has written or deleted it since.
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
    /// A cursor is the last key of its page, so it stays good whatever is written meanwhile.
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
            // Nothing beyond is shown, so nothing beyond may matter.
            keys.retain(|key| *key <= full);
            stored.retain(|key| *key <= full);
            last = Some(full);
        }
        let page = Page {
            keys: keys.iter().map(|key| bucket.name(key)).collect::<Result<_, _>>()?,
            cursor: last.as_ref().map(|key| bucket.name(key)).transpose()?,
        };
        // Whoever lists much makes the commit compare much, so each key counts.
        self.operations += stored.len().max(page.keys.len()) as u64;
        let bytes: usize = stored.iter().map(Bytes::len).sum();
        self.bytes_read += bytes.max(page.keys.iter().map(String::len).sum());
        self.lists.remember(seen(&range, last.as_ref()), stored);
        Ok(page)
    }

    /// What must be so for the attempt to count.
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

    /// What an attempt that has succeeded changes, and what must be so for it to count.
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

    /// Whether all that was read is so now, at one moment.
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

    /// Before the read, so that what is found has no part in whether it may be: the last one may exceed the limit.
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

    /// The stored keys of a range as the own writes change them.
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

/// The part of a range that a page shows which ends with `last`; all of it, if the page is the last one.
fn seen(range: &Range, last: Option<&Bytes>) -> Range {
    last.map_or_else(|| range.clone(), |last| range.clone().through(last))
}

#[cfg(test)]
mod tests;
