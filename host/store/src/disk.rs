//! The interface to the disk. Every step that changes a file of the store, or makes it durable, goes through it, so
//! that tests can stop, count and fail each of them. (sled writes its own file by itself; only its sync is here.)

use std::{fmt, fs, io, io::Write as _, path::Path};

/// The operations whose order the recovery relies on.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Creates a file that must not exist yet.
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// Writes the file's content and size through to the disk.
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// Writes a directory's entries through to the disk.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Cuts a file and syncs it.
    fn truncate(&self, path: &Path, len: u64) -> io::Result<()>;
    /// Gives a file or directory its new name, atomically.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Swaps the names of two files or directories, atomically. Both must exist, in the same file system. Where the
    /// system or the file system cannot do it: [`io::ErrorKind::Unsupported`], and nothing has changed.
    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// A file that only grows.
pub trait File: Send {
    /// Writes at the end.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// `fdatasync`: content and size are on disk when it returns. A failure is final, see the crate's invariants.
    fn sync(&mut self) -> io::Result<()>;
}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Os;

impl Disk for Os {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(fs::File::create_new(path)?))
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_data()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let file = fs::File::options().write(true).open(path)?;
        file.set_len(len)?;
        file.sync_all()
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
    use super::*;

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
