//! The stored forms of sagas: keys, and values with versions.
//!
//! | key           | value                                       | used for                                          |
//! |---------------|---------------------------------------------|---------------------------------------------------|
//! | `g` gid       | [`SagaId`]                                  | finding a saga by its gid; a gid is used only once |
//! | `s` id chunk  | definition and events, in order             | replay; in key order, the list of all sagas       |
//! | `o` id        | [`Open`]: status, gid, due, components      | recovery and timers: all unfinished sagas         |
//! | `f` id        | empty                                       | the list of failed sagas                          |
//!
//! [`crate::keys`] has all families of keys; `host/docs/formats.md` describes every byte.
//!
//! New events are appended to the newest chunk of a saga's log until that has [`CHUNK_BYTES`]; then a new chunk begins.
//! So the value that is written with each event stays small, however long the log is. A log that has become long is
//! compacted (see `saga::compaction`) into a new first chunk, and the other chunks are deleted, all in one commit.
//! Numbers in keys are big-endian: key order is time order, and the keys of new sagas are neighbours. A gid ends its key
//! and needs no terminator. `o` and `f` rows do not exist for sagas that succeed before anything must be durable, which
//! is most of them.
//!
//! The first byte of each value is its version, and it is obeyed: a value of a newer version is refused by name and
//! left alone. [`v1`] has the frozen forms of version 1. A change of a stored form is a new version, with a reader for
//! the old one. A chunk of an older version is never appended to: the next event begins a new chunk.

#[cfg(test)]
mod fuzz;
mod v1;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    keys::Family,
    saga::{Definition, Event, Gid, IllegalEvent, Pin, Saga, Status, Timestamp},
};

/// Length from which a chunk of a log is left alone and a new one begun, in bytes. Small enough to be written anew
/// with every event, large enough for the whole life of most sagas.
pub const CHUNK_BYTES: usize = 1024;

/// Newest version of the chunks of logs.
const LOG_VERSION: u8 = 1;

/// Version of the rows of gids.
const GID_VERSION: u8 = 1;

/// Version of the rows of unfinished sagas from before sagas pinned components.
const OPEN_VERSION_UNPINNED: u8 = 1;

/// Newest version of the rows of unfinished sagas: the components follow what version 1 has.
const OPEN_VERSION: u8 = 2;

/// A saga's name inside the host: the millisecond of its creation, and a counter. Orders sagas by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SagaId(pub u64);

impl SagaId {
    /// Bits that count sagas of the same millisecond; the rest reach beyond the year 2500.
    const COUNTER_BITS: u32 = 20;

    /// The smallest id of a saga created at this time or later.
    pub fn first_at(moment: Timestamp) -> Self {
        Self(moment.0.min(u64::MAX >> Self::COUNTER_BITS) << Self::COUNTER_BITS)
    }
}

/// What recovery and the timer need to know of an unfinished saga without reading its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// When the saga is due; `None` for a prepared saga.
    pub due: Option<Timestamp>,
    pub status: OpenStatus,
    pub gid: Gid,
    /// The components that it uses, each once; `None` for a saga from before components were pinned.
    pub pins: Option<Vec<Pin>>,
}

/// The statuses of unfinished sagas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenStatus {
    /// [`Status::Prepared`].
    Prepared,
    /// [`Status::Submitted`].
    Submitted,
    /// [`Status::Aborting`].
    Aborting,
}

impl OpenStatus {
    /// The stored form of an unfinished status.
    pub fn of(status: Status) -> Option<Self> {
        match status {
            Status::Prepared => Some(Self::Prepared),
            Status::Submitted => Some(Self::Submitted),
            Status::Aborting => Some(Self::Aborting),
            Status::Succeed | Status::Failed => None,
        }
    }
}

impl From<OpenStatus> for v1::OpenStatus {
    fn from(status: OpenStatus) -> Self {
        match status {
            OpenStatus::Prepared => Self::Prepared,
            OpenStatus::Submitted => Self::Submitted,
            OpenStatus::Aborting => Self::Aborting,
        }
    }
}

impl From<v1::OpenStatus> for OpenStatus {
    fn from(stored: v1::OpenStatus) -> Self {
        match stored {
            v1::OpenStatus::Prepared => Self::Prepared,
            v1::OpenStatus::Submitted => Self::Submitted,
            v1::OpenStatus::Aborting => Self::Aborting,
        }
    }
}

