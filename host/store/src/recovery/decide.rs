//! Phase 2: decides what can be trusted. Changes nothing of ours; sled writes its own files when it is opened.

use std::{fs, path::PathBuf};

use super::inspect::{Inspected, inspect};
use crate::{
    error::{Corruption, Failure, OpenError},
    files,
    journal::{
        segment::{Kind, Reader},
        segments::Segment,
        survey::Survey,
    },
    settings::Settings,
    state::{
        base::{self, Base, Unusable},
        sled::{Meta, State},
    },
};

/// What to start from.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) source: Source,
    /// The base to use; `None`: the journal reaches back to the beginning, or the base is damaged.
    pub(super) base: Option<Base>,
    pub(super) damaged_base: Option<PathBuf>,
    /// The last record after recovery.
    pub(super) last_seq: u64,
}

#[derive(Debug)]
pub(super) enum Source {
    /// A sound sled.
    State(State, Meta),
    /// Base (or nothing) and journal, into a new sled.
    Rebuild { reason: String, reached: u64 },
    /// Nothing was ever written.
    Nothing,
}

impl Plan {
    /// Bytes of journal that a rebuild would read; the maximum if no rebuild is possible, so that a base is written
    /// soon.
    pub(super) fn journal_since_base(&self, settings: &Settings, survey: &Survey) -> u64 {
        let seq = self.base.as_ref().map_or(0, |base| base.seq);
        if survey.end < self.last_seq || survey.first_hole_after(seq, &settings.journal_dir()).is_some() {
            return u64::MAX;
        }
        let needed =
            |(index, _): &(usize, &Segment)| survey.segments.get(index + 1).is_none_or(|next| next.first > seq + 1);
        let files = survey.segments.iter().enumerate().filter(needed);
        files.filter_map(|(_, segment)| fs::metadata(&segment.path).ok()).map(|metadata| metadata.len()).sum()
    }
}

/// Chooses what to start from, or says why the store cannot be opened.
pub(super) fn decide(settings: &Settings, survey: &Survey) -> Result<Plan, OpenError> {
    let dir = settings.base_dir();
    let bases = files::list(&dir, files::BASE).map_err(Failure::disk("list", dir))?;
    // Refuses bases of a newer version and of other programs, before sled is opened and writes its files.
    bases.iter().try_for_each(|(seq, path)| Reader::open(path, Kind::Base, *seq).map(drop))?;
    match inspect(settings)? {
        Inspected::Sound(state, meta) => match contradiction(settings, survey, &meta)? {
            None => {
                let (base, damaged_base) = base_to_keep(settings, bases)?;
                let last_seq = survey.end.max(meta.applied);
                Ok(Plan { source: Source::State(state, meta), base, damaged_base, last_seq })
            }
            Some(Contradiction { reason, hole }) => {
                state.discard();
                let plan = decide_without_state(settings, survey, bases, reason);
                plan.map_err(|error| match hole {
                    Some(hole) if !error.is_newer() => OpenError::Corrupt(hole),
                    _ => error,
                })
            }
        },
        // The process was stopped before anything of a young store had reached sled.
        Inspected::Blank(Some(state)) if bases.is_empty() && hole_after(settings, survey, 0, 0).is_none() => {
            let source = Source::State(state, Meta::default());
            Ok(Plan { source, base: None, damaged_base: None, last_seq: survey.end })
        }
        Inspected::Blank(None) if bases.is_empty() && survey.end == 0 && survey.holes.is_empty() => {
            Ok(Plan { source: Source::Nothing, base: None, damaged_base: None, last_seq: 0 })
        }
        Inspected::Blank(state) => {
            state.into_iter().for_each(State::discard);
            decide_without_state(settings, survey, bases, "sled's files are missing".into())
        }
        Inspected::Unsound(reason) => decide_without_state(settings, survey, bases, reason),
    }
}

/// Why a sled that is sound in itself cannot be used with this journal.
struct Contradiction {
    reason: String,
    /// The records that neither sled nor the journal has.
    hole: Option<Corruption>,
}

