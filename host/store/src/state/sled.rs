//! sled, and how the keyspace is stored in it. No other file knows that layout.
//!
//! ```text
//! \0            meta: version, applied, reached, live entries, digest, crc32
//! \1 key        \0 value                          a value of up to CHUNK_BYTES
//!               \1 length u32  hash u64           a bigger one, which is stored in chunks
//! \2 len key i  part i of the value of `key`      (key length u16, i u32, both big-endian)
//! ```
//!
//! Why chunks: sled writes a tree node that outgrows a quarter of a segment to a file of its own and never syncs that
//! file. A leaf may hold 16 entries or more before it splits, so 32 KiB a value and 8 MiB segments keep nodes far
//! below the 2 MiB where that begins.
//!
//! Why a digest: sled's own checks are per page. The digest is the sum (wrapping, so the order does not matter) of a
//! hash of every live entry, changed in the same atomic batch as the entries; a scan with another sum has
//! found lost, stale or invented entries.

use std::{
    any::Any,
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use bytes::{Bytes, BytesMut};
use sled::IVec;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::{error::Failure, files, limits::PAYLOAD_BYTES_MAX, obstacle, range::Range};

/// Values above this are split. See above.
pub(crate) const CHUNK_BYTES: usize = 32 << 10;
const SEGMENT_BYTES: usize = 8 << 20;
/// Version of the meta row and of all rows. A version that replaces sled, or cannot open its files, must raise the
/// version of the journal too, because this one rebuilds a sled that it cannot open.
pub(crate) const META_VERSION: u8 = 1;

const META: &[u8] = &[0];
const ROW: u8 = 1;
const CHUNK: u8 = 2;
const INLINE: u8 = 0;
const SPLIT: u8 = 1;

/// What the meta row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetaRow {
    /// Nothing has ever been applied, or the row is lost.
    Missing,
    Sound(Meta),
    /// A newer version has written it.
    Newer(u8),
}

/// How far sled is, and the sum of its entries: written with every batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Every record up to this one is contained.
    pub(crate) applied: u64,
    /// No record after this one has been applied, not even in part. Greater than `applied` only within a round.
    pub(crate) reached: u64,
    /// Number and digest of the live entries.
    pub(crate) sum: Sum,
}

/// Number and order-independent digest of a set of entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) count: u64,
    pub(crate) digest: u64,
}

impl Sum {
    pub(crate) fn add(&mut self, hash: u64) {
        self.count = self.count.wrapping_add(1);
        self.digest = self.digest.wrapping_add(hash);
    }

    pub(crate) fn remove(&mut self, hash: u64) {
        self.count = self.count.wrapping_sub(1);
        self.digest = self.digest.wrapping_sub(hash);
    }

    /// Accounts for one replaced entry.
    pub(crate) fn apply(&mut self, change: &Change) {
        change.before.into_iter().for_each(|hash| self.remove(hash));
        change.after.into_iter().for_each(|hash| self.add(hash));
    }
}

/// The hash of one live entry. XXH3 is stable, and cheap beside sled. It is no defence against an attacker, who could
/// write the digest as well.
pub(crate) fn hash(key: &[u8], value: &[u8]) -> u64 {
    xxh3_64_with_seed(value, xxh3_64(key))
}

/// What one write did to the digest: the hashes of the entry before and after.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) before: Option<u64>,
    pub(crate) after: Option<u64>,
}

impl Change {
    /// Whether it was a deletion of a key that did not exist.
    pub(crate) fn is_nothing(&self) -> bool {
        self.before.is_none() && self.after.is_none()
    }
}

/// An open sled. Every thread may read; only the follower (and recovery) calls [`State::apply`] and [`State::flush`].
#[derive(Debug)]
pub(crate) struct State {
    db: sled::Db,
}

impl State {
    pub(crate) fn open(dir: &Path, cache_bytes: u64) -> Result<Self, Failure> {
        remove_unfinished_snapshots(dir)?;
        let db = guarded("open its files", || {
            sled::Config::new()
                .path(dir)
                .segment_size(SEGMENT_BYTES)
                .cache_capacity(cache_bytes)
                .flush_every_ms(None)
                .use_compression(false)
                .open()
        })?;
        Ok(Self { db })
    }

