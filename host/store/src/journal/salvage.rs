//! Opening a damaged journal without the records after the damage. Only on request.

use std::{fs, path::Path};

use crate::{
    error::{Corruption, Failure},
    files,
    journal::survey::Survey,
    settings::Settings,
};

/// Cuts the journal before `corruption`. What is cut off is kept under the name `*.lost`. `false` if there is
/// nothing to cut.
pub(crate) fn cut(settings: &Settings, survey: &Survey, corruption: &Corruption) -> Result<bool, Failure> {
    let mut found = false;
    for segment in survey.segments.iter().rev() {
        let is_damaged = segment.path == corruption.file;
        if is_damaged || segment.first >= corruption.first_seq {
            found = true;
            cut_file(settings, &segment.path, if is_damaged { corruption.offset } else { 0 })?;
        }
    }
    if found {
        settings.sync_dir(&settings.journal_dir())?;
    }
    Ok(found)
}

/// Renames a file, and puts its first `len` bytes back.
fn cut_file(settings: &Settings, path: &Path, len: u64) -> Result<(), Failure> {
    let disk = &settings.disk;
    let mut kept = fs::read(path).map_err(Failure::disk("read", path))?;
    let aside = files::lost(path).map_err(Failure::disk("find a name beside", path))?;
    settings.rename(path, &aside)?;
    kept.truncate(usize::try_from(len).unwrap_or(usize::MAX));
    if !kept.is_empty() {
        let mut file = disk.create(path).map_err(Failure::disk("create", path))?;
        file.append(&kept).map_err(Failure::disk("write", path))?;
        file.sync().map_err(Failure::disk("sync", path))?;
    }
    Ok(())
}
