//! What readers and preconditions see: the overlay, and below it sled.

use std::{
    iter::Peekable,
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;

use crate::{
    batch::Expected,
    check::{self, PageSizes, Source},
    error::Failure,
    range::Range,
    state::{
        overlay::{Entry, Overlay},
        sled::{Rows, State, Stored},
    },
    sync,
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

    fn merged<'a>(
        &'a self,
        overlay: &'a Overlay,
        range: &'a Range,
    ) -> impl Iterator<Item = Result<(Bytes, Found), Failure>> {
        let fresh = overlay.range(range);
        let fresh: Box<dyn Iterator<Item = _>> = if range.reverse { Box::new(fresh.rev()) } else { Box::new(fresh) };
        Merge { fresh: fresh.peekable(), settled: self.state.rows(range).peekable(), reverse: range.reverse }
    }

    /// Whether everything is as it was read, each part in the state that it is compared with. To know whether all of it
    /// holds in one state, begin a [`Check`] first.
    pub(crate) fn check(&self, expected: &[Expected]) -> Result<(), Refusal> {
        let conflict = check::first_difference(self, expected, COMPARED_AT_ONCE)?;
        conflict.map_or(Ok(()), |key| Err(Refusal::Conflict(key)))
    }

    /// From now on, whatever is written is remembered until this is dropped.
    pub(crate) fn begin_check(&self) -> Check<'_> {
        Check { view: self, since: self.overlay().begin_check() }
    }

    pub(crate) fn overlay(&self) -> RwLockReadGuard<'_, Overlay> {
        sync::read(&self.overlay)
    }

    pub(crate) fn overlay_mut(&self) -> RwLockWriteGuard<'_, Overlay> {
        sync::write(&self.overlay)
    }
}

impl Source for View {
    type Error = Failure;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Failure> {
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

    fn scan(&self, range: &Range, limit: usize) -> Result<Vec<(Bytes, Bytes)>, Failure> {
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
    fn keys(&self, range: &Range, limit: usize) -> Result<Vec<Bytes>, Failure> {
        let overlay = self.overlay();
        self.merged(&overlay, range).take(limit).map(|entry| Ok(entry?.0)).collect()
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

/// Commits are held back while a page is read and compared, so these pages are small.
const COMPARED_AT_ONCE: PageSizes = PageSizes { rows: 16, keys: 256 };

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
