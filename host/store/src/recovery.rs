//! What happens before the store opens: decide what can be trusted, bring sled up to the journal's end.

use std::{
    fs::{self, TryLockError},
    io, iter,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    Corruption, Failure, OpenError,
    base::{self, Base, Unusable},
    follower::{self, Start},
    local::Settings,
    salvage,
    segment::{Kind, Next, Reader},
    sequencer::Accepted,
    shared::Segment,
    state::{Meta, State},
    survey::{self, Survey, TornTail},
};

/// Bytes of records replayed as one round.
const ROUND_BYTES: usize = 8 << 20;
/// Damaged sled directories kept for inspection. Each may be as big as the state.
const SET_ASIDE_MAX: usize = 3;

/// How long a process that is ending may take to let go of sled's file.
const RELEASE_WAIT_MAX: Duration = Duration::from_secs(2);

/// What opening the store has found and done.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Recovery {
    /// Where the state came from.
    pub state: StateOrigin,
    /// Records of the journal brought into sled.
    pub replayed: u64,
    /// The last sequence number.
    pub last_seq: u64,
    /// Live entries.
    pub entries: u64,
    /// Unfinished bytes that were cut off the journal: never acknowledged.
    pub torn: Option<TornTail>,
    /// What was given up because [`Settings::salvage`] was set.
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
        /// Why.
        reason: String,
        /// Where the damaged directory is now; `None` if there was none.
        set_aside: Option<PathBuf>,
    },
}

/// Everything that the running store starts from.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) state: State,
    pub(crate) segments: Vec<Segment>,
    pub(crate) start: Start,
    pub(crate) last_seq: u64,
    pub(crate) report: Recovery,
}