/// Whether a sound sled and the journal fit together.
fn contradiction(settings: &Settings, survey: &Survey, meta: &Meta) -> Result<Option<Contradiction>, OpenError> {
    let dir = settings.journal_dir();
    if survey.segments.is_empty() && !settings.salvage {
        // There is always a segment being written. Without one, the journal has been removed.
        let next = meta.applied + 1;
        let what = "the journal has no files";
        return Err(OpenError::Corrupt(Corruption { file: dir, offset: 0, first_seq: next, last_seq: next, what }));
    }
    // sled may have fallen back to an earlier state that is whole, and the journal does not keep what a base covers.
    if let Some(hole) = survey.first_hole_after(meta.applied, &dir) {
        let reason = format!("it holds records up to {} only, and the journal does not go on from there", meta.applied);
        return Ok(Some(Contradiction { reason, hole: Some(hole) }));
    }
    // sled only gets records that are on disk in the journal. If the journal ends earlier in unreadable bytes, these
    // were the records that sled has. If it ends cleanly, sled's claim is false.
    let explained = survey.torn.is_some() || settings.salvage;
    if meta.reached <= survey.end || (explained && meta.reached == meta.applied) {
        return Ok(None);
    }
    let reason = format!("it claims to hold record {}, but the journal ends with {}", meta.reached, survey.end);
    Ok(Some(Contradiction { reason, hole: None }))
}

/// Chooses the newest base from which the journal leads to its end without a hole, or the journal alone.
fn decide_without_state(
    settings: &Settings,
    survey: &Survey,
    bases: Vec<(u64, PathBuf)>,
    reason: String,
) -> Result<Plan, OpenError> {
    let mut damaged: Option<(PathBuf, &'static str)> = None;
    let mut hole_after_base = None;
    for (seq, path) in bases.into_iter().rev() {
        let (base, reached) = match base::read(&path, seq, |_| Ok(())) {
            Ok(read) => read,
            Err(Unusable::Damaged(what)) => {
                damaged.get_or_insert((path, what));
                continue;
            }
            Err(Unusable::Refused(error)) => return Err(error),
        };
        match hole_after(settings, survey, seq, reached) {
            None => {
                let (source, last_seq) = (Source::Rebuild { reason, reached }, survey.end.max(seq));
                return Ok(Plan { source, base: Some(base), damaged_base: damaged.map(|(path, _)| path), last_seq });
            }
            Some(hole) => hole_after_base = hole_after_base.or(Some(hole)),
        }
    }
    let Some(hole_after_nothing) = hole_after(settings, survey, 0, 0) else {
        let source = Source::Rebuild { reason, reached: 0 };
        let damaged_base = damaged.map(|(path, _)| path);
        return Ok(Plan { source, base: None, damaged_base, last_seq: survey.end });
    };
    if let Some(hole) = hole_after_base {
        return Err(OpenError::Corrupt(hole));
    }
    if let Some((base, what)) = damaged {
        return Err(OpenError::NoBase { reason, base, what });
    }
    Err(OpenError::Corrupt(hole_after_nothing))
}

/// The first record that a rebuild from a base would miss.
fn hole_after(settings: &Settings, survey: &Survey, seq: u64, reached: u64) -> Option<Corruption> {
    let dir = settings.journal_dir();
    if let Some(hole) = survey.first_hole_after(seq, &dir) {
        return Some(hole);
    }
    let end = survey.end.max(if survey.segments.is_empty() { seq } else { 0 });
    (reached > end).then(|| Corruption {
        file: survey.segments.last().map_or(dir, |segment| segment.path.clone()),
        offset: 0,
        first_seq: end + 1,
        last_seq: reached,
        what: "the journal ends too early for the base",
    })
}

/// The base to keep beside a sound sled, or the path of a damaged one; a new base will be written then.
fn base_to_keep(settings: &Settings, bases: Vec<(u64, PathBuf)>) -> Result<(Option<Base>, Option<PathBuf>), OpenError> {
    let Some((seq, path)) = bases.into_iter().next_back() else { return Ok((None, None)) };
    if !settings.verify_on_open {
        let bytes = fs::metadata(&path).map_err(Failure::disk("read", &path))?.len();
        return Ok((Some(Base { path, seq, bytes }), None));
    }
    match base::read(&path, seq, |_| Ok(())) {
        Ok((base, _)) => Ok((Some(base), None)),
        Err(Unusable::Damaged(what)) => {
            let base = path.display();
            tracing::error!(%base, what, "the base is damaged: it is renamed, and a new one is written");
            Ok((None, Some(path)))
        }
        Err(Unusable::Refused(error)) => Err(error),
    }
}
