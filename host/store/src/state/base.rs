//! Bases: full copies of the live entries, from which, with the journal, sled can be rebuilt.
//!
//! A base is written like a journal segment: a header with the number `seq`, records of puts numbered from 1, and a
//! record numbered 0 that ends it: entries u64, digest u64, reached u64. The copy is fuzzy: it is made in slices
//! between the follower's rounds. An entry that changes meanwhile is copied as it was or as it became, by a record
//! between `seq` and `reached`; replaying absolute puts and deletes from `seq` on ends in the same state either way, as
//! long as the journal goes on to `reached`.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use crate::{
    codec,
    disk::{Disk, File},
    error::{Failure, OpenError},
    files,
    journal::segment::{self, Kind, Reader, Record},
    range::Range,
    shared::Shared,
    state::sled::{Change, Meta, State, Sum, hash},
};

/// Bytes of one slice. Between two slices the follower does its other work.
const SLICE_BYTES: usize = 1 << 20;
/// Bytes that are copied, at least, for each byte that is written meanwhile. Rows may be put ahead of the copy all the time,
/// as keys of sagas ascend; a copy that is slower than that would never end, and the journal would fill the disk.
const SPEED: usize = 2;
/// Bytes after which a copy is synced, so that its last sync does not delay the follower.
const SYNC_BYTES: usize = 8 << 20;
const END: u64 = 0;
/// The actions in failures after which nothing is lost with the draft.
pub(crate) const CREATE: &str = "create";
pub(crate) const WRITE: &str = "write";

/// A base that is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) path: PathBuf,
    /// It holds the effect of every record up to this one.
    pub(crate) seq: u64,
    /// Its size.
    pub(crate) bytes: u64,
}

/// Why a base cannot be used.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// Another base may do.
    Damaged(&'static str),
    /// The store cannot be opened, whatever else there is.
    Refused(OpenError),
}

impl From<OpenError> for Unusable {
    fn from(error: OpenError) -> Self {
        Self::Refused(error)
    }
}

impl From<Failure> for Unusable {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure.into())
    }
}