    /// Reads the meta row.
    pub(crate) fn meta(&self) -> Result<MetaRow, Failure> {
        let Some(row) = guarded("read its meta row", || self.db.get(META))? else { return Ok(MetaRow::Missing) };
        decode_meta(&row).ok_or_else(|| Failure::Damaged("its meta row is unreadable".into()))
    }

    /// Whether it holds nothing at all.
    pub(crate) fn is_blank(&self) -> Result<bool, Failure> {
        guarded("read its first row", || self.db.first()).map(|row| row.is_none())
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Failure> {
        self.row(key)?.map(|row| self.value(key, &row)).transpose()
    }

    /// The stored row of `key`. [`State::value`] reads its value; for a small one, [`State::inline`] is enough.
    pub(crate) fn row(&self, key: &[u8]) -> Result<Option<IVec>, Failure> {
        guarded("read a row", || self.db.get(row_key(key)))
    }

    /// The value, if the row holds it as a whole.
    pub(crate) fn inline(row: &IVec) -> Option<Bytes> {
        match parse_row(row) {
            Some(Row::Inline(value)) => Some(Bytes::copy_from_slice(value)),
            _ => None,
        }
    }

    /// The rows of `range`, in its direction; [`State::value`] turns them into values.
    pub(crate) fn rows(&self, range: &Range) -> Rows {
        let start = row_key(&range.start);
        let end = range.end.as_ref().map_or_else(|| vec![ROW + 1], |end| row_key(end));
        Rows { iter: (start < end).then(|| self.db.range(start..end)), reverse: range.reverse }
    }

    /// The value of a row, collected from its chunks if it was split.
    pub(crate) fn value(&self, key: &[u8], row: &IVec) -> Result<Bytes, Failure> {
        let (length, hash) = match parse_row(row) {
            Some(Row::Inline(value)) => return Ok(Bytes::copy_from_slice(value)),
            Some(Row::Split { length, hash }) => (length, hash),
            None => return Err(unreadable(key)),
        };
        let mut value = BytesMut::with_capacity(length);
        for index in 0..chunk_count(length) {
            let chunk = guarded("read a chunk", || self.db.get(chunk_key(key, index)))?;
            value.extend_from_slice(&chunk.ok_or_else(|| unreadable(key))?);
        }
        if value.len() == length && self::hash(key, &value) == hash { Ok(value.freeze()) } else { Err(unreadable(key)) }
    }

    /// Applies writes (each key at most once) together with `meta`, atomically. Returns what each write changed.
    ///
    /// Updates `meta.sum`. Each write looks up the old row: for the digest, for its chunks, and to skip a deletion of
    /// a key that does not exist.
    pub(crate) fn apply<'a>(
        &self,
        writes: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
        meta: &mut Meta,
    ) -> Result<Vec<Change>, Failure> {
        let mut batch = sled::Batch::default();
        let mut changes = Vec::new();
        for (key, value) in writes {
            let row_key = row_key(key);
            let old = self.row(key)?.map(|row| Old::of(key, &row)).transpose()?;
            let change =
                Change { before: old.as_ref().map(|old| old.hash), after: value.map(|value| hash(key, value)) };
            let (old_chunks, new_chunks) = (old.map_or(0, |old| old.chunks), value.map_or(0, |v| chunk_count(v.len())));
            match (value, change.after) {
                (Some(value), Some(hash)) if new_chunks > 0 => {
                    batch.insert(row_key, split_row(value.len(), hash));
                    for (index, chunk) in (0..).zip(value.chunks(CHUNK_BYTES)) {
                        batch.insert(chunk_key(key, index), chunk);
                    }
                }
                (Some(value), _) => batch.insert(row_key, [&[INLINE], value].concat()),
                (None, _) if change.before.is_some() => batch.remove(row_key),
                // Put and deleted within one round: sled never had it.
                (None, _) => {}
            }
            (new_chunks..old_chunks).for_each(|index| batch.remove(chunk_key(key, index)));
            meta.sum.apply(&change);
            changes.push(change);
        }
        batch.insert(META, encode_meta(meta));
        guarded("apply a batch", || self.db.apply_batch(batch))?;
        Ok(changes)
    }

    /// Hands everything to the operating system. Not durable before the caller has synced `files::state_file`.
    pub(crate) fn flush(&self) -> Result<(), Failure> {
        guarded("flush", || self.db.flush()).map(drop)
    }

