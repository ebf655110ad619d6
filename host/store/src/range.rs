//! Half-open key ranges.

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

    /// The part that a scan has seen which stopped at its limit after `last`: what to give to
    /// [`super::Batch::expect_range`] together with its entries.
    #[must_use]
    pub fn through(self, last: &[u8]) -> Self {
        if self.reverse {
            Self { start: Bytes::copy_from_slice(last), ..self }
        } else {
            Self { end: Some(successor(last)), ..self }
        }
    }

    /// The part that such a scan has not seen yet: the next page.
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
    fn a_page_ends_where_the_next_begins() {
        let all = Range::prefix(b"k");
        assert_eq!(all.clone().through(b"k1").end, Some(all.clone().beyond(b"k1").start));
        let back = all.reversed();
        assert_eq!(Some(back.clone().through(b"k1").start), back.beyond(b"k1").end);
    }
}
