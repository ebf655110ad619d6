//! The newest state, for readers and preconditions: the overlay, and below it sled.

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
/// While the overlay is locked, a key that is not in it does not change in sled: the follower only changes keys that
/// are in the overlay.
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
        Merge { overlay: fresh.peekable(), sled: self.state.rows(range).peekable(), reverse: range.reverse }
    }

    /// Whether everything is as it was read, each part in the state that it is compared with. To know whether all of it
    /// holds in one state, begin a [`Check`] first.
    pub(crate) fn check(&self, expected: &[Expected]) -> Result<(), Refusal> {
        let conflict = check::first_difference(self, expected, COMPARED_AT_ONCE)?;
        conflict.map_or(Ok(()), |key| Err(Refusal::Conflict(key)))
    }

    /// Begins a check: what is written from now on stays in the overlay until the check is dropped.
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
        // Without the overlay's lock, which would hold commits back. If the follower changes the row meanwhile, both
        // the old and the new row were the newest at some time during this call.
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
                Found::InOverlay(value) => value,
                Found::InSled(row) => self.state.value(&key, &row)?,
            };
            Ok((key, value))
        };
        self.merged(&overlay, range).take(limit).map(|entry| entry.and_then(value)).collect()
    }

    /// As `scan`, but large values are not read.
    fn keys(&self, range: &Range, limit: usize) -> Result<Vec<Bytes>, Failure> {
        let overlay = self.overlay();
        self.merged(&overlay, range).take(limit).map(|entry| Ok(entry?.0)).collect()
    }
}

/// Why preconditions do not hold.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The first key that is not as it was read.
    Conflict(Bytes),
    Failed(Failure),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// A running check of preconditions: the overlay keeps what is written until its end.
#[derive(Debug)]
pub(crate) struct Check<'a> {
    view: &'a View,
    since: u64,
}

impl Check<'_> {
    /// The first precondition that does not hold now, after [`View::check`] has found that all held since this began.
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
    InOverlay(Bytes),
    InSled(Stored),
}

/// Live entries of the overlay and of sled, in the range's direction; the overlay's win.
struct Merge<Entries: Iterator> {
    overlay: Peekable<Entries>,
    sled: Peekable<Rows>,
    reverse: bool,
}

impl<'a, Entries: Iterator<Item = (&'a Bytes, &'a Entry)>> Iterator for Merge<Entries> {
    type Item = Result<(Bytes, Found), Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let overlay_is_next = match (self.overlay.peek(), self.sled.peek()) {
                (Some((newer, _)), Some(Ok((older, _)))) if *newer == older => {
                    self.sled.next();
                    true
                }
                (Some((newer, _)), Some(Ok((older, _)))) => (*newer < older) != self.reverse,
                (Some(_), None) => true,
                (_, Some(_)) => false,
                (None, None) => return None,
            };
            if !overlay_is_next {
                let row = self.sled.next()?;
                return Some(row.map(|(key, row)| (key, Found::InSled(row))));
            }
            if let Some((key, Entry { value: Some(value), .. })) = self.overlay.next() {
                return Some(Ok((key.clone(), Found::InOverlay(value.clone()))));
            }
        }
    }
}
