//! The file format of journal segments and bases: a header, then checked records.
//!
//! ```text
//! header:  magic [8]  version u32  first u64  crc32 u32 (of the bytes before it)
//! record:  length u32 (of what follows the crc)  crc32 u32 (of what follows it)  seq u64  synced u64  payload
//! ```
//!
//! Little-endian throughout. `synced` is the highest sequence number that was on disk when the record was written. It
//! tells a torn tail from damage: an acknowledged record that cannot be read is followed by one which says that it was
//! on disk.
//!
//! **The 24 bytes of the header keep their place and meaning in every version**: that is how a version knows a file of
//! a newer one, whatever lies behind the header, and leaves it alone. [`Reader::open`] tells four cases apart:
//!
//! | header | file |
//! | --- | --- |
//! | right magic and checksum, the version that this one reads | sound |
//! | right magic and checksum, a greater version | [`OpenError::Newer`] |
//! | another magic, not all zeros, and no record of ours behind it | [`OpenError::Foreign`] |
//! | anything else: cut, zeros (as a power cut leaves it), a wrong checksum or number, a lower version | damaged |

use std::{
    fs,
    io::{self, BufReader, Read, Seek, SeekFrom},
    ops::RangeInclusive,
    path::Path,
};

use bytes::Bytes;

use crate::{
    codec::{self, Unreadable},
    error::{Failure, OpenError, Unsupported},
    limits::PAYLOAD_BYTES_MAX,
};

/// Version of the records and their payloads.
const VERSION: u32 = 1;
pub(crate) const HEADER_BYTES: usize = 24;
const MAGIC_BYTES: usize = 8;
/// Bytes of a record besides its payload.
pub(crate) const RECORD_OVERHEAD: usize = 24;
/// `seq` and `synced`: the least length that a record can state.
const FIXED_BYTES: usize = 16;
/// What is wrong with a record in which no version's operations are.
pub(crate) const MALFORMED: &str = "its operations are malformed";

/// What a file is, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Journal,
    Base,
}

impl Kind {
    const fn magic(self) -> &'static [u8; MAGIC_BYTES] {
        match self {
            Self::Journal => b"wasaga-j",
            Self::Base => b"wasaga-b",
        }
    }
}

/// What the header says about a file.
enum Header {
    Sound,
    Newer(u32),
    Damaged,
    /// Damaged, or not ours: the records behind it decide.
    Unknown,
}

impl Header {
    /// `bytes`: the first [`HEADER_BYTES`] of the file, or all there are.
    fn of(bytes: &[u8], kind: Kind, first: u64) -> Self {
        if bytes == header(kind, first) {
            return Self::Sound;
        }
        let magic = bytes.get(..MAGIC_BYTES).unwrap_or(bytes);
        if !kind.magic().starts_with(magic) {
            let is_blank = bytes.iter().all(|byte| *byte == 0);
            return if is_blank { Self::Damaged } else { Self::Unknown };
        }
        match whole_version(bytes) {
            Some(version) if version > VERSION => Self::Newer(version),
            _ => Self::Damaged,
        }
    }
}

/// The version in a header whose checksum is right.
fn whole_version(bytes: &[u8]) -> Option<u32> {
    let (checked, crc) = bytes.split_last_chunk::<4>()?;
    let version = checked.get(MAGIC_BYTES..)?.first_chunk()?;
    let is_whole = bytes.len() == HEADER_BYTES && crc32fast::hash(checked) == u32::from_le_bytes(*crc);
    is_whole.then_some(u32::from_le_bytes(*version))
}

/// One record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) seq: u64,
    pub(crate) synced: u64,
    pub(crate) payload: Bytes,
}

pub(crate) fn header(kind: Kind, first: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES);
    out.extend_from_slice(kind.magic());
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&first.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
    out
}

/// Appends one record. The payload keeps within the batch limit, which is far below what the length can state.
pub(crate) fn encode_record(out: &mut Vec<u8>, seq: u64, synced: u64, payload: &[u8]) {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&seq.to_le_bytes());
    crc.update(&synced.to_le_bytes());
    crc.update(payload);
    let len = u32::try_from(FIXED_BYTES + payload.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&crc.finalize().to_le_bytes());
    out.extend_from_slice(&seq.to_le_bytes());
    out.extend_from_slice(&synced.to_le_bytes());
    out.extend_from_slice(payload);
}

/// Whether a record with a right checksum holds operations that can be read: `false` if they are malformed. Operations
/// of a newer version are refused.
pub(crate) fn operations_are_whole(file: &Path, payload: &[u8]) -> Result<bool, OpenError> {
    match codec::check(payload) {
        Ok(()) => Ok(true),
        Err(Unreadable::Malformed) => Ok(false),
        Err(Unreadable::Newer(tag)) => {
            let (file, found) = (file.to_owned(), Unsupported::Operation(tag));
            Err(OpenError::Newer { file, found, supported: codec::NEWEST.into() })
        }
    }
}

/// The next item in a file.
#[derive(Debug)]
pub(crate) enum Next {
    Record(Record),
    /// Unreadable bytes up to the next readable record, or to the end.
    Damage {
        what: &'static str,
        then: Option<Record>,
    },
    End,
}

/// Reads a file's records in order.
#[derive(Debug)]
pub(crate) struct Reader {
    file: BufReader<fs::File>,
    len: u64,
    offset: u64,
    header_is_sound: bool,
}

