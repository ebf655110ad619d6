//! The bytes of a batch: what a journal record carries.
//!
//! A sequence of operations: tag, key length (u16), key, and for a put value length (u32) and value. Numbers are
//! little-endian. The segment header carries the version of this format.
//!
//! | tag | operation |
//! | --- | --- |
//! | 1 | put |
//! | 2 | delete |
//! | 3 | FINISH: reserved, not written by this version |
//!
//! Any other tag may be a newer version's. A record with such a tag must not be applied in part, so [`check`] comes
//! before [`decode`].

const PUT: u8 = 1;
const DELETE: u8 = 2;
/// Reserved: its name is known before the operation is.
pub(crate) const FINISH: u8 = 3;
/// The greatest tag that this version reads.
pub(crate) const NEWEST: u8 = DELETE;

/// One write, borrowed from the record that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Write<'a> {
    pub(crate) key: &'a [u8],
    /// `None`: the key is deleted.
    pub(crate) value: Option<&'a [u8]>,
}

/// Appends one write. The caller has checked that the key keeps within its limit, which fits in 16 bits, and checks
/// that the whole batch keeps within its own, which fits in 32.
pub(crate) fn encode(out: &mut Vec<u8>, key: &[u8], value: Option<&[u8]>) {
    out.reserve(7 + key.len() + value.map_or(0, <[u8]>::len));
    out.push(if value.is_some() { PUT } else { DELETE });
    out.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(key);
    if let Some(value) = value {
        out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(value);
    }
}

/// The writes of an encoded batch, in order. Ends early at bytes that it cannot read; [`check`] tells.
#[derive(Clone, Debug)]
pub(crate) struct Writes<'a> {
    rest: &'a [u8],
}

pub(crate) fn decode(encoded: &[u8]) -> Writes<'_> {
    Writes { rest: encoded }
}

/// Why an encoded batch cannot be read up to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// An operation of a newer version, by its tag.
    Newer(u8),
    /// No version has written this.
    Malformed,
}

/// Whether an encoded batch can be read up to its end.
pub(crate) fn check(encoded: &[u8]) -> Result<(), Unreadable> {
    let mut writes = decode(encoded);
    while writes.next().is_some() {}
    match writes.rest.first() {
        None => Ok(()),
        Some(tag) if *tag > NEWEST => Err(Unreadable::Newer(*tag)),
        Some(_) => Err(Unreadable::Malformed),
    }
}

impl<'a> Iterator for Writes<'a> {
    type Item = Write<'a>;

    fn next(&mut self) -> Option<Write<'a>> {
        let (tag, rest) = self.rest.split_first()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (key, rest) = rest.split_at_checked(u16::from_le_bytes(*len).into())?;
        let (value, rest) = match *tag {
            PUT => {
                let (len, rest) = rest.split_first_chunk()?;
                let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
                (Some(value), rest)
            }
            DELETE => (None, rest),
            _ => return None,
        };
        self.rest = rest;
        Some(Write { key, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_batch() {
        let mut out = Vec::new();
        encode(&mut out, b"k", Some(b"vw"));
        encode(&mut out, b"gone", None);
        assert_eq!(out, b"\x01\x01\x00k\x02\x00\x00\x00vw\x02\x04\x00gone");
        let writes: Vec<_> = decode(&out).collect();
        assert_eq!(writes, [Write { key: b"k", value: Some(b"vw") }, Write { key: b"gone", value: None }]);
        assert_eq!(check(&out), Ok(()));
    }

    #[test]
    fn a_cut_or_foreign_batch_is_not_whole() {
        let mut out = Vec::new();
        encode(&mut out, b"key", Some(b"value"));
        for end in 1..out.len() {
            assert_eq!(check(&out[..end]), Err(Unreadable::Malformed), "cut at {end}");
        }
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(b"\x09\x00\x00"), Err(Unreadable::Newer(9)));
        out.extend_from_slice(b"\x03\x00\x00");
        assert_eq!(check(&out), Err(Unreadable::Newer(3)));
        assert_eq!(check(b"\x00\x00\x00"), Err(Unreadable::Malformed));
    }
}
