//! What readers and preconditions see: the overlay, and below it sled.

use std::{
    iter::Peekable,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;

use super::{
    Failure, Range,
    batch::Expected,
    overlay::{Entry, Overlay},
    state::{Rows, State, Stored},
};

/// The newest accepted value of every key.
///
/// What is not in the overlay does not change in sled for as long as the overlay is held: the follower only touches
/// keys that are in it.
#[derive(Debug)]
pub(crate) struct View {
    overlay: RwLock<Overlay>,
    pub(crate) state: State,
}

impl View {
    pub(crate) fn new(state: State, last_seq: u64) -> Self {
        Self { overlay: RwLock::new(Overlay::starting_after(last_seq)), state }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Failure> {
        if let Some(entry) = self.overlay().get(key) {
            return Ok(entry.value.clone());
        }
        // Without holding the overlay, and so commits, up: a row that the follower changes just now was, before as
        // well as after, the newest one at a moment since this call began.
        let Some(row) = self.state.row(key)? else { return Ok(None) };
        if let Some(value) = State::inline(&row) {
            return Ok(Some(value));
        }
        // A split value must not change while its parts are collected.
        let overlay = self.overlay();
        overlay.get(key).map_or_else(|| self.state.get(key), |entry| Ok(entry.value.clone()))
    }

    pub(crate) fn scan(&self, range: &Range, limit: usize) -> Result<Vec<(Bytes, Bytes)>, Failure> {
        let overlay = self.overlay();
        let value = |(key, found): (Bytes, Found)| {
            let value = match found {
                Found::Fresh(value) => value,
                Found::Settled(row) => self.state.value(&key, &row)?,
            };
            Ok((key, value))
        };
        self.merged(&overlay, range).take(limit).map(|entry| entry.and_then(value)).collect()
    }

    /// The same without the values, of which large ones are not even read.
    pub(crate) fn keys(&self, range: &Range, limit: usize) -> Result<Vec<Bytes>, Failure> {
        let overlay = self.overlay();
        self.merged(&overlay, range).take(limit).map(|entry| Ok(entry?.0)).collect()
    }

    fn merged<'a>(
        &'a self,
        overlay: &'a Overlay,
        range: &'a Range,
    ) -> impl Iterator<Item = Result<(Bytes, Found), Failure>> {
        let fresh = overlay.range(range);
        let fresh: Box<dyn Iterator<Item = _>> = if range.reverse { Box::new(fresh.rev()) } else { Box::new(fresh) };
        Merge { fresh: fresh.peekable(), settled: self.state.rows(range).peekable(), reverse: range.reverse }
    }

    /// Whether everything is as it was expected to be, each part at some moment. To know whether it is so at one moment,
    /// begin a [`Check`] first.
    pub(crate) fn check(&self, expected: &[Expected]) -> Result<(), Refusal> {
        for expected in expected {
            let conflict = match expected {
                Expected::Key(key, value) => (self.get(key)? != *value).then(|| key.clone()),
                Expected::Range(range, entries) => {
                    let page = |range: &Range, limit| self.scan(range, limit);
                    first_difference(range, entries, ROWS_AT_ONCE, page, |(key, _)| key)?
                }
                Expected::Keys(range, keys) => {
                    first_difference(range, keys, KEYS_AT_ONCE, |range, limit| self.keys(range, limit), |key| key)?
                }
            };
            conflict.map_or(Ok(()), |key| Err(Refusal::Conflict(key)))?;
        }
        Ok(())
    }

    /// From now on, whatever is written is remembered until this is dropped.
    pub(crate) fn begin_check(&self) -> Check<'_> {
        Check { view: self, since: self.overlay().begin_check() }
    }

    pub(crate) fn overlay(&self) -> RwLockReadGuard<'_, Overlay> {
        self.overlay.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn overlay_mut(&self) -> RwLockWriteGuard<'_, Overlay> {
        self.overlay.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why preconditions do not hold.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The first key that is not as it was expected to be.
    Conflict(Bytes),
    Failed(Failure),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// A check of preconditions: between its beginning and its end it is known what is written.
#[derive(Debug)]
pub(crate) struct Check<'a> {
    view: &'a View,
    since: u64,
}

impl Check<'_> {
    /// The first key that is not as expected now, where [`View::check`] has found all to be so since the beginning.
    pub(crate) fn first_change(&self, expected: &[Expected]) -> Option<Bytes> {
        self.view.overlay().first_change(self.since, expected)
    }
}

impl Drop for Check<'_> {
    fn drop(&mut self) {
        self.view.overlay().end_check(self.since);
    }
}

/// Entries that are compared while commits are held back: with their values, which may be long, and without.
const ROWS_AT_ONCE: usize = 16;
const KEYS_AT_ONCE: usize = 256;

/// The key at which a range, read in pages, and what is expected of it part.
fn first_difference<T: PartialEq>(
    range: &Range,
    mut expected: &[T],
    at_once: usize,
    page: impl Fn(&Range, usize) -> Result<Vec<T>, Failure>,
    key: impl Fn(&T) -> &Bytes,
) -> Result<Option<Bytes>, Failure> {
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

/// Where the newest value of a key is.
enum Found {
    /// In the overlay.
    Fresh(Bytes),
    /// In sled.
    Settled(Stored),
}

/// Live entries of the overlay and of sled, in the range's direction; the overlay's win.
struct Merge<Fresh: Iterator> {
    fresh: Peekable<Fresh>,
    settled: Peekable<Rows>,
    reverse: bool,
}

impl<'a, Fresh: Iterator<Item = (&'a Bytes, &'a Entry)>> Iterator for Merge<Fresh> {
    type Item = Result<(Bytes, Found), Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let fresh_is_next = match (self.fresh.peek(), self.settled.peek()) {
                (Some((fresh, _)), Some(Ok((settled, _)))) if *fresh == settled => {
                    self.settled.next();
                    true
                }
                (Some((fresh, _)), Some(Ok((settled, _)))) => (*fresh < settled) != self.reverse,
                (Some(_), None) => true,
                (_, Some(_)) => false,
                (None, None) => return None,
            };
            if !fresh_is_next {
                let row = self.settled.next()?;
                return Some(row.map(|(key, row)| (key, Found::Settled(row))));
            }
            if let Some((key, Entry { value: Some(value), .. })) = self.fresh.next() {
                return Some(Ok((key.clone(), Found::Fresh(value.clone()))));
            }
        }
    }
}
