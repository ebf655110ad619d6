//! Files and folders: writes that survive a crash of the machine, and reads that cannot block or grow without bound.
//!
//! A file is durable once its bytes and its name are: the name is part of the folder, which is synced by itself.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::Path,
};

/// Creates a folder with this mode, and its parents, unless it exists. It is on disk when this returns.
pub fn create_dir_durably(dir: &Path, mode: u32) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_dir_durably(parent, mode)?;
    match DirBuilder::new().mode(mode).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_dir(parent),
    }
}

/// Writes or replaces a file. Readers see all of it or nothing, and it is on disk when this returns.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    // Random, not the process id: in a container that is always 1.
    let temporary = dir.join(format!(".{:016x}.tmp", fastrand::u64(..)));
    let written = (|| {
        let mut file = File::create_new(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_dir(dir)
    })();
    written.inspect_err(|_| {
        // A leftover wastes space and does no other harm.
        let _ = fs::remove_file(&temporary);
    })
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
}
