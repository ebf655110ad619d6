//! Phase 1 of recovery: reads the whole journal, to find missing and damaged records and the journal's end.

use std::{
    mem,
    path::{Path, PathBuf},
};

use crate::{
    error::{Corruption, Failure, OpenError},
    files,
    journal::{
        segment::{self, Kind, MALFORMED, Next, RECORD_OVERHEAD, Reader, Record},
        segments::Segment,
    },
    opening::{Opening, Part},
};

/// The state of the journal.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Oldest first.
    pub(crate) segments: Vec<Segment>,
    /// Records that were acknowledged and are unreadable or missing, in order.
    pub(crate) holes: Vec<Corruption>,
    /// Unreadable bytes at the end. As far as the journal can tell, none of them was acknowledged.
    pub(crate) torn: Option<TornTail>,
    /// The last readable record; before the first segment's first record if there is none.
    pub(crate) end: u64,
    /// How many records of the last segment can be read, up to `end`.
    pub(crate) readable: u64,
}

/// Damage of records that may never have been acknowledged: no later record has confirmed them yet.
struct Suspect {
    damage: Corruption,
    /// How many records of the segment can be read before it.
    readable: u64,
}

/// Bytes at the journal's end that were being written when the process or the system stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The last segment.
    pub file: PathBuf,
    /// Where its last whole record ends. 0: not even its header was written.
    pub offset: u64,
    /// How many bytes follow.
    pub bytes: u64,
}

/// Reads the whole journal, and changes nothing. Refuses what another program or a newer version has written.
pub(crate) fn survey(dir: &Path, opening: &Opening) -> Result<Survey, OpenError> {
    let segments = files::list(dir, files::SEGMENT).map_err(Failure::disk("list", dir))?;
    let segments: Vec<_> = segments.into_iter().map(|(first, path)| Segment { first, path }).collect();
    let mut survey =
        Survey { end: segments.first().map_or(0, |segment| segment.first.saturating_sub(1)), ..Survey::default() };
    opening.begin(Part::Survey, segments.len() as u64);
    for (index, segment) in segments.iter().enumerate() {
        let (expected, first) = (survey.end + 1, segment.first);
        if first > expected {
            survey.hole(&files::segment(dir, expected), 0, expected, first - 1, "the file is missing");
        } else if first < expected {
            survey.hole(&segment.path, 0, first, expected, "it overlaps the file before it");
        }
        survey.end = first.saturating_sub(1);
        let next_first = segments.get(index + 1).map(|next| next.first);
        survey.segment(segment, next_first)?;
        opening.add(1);
    }
    survey.segments = segments;
    Ok(survey)
}

impl Survey {
    /// The number of the first record, if there are segments.
    pub(crate) fn first(&self) -> Option<u64> {
        self.segments.first().map(|segment| segment.first)
    }

    /// The first lost record that a state which holds everything up to `seq` needs.
    pub(crate) fn first_hole_after(&self, seq: u64, dir: &Path) -> Option<Corruption> {
        let before = self.first().filter(|first| *first > seq + 1).map(|first| Corruption {
            file: files::segment(dir, seq + 1),
            offset: 0,
            first_seq: seq + 1,
            last_seq: first - 1,
            what: "the file is missing",
        });
        before.or_else(|| self.holes.iter().find(|hole| hole.last_seq > seq).cloned())
    }

    fn hole(&mut self, file: &Path, offset: u64, first_seq: u64, last_seq: u64, what: &'static str) {
        self.holes.push(Corruption { file: file.to_owned(), offset, first_seq, last_seq, what });
    }

    /// `next_first`: where the next segment begins; `None` for the last one. A segment is begun only when the one
    /// before it is on disk as a whole, so only the last one can be torn.
    fn segment(&mut self, segment: &Segment, next_first: Option<u64>) -> Result<(), OpenError> {
        let mut reader = Reader::open(&segment.path, Kind::Journal, segment.first)?;
        let failed = |source| Failure::disk("read", &segment.path)(source);
        let mut suspects: Vec<Suspect> = Vec::new();
        self.readable = 0;
        loop {
            let offset = reader.offset();
            let (damage, record) = match reader.next(self.end).map_err(failed)? {
                Next::End => break,
                Next::Record(record) if record.seq <= self.end => {
                    self.hole(&segment.path, offset, record.seq, self.end + 1, "its numbers are out of order");
                    break;
                }
                Next::Record(record) if record.seq == self.end + 1 => (None, Some(record)),
                Next::Record(record) => (Some("its numbers are out of order"), Some(record)),
                Next::Damage { what, then } => (Some(what), then),
            };
            if let Some(what) = damage {
                // It ends before the next readable record, or the next segment; else its end is unknown.
                let resumed = record.as_ref().map(|record| record.seq).or(next_first);
                let last_seq = resumed.map_or(self.end + 1, |resumed| (resumed - 1).max(self.end + 1));
                let (file, first_seq) = (segment.path.clone(), self.end + 1);
                let damage = Corruption { file, offset, first_seq, last_seq, what };
                suspects.push(Suspect { damage, readable: self.readable });
            }
            let Some(record) = record else { break };
            self.confirm(&mut suspects, &record);
            self.end = record.seq;
            self.readable += 1;
            if !segment::operations_are_whole(&segment.path, &record.payload)? {
                let offset = reader.offset() - (RECORD_OVERHEAD + record.payload.len()) as u64;
                self.hole(&segment.path, offset, record.seq, record.seq, MALFORMED);
            }
        }
        if next_first.is_some() {
            self.end = self.end.max(suspects.last().map_or(0, |suspect| suspect.damage.last_seq));
            self.holes.extend(suspects.into_iter().map(|suspect| suspect.damage));
        } else if let Some(Suspect { damage: first, readable }) = suspects.first() {
            (self.end, self.readable) = (first.first_seq - 1, *readable);
            let (file, offset) = (first.file.clone(), first.offset);
            self.torn = Some(TornTail { file, offset, bytes: reader.len() - offset });
        }
        Ok(())
    }

    /// Turns suspects into holes. `record` states which records were on disk when it was written, so suspects up to
    /// there were acknowledged. A damaged header before a record is a hole too: it was on disk before any record.
    fn confirm(&mut self, suspects: &mut Vec<Suspect>, record: &Record) {
        let (acknowledged, open): (Vec<_>, _) = mem::take(suspects)
            .into_iter()
            .partition(|Suspect { damage, .. }| damage.first_seq <= record.synced || damage.offset == 0);
        *suspects = open;
        self.holes.extend(acknowledged.into_iter().map(|suspect| suspect.damage));
    }
}

/// How many records of a segment can be read, up to `end`, and the last of them; as [`survey`] counts them.
pub(crate) fn count(path: &Path, first: u64, end: u64) -> Result<(u64, u64), OpenError> {
    let mut reader = Reader::open(path, Kind::Journal, first)?;
    let (mut count, mut last) = (0, first.saturating_sub(1));
    loop {
        match reader.next(last).map_err(Failure::disk("read", path))? {
            Next::Record(record) | Next::Damage { then: Some(record), .. }
                if record.seq > last && record.seq <= end =>
            {
                (count, last) = (count + 1, record.seq);
            }
            _ => return Ok((count, last)),
        }
    }
}
