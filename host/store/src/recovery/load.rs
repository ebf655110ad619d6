//! Phases 4 and 5: loads a base into a new sled, and replays the journal's records.

use std::iter;

use crate::{
    error::{Failure, OpenError},
    journal::{
        segment::{Kind, Next, Reader},
        sequencer::Accepted,
        survey::Survey,
    },
    opening::Opening,
    settings::Settings,
    state::{
        apply,
        base::{self, Base, Unusable},
        sled::{Meta, State},
    },
};

/// Bytes of records replayed as one round.
const ROUND_BYTES: usize = 8 << 20;

/// Makes a new sled with the content of a base. sled claims to hold the base only when all of it is loaded: a crash
/// before that leaves a sled that claims to hold nothing, and a replay overwrites what it has already.
pub(super) fn base(settings: &Settings, base: Option<&Base>, reached: u64) -> Result<(State, Meta), OpenError> {
    let state = State::open(&settings.state_dir(), settings.cache_bytes)?;
    let mut meta = Meta { reached, ..Meta::default() };
    if let Some(base) = base {
        match base::read(&base.path, base.seq, |writes| apply::load(&state, &mut meta, writes)) {
            Ok(_) => {}
            Err(Unusable::Refused(error)) => return Err(error),
            // It was sound when it was chosen.
            Err(Unusable::Damaged(what)) => return Err(Failure::Damaged(format!("the base changed: {what}")).into()),
        }
        meta.applied = base.seq;
        state.apply(iter::empty(), &mut meta)?;
    }
    Ok((state, meta))
}

/// Applies the records after `meta.applied` to sled; returns how many.
pub(super) fn replay(survey: &Survey, state: &State, meta: &mut Meta, opening: &Opening) -> Result<u64, OpenError> {
    let from = meta.applied;
    let mut round = Vec::new();
    let mut bytes = 0;
    for (index, segment) in survey.segments.iter().enumerate() {
        if survey.segments.get(index + 1).is_some_and(|next| next.first <= from + 1) {
            continue;
        }
        let failed = |source| Failure::disk("read", &segment.path)(source);
        let mut reader = Reader::open(&segment.path, Kind::Journal, segment.first)?;
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
                apply::apply(state, meta, &round, |_, _| ())?;
                opening.add(round.len() as u64);
                round.clear();
                bytes = 0;
            }
        }
    }
    apply::apply(state, meta, &round, |_, _| ())?;
    Ok(meta.applied - from)
}
