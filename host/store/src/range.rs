//! Half-open key ranges.

use std::ops::Bound;

use bytes::Bytes;

/// A range of keys, read forwards or in reverse.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Range {
    /// First key of the range (inclusive).
    pub start: Bytes,
    /// First key after the range (exclusive); `None`: to the end of the keyspace.
    pub end: Option<Bytes>,
    /// Whether scans return the greatest key first.
    pub reverse: bool,
}

impl Range {
    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        Self { start: Bytes::copy_from_slice(prefix), end: after_prefix(prefix), reverse: false }
    }

    /// The same range, greatest key first.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self { reverse: true, ..self }
    }

    /// The part up to and including `last`: all that a scan has read which stopped there at its limit. For
    /// [`crate::Batch::expect_range`], together with the scan's entries.
    #[must_use]
    pub fn through(self, last: &[u8]) -> Self {
        if self.reverse {
            Self { start: Bytes::copy_from_slice(last), ..self }
        } else {
            Self { end: Some(successor(last)), ..self }
        }
    }

    /// The part after `last`: the next page.
    #[must_use]
    pub fn beyond(self, last: &[u8]) -> Self {
        if self.reverse {
            Self { end: Some(Bytes::copy_from_slice(last)), ..self }
        } else {
            Self { start: successor(last), ..self }
        }
    }

    /// Whether no key can be in it.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// The bounds for [`BTreeMap::range`](std::collections::BTreeMap::range), in ascending direction.
    ///
    /// That function panics when the end is below the start. Here the end is never below the start: an inverted range
    /// becomes an empty one.
    pub fn bounds(&self) -> (Bound<&Bytes>, Bound<&Bytes>) {
        let end = self.end.as_ref().map_or(Bound::Unbounded, |end| Bound::Excluded(end.max(&self.start)));
        (Bound::Included(&self.start), end)
    }

    /// Whether `key` is in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        *self.start <= *key && self.end.as_ref().is_none_or(|end| *key < **end)
    }

    /// Whether it begins no later and ends no earlier than `inner`, whatever their directions.
    pub fn encloses(&self, inner: &Self) -> bool {
        self.start <= inner.start
            && match (&self.end, &inner.end) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(outer), Some(inner)) => inner <= outer,
            }
    }
}

/// The least key greater than `key`.
fn successor(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

/// The least key greater than every key that begins with `prefix`, if there is one.
pub(crate) fn after_prefix(prefix: &[u8]) -> Option<Bytes> {
    let kept = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix.get(..=kept)?.to_vec();
    *end.last_mut()? += 1;
    Some(end.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_its_successor() {
        assert_eq!(Range::prefix(b"ab").end.as_deref(), Some(&b"ac"[..]));
        assert_eq!(Range::prefix(b"a\xff\xff").end.as_deref(), Some(&b"b"[..]));
        assert_eq!(Range::prefix(b"\xff").end, None);
        assert_eq!(Range::prefix(b""), Range::default());
    }

    #[test]
    fn the_bounds_of_a_range_hold_the_keys_that_it_contains() {
        let keys: std::collections::BTreeSet<Bytes> = ["a", "b", "c"].map(Bytes::from).into();
        for (start, end) in [("a", Some("c")), ("b", None), ("b", Some("b")), ("c", Some("a")), ("", Some(""))] {
            let range = Range { start: start.into(), end: end.map(Bytes::from), reverse: false };
            let found: Vec<_> = keys.range::<Bytes, _>(range.bounds()).collect();
            let expected: Vec<_> = keys.iter().filter(|key| range.contains(key)).collect();
            assert_eq!(found, expected, "{range:?}");
            assert_eq!(range.is_empty(), found.is_empty(), "{range:?}");
        }
    }

    #[test]
    fn a_range_encloses_itself_and_its_pages() {
        let all = Range::prefix(b"k");
        for inner in [all.clone(), all.clone().through(b"k1"), all.clone().reversed().beyond(b"k1")] {
            assert!(all.encloses(&inner) && Range::default().encloses(&inner), "{inner:?}");
            assert!(!inner.encloses(&Range::default()), "{inner:?}");
        }
    }

    #[test]
    fn a_page_ends_where_the_next_begins() {
        let all = Range::prefix(b"k");
        assert_eq!(all.clone().through(b"k1").end, Some(all.clone().beyond(b"k1").start));
        let back = all.reversed();
        assert_eq!(Some(back.clone().through(b"k1").start), back.beyond(b"k1").end);
    }
}