/// A saga as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place among all sagas.
    pub id: SagaId,
    /// Its state: the fold of `log`.
    pub saga: Saga,
    /// All its events.
    pub log: Vec<Event>,
}

/// A stored value that cannot be read. Concerns one saga.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// A newer version of Wasaga has written it.
    #[error(
        "the {what} was written by a newer Wasaga, version {found}; this one reads up to {supported}: start that one"
    )]
    Newer { what: &'static str, found: u8, supported: u8 },
    /// An event that this version does not have.
    #[error(
        "the log of the saga has an event of kind {number} ({name}), which this Wasaga does not read: start a newer one"
    )]
    UnknownEvent { number: u8, name: &'static str },
    /// The value is not what was written.
    #[error("the {what} cannot be decoded")]
    Decode { what: &'static str, source: postcard::Error },
    /// The log does not begin with a definition, or has two.
    #[error("the log has no definition at its start")]
    NoDefinition,
    /// The log holds an event that cannot have happened.
    #[error("the log is not one of a saga")]
    Illegal(#[from] IllegalEvent),
}

impl Unreadable {
    /// Whether a newer version of Wasaga can read it.
    pub fn is_newer(&self) -> bool {
        matches!(self, Self::Newer { .. } | Self::UnknownEvent { .. })
    }
}

/// Key of the row that says which saga has this gid.
pub fn gid_key(gid: &Gid) -> Vec<u8> {
    [Family::Gid.prefix(), gid.as_str().as_bytes()].concat()
}

/// Prefix of all keys of all logs.
pub const LOGS: &[u8] = Family::Log.prefix();

/// Prefix of the keys of one saga's log.
pub fn log_prefix(id: SagaId) -> [u8; 9] {
    id_key(Family::Log.byte(), id)
}

/// Key of one chunk of a saga's log.
pub fn chunk_key(id: SagaId, chunk: u32) -> [u8; 13] {
    let mut key = [0; 13];
    let (prefix, number) = key.split_at_mut(9);
    prefix.copy_from_slice(&log_prefix(id));
    number.copy_from_slice(&chunk.to_be_bytes());
    key
}

/// Prefix of the keys of unfinished sagas.
pub const OPEN: &[u8] = Family::Open.prefix();

/// Key of an unfinished saga.
pub fn open_key(id: SagaId) -> [u8; 9] {
    id_key(Family::Open.byte(), id)
}

/// Prefix of the keys of failed sagas.
pub const FAILED: &[u8] = Family::Failed.prefix();

/// Key of a failed saga.
pub fn failed_key(id: SagaId) -> [u8; 9] {
    id_key(Family::Failed.byte(), id)
}

/// The saga that a key of a log, an unfinished or a failed saga is about.
pub fn id_in(key: &[u8]) -> Option<SagaId> {
    let id = key.get(1..9)?.try_into().ok()?;
    Some(SagaId(u64::from_be_bytes(id)))
}

fn id_key(prefix: u8, id: SagaId) -> [u8; 9] {
    let mut key = [prefix; 9];
    let (_, number) = key.split_at_mut(1);
    number.copy_from_slice(&id.0.to_be_bytes());
    key
}

/// An empty chunk.
pub fn new_chunk() -> Vec<u8> {
    vec![LOG_VERSION]
}

/// Whether entries may be appended to this chunk: only if it is of the version that they are written in.
pub fn takes_more(chunk: &[u8]) -> bool {
    chunk.first() == Some(&LOG_VERSION) && chunk.len() < CHUNK_BYTES
}

/// Adds a saga's definition to its log.
pub fn write_definition(log: &mut Vec<u8>, definition: &Definition) -> Result<(), Unreadable> {
    append(log, LOG, &v1::Entry::Definition(definition.into()))
}

/// Adds an event to a saga's log.
pub fn write_event(log: &mut Vec<u8>, event: &Event) -> Result<(), Unreadable> {
    append(log, LOG, &v1::Entry::Event(event.into()))
}

/// The stored form of an unfinished saga's row.
pub fn write_open(open: &Open) -> Result<Vec<u8>, Unreadable> {
    let status = v1::OpenStatus::from(open.status);
    let mut value = vec![if open.pins.is_some() { OPEN_VERSION } else { OPEN_VERSION_UNPINNED }];
    append(&mut value, ROW, &(open.due.map(|due| due.0), status, open.gid.as_str()))?;
    if let Some(pins) = &open.pins {
        append(&mut value, ROW, &pins.iter().map(v1::Pin::from).collect::<Vec<_>>())?;
    }
    Ok(value)
}

/// Reads it back.
pub fn read_open(value: &[u8]) -> Result<Open, Unreadable> {
    let (version, body) = body(ROW, value, OPEN_VERSION)?;
    let ((due, status, gid), rest): ((Option<u64>, v1::OpenStatus, &str), _) = take(ROW, body)?;
    let pins = match version {
        OPEN_VERSION_UNPINNED => None,
        _ => Some(take::<Vec<v1::Pin>>(ROW, rest)?.0.into_iter().map(Pin::from).collect()),
    };
    Ok(Open { due: due.map(Timestamp), status: status.into(), gid: Gid::from_stored(gid), pins })
}

/// The stored form of a saga's id, as the value of its gid.
pub fn write_id(id: SagaId) -> [u8; 9] {
    id_key(GID_VERSION, id)
}

/// Reads it back.
pub fn read_id(value: &[u8]) -> Result<SagaId, Unreadable> {
    let what = "row of the gid";
    body(what, value, GID_VERSION)?;
    id_in(value).ok_or(Unreadable::Decode { what, source: postcard::Error::DeserializeUnexpectedEnd })
}

/// Replays a saga from the chunks of its log, in order.
pub fn read_log<'a>(id: SagaId, chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<Record, Unreadable> {
    let mut saga: Option<Saga> = None;
    let mut log = Vec::new();
    for chunk in chunks {
        let (_, mut rest) = body(LOG, chunk, LOG_VERSION)?;
        while !rest.is_empty() {
            check_event(rest)?;
            let entry;
            (entry, rest) = take(LOG, rest)?;
            match (entry, &mut saga) {
                (v1::Entry::Definition(definition), None) => {
                    saga = Some(Saga::new(Arc::<Definition>::new(definition.into())));
                }
                (v1::Entry::Event(event), Some(saga)) => {
                    let event = event.into();
                    saga.apply(&event)?;
                    log.push(event);
                }
                (v1::Entry::Definition(_), Some(_)) | (v1::Entry::Event(_), None) => {
                    return Err(Unreadable::NoDefinition);
                }
            }
        }
    }
    let saga = saga.ok_or(Unreadable::NoDefinition)?;
    Ok(Record { id, saga, log })
}

const LOG: &str = "log of the saga";
const ROW: &str = "row of the unfinished saga";

/// Refuses an event of a later version by its name.
fn check_event(entry: &[u8]) -> Result<(), Unreadable> {
    match *entry {
        [EVENT_ENTRY, number, ..] if number >= v1::EVENTS => {
            let reserved = v1::RESERVED_EVENTS.iter().find(|(reserved, _)| *reserved == number);
            Err(Unreadable::UnknownEvent { number, name: reserved.map_or("unknown", |(_, name)| name) })
        }
        _ => Ok(()),
    }
}

/// The number of [`v1::Entry::Event`] on disk.
const EVENT_ENTRY: u8 = 1;

fn append(value: &mut Vec<u8>, what: &'static str, entry: &impl Serialize) -> Result<(), Unreadable> {
    let taken = std::mem::take(value);
    *value = postcard::to_extend(entry, taken).map_err(|source| Unreadable::Decode { what, source })?;
    Ok(())
}

/// A value's version, from 1 to `supported`, and what follows it.
fn body<'a>(what: &'static str, value: &'a [u8], supported: u8) -> Result<(u8, &'a [u8]), Unreadable> {
    match value.split_first() {
        Some((&found, _)) if found > supported => Err(Unreadable::Newer { what, found, supported }),
        Some((&version, body)) if version > 0 => Ok((version, body)),
        _ => Err(Unreadable::Decode { what, source: postcard::Error::DeserializeUnexpectedEnd }),
    }
}

fn take<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<(T, &'a [u8]), Unreadable> {
    postcard::take_from_bytes(bytes).map_err(|source| Unreadable::Decode { what, source })
}

#[cfg(test)]
mod tests;
