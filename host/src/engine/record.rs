//! What the engine keeps in the store: keys, and versioned values.
//!
//! | key             | value                                       | who reads it                          |
//! |-----------------|---------------------------------------------|---------------------------------------|
//! | `g` gid         | [`SagaId`]                                  | look-up by gid; a gid is taken once   |
//! | `s` id chunk    | definition and events, in order             | replay; and, in key order, the list   |
//! | `o` id          | [`Open`]: status, gid, due, components      | recovery and timers; unfinished sagas |
//! | `f` id          | empty                                       | the list of failed sagas              |
//!
//! A saga's log is appended to its newest chunk until that is [`CHUNK_BYTES`] long: few small values whose newest is
//! written anew, never a value that grows with the saga. A log that has become long is told in fewer events (see
//! `saga::fold`) in a new first chunk, and the others go, all in one commit. Numbers in keys are big-endian, so that key order is time
//! order and the writes of new sagas are neighbours. A gid stands at the end of its key and needs no terminator.
//! `o` and `f` are absent for sagas that succeed before anything must be durable, which is most of them.
//!
//! The first byte of each value is its version. A change of any stored type needs a new version here, and a reader
//! for the old one; the byte snapshots below fail when one is forgotten.

use std::sync::Arc;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::saga::{Definition, Event, Gid, IllegalEvent, Pin, Saga, Status, Timestamp};

/// Length from which a chunk of a log is left alone and a new one begun, in bytes. Small enough to be written anew
/// with every event, large enough for the whole life of most sagas.
pub const CHUNK_BYTES: usize = 1024;

const VERSION: u8 = 1;

/// Version of the rows of unfinished sagas, whose components follow what version 1 has.
const OPEN_VERSION: u8 = 2;

/// A saga's name inside the host: the millisecond of its creation, and a counter. Orders sagas by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SagaId(pub u64);

impl SagaId {
    /// Bits that count sagas of the same millisecond; the rest reach beyond the year 2500.
    const COUNTER_BITS: u32 = 20;

    /// The first id that a saga created at this moment, or later, can have.
    pub fn first_at(moment: Timestamp) -> Self {
        Self(moment.0.min(u64::MAX >> Self::COUNTER_BITS) << Self::COUNTER_BITS)
    }
}

/// What recovery and the timer need to know of an unfinished saga without reading its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// When it wants to be looked at; `None` for a saga that is only prepared.
    pub due: Option<Timestamp>,
    /// Where it stands.
    pub status: OpenStatus,
    /// Its gid.
    pub gid: Gid,
    /// The components that it uses, each once; `None` for a saga from before components were pinned.
    pub pins: Option<Vec<Pin>>,
}

