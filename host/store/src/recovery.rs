//! What happens before the store opens, in five phases:
//!
//! 1. **Survey**: read the whole journal, and the headers of all bases. A file of a newer version, or of another
//!    program, ends it here; so does a system that does not let files be written ([`OpenError::Refused`]).
//! 2. **Decide**: open sled, and choose what can be trusted: sled as it is, or a base, or the journal alone. A store
//!    that cannot be brought up without loss is refused here.
//! 3. **Settle**: remove what a crash has left half done, cut the journal's torn tail, and make durable what was read.
//! 4. **Load**: bring the chosen base into a new sled, if sled itself cannot be used.
//! 5. **Replay**: bring the records after that into sled.
//!
//! Nothing of ours changes before phase 3 (sled writes its own files when it is opened), except that
//! [`Settings::salvage`] cuts a damaged journal and begins again with phase 1.
//!
//! Recovery deletes no file that is longer than a header, except drafts of bases, and bases older than the one in use.
//! Damaged bases, and a last segment without a readable record, are renamed to `*.damaged`; what salvage cuts off to `*.lost`.
//! An unreadable tail of a last segment with records is cut off: as far as the journal can tell it was never acknowledged.
//! If it is longer than a header, a copy is kept as `*.damaged`. A damaged sled's directory is renamed to
//! `state.damaged-*`. How many of these copies are kept: see `copies`.
//!
//! **What the system refuses is no damage.** A full disk, a missing permission or descriptor, an error of the disk: nothing is
//! set aside or marked for it, and the same files open when it is mended.

mod copies;
mod decide;
mod inspect;
mod load;
mod probe;
mod settle;

use std::{
    fmt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use self::decide::{Plan, Source};
use crate::{
    disk::{Disk, Handle},
    error::{Corruption, Failure, OpenError},
    files,
    journal::{
        salvage,
        segments::Segment,
        survey::{self, Survey, TornTail},
    },
    obstacle::Obstacle,
    opening::Part,
    settings::Settings,
    state::{
        apply,
        base::Base,
        follower::Start,
        sled::{Meta, State},
    },
};

/// The report of an opening: what was found, and what was done.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Recovery {
    /// Where the state came from.
    pub state: StateOrigin,
    /// Records of the journal applied to sled.
    pub replayed: u64,
    /// The last sequence number.
    pub last_seq: u64,
    /// Live entries.
    pub entries: u64,
    /// Unfinished bytes that were cut off the journal: never acknowledged.
    pub torn: Option<TornTail>,
    /// What was lost because [`Settings::salvage`] was set.
    pub salvaged: Option<Corruption>,
    /// How long it took.
    pub took: Duration,
}

/// Where the state came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateOrigin {
    /// The directory was new.
    New,
    /// sled was there, and sound.
    Kept,
    /// sled was missing or damaged; it was rebuilt from base and journal.
    Rebuilt {
        reason: String,
        /// Where the damaged directory is now; `None` if there was none.
        set_aside: Option<PathBuf>,
    },
}

/// In words for people, as in `rebuilt: ... (the former one is in ...)`.
impl fmt::Display for StateOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("new"),
            Self::Kept => f.write_str("kept"),
            Self::Rebuilt { reason, set_aside } => {
                write!(f, "rebuilt: {reason}")?;
                set_aside.as_ref().map_or(Ok(()), |path| write!(f, " (the former one is in {})", path.display()))
            }
        }
    }
}

/// Everything that the running store starts from.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) state: State,
    pub(crate) state_file: Box<dyn Handle>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) start: Start,
    pub(crate) last_seq: u64,
    pub(crate) report: Recovery,
}