    /// Closes a sled that cannot be used. A damaged one may panic even here.
    pub(crate) fn discard(self) {
        let _ = catch_unwind(AssertUnwindSafe(|| drop(self)));
    }

    /// Reads everything and compares it with `meta`. Costs a full scan: about a second per million small entries.
    pub(crate) fn verify(&self, meta: &Meta) -> Result<(), Failure> {
        let mut found = Sum::default();
        let mut chunks_owed = 0_u64;
        let mut last: Option<Bytes> = None;
        for row in self.rows(&Range::default()) {
            let (key, row) = row?;
            if last.as_ref().is_some_and(|last| *last >= key) {
                return Err(Failure::Damaged("its rows are out of order".into()));
            }
            let value = self.value(&key, &row)?;
            found.add(hash(&key, &value));
            chunks_owed += u64::from(chunk_count(value.len()));
            last = Some(key);
        }
        let chunks = guarded("read its chunks", || {
            self.db.range([CHUNK]..).keys().try_fold(0_u64, |count, chunk| chunk.map(|_| count + 1))
        })?;
        if found != meta.sum || chunks != chunks_owed {
            return Err(Failure::Damaged(format!(
                "it should hold {} entries and {chunks_owed} chunks with digest {:016x}, and holds {} and {chunks} \
                 with {:016x}",
                meta.sum.count, meta.sum.digest, found.count, found.digest
            )));
        }
        Ok(())
    }
}

/// A row as stored in sled.
pub(crate) type Stored = IVec;

/// The rows of a range: key, and row as stored in sled.
pub(crate) struct Rows {
    iter: Option<sled::Iter>,
    reverse: bool,
}

impl Iterator for Rows {
    type Item = Result<(Bytes, IVec), Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        let iter = self.iter.as_mut()?;
        let next = guarded("read a row", || if self.reverse { iter.next_back() } else { iter.next() }.transpose());
        next.map(|row| row.map(|(key, row)| (Bytes::copy_from_slice(key.get(1..).unwrap_or_default()), row)))
            .transpose()
    }
}

/// The hash and the number of chunks of a row that is replaced or removed.
struct Old {
    hash: u64,
    chunks: u32,
}

impl Old {
    fn of(key: &[u8], row: &IVec) -> Result<Self, Failure> {
        match parse_row(row) {
            Some(Row::Inline(value)) => Ok(Self { hash: hash(key, value), chunks: 0 }),
            Some(Row::Split { length, hash }) => Ok(Self { hash, chunks: chunk_count(length) }),
            None => Err(unreadable(key)),
        }
    }
}

enum Row<'a> {
    Inline(&'a [u8]),
    Split { length: usize, hash: u64 },
}

fn parse_row(row: &[u8]) -> Option<Row<'_>> {
    match row.split_first()? {
        (&INLINE, value) => Some(Row::Inline(value)),
        (&SPLIT, rest) => {
            let (length, hash) = rest.split_first_chunk()?;
            let length = u32::from_le_bytes(*length) as usize;
            let hash = u64::from_le_bytes(hash.try_into().ok()?);
            (CHUNK_BYTES + 1..=PAYLOAD_BYTES_MAX).contains(&length).then_some(Row::Split { length, hash })
        }
        _ => None,
    }
}

fn split_row(length: usize, hash: u64) -> Vec<u8> {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    [&[SPLIT][..], &length.to_le_bytes(), &hash.to_le_bytes()].concat()
}

fn chunk_count(length: usize) -> u32 {
    if length <= CHUNK_BYTES { 0 } else { u32::try_from(length.div_ceil(CHUNK_BYTES)).unwrap_or(u32::MAX) }
}

fn row_key(key: &[u8]) -> Vec<u8> {
    [&[ROW], key].concat()
}

fn chunk_key(key: &[u8], index: u32) -> Vec<u8> {
    let length = u16::try_from(key.len()).unwrap_or(u16::MAX);
    [&[CHUNK][..], &length.to_be_bytes(), key, &index.to_be_bytes()].concat()
}

fn encode_meta(meta: &Meta) -> Vec<u8> {
    let mut out = vec![META_VERSION];
    for number in [meta.applied, meta.reached, meta.sum.count, meta.sum.digest] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
    out
}