/// Brings the directory into a state from which the store can run, or changes nothing and says why not.
pub(crate) fn recover(settings: &Settings) -> Result<Recovered, OpenError> {
    let began = Instant::now();
    prepare(settings)?;
    let mut salvaged = None;
    loop {
        let survey = survey::survey(&settings.journal_dir())?;
        match decide(settings, &survey) {
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

/// What to start from.
#[derive(Debug)]
struct Plan {
    source: Source,
    /// The base to go on with; `None`: the journal reaches back to the beginning, or the base is damaged.
    base: Option<Base>,
    damaged_base: Option<PathBuf>,
    /// The last record there will be.
    last_seq: u64,
}

#[derive(Debug)]
enum Source {
    /// A sound sled.
    State(State, Meta),
    /// Base (or nothing) and journal, into a new sled.
    Rebuild { reason: String, reached: u64 },
    /// Nothing was ever written.
    Nothing,
}

/// Looks at everything and changes nothing (of ours: sled does as it likes with its files when it opens them).
fn decide(settings: &Settings, survey: &Survey) -> Result<Plan, OpenError> {
    let bases = survey::list(&settings.base_dir(), "base").map_err(Failure::disk("list", settings.base_dir()))?;
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
                plan.map_err(|error| hole.map_or(error, OpenError::Corrupt))
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

/// Why a sled that is sound in itself cannot be gone on with.
struct Contradiction {
    reason: String,
    /// The records that it lacks.
    hole: Option<Corruption>,
}

/// Whether a sound sled and the journal fit together.
fn contradiction(settings: &Settings, survey: &Survey, meta: &Meta) -> Result<Option<Contradiction>, OpenError> {
    let dir = settings.journal_dir();
    if survey.segments.is_empty() && !settings.salvage {
        // There is always a segment being written. Without one, somebody has removed the journal.
        let next = meta.applied + 1;
        let what = "the journal has no files";
        return Err(OpenError::Corrupt(Corruption { file: dir, offset: 0, first_seq: next, last_seq: next, what }));
    }
    // sled may have come back as it once was, whole but old, and the journal does not keep what a base covers.
    if let Some(hole) = survey.first_hole_after(meta.applied, &dir) {
        let reason = format!("it holds records up to {} only, and the journal does not go on from there", meta.applied);
        return Ok(Some(Contradiction { reason, hole: Some(hole) }));
    }
    // sled only ever gets what is on disk in the journal. If the journal ends earlier, but in unreadable bytes, then
    // it is these that sled has; if it ends cleanly, then sled's claim is not to be believed.
    let explained = survey.torn.is_some() || settings.salvage;
    if meta.reached <= survey.end || (explained && meta.reached == meta.applied) {
        return Ok(None);
    }
    let reason = format!("it claims to hold record {}, but the journal ends with {}", meta.reached, survey.end);
    Ok(Some(Contradiction { reason, hole: None }))
}

/// Chooses the newest base from which the journal leads to its end without a hole.
fn decide_without_state(
    settings: &Settings,
    survey: &Survey,
    bases: Vec<(u64, PathBuf)>,
    reason: String,
) -> Result<Plan, OpenError> {
    let mut damaged: Option<(PathBuf, &'static str)> = None;
    let mut refusal = None;
    for (seq, path) in bases.into_iter().rev() {
        let (base, reached) = match base::read(&path, seq, |_| Ok(())) {
            Ok(read) => read,
            Err(Unusable::Damaged(what)) => {
                damaged.get_or_insert((path, what));
                continue;
            }
            Err(Unusable::Failed(failure)) => return Err(failure.into()),
        };
        match hole_after(settings, survey, seq, reached) {
            None => {
                let (source, last_seq) = (Source::Rebuild { reason, reached }, survey.end.max(seq));
                return Ok(Plan { source, base: Some(base), damaged_base: damaged.map(|(path, _)| path), last_seq });
            }
            Some(hole) => refusal = refusal.or(Some(hole)),
        }
    }
    match (hole_after(settings, survey, 0, 0), refusal, damaged) {
        (None, _, damaged) => {
            let source = Source::Rebuild { reason, reached: 0 };
            let damaged_base = damaged.map(|(path, _)| path);
            Ok(Plan { source, base: None, damaged_base, last_seq: survey.end })
        }
        (Some(_), Some(hole), _) | (Some(hole), None, None) => Err(OpenError::Corrupt(hole)),
        (Some(_), None, Some((base, what))) => Err(OpenError::NoBase { reason, base, what }),
    }
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

/// The base to go on with beside a sound sled, and one that is damaged: a new one will be written then.
fn base_to_keep(settings: &Settings, bases: Vec<(u64, PathBuf)>) -> Result<(Option<Base>, Option<PathBuf>), OpenError> {
    let Some((seq, path)) = bases.into_iter().next_back() else { return Ok((None, None)) };
    if !settings.verify_on_open {
        let bytes = fs::metadata(&path).map_err(Failure::disk("read", &path))?.len();
        return Ok((Some(Base { path, seq, bytes }), None));
    }
    match base::read(&path, seq, |_| Ok(())) {
        Ok((base, _)) => Ok((Some(base), None)),
        Err(Unusable::Damaged(what)) => {
            tracing::error!(base = %path.display(), what, "the base is damaged: set aside, a new one will be written");
            Ok((None, Some(path)))
        }
        Err(Unusable::Failed(failure)) => Err(failure.into()),
    }
}

#[derive(Debug)]
enum Inspected {
    Sound(State, Meta),
    Blank(Option<State>),
    Unsound(String),
}

/// Opens sled and checks what it holds.
fn inspect(settings: &Settings) -> Result<Inspected, OpenError> {
    let dir = settings.state_dir();
    if settings.rebuild_marker().exists() {
        return Ok(Inspected::Unsound("an earlier run has found it damaged".into()));
    }
    if !dir.exists() {
        return Ok(Inspected::Blank(None));
    }
    await_release(&State::file(&dir))?;
    let state = match State::open(&dir, settings.cache_bytes) {
        Ok(state) => state,
        Err(failure) => return Ok(Inspected::Unsound(failure.to_string())),
    };
    Ok(match sound_meta(&state, settings) {
        Ok(Some(meta)) => Inspected::Sound(state, meta),
        Ok(None) => Inspected::Blank(Some(state)),
        Err(failure) => {
            state.discard();
            Inspected::Unsound(failure.to_string())
        }
    })
}

/// That somebody else has sled's file open must not be taken for damage. One who is just ending is waited for.
fn await_release(file: &Path) -> Result<(), OpenError> {
    let deadline = Instant::now() + RELEASE_WAIT_MAX;
    let Ok(opened) = fs::File::open(file) else { return Ok(()) };
    loop {
        match opened.try_lock() {
            Ok(()) => return opened.unlock().map_err(|source| Failure::disk("unlock", file)(source).into()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked { dir: file.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(Failure::disk("lock", file)(source).into()),
        }
    }
}

fn sound_meta(state: &State, settings: &Settings) -> Result<Option<Meta>, Failure> {
    let Some(meta) = state.meta()? else {
        let is_blank = state.is_blank()?;
        return if is_blank { Ok(None) } else { Err(Failure::Damaged("its meta row is missing".into())) };
    };
    if settings.verify_on_open {
        state.verify(&meta)?;
    }
    Ok(Some(meta))
}

fn carry_out(
    settings: &Settings,
    mut survey: Survey,
    plan: Plan,
    salvaged: Option<Corruption>,
    began: Instant,
) -> Result<Recovered, OpenError> {
    // Before anything is built on it, what was read of the journal must be on disk, and nothing may follow it.
    settle_journal(settings, &mut survey, plan.last_seq)?;
    let since_base = journal_since(settings, &survey, &plan);
    settle_bases(settings, &plan)?;
    let (state, mut meta, origin) = match plan.source {
        Source::State(state, meta) => (state, meta, StateOrigin::Kept),
        Source::Nothing => {
            (State::open(&settings.state_dir(), settings.cache_bytes)?, Meta::default(), StateOrigin::New)
        }
        Source::Rebuild { reason, reached } => {
            let set_aside = set_aside(settings)?;
            tracing::error!(reason, ?set_aside, "sled cannot be used: rebuilding it from base and journal");
            let (state, meta) = load_base(settings, plan.base.as_ref(), reached)?;
            (state, meta, StateOrigin::Rebuilt { reason, set_aside })
        }
    };
    let replayed = replay(&survey, &state, &mut meta)?;
    if meta.applied != plan.last_seq {
        let (found, expected) = (meta.applied, plan.last_seq);
        return Err(Failure::Damaged(format!("a replay led to record {found} instead of {expected}")).into());
    }
    follower::checkpoint(&state, settings)?;
    sync_dir(settings, &settings.state_dir())?;
    if settings.rebuild_marker().exists() {
        let marker = settings.rebuild_marker();
        settings.disk.remove(&marker).map_err(Failure::disk("remove", marker))?;
    }
    sync_dir(settings, &settings.dir)?;
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
    Ok(Recovered { state, segments: survey.segments, start, last_seq: plan.last_seq, report })
}

/// Makes the directories, and clears away what a crash has left half done.
fn prepare(settings: &Settings) -> Result<(), Failure> {
    for dir in [settings.journal_dir(), settings.base_dir()] {
        fs::create_dir_all(&dir).map_err(Failure::disk("create", &dir))?;
        for (_, draft) in survey::list(&dir, "draft").map_err(Failure::disk("list", &dir))? {
            settings.disk.remove(&draft).map_err(Failure::disk("remove", draft))?;
        }
    }
    sync_dir(settings, &settings.dir)
}

/// Cuts the torn tail, and makes sure that what was read is on disk: it may only have been in the kernel's memory.
fn settle_journal(settings: &Settings, survey: &mut Survey, last_seq: u64) -> Result<(), Failure> {
    let disk = &settings.disk;
    if let Some(TornTail { file, offset, bytes }) = survey.torn.as_ref().filter(|torn| torn.offset > 0) {
        tracing::warn!(file = %file.display(), offset, bytes, "cutting an unfinished write off the journal");
        disk.truncate(file, *offset).map_err(Failure::disk("truncate", file))?;
    }
    // A segment without a record has the name of the one that is about to be begun.
    let is_torn = survey.torn.as_ref().is_some_and(|torn| torn.offset == 0);
    if let Some(empty) = survey.segments.pop_if(|segment| is_torn || segment.first > last_seq) {
        disk.remove(&empty.path).map_err(Failure::disk("remove", empty.path))?;
    }
    if let Some(last) = survey.segments.last() {
        disk.sync(&last.path).map_err(Failure::disk("sync", &last.path))?;
    }
    sync_dir(settings, &settings.journal_dir())
}

/// Puts a damaged base aside, and removes what a crash has left of the one before the one that is used.
fn settle_bases(settings: &Settings, plan: &Plan) -> Result<(), Failure> {
    let dir = settings.base_dir();
    if let Some(path) = &plan.damaged_base {
        rename(settings, path, &path.with_extension("base-damaged"))?;
    }
    let Some(used) = &plan.base else { return Ok(()) };
    for (seq, path) in survey::list(&dir, "base").map_err(Failure::disk("list", dir))? {
        if seq < used.seq {
            settings.disk.remove(&path).map_err(Failure::disk("remove", path))?;
        }
    }
    Ok(())
}

/// Moves sled's directory out of the way.
fn set_aside(settings: &Settings) -> Result<Option<PathBuf>, Failure> {
    let dir = settings.state_dir();
    if !dir.exists() {
        return Ok(None);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let aside = dir.with_extension(format!("damaged-{now}"));
    rename(settings, &dir, &aside)?;
    let mut earlier = damaged_states(&settings.dir).map_err(Failure::disk("list", &settings.dir))?;
    earlier.truncate(earlier.len().saturating_sub(SET_ASIDE_MAX));
    for surplus in earlier {
        fs::remove_dir_all(&surplus).map_err(Failure::disk("remove", surplus))?;
    }
    Ok(Some(aside))
}

/// Oldest first.
fn damaged_states(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with("state.damaged-")) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// A new sled with the content of a base. Only when all of it is there does sled claim to hold it: a crash on the way
/// leaves one that holds "nothing", and what it has already makes no difference to a replay.
fn load_base(settings: &Settings, base: Option<&Base>, reached: u64) -> Result<(State, Meta), OpenError> {
    let state = State::open(&settings.state_dir(), settings.cache_bytes)?;
    let mut meta = Meta { reached, ..Meta::default() };
    if let Some(base) = base {
        match base::read(&base.path, base.seq, |writes| follower::load(&state, &mut meta, writes)) {
            Ok(_) => {}
            Err(Unusable::Failed(failure)) => return Err(failure.into()),
            // It was sound a moment ago.
            Err(Unusable::Damaged(what)) => return Err(Failure::Damaged(format!("the base changed: {what}")).into()),
        }
        meta.applied = base.seq;
        state.apply(iter::empty(), &mut meta)?;
    }
    Ok((state, meta))
}

/// Brings the records after `meta.applied` into sled; returns how many.
fn replay(survey: &Survey, state: &State, meta: &mut Meta) -> Result<u64, Failure> {
    let from = meta.applied;
    let mut round = Vec::new();
    let mut bytes = 0;
    for (index, segment) in survey.segments.iter().enumerate() {
        if survey.segments.get(index + 1).is_some_and(|next| next.first <= from + 1) {
            continue;
        }
        let failed = |source| Failure::disk("read", &segment.path)(source);
        let mut reader = Reader::open(&segment.path, Kind::Journal, segment.first).map_err(failed)?;
        let mut last = segment.first.saturating_sub(1);
        loop {
            let record = match reader.next(last).map_err(failed)? {
                Next::Record(record) | Next::Damage { then: Some(record), .. } => record,
                Next::Damage { then: None, .. } | Next::End => break,
            };
            last = record.seq;
            if record.seq > from {
                bytes += record.payload.len();
                round.push(Accepted { seq: record.seq, encoded: record.payload });
            }
            if bytes >= ROUND_BYTES {
                follower::apply(state, meta, &round, |_, _| ())?;
                round.clear();
                bytes = 0;
            }
        }
    }
    follower::apply(state, meta, &round, |_, _| ())?;
    Ok(meta.applied - from)
}

/// Bytes of journal that a rebuild would read; the maximum if no rebuild is possible, so that a base is written soon.
fn journal_since(settings: &Settings, survey: &Survey, plan: &Plan) -> u64 {
    let seq = plan.base.as_ref().map_or(0, |base| base.seq);
    if survey.end < plan.last_seq || survey.first_hole_after(seq, &settings.journal_dir()).is_some() {
        return u64::MAX;
    }
    let needed =
        |(index, _): &(usize, &Segment)| survey.segments.get(index + 1).is_none_or(|next| next.first > seq + 1);
    let files = survey.segments.iter().enumerate().filter(needed);
    files.filter_map(|(_, segment)| fs::metadata(&segment.path).ok()).map(|metadata| metadata.len()).sum()
}

fn rename(settings: &Settings, from: &Path, to: &Path) -> Result<(), Failure> {
    settings.disk.rename(from, to).map_err(Failure::disk("rename", from))
}

fn sync_dir(settings: &Settings, dir: &Path) -> Result<(), Failure> {
    settings.disk.sync_dir(dir).map_err(Failure::disk("sync", dir))
}
