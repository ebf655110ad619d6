//! The check of preconditions: whether what a batch has read is there again.

use bytes::Bytes;

use crate::{
    batch::{Batch, Expected},
    error::{CommitError, Error},
    limits::SCAN_ENTRIES_MAX,
    range::Range,
    traits::Read,
};

/// What preconditions are compared with.
pub(crate) trait Source {
    type Error;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Self::Error>;
    fn scan(&self, range: &Range, limit: usize) -> Result<Vec<(Bytes, Bytes)>, Self::Error>;
    fn keys(&self, range: &Range, limit: usize) -> Result<Vec<Bytes>, Self::Error>;
}

impl Source for dyn Read + '_ {
    type Error = Error;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Read::get(self, key)
    }

    fn scan(&self, range: &Range, limit: usize) -> Result<Vec<(Bytes, Bytes)>, Error> {
        Read::scan(self, range, limit)
    }

    fn keys(&self, range: &Range, limit: usize) -> Result<Vec<Bytes>, Error> {
        Read::keys(self, range, limit)
    }
}

/// How many entries of a range are compared at a time: with their values, which may be long, and without.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageSizes {
    pub(crate) rows: usize,
    pub(crate) keys: usize,
}

/// The largest pages that a scan may have, less the entry that shows that there are no more.
const LARGEST: PageSizes = PageSizes { rows: SCAN_ENTRIES_MAX - 1, keys: SCAN_ENTRIES_MAX - 1 };

impl Batch {
    /// What [`Store::commit`](crate::Store::commit) would answer, if the store were in this state and had no limit of
    /// size.
    pub fn check(&self, state: &dyn Read) -> Result<(), CommitError> {
        if let Some(refused) = self.refused() {
            return Err(refused.clone());
        }
        let conflict = first_difference(state, self.expected(), LARGEST)?;
        conflict.map_or(Ok(()), |key| Err(CommitError::Conflict { key }))
    }
}

/// The first key that is not as it was read. Each part is compared with what the source holds at that time.
pub(crate) fn first_difference<S: Source + ?Sized>(
    source: &S,
    expected: &[Expected],
    pages: PageSizes,
) -> Result<Option<Bytes>, S::Error> {
    for expected in expected {
        let difference = match expected {
            Expected::Key(key, value) => (source.get(key)? != *value).then(|| key.clone()),
            Expected::Range(range, rows) => {
                in_range(range, rows, pages.rows, |range, limit| source.scan(range, limit), |(key, _)| key)?
            }
            Expected::Keys(range, keys) => {
                in_range(range, keys, pages.keys, |range, limit| source.keys(range, limit), |key| key)?
            }
        };
        if difference.is_some() {
            return Ok(difference);
        }
    }
    Ok(None)
}

/// The key at which a range, read in pages of `at_once`, begins to differ from what is expected of it.
fn in_range<T: PartialEq, E>(
    range: &Range,
    mut expected: &[T],
    at_once: usize,
    page: impl Fn(&Range, usize) -> Result<Vec<T>, E>,
    key: impl Fn(&T) -> &Bytes,
) -> Result<Option<Bytes>, E> {
    let mut rest = range.clone();
    loop {
        let (part, further) = expected.split_at(expected.len().min(at_once));
        // After the last one there must be nothing.
        let found = page(&rest, part.len() + usize::from(further.is_empty()))?;
        let at = found.iter().zip(part).take_while(|(found, expected)| found == expected).count();
        if let Some(other) = found.get(at).or(part.get(at)) {
            return Ok(Some(key(other).clone()));
        }
        match part.last() {
            Some(last) if !further.is_empty() => rest = rest.beyond(key(last)),
            _ => return Ok(None),
        }
        expected = further;
    }
}
