//! The keys of the store that hold plugins' data.
//!
//! A key is `k`, the owner, the bucket, and the plugin's own key. Owner and bucket begin with their length in one byte, so
//! no bucket's prefix begins another's, and the keys of a bucket are in the order of their bytes. The owner is a
//! plugin's name, or empty for a bucket that the host's settings share between plugins.

use crate::keys::Family;

/// Bytes of a bucket's name.
pub const BUCKET_BYTES_MAX: usize = 128;

const DATA: u8 = Family::Data.byte();

/// Prefix of all keys of a bucket. `owner` and `bucket` have at most 255 bytes.
pub fn prefix(owner: &str, bucket: &str) -> Vec<u8> {
    let mut key = vec![DATA];
    for part in [owner, bucket] {
        key.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
        key.extend_from_slice(part.as_bytes());
    }
    key
}

/// The parts of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The plugin, or empty for a shared bucket.
    pub owner: &'a str,
    pub bucket: &'a str,
    pub key: &'a str,
}

/// Splits a key of the store into its parts; `None` if it holds no plugin's data.
pub fn place(key: &[u8]) -> Option<Place<'_>> {
    let rest = key.strip_prefix(&[DATA])?;
    let (owner, rest) = part(rest)?;
    let (bucket, rest) = part(rest)?;
    Some(Place { owner, bucket, key: str::from_utf8(rest).ok()? })
}

fn part(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    let (part, rest) = rest.split_at_checked(length.into())?;
    Some((str::from_utf8(part).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_was_written() {
        for (owner, bucket, key) in [("a", "", "k"), ("", "shared", ""), ("a-b", "a", "\u{e9}\0")] {
            let bytes = [prefix(owner, bucket), key.as_bytes().to_vec()].concat();
            assert_eq!(place(&bytes), Some(Place { owner, bucket, key }));
        }
        assert_eq!(place(b"gsomething"), None);
        assert_eq!(place(b"k\x05ab"), None);
    }
}
