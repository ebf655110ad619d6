//! Whether the system lets the store be opened, asked before anything is changed.
//!
//! sled writes when it is opened: a snapshot of where its pages are. Cut off by a full disk that would do no harm, see
//! `state::sled`, but the less is begun in vain the better. So a file is written first, synced and removed, and the free
//! space is compared with what is known to be needed: the copy of the last segment (`settle`), and sled's snapshot.

use std::fs;

use crate::{
    error::Failure,
    files,
    journal::{segments::Segment, survey::Survey},
    settings::Settings,
};

/// Bytes needed besides: the header of a new segment, and names.
const SLACK_BYTES: u64 = 1 << 20;
/// What is written to try.
const PROBE_BYTES: usize = 4096;

/// Finds out whether the directory can be written to.
pub(super) fn probe(settings: &Settings, survey: &Survey) -> Result<(), Failure> {
    let (disk, dir) = (&settings.disk, &settings.dir);
    let probe = files::probe(dir);
    if probe.exists() {
        settings.remove(&probe)?;
    }
    let mut file = disk.create(&probe).map_err(Failure::disk("create", &probe))?;
    let written = file.append(&[0; PROBE_BYTES]).map_err(Failure::disk("write", &probe));
    let synced = written.and_then(|()| file.sync().map_err(Failure::disk("sync", &probe)));
    settings.remove(&probe)?;
    synced?;
    // Where the system cannot tell, it is found out on the way.
    let Ok(room) = disk.room(dir) else { return Ok(()) };
    let (wanted, free) = (bytes_wanted(settings, survey)?, room.free_bytes);
    if free < wanted { Err(Failure::NoRoom { wanted, free }) } else { Ok(()) }
}

fn bytes_wanted(settings: &Settings, survey: &Survey) -> Result<u64, Failure> {
    let state_dir = settings.state_dir();
    let snapshots = files::state_snapshots(&state_dir).map_err(Failure::disk("list", state_dir))?;
    let last = survey.segments.last().map(|Segment { path, .. }| path.clone());
    let sizes = snapshots.into_iter().chain(last).filter_map(|path| fs::metadata(path).ok());
    Ok(sizes.map(|metadata| metadata.len()).sum::<u64>() + SLACK_BYTES)
}