/// Reads and checks a whole base; `load` is given the writes of each record. Returns also up to which record it may
/// hold effects.
pub(crate) fn read(
    path: &Path,
    seq: u64,
    mut load: impl FnMut(codec::Writes<'_>) -> Result<(), Failure>,
) -> Result<(Base, u64), Unusable> {
    let unreadable = |source| Failure::disk("read", path)(source);
    let mut reader = Reader::open(path, Kind::Base, seq)?;
    let mut found = Sum::default();
    let mut last = 0;
    loop {
        let record = match reader.record().map_err(unreadable)? {
            Ok(Some(record)) => record,
            Ok(None) => return Err(Unusable::Damaged("its end is missing")),
            Err(what) => return Err(Unusable::Damaged(what)),
        };
        if record.seq == END {
            let Some((sum, reached)) = decode_end(&record) else {
                return Err(Unusable::Damaged("its end is malformed"));
            };
            if sum != found || !matches!(reader.record(), Ok(Ok(None))) {
                return Err(Unusable::Damaged("its entries do not add up"));
            }
            return Ok((Base { path: path.to_owned(), seq, bytes: reader.len() }, reached));
        }
        last += 1;
        if record.seq != last {
            return Err(Unusable::Damaged("its numbers are out of order"));
        }
        if !segment::operations_are_whole(path, &record.payload)? {
            return Err(Unusable::Damaged(segment::MALFORMED));
        }
        let writes = codec::decode(&record.payload);
        writes.clone().for_each(|write| write.value.into_iter().for_each(|value| found.add(hash(write.key, value))));
        load(writes)?;
    }
}

fn encode_end(sum: Sum, reached: u64) -> Vec<u8> {
    [sum.count, sum.digest, reached].iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn decode_end(record: &Record) -> Option<(Sum, u64)> {
    let (numbers, []) = record.payload.as_chunks() else { return None };
    let [count, digest, reached] = *numbers else { return None };
    let sum = Sum { count: u64::from_le_bytes(count), digest: u64::from_le_bytes(digest) };
    Some((sum, u64::from_le_bytes(reached)))
}

/// A base being written.
pub(crate) struct Copy {
    file: Box<dyn File>,
    /// Its name until it is whole.
    draft: PathBuf,
    seq: u64,
    records: u64,
    bytes: u64,
    unsynced: usize,
    /// Bytes still to copy for what was written meanwhile, see [`SPEED`].
    owed: usize,
    /// The last key copied.
    cursor: Option<Bytes>,
    /// The sum of the entries in the file.
    written: Sum,
    /// What the copied part of sled holds now: `written`, and the changes since. At the end it must equal all that sled
    /// claims to hold, which checks both sled and the copy.
    current: Sum,
}

impl Copy {
    /// Begins the copy of a state that holds everything up to `seq`.
    pub(crate) fn begin(dir: &Path, seq: u64, disk: &dyn Disk) -> Result<Self, Failure> {
        let draft = files::draft(&files::base(dir, seq));
        let header = segment::header(Kind::Base, seq);
        let mut file = disk.create(&draft).map_err(Failure::disk(CREATE, &draft))?;
        if let Err(error) = file.append(&header) {
            disk.remove(&draft).map_err(Failure::disk("remove", &draft))?;
            return Err(Failure::disk(WRITE, draft)(error));
        }
        let (written, current) = <(Sum, Sum)>::default();
        Ok(Self {
            file,
            draft,
            seq,
            records: 0,
            bytes: header.len() as u64,
            unsynced: 0,
            owed: 0,
            cursor: None,
            written,
            current,
        })
    }

    /// Accounts for a change of `key` in sled that the follower has made.
    pub(crate) fn note(&mut self, key: &[u8], change: &Change) {
        if self.cursor.as_ref().is_some_and(|cursor| key <= cursor) {
            self.current.apply(change);
        }
    }

    /// Accounts for so many bytes of journal that the follower has applied.
    pub(crate) fn note_round(&mut self, bytes: usize) {
        self.owed = self.owed.saturating_add(bytes.saturating_mul(SPEED));
    }

    /// Whether the follower is to copy another slice before it goes on: what was written meanwhile asks for it.
    pub(crate) fn is_behind(&self) -> bool {
        self.owed > 0
    }

    /// Copies the next slice. `false`: nothing was left.
    pub(crate) fn step(&mut self, state: &State) -> Result<bool, Failure> {
        let rest = self.cursor.as_ref().map_or_else(Range::default, |cursor| Range::default().beyond(cursor));
        let mut slice = Vec::new();
        for row in state.rows(&rest) {
            let (key, row) = row?;
            let value = state.value(&key, &row)?;
            codec::encode(&mut slice, &key, Some(&value));
            let hash = hash(&key, &value);
            self.written.add(hash);
            self.current.add(hash);
            self.cursor = Some(key);
            if slice.len() >= SLICE_BYTES {
                break;
            }
        }
        if slice.is_empty() {
            return Ok(false);
        }
        self.owed = self.owed.saturating_sub(slice.len());
        self.records += 1;
        self.append(self.records, &slice)?;
        if self.unsynced >= SYNC_BYTES {
            self.sync()?;
        }
        Ok(true)
    }

    /// The file that is being written, to remove it when the copy is given up.
    pub(crate) fn draft(&self) -> &Path {
        &self.draft
    }

    /// Ends the file, makes it durable, and only then gives it its name.
    pub(crate) fn finish(&mut self, meta: &Meta, shared: &Shared) -> Result<Base, Failure> {
        if self.current != meta.sum {
            return Err(Failure::Damaged("a full copy of it does not add up to what was written to it".into()));
        }
        self.append(END, &encode_end(self.written, meta.reached))?;
        self.sync()?;
        let path = files::base(&shared.settings.base_dir(), self.seq);
        shared.settings.rename(&self.draft, &path)?;
        shared.sync_base_dir()?;
        Ok(Base { path, seq: self.seq, bytes: self.bytes })
    }

    fn append(&mut self, number: u64, payload: &[u8]) -> Result<(), Failure> {
        let mut record = Vec::with_capacity(segment::RECORD_OVERHEAD + payload.len());
        segment::encode_record(&mut record, number, 0, payload);
        self.file.append(&record).map_err(Failure::disk(WRITE, &self.draft))?;
        self.bytes += record.len() as u64;
        self.unsynced += record.len();
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Failure> {
        self.unsynced = 0;
        self.file.sync().map_err(Failure::disk("sync", &self.draft))
    }
}

impl fmt::Debug for Copy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Copy").field("draft", &self.draft).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