impl Reader {
    /// Opens a file that should begin with this header. A file that is not ours, or a newer version's, is refused.
    pub(crate) fn open(path: &Path, kind: Kind, first: u64) -> Result<Self, OpenError> {
        let failed = Failure::disk("read", path);
        match Self::try_open(path, kind, first) {
            Ok(Ok(reader)) => Ok(reader),
            Ok(Err(error)) => Err(error),
            Err(error) => Err(failed(error).into()),
        }
    }

    fn try_open(path: &Path, kind: Kind, first: u64) -> io::Result<Result<Self, OpenError>> {
        let mut file = fs::File::open(path)?;
        let len = file.metadata()?.len();
        let mut found = Vec::with_capacity(HEADER_BYTES);
        Read::by_ref(&mut file).take(HEADER_BYTES as u64).read_to_end(&mut found)?;
        let mut reader = Self { file: BufReader::with_capacity(1 << 18, file), len, offset: 0, header_is_sound: false };
        match Header::of(&found, kind, first) {
            Header::Sound => (reader.offset, reader.header_is_sound) = (HEADER_BYTES as u64, true),
            Header::Damaged => {}
            Header::Newer(version) => {
                let (file, found) = (path.to_owned(), Unsupported::Format(version));
                return Ok(Err(OpenError::Newer { file, found, supported: VERSION }));
            }
            Header::Unknown => {
                let before_first = match kind {
                    Kind::Journal => first.saturating_sub(1),
                    Kind::Base => 0,
                };
                if reader.resume(before_first)?.is_none() {
                    return Ok(Err(OpenError::Foreign { file: path.to_owned() }));
                }
                (reader.offset, reader.header_is_sound) = (0, false);
            }
        }
        Ok(Ok(reader))
    }

    /// Where the next record begins.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Length of the whole file.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The next record numbered above `last`; behind unreadable bytes, looks for where records begin again.
    pub(crate) fn next(&mut self, last: u64) -> io::Result<Next> {
        Ok(match self.record()? {
            Ok(Some(record)) => Next::Record(record),
            Ok(None) => Next::End,
            Err(what) => Next::Damage { what, then: self.resume(last)? },
        })
    }

    /// The record at the current offset, `None` at a clean end, or why there is none.
    pub(crate) fn record(&mut self) -> io::Result<Result<Option<Record>, &'static str>> {
        if !self.header_is_sound {
            return Ok(Err("the header is damaged"));
        }
        let remaining = self.len - self.offset;
        if remaining == 0 {
            return Ok(Ok(None));
        }
        if remaining < RECORD_OVERHEAD as u64 {
            return Ok(Err("the record is cut"));
        }
        let mut frame = [0; 8];
        self.file.read_exact(&mut frame)?;
        let (length, crc) = split_frame(frame);
        if !(FIXED_BYTES..=FIXED_BYTES + PAYLOAD_BYTES_MAX).contains(&length) {
            return Ok(Err("the record's length is impossible"));
        }
        if length as u64 > remaining - 8 {
            return Ok(Err("the record is cut"));
        }
        let mut body = vec![0; length];
        self.file.read_exact(&mut body)?;
        let Some(record) = parse(&body.into(), crc) else { return Ok(Err("the record's checksum does not match")) };
        self.offset += 8 + length as u64;
        Ok(Ok(Some(record)))
    }

    /// Looks for a readable record after the current offset, and continues after it.
    ///
    /// Its number must be plausible: above that of the unreadable one (`last + 1`, or the header), and no greater than
    /// fits into the bytes between. So the checksum is hardly ever computed for bytes inside a payload.
    fn resume(&mut self, last: u64) -> io::Result<Option<Record>> {
        self.file.seek(SeekFrom::Start(self.offset))?;
        let mut rest = Vec::new();
        self.file.read_to_end(&mut rest)?;
        let rest = Bytes::from(rest);
        let lowest = last.saturating_add(if self.header_is_sound { 2 } else { 1 });
        for skipped in 1..rest.len() {
            let fits = (skipped / RECORD_OVERHEAD) as u64;
            let plausible = lowest..=lowest.saturating_add(fits);
            let Some((record, length)) = probe(&rest, skipped, &plausible) else { continue };
            self.offset += (skipped + length) as u64;
            self.file.seek(SeekFrom::Start(self.offset))?;
            self.header_is_sound = true;
            return Ok(Some(record));
        }
        self.offset = self.len;
        self.header_is_sound = true;
        Ok(None)
    }
}

/// A record at `at`, numbered within `plausible`, and its length in the file.
fn probe(bytes: &Bytes, at: usize, plausible: &RangeInclusive<u64>) -> Option<(Record, usize)> {
    let (length, crc) = split_frame(*bytes.get(at..)?.first_chunk()?);
    let seq = u64::from_le_bytes(*bytes.get(at + 8..)?.first_chunk()?);
    if length < FIXED_BYTES || length > bytes.len() - at - 8 || !plausible.contains(&seq) {
        return None;
    }
    Some((parse(&bytes.slice(at + 8..at + 8 + length), crc)?, 8 + length))
}

/// Length and checksum.
fn split_frame([a, b, c, d, crc @ ..]: [u8; 8]) -> (usize, u32) {
    (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes(crc))
}

/// A record's body, if its checksum matches. The greatest number of all is none of ours: numbers are counted on from, and no
/// store gets there.
fn parse(body: &Bytes, crc: u32) -> Option<Record> {
    if crc32fast::hash(body) != crc {
        return None;
    }
    let seq = u64::from_le_bytes(*body.first_chunk()?);
    if seq == u64::MAX {
        return None;
    }
    let synced = u64::from_le_bytes(*body.get(8..)?.first_chunk()?);
    Some(Record { seq, synced, payload: body.slice(FIXED_BYTES..) })
}
