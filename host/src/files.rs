//! Files and folders: writes that survive a crash of the machine, and reads that cannot block or grow without bound.
//!
//! A file is durable once its bytes and its name are: the name is part of the folder, which is synced by itself.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::store::disk::{Disk, Os};

/// Creates a folder with this mode, and its parents, unless it exists. It is on disk when this returns.
pub fn create_dir_durably(dir: &Path, mode: u32) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = parent(dir);
    create_dir_durably(parent, mode)?;
    match DirBuilder::new().mode(mode).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_dir(parent),
    }
}

/// Writes or replaces a file. Readers see all of it or nothing, and it is on disk when this returns.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_durably_to(&Os, path, &[bytes])
}

/// As [`write_durably`], to this disk, a file that consists of these parts.
///
/// The bytes are on disk before the file has its name: after a power loss at any moment, the name leads to the old file or
/// to the whole new one. What a cut-off write leaves behind has the name of a temporary file, see [`is_temporary`].
pub fn write_durably_to(disk: &dyn Disk, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let dir = parent(path);
    let temporary = temporary(dir);
    let written = (|| {
        let mut file = disk.create(&temporary)?;
        parts.iter().try_for_each(|part| file.append(part))?;
        file.sync()?;
        disk.rename(&temporary, path)?;
        disk.sync_dir(dir)
    })();
    written.inspect_err(|_| {
        // If this fails too, it is removed as the leftover of a killed host.
        let _ = disk.remove(&temporary);
    })
}

/// A file without a name in this folder, which only this process and those to which it hands the file can read and write. It
/// is gone when all have closed it.
pub fn unnamed(dir: &Path) -> io::Result<File> {
    let path = temporary(dir);
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(path)?;
    Ok(file)
}

/// A new name for a file that is being written: `.`, 16 hexadecimal digits, `.tmp`. Unique among all processes; random, not
/// the process id, which is always 1 in a container.
pub fn temporary(dir: &Path) -> PathBuf {
    dir.join(format!(".{:016x}.tmp", fastrand::u64(..)))
}

/// Whether a file has a name that [`temporary`] gives.
pub fn is_temporary(name: &str) -> bool {
    let digits = name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp"));
    digits.is_some_and(|digits| digits.len() == 16 && is_lower_hex(digits))
}

/// Whether all characters are hexadecimal digits in lower case.
pub fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Removes the temporary files of a folder that were last written longer ago than `age`: leftovers of killed processes.
/// Returns how many. Those whose age is unknown, since the clock has gone back, stay.
pub fn remove_temporaries(dir: &Path, age: Duration) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_temporary)
            && let Ok(modified) = entry.metadata().and_then(|metadata| metadata.modified())
            && modified.elapsed().is_ok_and(|elapsed| elapsed > age)
        {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the names in a folder durable: files that were created, renamed or removed there.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Reads a regular file, at most `bytes_max` + 1 bytes of it: a longer result shows that the file exceeds the limit.
///
/// Anything but a regular file is an error, since opening a pipe, for example, could block forever.
pub fn read_regular_file(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_file_is_read_back_up_to_one_byte_beyond_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        create_dir_durably(&folder, 0o700).unwrap();
        create_dir_durably(&folder, 0o700).unwrap();
        let file = folder.join("file");
        write_durably(&file, b"old").unwrap();
        write_durably(&file, b"12345").unwrap();
        assert_eq!(read_regular_file(&file, 5).unwrap(), b"12345");
        assert_eq!(read_regular_file(&file, 3).unwrap(), b"1234");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "no temporary file stays");
        assert_eq!(read_regular_file(&folder, 5).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    #[test]
    fn only_old_temporary_files_with_our_names_are_leftovers() {
        let dir = tempfile::tempdir().unwrap();
        let ours = temporary(dir.path());
        let old = [ours.clone(), dir.path().join(".0123456789ABCDEF.tmp"), dir.path().join("0123456789abcdef.tmp")];
        let long_ago = std::time::SystemTime::now() - Duration::from_hours(2);
        for path in &old {
            File::create(path).unwrap().set_modified(long_ago).unwrap();
        }
        fs::write(temporary(dir.path()), "another host is writing it").unwrap();
        File::create(temporary(dir.path())).unwrap().set_modified(long_ago + Duration::from_hours(9)).unwrap();
        assert_eq!(remove_temporaries(dir.path(), Duration::from_hours(1)).unwrap(), 1);
        assert!(!ours.exists(), "the leftover is gone");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
    }
}
