//! The interface to the disk. Every step that changes a file of the store, or makes it durable, goes through it, so
//! that tests can stop, count and fail each of them. (sled writes its own file by itself; only its sync is here.)
//!
//! A running store needs a new descriptor in three places only: a segment, the draft of a base, and
//! [`Disk::mark`] where the system cannot do without. What is synced again and again stays open ([`Disk::open`]).

use std::{
    fmt, fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

/// The operations whose order the recovery relies on.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Creates a file that must not exist yet.
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// Opens a file or a directory that exists, to sync it then or later.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Handle>>;
    /// Creates an empty file that must not exist yet. Where the system can, it needs no descriptor.
    fn mark(&self, path: &Path) -> io::Result<()>;
    /// Gives a file or directory its new name, atomically.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Swaps the names of two files or directories, atomically. Both must exist, in the same file system. Where the
    /// system or the file system cannot do it: [`io::ErrorKind::Unsupported`], and nothing has changed.
    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// What is left on the file system that holds `path`.
    fn room(&self, path: &Path) -> io::Result<Room>;

    /// Writes a directory's entries through to the disk.
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.open(path)?.sync()
    }
}

/// A file or a directory that is open.
pub trait Handle: fmt::Debug + Send + Sync {
    /// Writes through to the disk: the content and size of a file (`fdatasync`), or the entries of a directory. A failure
    /// is final, see the crate's invariants.
    fn sync(&self) -> io::Result<()>;
}

/// The size of a file system, and what is left of it for this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes in all.
    pub bytes: u64,
    /// Bytes that a process without privileges may still write.
    pub free_bytes: u64,
    /// Files and directories that the file system can hold; 0 where it does not count them.
    pub files: u64,
    /// How many of them a process without privileges may still create.
    pub free_files: u64,
}

/// A file that only grows.
pub trait File: Send {
    /// Writes at the end.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// `fdatasync`: content and size are on disk when it returns. A failure is final, see the crate's invariants.
    fn sync(&mut self) -> io::Result<()>;
}

/// The mode of a new file: the journal holds what sagas send, tokens included, for the user of the host alone.
const PRIVATE: u32 = 0o600;

/// Creates a directory for this user alone, and its parents, unless it exists.
pub(crate) fn create_dirs(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Os;

impl Disk for Os {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(fs::File::options().write(true).create_new(true).mode(PRIVATE).open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Handle>> {
        Ok(Box::new(fs::File::open(path)?))
    }

    #[cfg(target_os = "linux")]
    fn mark(&self, path: &Path) -> io::Result<()> {
        use rustix::fs as sys;

        Ok(sys::mknodat(sys::CWD, path, sys::FileType::RegularFile, sys::Mode::from_raw_mode(PRIVATE), 0)?)
    }

    #[cfg(not(target_os = "linux"))]
    fn mark(&self, path: &Path) -> io::Result<()> {
        self.create(path).map(drop)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    #[cfg(target_os = "linux")]
    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()> {
        use rustix::{fs as sys, io::Errno};

        sys::renameat_with(sys::CWD, a, sys::CWD, b, sys::RenameFlags::EXCHANGE).map_err(|error| match error {
            // A kernel without the call, or a file system without the flag.
            Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP => io::Error::new(io::ErrorKind::Unsupported, error),
            other => other.into(),
        })
    }

    #[cfg(not(target_os = "linux"))]
    fn exchange(&self, _a: &Path, _b: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn room(&self, path: &Path) -> io::Result<Room> {
        let found = rustix::fs::statvfs(path)?;
        Ok(Room {
            bytes: found.f_blocks.saturating_mul(found.f_frsize),
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
            files: found.f_files,
            free_files: found.f_favail,
        })
    }
}

impl Handle for fs::File {
    fn sync(&self) -> io::Result<()> {
        // For a directory the same as `fsync`: its entries are its content.
        self.sync_data()
    }
}

impl File for fs::File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_mark_is_an_empty_file_that_was_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("MARK");
        Os.mark(&file).unwrap();
        assert!(file.is_file() && fs::read(&file).unwrap().is_empty());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, PRIVATE);
        Os.create(&dir.path().join("file")).unwrap();
        assert_eq!(fs::metadata(dir.path().join("file")).unwrap().permissions().mode() & 0o777, PRIVATE);
        assert_eq!(Os.mark(&file).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn files_and_directories_are_synced_through_a_handle() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "content").unwrap();
        Os.open(&dir.path().join("file")).unwrap().sync().unwrap();
        Os.sync_dir(dir.path()).unwrap();
        let room = Os.room(dir.path()).unwrap();
        assert!(room.free_bytes <= room.bytes && room.bytes > 0, "{room:?}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_exchange_swaps_two_names_and_needs_both() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, "file").unwrap();
        let missing = Os.exchange(&a, &b).unwrap_err();
        assert_eq!((missing.kind(), fs::read(&a).unwrap().as_slice()), (io::ErrorKind::NotFound, &b"file"[..]));
        fs::create_dir(&b).unwrap();
        Os.exchange(&a, &b).unwrap();
        assert!(a.is_dir() && b.is_file());
    }
}
