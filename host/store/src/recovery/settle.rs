//! Phase 3: what a crash has left is cleared away, and what was read is made durable.

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use super::decide::Plan;
use crate::{
    error::Failure,
    files,
    journal::{
        segment::HEADER_BYTES,
        survey::{Survey, TornTail},
    },
    settings::Settings,
};

/// Damaged sled directories kept for inspection. Each may be as big as the state.
const SET_ASIDE_MAX: usize = 3;

/// Makes the directories, and removes the drafts of bases.
pub(super) fn clear(settings: &Settings) -> Result<(), Failure> {
    for dir in [settings.journal_dir(), settings.base_dir()] {
        fs::create_dir_all(&dir).map_err(Failure::disk("create", &dir))?;
        for (_, draft) in files::list(&dir, files::DRAFT).map_err(Failure::disk("list", &dir))? {
            settings.remove(&draft)?;
        }
    }
    settings.sync_dir(&settings.dir)
}

/// Cuts the torn tail, and makes sure that what was read is on disk: it may only have been in the kernel's memory.
pub(super) fn journal(settings: &Settings, survey: &mut Survey, last_seq: u64) -> Result<(), Failure> {
    let has_no_header = survey.torn.as_ref().is_some_and(|torn| torn.offset == 0);
    // A segment without a record has the name of the one that is about to be begun.
    if let Some(empty) = survey.segments.pop_if(|segment| has_no_header || segment.first > last_seq) {
        let bytes = fs::metadata(&empty.path).map_err(Failure::disk("read", &empty.path))?.len();
        if bytes > HEADER_BYTES as u64 {
            let aside = files::damaged(&empty.path).map_err(Failure::disk("find a name beside", &empty.path))?;
            tracing::warn!(
                file = %empty.path.display(), bytes, aside = %aside.display(),
                "no record of this journal file is readable, and none was acknowledged: it is kept under another name"
            );
            settings.rename(&empty.path, &aside)?;
        } else {
            settings.remove(&empty.path)?;
        }
    } else if let Some(TornTail { file, offset, bytes }) = &survey.torn {
        tracing::warn!(file = %file.display(), offset, bytes, "cutting an unfinished write off the journal");
        if *bytes > HEADER_BYTES as u64 {
            keep_tail(settings, file, *offset)?;
        }
        settings.disk.truncate(file, *offset).map_err(Failure::disk("truncate", file))?;
    }
    if let Some(last) = survey.segments.last() {
        settings.disk.sync(&last.path).map_err(Failure::disk("sync", &last.path))?;
    }
    settings.sync_dir(&settings.journal_dir())
}

/// Copies what is about to be cut off a file: it is an unfinished write, or damage that looks like one.
fn keep_tail(settings: &Settings, file: &Path, offset: u64) -> Result<(), Failure> {
    let mut tail = fs::File::open(file).map_err(Failure::disk("open", file))?;
    let mut bytes = Vec::new();
    tail.seek(SeekFrom::Start(offset)).map_err(Failure::disk("read", file))?;
    tail.read_to_end(&mut bytes).map_err(Failure::disk("read", file))?;
    let aside = files::damaged(file).map_err(Failure::disk("find a name beside", file))?;
    let mut copy = settings.disk.create(&aside).map_err(Failure::disk("create", &aside))?;
    copy.append(&bytes).map_err(Failure::disk("write", &aside))?;
    copy.sync().map_err(Failure::disk("sync", &aside))?;
    tracing::warn!(aside = %aside.display(), "what was cut off is kept here; it may be deleted");
    Ok(())
}

/// Renames a damaged base, and removes the bases before the one that is used, which a crash has left.
pub(super) fn bases(settings: &Settings, plan: &Plan) -> Result<(), Failure> {
    let dir = settings.base_dir();
    if let Some(path) = &plan.damaged_base {
        settings.rename(path, &files::damaged(path).map_err(Failure::disk("find a name beside", path))?)?;
    }
    let Some(used) = &plan.base else { return Ok(()) };
    for (seq, path) in files::list(&dir, files::BASE).map_err(Failure::disk("list", dir))? {
        if seq < used.seq {
            settings.remove(&path)?;
        }
    }
    Ok(())
}

/// Moves sled's directory out of the way, and removes the oldest of those that were moved before.
pub(super) fn set_state_aside(settings: &Settings) -> Result<Option<PathBuf>, Failure> {
    let dir = settings.state_dir();
    if !dir.exists() {
        return Ok(None);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let aside = files::damaged_state(&settings.dir, now);
    settings.rename(&dir, &aside)?;
    let mut earlier = files::damaged_states(&settings.dir).map_err(Failure::disk("list", &settings.dir))?;
    earlier.truncate(earlier.len().saturating_sub(SET_ASIDE_MAX));
    for surplus in earlier {
        fs::remove_dir_all(&surplus).map_err(Failure::disk("remove", surplus))?;
    }
    Ok(Some(aside))
}
