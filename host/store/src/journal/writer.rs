//! The journal thread: makes commits durable, all that are queued with one write and one sync.
//!
//! There is no timer. The next group gathers while one sync runs; waiting for more would only add latency.

use std::{
    mem,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    counters::add,
    disk::File,
    error::Failure,
    files,
    journal::{
        segment::{self, Kind},
        segments::Segment,
        sequencer::Accepted,
    },
    shared::{Shared, Watch},
};

/// Bytes after which a group is written even if more is queued: bounds the write buffer.
const GROUP_BYTES: usize = 8 << 20;
/// Capacity above which the buffer is freed after a group, which a big record may have made large.
const BUFFER_BYTES_KEPT: usize = 1 << 20;
/// Pause after a segment could not be created, doubled up to the longest. Meanwhile the segment before it grows.
const NEW_SEGMENT_PAUSE: Duration = Duration::from_secs(1);
const NEW_SEGMENT_PAUSE_MAX: Duration = Duration::from_mins(1);

pub(crate) struct Journal {
    shared: Arc<Shared>,
    file: Box<dyn File>,
    path: PathBuf,
    /// Length of the current segment.
    segment_bytes: u64,
    /// Set while no segment could be created: when to try again, and the pause before that.
    put_off: Option<(Instant, Duration)>,
    buffer: Vec<u8>,
}

impl Journal {
    /// Begins a new segment after the last record there is.
    pub(crate) fn begin(shared: Arc<Shared>) -> Result<Self, Failure> {
        let first = shared.progress.durable() + 1;
        let (file, path, segment_bytes) = create_segment(&shared, first)?;
        Ok(Self { shared, file, path, segment_bytes, put_off: None, buffer: Vec::new() })
    }

    /// Runs until the store is closed and everything is written, or until it has failed.
    pub(crate) fn run(mut self) {
        let _watch = Watch { shared: Arc::clone(&self.shared), name: "journal" };
        let shared = Arc::clone(&self.shared);
        let mut taken = Vec::new();
        while shared.sequencer.take(&mut taken, || shared.has_failed()) {
            if let Err(failure) = self.write_all(&mut taken) {
                shared.fail(failure);
            }
        }
        shared.lag.close();
    }

    fn write_all(&mut self, records: &mut Vec<Accepted>) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        while let Some(first) = records.first().map(|record| record.seq) {
            if !shared.lag.wait_for_room(|| shared.has_failed()) {
                return Ok(());
            }
            if self.segment_bytes >= shared.settings.segment_bytes {
                self.begin_segment(first)?;
            }
            let count = self.encode_group(records);
            let bytes = self.write_group()?;
            let last = records.get(count - 1).map_or(first, |record| record.seq);
            // The commit point: from here on these records survive anything.
            shared.progress.publish(last);
            shared.lag.push(records.drain(..count), bytes);
        }
        Ok(())
    }

    /// Begins a new segment; goes on with the one that there is while the system has no descriptor or inode for it.
    fn begin_segment(&mut self, first: u64) -> Result<(), Failure> {
        if self.put_off.is_some_and(|(until, _)| Instant::now() < until) {
            return Ok(());
        }
        let path = files::segment(&self.shared.settings.journal_dir(), first);
        match self.shared.settings.disk.create(&path).map_err(Failure::disk("create", &path)) {
            Ok(file) => {
                (self.file, self.path, self.segment_bytes) = begin_file(&self.shared, file, path, first)?;
                self.put_off = None;
                Ok(())
            }
            Err(failure) => {
                let Some(obstacle) = failure.obstacle().filter(|_| failure.may_pass()) else { return Err(failure) };
                let pause = self.put_off.map_or(NEW_SEGMENT_PAUSE, |(_, pause)| (pause * 2).min(NEW_SEGMENT_PAUSE_MAX));
                self.put_off = Some((Instant::now() + pause, pause));
                tracing::warn!(
                    file = %path.display(), %obstacle, again_in_s = pause.as_secs(),
                    "no new journal file can be created: the last one is written on"
                );
                Ok(())
            }
        }
    }

    /// Encodes records up to the group's bound; returns how many.
    fn encode_group(&mut self, records: &[Accepted]) -> usize {
        let synced = self.shared.progress.durable();
        let mut count = 0;
        for record in records {
            segment::encode_record(&mut self.buffer, record.seq, synced, &record.encoded);
            count += 1;
            if self.buffer.len() >= GROUP_BYTES {
                break;
            }
        }
        count
    }

    fn write_group(&mut self) -> Result<usize, Failure> {
        self.file.append(&self.buffer).map_err(Failure::disk("write", &self.path))?;
        self.file.sync().map_err(Failure::disk("sync", &self.path))?;
        let bytes = self.buffer.len();
        self.segment_bytes += bytes as u64;
        add(&self.shared.counters.syncs, 1);
        add(&self.shared.counters.journal_bytes, bytes as u64);
        self.buffer.clear();
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            mem::take(&mut self.buffer);
        }
        Ok(bytes)
    }
}

/// Creates the first segment of this process.
fn create_segment(shared: &Shared, first: u64) -> Result<(Box<dyn File>, PathBuf, u64), Failure> {
    let path = files::segment(&shared.settings.journal_dir(), first);
    let file = shared.settings.disk.create(&path).map_err(Failure::disk("create", &path))?;
    begin_file(shared, file, path, first)
}

/// Writes the header of a new segment, and syncs the file and the directory. Only then may a record be written to it: only
/// then will recovery find it.
fn begin_file(
    shared: &Shared,
    mut file: Box<dyn File>,
    path: PathBuf,
    first: u64,
) -> Result<(Box<dyn File>, PathBuf, u64), Failure> {
    let header = segment::header(Kind::Journal, first);
    file.append(&header).map_err(Failure::disk("write", &path))?;
    file.sync().map_err(Failure::disk("sync", &path))?;
    shared.sync_journal_dir()?;
    shared.segments.push(Segment { first, path: path.clone() });
    Ok((file, path, header.len() as u64))
}
