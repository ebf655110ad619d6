//! The journal's segments while the store runs.

use std::{path::PathBuf, sync::Mutex};

use crate::{disk::Disk, error::Failure, sync::lock};

/// The segments, oldest first; the last one is being written. The journal thread adds, the follower removes.
#[derive(Debug, Default)]
pub(crate) struct Segments(Mutex<Vec<Segment>>);

#[derive(Clone, Debug)]
pub(crate) struct Segment {
    /// The sequence number of its first record.
    pub(crate) first: u64,
    pub(crate) path: PathBuf,
}

impl Segments {
    pub(crate) fn new(segments: Vec<Segment>) -> Self {
        Self(Mutex::new(segments))
    }

    pub(crate) fn push(&self, segment: Segment) {
        lock(&self.0).push(segment);
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.0).len()
    }

    /// Removes the segments that hold nothing after `covered`.
    pub(crate) fn release(&self, covered: u64, disk: &dyn Disk) -> Result<(), Failure> {
        let mut segments = lock(&self.0);
        let is_covered = |next: &&Segment| next.first <= covered.saturating_add(1);
        let count = segments.iter().skip(1).take_while(is_covered).count();
        let gone: Vec<_> = segments.drain(..count).collect();
        drop(segments);
        for segment in gone {
            disk.remove(&segment.path).map_err(Failure::disk("remove", segment.path))?;
        }
        Ok(())
    }
}
