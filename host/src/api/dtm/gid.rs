//! Generates gids for clients that do not choose their own.
//!
//! 128 bits in 22 characters of base 62: milliseconds since the epoch (48 bits), a counter (16 bits), and 64 bits of a
//! hash with a random key for each process. Digits are in ASCII order and the width is fixed, so gids sort by time, and
//! the stored keys of new sagas are adjacent. The counter makes gids unique within a process, the hash between processes.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::saga::Timestamp;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Enough digits for 128 bits: 62^22 > 2^128.
const CHARS: usize = 22;

/// Generates gids.
#[derive(Default)]
pub struct Source {
    hasher: RandomState,
    count: AtomicU64,
}

impl Source {
    /// A new gid.
    pub fn next(&self, now: Timestamp) -> String {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let time = u128::from(now.0) << 80;
        base62(time | u128::from(count & 0xffff) << 64 | u128::from(self.hasher.hash_one(count)))
    }
}

fn base62(mut number: u128) -> String {
    let mut text = [b'0'; CHARS];
    for digit in text.iter_mut().rev() {
        let value = usize::try_from(number % 62).unwrap_or_default();
        *digit = DIGITS.get(value).copied().unwrap_or_default();
        number /= 62;
    }
    text.iter().map(|digit| char::from(*digit)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn gids_sort_by_time_and_stay_apart() {
        let (one, other) = (Source::default(), Source::default());
        let now = Timestamp(1_767_448_066_123);
        let same_time: BTreeSet<_> = (0..1000).flat_map(|_| [one.next(now), other.next(now)]).collect();
        assert_eq!(same_time.len(), 2000);
        assert!(same_time.iter().all(|gid| gid.len() == CHARS && gid.bytes().all(|c| c.is_ascii_alphanumeric())));
        let later = other.next(Timestamp(now.0 + 1));
        assert!(same_time.iter().all(|gid| *gid < later));
    }

    #[test]
    fn digits_are_those_of_the_number() {
        assert_eq!(base62(0), "0".repeat(CHARS));
        assert_eq!(base62(61 + 62 * 10), format!("{}Az", "0".repeat(20)));
        assert_eq!(base62(u128::MAX), "7n42DGM5Tflk9n8mt7Fhc7");
    }
}