/// `None`: damaged. In every version the first byte is the version, and the last four the checksum of all before them.
fn decode_meta(row: &[u8]) -> Option<MetaRow> {
    let (checked, crc) = row.split_last_chunk()?;
    let (version, mut rest) = checked.split_first()?;
    if crc32fast::hash(checked) != u32::from_le_bytes(*crc) {
        return None;
    }
    if *version > META_VERSION {
        return Some(MetaRow::Newer(*version));
    }
    let mut number = || -> Option<u64> {
        let (number, tail) = rest.split_first_chunk()?;
        rest = tail;
        Some(u64::from_le_bytes(*number))
    };
    let (applied, reached, count, digest) = (number()?, number()?, number()?, number()?);
    let meta = Meta { applied, reached, sum: Sum { count, digest } };
    (encode_meta(&meta) == row).then_some(MetaRow::Sound(meta))
}

fn unreadable(key: &[u8]) -> Failure {
    Failure::Damaged(format!("the value of {} is unreadable", key.escape_ascii()))
}

/// sled reads a snapshot that it was writing when it was stopped, or when the disk was full, as if it were whole, and calls
/// it corrupted. Without it, the snapshot before it is read, or the whole file.
fn remove_unfinished_snapshots(dir: &Path) -> Result<(), Failure> {
    for path in files::state_snapshots(dir).map_err(Failure::disk("list", dir))? {
        if path.extension().is_some_and(|extension| extension == "generating") {
            fs::remove_file(&path).map_err(Failure::disk("remove", &path))?;
        }
    }
    Ok(())
}

/// Runs a call into sled. Damaged files can make sled panic: the panic becomes an error.
///
/// Three kinds of errors are told apart: a file operation that the system refused, which says nothing about the content;
/// one that shows that the files are not as sled wrote them; and everything else, which is sled's own word for damage.
fn guarded<T>(action: &'static str, call: impl FnOnce() -> sled::Result<T>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(source))) if !shows_damage(source.kind()) => Err(Failure::StateIo {
            action,
            source: obstacle::code(&source).map_or(source, io::Error::from_raw_os_error),
        }),
        Ok(Err(error)) => Err(Failure::State { action, cause: error.to_string() }),
        Err(panic) => {
            let cause = message(panic.as_ref());
            match obstacle::code_in(cause).map(io::Error::from_raw_os_error) {
                Some(source) if !shows_damage(source.kind()) => Err(Failure::StateIo { action, source }),
                _ => Err(Failure::State { action, cause: format!("panic: {cause}") }),
            }
        }
    }
}

/// sled was led to read behind the end of its file, at an impossible place, or from a file that is gone.
fn shows_damage(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, NotFound, UnexpectedEof};

    matches!(kind, InvalidData | InvalidInput | NotFound | UnexpectedEof)
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied()).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_refuses_is_no_damage_however_sled_tells() {
        use rustix::io::Errno;

        let refused = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        // As sled copies the error of a background write.
        let copied = |code| io::Error::new(refused(code).kind(), format!("{:?}", refused(code)));
        let all = [
            Errno::NOSPC,
            Errno::DQUOT,
            Errno::ROFS,
            Errno::ACCESS,
            Errno::PERM,
            Errno::MFILE,
            Errno::NFILE,
            Errno::IO,
        ];
        for code in all {
            let told: [Result<(), Failure>; 3] = [
                guarded("write", || Err(refused(code).into())),
                guarded("write", || Err(copied(code).into())),
                guarded("write", || panic!("called `Result::unwrap()` on an `Err` value: Io({:?})", refused(code))),
            ];
            for failure in told.map(Result::unwrap_err) {
                assert!(failure.obstacle().is_some() && !failure.is_damage(), "{code}: {failure:?}");
            }
        }
        let damage = [
            guarded("read", || Err::<(), _>(sled::Error::Corruption { at: None, bt: () })),
            guarded("read", || Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())),
            guarded("read", || Err(refused(Errno::INVAL).into())),
            guarded("read", || panic!("index out of bounds")),
        ];
        for failure in damage.map(Result::unwrap_err) {
            assert!(failure.obstacle().is_none() && failure.is_damage(), "{failure:?}");
        }
    }
}
