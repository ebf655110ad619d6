//! Every family of keys in the store: one table, so that no byte ever gets a second meaning.
//!
//! The first byte of a key names its family. A family that is no longer written stays in the table, and its byte is
//! never given to another one. `host/docs/formats.md` describes each family's keys and values.
//!
//! A host refuses to start on a store with a family that it does not read: an older host would otherwise run sagas
//! without the holds, labels or outgoing events that a newer one has stored for them.

use bytes::Bytes;

use crate::store::{self, Range, Read};

/// A family of keys that this version reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Family {
    /// Failed sagas, by id.
    Failed = b'f',
    /// Which saga has a gid.
    Gid = b'g',
    /// Data of plugins.
    Data = b'k',
    /// Unfinished sagas, by id.
    Open = b'o',
    /// Logs of sagas, by id and chunk.
    Log = b's',
}

impl Family {
    /// The first byte of the family's keys.
    pub const fn byte(self) -> u8 {
        self as u8
    }

    /// The prefix of the family's keys.
    pub const fn prefix(self) -> &'static [u8] {
        match self {
            Self::Failed => b"f",
            Self::Gid => b"g",
            Self::Data => b"k",
            Self::Open => b"o",
            Self::Log => b"s",
        }
    }

    const fn is_known(byte: u8) -> bool {
        matches!(byte, b'f' | b'g' | b'k' | b'o' | b's')
    }
}

/// Families that later versions write, with what their rows are. Reserved, so that two of them cannot take the same
/// byte, and so that a host that finds one can say what it cannot read.
pub const RESERVED: [(u8, &str); 10] = [
    (b'a', "sagas that need attention"),
    (b'b', "bulk jobs"),
    (b'c', "commands from other hosts"),
    (b'h', "holds"),
    (b'l', "labels"),
    (b'p', "purge marks of the history"),
    (b'u', "audit entries"),
    (b'v', "versions of plugins"),
    (b'w', "the outbox of webhooks"),
    (b'x', "secrets of the store"),
];

/// The store holds keys that this version does not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the store holds {what} (keys that begin with {:?}), which this version does not read: a newer Wasaga has written \
     them, start that one. No row was changed",
    char::from(*.byte)
)]
pub struct Unknown {
    /// The first byte of the keys.
    pub byte: u8,
    /// What the rows are, as far as this version knows.
    pub what: &'static str,
}

/// The first family in the store that this version does not read. Costs one look-up for each family that is there.
pub fn find_unknown(store: &dyn Read) -> Result<Option<Unknown>, store::Error> {
    let mut range = Range::default();
    while let Some(key) = store.keys(&range, 1)?.first() {
        // The empty key belongs to no family.
        let byte = key.first().copied().unwrap_or_default();
        if !Family::is_known(byte) {
            let reserved = RESERVED.iter().find(|(reserved, _)| *reserved == byte);
            return Ok(Some(Unknown { byte, what: reserved.map_or("rows of an unknown kind", |(_, what)| what) }));
        }
        match byte.checked_add(1) {
            Some(next) => range.start = Bytes::copy_from_slice(&[next]),
            None => break,
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_meaning() {
        let used = [Family::Failed, Family::Gid, Family::Data, Family::Open, Family::Log];
        let mut bytes: Vec<u8> = used.iter().map(|family| family.byte()).collect();
        for family in used {
            assert!(Family::is_known(family.byte()));
            assert_eq!(family.prefix(), [family.byte()]);
        }
        for (byte, _) in RESERVED {
            assert!(!Family::is_known(byte));
            bytes.push(byte);
        }
        bytes.sort_unstable();
        bytes.dedup();
        assert_eq!(bytes.len(), used.len() + RESERVED.len());
    }
}
