//! Phase 3: what a crash has left is cleared away, and what was read is made durable.
//!
//! **What was read may not be on disk, and no sync can tell.** After a failed `fdatasync` Linux keeps the pages in its cache
//! and marks them clean (ext4, XFS and btrfs alike; Rebello et al., "Can applications recover from fsync failures?", USENIX
//! ATC 2020). A host that is started again without a reboot reads them, and a sync of that file reports success, because
//! there is nothing to write; a power cut then takes them away. So what was read is written anew: the last segment is copied
//! to a draft, which is synced, read again, and given the segment's name. All of that happens at every start, since a start
//! cannot know how the process before it ended, and since the kernel may also fail to write pages of a process that was
//! killed, and tell nobody.
//!
//! Why the last segment is enough:
//!
//! - *Earlier segments*: a failed sync stops the store, and a segment is begun only after the last sync of the one before it
//!   has succeeded, in the same process, or by the copy made here. An empty segment that a start has begun does not count:
//!   it is removed, and the one before it is copied.
//! - *Bases*: a base gets its name after its sync has succeeded. A draft is removed.
//! - *sled's file*: nothing relies on it. What a base does not cover stays in the journal whatever sled claims (invariant 6),
//!   and sled's digest tells that something is missing. (Without `verify_on_open` only sled's own checksums do.)
//! - *Names* (of segments, bases, the data folder's `FORMAT` and note, components): the file systems in use keep them in a
//!   journal of their own, and stop when they cannot write it. A file that has its name by a rename was synced before. A base
//!   is used only after its folder has been synced, since older ones are removed then.
//!
//! It costs reading the last segment twice and writing it once, up to `segment_bytes` and one group: 64 MiB take 0.1 to 1 s,
//! and as much free space for that time.

use std::{
    fs,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use super::decide::Plan;
use crate::{
    disk::create_dirs,
    error::{Failure, OpenError},
    files,
    journal::{
        segment::HEADER_BYTES,
        segments::Segment,
        survey::{self, Survey, TornTail},
    },
    settings::Settings,
};

/// Bytes copied at once.
const COPY_BYTES: usize = 1 << 20;

/// Makes the directories, and removes the drafts of segments and bases.
pub(super) fn clear(settings: &Settings) -> Result<(), Failure> {
    for dir in [settings.journal_dir(), settings.base_dir()] {
        create_dirs(&dir).map_err(Failure::disk("create", &dir))?;
        for (_, draft) in files::list(&dir, files::DRAFT).map_err(Failure::disk("list", &dir))? {
            settings.remove(&draft)?;
        }
    }
    settings.sync_dir(&settings.dir)
}

/// Cuts the torn tail, and makes sure that what was read is on disk, see above.
pub(super) fn journal(settings: &Settings, survey: &mut Survey, last_seq: u64) -> Result<(), OpenError> {
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
        if let Some(last) = survey.segments.last() {
            let found = survey::count(&last.path, last.first, survey.end)?;
            write_anew(settings, last, u64::MAX, found)?;
        }
    } else if let Some(last) = survey.segments.last() {
        let torn = survey.torn.as_ref();
        if let Some(TornTail { file, offset, bytes }) = torn {
            tracing::warn!(file = %file.display(), offset, bytes, "cutting an unfinished write off the journal");
            if *bytes > HEADER_BYTES as u64 {
                keep_tail(settings, file, *offset)?;
            }
        }
        write_anew(settings, last, torn.map_or(u64::MAX, |torn| torn.offset), (survey.readable, survey.end))?;
    }
    Ok(settings.sync_dir(&settings.journal_dir())?)
}

/// Replaces a segment by a copy of its first `length` bytes that is on disk. `found`: how many records were read from it,
/// and the last of them.
fn write_anew(settings: &Settings, segment: &Segment, length: u64, found: (u64, u64)) -> Result<(), OpenError> {
    let Segment { first, path } = segment;
    let draft = files::draft(path);
    let mut from = fs::File::open(path).map_err(Failure::disk("open", path))?.take(length);
    let mut to = settings.disk.create(&draft).map_err(Failure::disk("create", &draft))?;
    let mut chunk = Vec::with_capacity(COPY_BYTES);
    while from.by_ref().take(COPY_BYTES as u64).read_to_end(&mut chunk).map_err(Failure::disk("read", path))? > 0 {
        to.append(&chunk).map_err(Failure::disk("write", &draft))?;
        chunk.clear();
    }
    to.sync().map_err(Failure::disk("sync", &draft))?;
    // The pages that were read a moment ago may have left the cache since, and the disk has older ones.
    if survey::count(&draft, *first, found.1)? != found {
        let source = io::Error::other("it reads otherwise than a moment ago: look after the disk, and start again");
        return Err(Failure::disk("copy", path)(source).into());
    }
    Ok(settings.rename(&draft, path)?)
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
    // The name of the one that is used may not be on disk yet.
    settings.sync_dir(&dir)?;
    let Some(used) = &plan.base else { return Ok(()) };
    for (seq, path) in files::list(&dir, files::BASE).map_err(Failure::disk("list", dir))? {
        if seq < used.seq {
            settings.remove(&path)?;
        }
    }
    Ok(())
}

/// Moves sled's directory out of the way. `salvages`: it may be the only place of records that this start gives up.
pub(super) fn set_state_aside(settings: &Settings, salvages: bool) -> Result<Option<PathBuf>, Failure> {
    let dir = settings.state_dir();
    if !dir.exists() {
        return Ok(None);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let name = if salvages { files::lost_state } else { files::damaged_state };
    let aside = name(&settings.dir, now);
    settings.rename(&dir, &aside)?;
    Ok(Some(aside))
}
