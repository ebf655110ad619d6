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
    state::{Rows, State},
};

/// The newest accepted value of every key.
///
/// What is not in the overlay does not change in sled for as long as the overlay is held: the follower only touches
/// keys that are in it.
#[derive(Debug)]
pub(super) struct View {
    overlay: RwLock<Overlay>,
    pub(super) state: State,
}

impl View {
    pub(super) fn new(state: State, last_seq: u64) -> Self {
        Self { overlay: RwLock::new(Overlay::starting_after(last_seq)), state }
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Failure> {
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

    pub(super) fn scan(&self, range: &Range, limit: usize) -> Result<Vec<(Bytes, Bytes)>, Failure> {
        let overlay = self.overlay();
        let fresh = overlay.range(range);
        let fresh: Box<dyn Iterator<Item = _>> = if range.reverse { Box::new(fresh.rev()) } else { Box::new(fresh) };
        let merged = Merge { fresh: fresh.peekable(), settled: self.state.rows(range).peekable(), view: self, range };
        merged.take(limit).collect()
    }

    /// Whether everything is as it was expected to be.
    pub(super) fn check(&self, expected: &[Expected]) -> Result<(), Refusal> {
        for expected in expected {
            let conflict = match expected {
                Expected::Key(key, value) => (self.get(key)? != *value).then(|| key.clone()),
                Expected::Range(range, entries) => first_difference(&self.scan(range, entries.len() + 1)?, entries),
                Expected::Keys(range, keys) => self.first_other_key(range, keys)?,
            };
            conflict.map_or(Ok(()), |key| Err(Refusal::Conflict(key)))?;
        }
        Ok(())
    }

    fn first_other_key(&self, range: &Range, expected: &[Bytes]) -> Result<Option<Bytes>, Failure> {
        let found: Vec<Bytes> = self.scan(range, expected.len() + 1)?.into_iter().map(|(key, _)| key).collect();
        let at = found.iter().zip(expected).take_while(|(found, expected)| found == expected).count();
        Ok(found.get(at).or(expected.get(at)).cloned())
    }

    pub(super) fn overlay(&self) -> RwLockReadGuard<'_, Overlay> {
        self.overlay.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn overlay_mut(&self) -> RwLockWriteGuard<'_, Overlay> {
        self.overlay.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why preconditions do not hold.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The first key that is not as it was expected to be.
    Conflict(Bytes),
    Failed(Failure),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// The key at which two listings of a range part.
fn first_difference(found: &[(Bytes, Bytes)], expected: &[(Bytes, Bytes)]) -> Option<Bytes> {
    let at = found.iter().zip(expected).take_while(|(found, expected)| found == expected).count();
    found.get(at).or(expected.get(at)).map(|(key, _)| key.clone())
}

/// Live entries of the overlay and of sled, in the range's direction; the overlay's win.
struct Merge<'a, Fresh: Iterator> {
    fresh: Peekable<Fresh>,
    settled: Peekable<Rows>,
    view: &'a View,
    range: &'a Range,
}

impl<'a, Fresh: Iterator<Item = (&'a Bytes, &'a Entry)>> Iterator for Merge<'a, Fresh> {
    type Item = Result<(Bytes, Bytes), Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let fresh_is_next = match (self.fresh.peek(), self.settled.peek()) {
                (Some((fresh, _)), Some(Ok((settled, _)))) if *fresh == settled => {
                    self.settled.next();
                    true
                }
                (Some((fresh, _)), Some(Ok((settled, _)))) => (*fresh < settled) != self.range.reverse,
                (Some(_), None) => true,
                (_, Some(_)) => false,
                (None, None) => return None,
            };
            if !fresh_is_next {
                let row = self.settled.next()?;
                return Some(row.and_then(|(key, row)| Ok((key.clone(), self.view.state.value(&key, &row)?))));
            }
            if let Some((key, Entry { value: Some(value), .. })) = self.fresh.next() {
                return Some(Ok((key.clone(), value.clone())));
            }
        }
    }
}