/// The statuses of unfinished sagas, as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// One entry of a chunk; generic over owning its parts, so that writing copies nothing.
#[derive(Serialize, Deserialize)]
enum Entry<D, E> {
    Definition(D),
    Event(E),
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

/// A stored value that makes no sense. Concerns one saga; the others go on.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// Written by a newer version of the host, or damaged.
    #[error("the value of {what} has version {version}, which this host cannot read: it was written by a newer host")]
    Version {
        /// Of which row.
        what: &'static str,
        /// The version found.
        version: u8,
    },
    /// Not what was written.
    #[error("the value of {what} cannot be decoded")]
    Decode {
        /// Of which row.
        what: &'static str,
        /// Why.
        source: postcard::Error,
    },
    /// The log does not begin with a definition, or has two.
    #[error("the log has no definition at its start")]
    NoDefinition,
    /// The log tells of something impossible.
    #[error("the log is not one of a saga")]
    Illegal(#[from] IllegalEvent),
}

/// Key of the row that says which saga has this gid.
pub fn gid_key(gid: &Gid) -> Vec<u8> {
    [b"g", gid.as_str().as_bytes()].concat()
}

/// Prefix of all keys of all logs.
pub const LOGS: &[u8] = b"s";

/// Prefix of the keys of one saga's log.
pub fn log_prefix(id: SagaId) -> [u8; 9] {
    id_key(b's', id)
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
pub const OPEN: &[u8] = b"o";

/// Key of an unfinished saga.
pub fn open_key(id: SagaId) -> [u8; 9] {
    id_key(b'o', id)
}

/// Prefix of the keys of failed sagas.
pub const FAILED: &[u8] = b"f";

/// Key of a failed saga.
pub fn failed_key(id: SagaId) -> [u8; 9] {
    id_key(b'f', id)
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
    vec![VERSION]
}

/// Adds a saga's definition to its log.
pub fn write_definition(log: &mut Vec<u8>, definition: &Definition) -> Result<(), Unreadable> {
    append(log, "saga", &Entry::<_, &Event>::Definition(definition))
}

/// Adds an event to a saga's log.
pub fn write_event(log: &mut Vec<u8>, event: &Event) -> Result<(), Unreadable> {
    append(log, "saga", &Entry::<&Definition, _>::Event(event))
}

/// The stored form of an unfinished saga's row.
pub fn write_open(open: &Open) -> Result<Vec<u8>, Unreadable> {
    let mut value = vec![VERSION];
    append(&mut value, "open saga", &(open.due, open.status, &open.gid))?;
    if let (Some(pins), Some(version)) = (&open.pins, value.first_mut()) {
        *version = OPEN_VERSION;
        append(&mut value, "open saga", pins)?;
    }
    Ok(value)
}

/// Reads it back.
pub fn read_open(value: &[u8]) -> Result<Open, Unreadable> {
    let (version, body) = match value.split_first() {
        Some((&OPEN_VERSION, body)) => (OPEN_VERSION, body),
        _ => (VERSION, body("open saga", value)?),
    };
    let ((due, status, gid), rest) = take("open saga", body)?;
    let pins = if version == OPEN_VERSION { Some(take("open saga", rest)?.0) } else { None };
    Ok(Open { due, status, gid, pins })
}

/// The stored form of a saga's id, as the value of its gid.
pub fn write_id(id: SagaId) -> [u8; 9] {
    id_key(VERSION, id)
}

/// Reads it back.
pub fn read_id(value: &[u8]) -> Result<SagaId, Unreadable> {
    body("gid", value)?;
    id_in(value).ok_or(Unreadable::Decode { what: "gid", source: postcard::Error::DeserializeUnexpectedEnd })
}

/// Replays a saga from the chunks of its log, in order.
pub fn read_log<'a>(id: SagaId, chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<Record, Unreadable> {
    let mut saga: Option<Saga> = None;
    let mut log = Vec::new();
    for chunk in chunks {
        let mut rest = body("saga", chunk)?;
        while !rest.is_empty() {
            let entry;
            (entry, rest) = take("saga", rest)?;
            match (entry, &mut saga) {
                (Entry::Definition(definition), None) => saga = Some(Saga::new(Arc::<Definition>::new(definition))),
                (Entry::Event(event), Some(saga)) => {
                    saga.apply(&event)?;
                    log.push(event);
                }
                (Entry::Definition(_), Some(_)) | (Entry::Event(_), None) => return Err(Unreadable::NoDefinition),
            }
        }
    }
    let saga = saga.ok_or(Unreadable::NoDefinition)?;
    Ok(Record { id, saga, log })
}

fn append(value: &mut Vec<u8>, what: &'static str, entry: &impl Serialize) -> Result<(), Unreadable> {
    let taken = std::mem::take(value);
    *value = postcard::to_extend(entry, taken).map_err(|source| Unreadable::Decode { what, source })?;
    Ok(())
}

fn body<'a>(what: &'static str, value: &'a [u8]) -> Result<&'a [u8], Unreadable> {
    match value.split_first() {
        Some((&VERSION, body)) => Ok(body),
        Some((&version, _)) => Err(Unreadable::Version { what, version }),
        None => Err(Unreadable::Decode { what, source: postcard::Error::DeserializeUnexpectedEnd }),
    }
}

fn take<'a, T: DeserializeOwned>(what: &'static str, bytes: &'a [u8]) -> Result<(T, &'a [u8]), Unreadable> {
    postcard::take_from_bytes(bytes).map_err(|source| Unreadable::Decode { what, source })
}

#[cfg(test)]
mod tests;