/// Makes the directory ready for a running store, or changes nothing and returns the reason.
pub(crate) fn recover(settings: &Settings) -> Result<Recovered, OpenError> {
    let began = Instant::now();
    let mut salvaged = None;
    loop {
        let survey = survey::survey(&settings.journal_dir(), &settings.opening)?;
        probe::probe(settings, &survey)?;
        settings.opening.begin(Part::Decide, 0);
        match decide::decide(settings, &survey) {
            Ok(plan) => return carry_out(settings, survey, plan, salvaged, began),
            Err(OpenError::Corrupt(corruption)) if settings.salvage => {
                if !salvage::cut(settings, &survey, &corruption)? {
                    return Err(OpenError::Corrupt(corruption));
                }
                tracing::error!(%corruption, "the journal was cut: records are lost");
                salvaged.get_or_insert(corruption);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Phases 3 to 5.
fn carry_out(
    settings: &Settings,
    mut survey: Survey,
    plan: Plan,
    salvaged: Option<Corruption>,
    began: Instant,
) -> Result<Recovered, OpenError> {
    settings.opening.begin(Part::Settle, 0);
    settle::clear(settings)?;
    // Before anything is built on it, what was read of the journal must be on disk, and nothing may follow it.
    settle::journal(settings, &mut survey, plan.last_seq)?;
    let since_base = plan.journal_since_base(settings, &survey);
    settle::bases(settings, &plan)?;
    // With sled sound, or base and journal whole, copies of damaged databases are of no use if room is short.
    let room_wanted = settings.disk.room(&settings.dir).map_or(0, |room| room.bytes_wanted(settings.free_bytes_min));
    let (state, mut meta, origin) = match plan.source {
        Source::State(state, meta) => {
            copies::bound(settings, None, room_wanted)?;
            (state, meta, StateOrigin::Kept)
        }
        Source::Nothing => {
            (State::open(&settings.state_dir(), settings.cache_bytes)?, Meta::default(), StateOrigin::New)
        }
        Source::Rebuild { reason, reached } => {
            let set_aside = settle::set_state_aside(settings, salvaged.is_some())?;
            tracing::error!(reason, ?set_aside, "sled cannot be used: rebuilding it from base and journal");
            let bytes_wanted = rebuild_bytes(plan.base.as_ref(), since_base).max(room_wanted);
            copies::bound(settings, set_aside.as_deref(), bytes_wanted)?;
            settings.opening.begin(Part::Load, 0);
            let (state, meta) = load::base(settings, plan.base.as_ref(), reached)?;
            (state, meta, StateOrigin::Rebuilt { reason, set_aside })
        }
    };
    settings.opening.begin(Part::Replay, plan.last_seq.saturating_sub(meta.applied));
    let replayed = load::replay(&survey, &state, &mut meta, &settings.opening)?;
    if meta.applied != plan.last_seq {
        let (found, expected) = (meta.applied, plan.last_seq);
        return Err(Failure::Damaged(format!("a replay led to record {found} instead of {expected}")).into());
    }
    let state_file = files::state_file(&settings.state_dir());
    let state_file = settings.disk.open(&state_file).map_err(Failure::disk("open", &state_file))?;
    apply::checkpoint(&state, &*state_file, settings)?;
    settings.sync_dir(&settings.state_dir())?;
    if settings.rebuild_marker().exists() {
        settings.remove(&settings.rebuild_marker())?;
    }
    settings.sync_dir(&settings.dir)?;
    settings.opening.end();
    let report = Recovery {
        state: origin,
        replayed,
        last_seq: plan.last_seq,
        entries: meta.sum.count,
        torn: survey.torn,
        salvaged,
        took: began.elapsed(),
    };
    let start = Start { meta, base: plan.base, since_base, checkpointed: meta.applied };
    Ok(Recovered { state, state_file, segments: survey.segments, start, last_seq: plan.last_seq, report })
}

/// About how many bytes a rebuilt sled takes. It holds what base and journal hold, in nodes that are partly empty and with
/// old versions of them beside the new ones: 2.7 times the base was measured.
fn rebuild_bytes(base: Option<&Base>, since_base: u64) -> u64 {
    let base = base.map_or(0, |base| base.bytes);
    base.saturating_mul(3).saturating_add(if since_base == u64::MAX { 0 } else { since_base.saturating_mul(2) })
}

/// Adds to a refusal of the system what a person needs to know: whether space or inodes are short, and what may be deleted.
pub(crate) fn say_what_helps(error: OpenError, dir: &Path, disk: &dyn Disk) -> OpenError {
    match error {
        OpenError::Refused { obstacle: Obstacle::NoSpace, failure, .. } => {
            let no_inodes = disk.room(dir).is_ok_and(|room| room.files > 0 && room.free_files == 0);
            let obstacle = if no_inodes { Obstacle::NoInodes } else { Obstacle::NoSpace };
            OpenError::Refused { obstacle, failure, deletable: copies::paths(dir) }
        }
        OpenError::Refused { obstacle: Obstacle::Quota, failure, .. } => {
            OpenError::Refused { obstacle: Obstacle::Quota, failure, deletable: copies::paths(dir) }
        }
        other => other,
    }
}
