//! The layout of the data folder, and its format: what is where, and which versions of Wasaga may touch it.
//!
//! ```text
//! FORMAT        one line: `wasaga-data 2`
//! database/     the store: journal, base, state
//! components/   code that unfinished sagas need
//! compiled/     that code, compiled: may be deleted
//! store         a file, in the way of hosts that only know format 1
//! ```
//!
//! Format 1 had no `FORMAT`, and its store was the folder `store`. Hosts of that time delete a journal of a newer format:
//! they take it for a write that was cut off. So the store has moved, and a file stands where they look for a folder:
//! they fail to open it, and change nothing.
//!
//! [`open`] refuses a newer format before it changes anything, and brings a folder of format 1 up to date. Each of its
//! steps can be cut off, and the next start goes on:
//!
//! 1. `store` is a folder: it is format 1 still. The file is made under the name `database`, then both names are swapped in
//!    one step.
//! 2. `store` is a file, and there is no `FORMAT`: the line is written.
//!
//! Where the system cannot swap names, the folder is renamed first: for an instant an old host would find neither name,
//! and begin an empty store, which is then refused by name ([`Error::TwoStores`]).

use std::{
    fs::{self, TryLockError},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use crate::store::disk::Disk;

/// The format that this version writes, and the newest that it reads.
const FORMAT: u64 = 2;

/// How the line in `FORMAT` begins.
const NAME: &str = "wasaga-data ";

const NOTE: &str = "\
This data folder is of format 2: see the file FORMAT. Its store is in the folder `database`.
Older versions of Wasaga look for a folder of this name. This file keeps them from starting here. Leave it in place.
";

/// Where the store is.
pub fn store(dir: &Path) -> PathBuf {
    dir.join("database")
}

/// Where the code of plugins is.
pub fn components(dir: &Path) -> PathBuf {
    dir.join("components")
}

/// Where the compiled code of plugins is.
pub fn compiled(dir: &Path) -> PathBuf {
    dir.join("compiled")
}

fn old_store(dir: &Path) -> PathBuf {
    dir.join("store")
}

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A newer version has written it.
    #[error(
        "the data folder {} was written by a newer Wasaga, format {found}; this one reads up to {FORMAT}: start that one. \
         Nothing was changed",
        dir.display()
    )]
    Newer { dir: PathBuf, found: String },
    /// `FORMAT` belongs to something else.
    #[error(
        "{} is not of Wasaga: it should be the line `{NAME}{FORMAT}`. Is this the right data folder? Nothing was changed",
        file.display()
    )]
    Foreign { file: PathBuf },
    /// `FORMAT` was Wasaga's and is damaged.
    #[error(
        "{} is damaged: if the folder beside it was written by this version, write the line `{NAME}{FORMAT}` into it. \
         Nothing was changed",
        file.display()
    )]
    Damaged { file: PathBuf },
    /// An older version has begun a store of its own beside the one of this version.
    #[error(
        "{} has two stores, `store` of an older Wasaga and `database` of this one: move away the one that is not wanted. \
         Nothing was changed",
        dir.display()
    )]
    TwoStores { dir: PathBuf },
    /// A host of an older version is running on it.
    #[error("{} is in use by another process: stop it, or choose another data folder", dir.display())]
    Locked { dir: PathBuf },
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Disk { action: &'static str, path: PathBuf, source: io::Error },
}

impl Error {
    /// Whether a newer version of Wasaga can open the folder.
    pub fn is_newer(&self) -> bool {
        matches!(self, Self::Newer { .. })
    }

    fn disk(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Disk { action, path, source }
    }
}

/// Makes the folder if there is none, checks its format, and brings format 1 up to date. What it has done is on disk
/// when it returns.
pub fn open(dir: &Path, disk: &dyn Disk) -> Result<(), Error> {
    create(dir, disk)?;
    match (read_format(dir)?, kind(&old_store(dir))?, kind(&store(dir))?) {
        (Some(()), Kind::Folder, _) | (None, Kind::Folder, Kind::Folder) => {
            Err(Error::TwoStores { dir: dir.to_owned() })
        }
        (None, Kind::Folder, Kind::Nothing | Kind::File) => {
            move_store(dir, disk)?;
            write_format(dir, disk)
        }
        (Some(()), Kind::File, _) => Ok(()),
        (Some(()), Kind::Nothing, _) => write_note(&old_store(dir), disk),
        // A new folder, or one whose first start or upgrade was cut off.
        (None, Kind::Nothing, _) => {
            write_note(&old_store(dir), disk)?;
            write_format(dir, disk)
        }
        (None, Kind::File, _) => write_format(dir, disk),
    }
}

enum Kind {
    Nothing,
    File,
    Folder,
}

fn kind(path: &Path) -> Result<Kind, Error> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(Kind::Folder),
        Ok(_) => Ok(Kind::File),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Kind::Nothing),
        Err(error) => Err(Error::disk("look at", path)(error)),
    }
}

fn create(dir: &Path, disk: &dyn Disk) -> Result<(), Error> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(Error::disk("create", dir))?;
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    disk.sync_dir(parent).map_err(Error::disk("sync", parent))
}

/// `Some` if the folder is of this format; `None` if it does not say.
fn read_format(dir: &Path) -> Result<Option<()>, Error> {
    let file = dir.join("FORMAT");
    let text = match fs::read(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::disk("read", file)(error)),
    };
    let current = format!("{NAME}{FORMAT}\n");
    if text == current.as_bytes() {
        return Ok(Some(()));
    }
    let number = str::from_utf8(&text).ok().and_then(|text| text.strip_prefix(NAME)?.strip_suffix('\n'));
    match number.filter(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())) {
        // A number too large for 64 bits is newer as well.
        Some(found) if found.parse::<u64>().map_or(true, |found| found > FORMAT) => {
            Err(Error::Newer { dir: dir.to_owned(), found: found.to_owned() })
        }
        // Formats before the second have no such file.
        Some(_) => Err(Error::Damaged { file }),
        None if current.as_bytes().starts_with(&text) || text.iter().all(|byte| *byte == 0) => {
            Err(Error::Damaged { file })
        }
        None => Err(Error::Foreign { file }),
    }
}

fn write_format(dir: &Path, disk: &dyn Disk) -> Result<(), Error> {
    write_whole(&dir.join("FORMAT"), &format!("{NAME}{FORMAT}\n"), disk)
}

fn write_note(path: &Path, disk: &dyn Disk) -> Result<(), Error> {
    write_whole(path, NOTE, disk)
}

/// Writes a file that is there as a whole or not at all, and is on disk when this returns.
fn write_whole(path: &Path, text: &str, disk: &dyn Disk) -> Result<(), Error> {
    let draft = path.with_extension("draft");
    if draft.exists() {
        disk.remove(&draft).map_err(Error::disk("remove", &draft))?;
    }
    let mut file = disk.create(&draft).map_err(Error::disk("create", &draft))?;
    file.append(text.as_bytes()).map_err(Error::disk("write", &draft))?;
    file.sync().map_err(Error::disk("sync", &draft))?;
    disk.rename(&draft, path).map_err(Error::disk("rename", draft))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    disk.sync_dir(dir).map_err(Error::disk("sync", dir))
}

/// Gives the store of format 1 its new name, and leaves the note under the old one.
fn move_store(dir: &Path, disk: &dyn Disk) -> Result<(), Error> {
    let (old, new) = (old_store(dir), store(dir));
    // A host of format 1 that is running holds it. Kept until the old name leads nowhere.
    let lock = old.join("LOCK");
    let lock = fs::File::options().create(true).append(true).open(&lock).map_err(Error::disk("open", lock))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(Error::Locked { dir: dir.to_owned() }),
        Err(TryLockError::Error(source)) => return Err(Error::disk("lock", old)(source)),
    }
    write_note(&new, disk)?;
    match disk.exchange(&old, &new) {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            disk.remove(&new).map_err(Error::disk("remove", &new))?;
            disk.rename(&old, &new).map_err(Error::disk("rename", &old))?;
            write_note(&old, disk)?;
        }
        exchanged => exchanged.map_err(Error::disk("exchange the names of `store` and `database` in", dir))?,
    }
    disk.sync_dir(dir).map_err(Error::disk("sync", dir))?;
    tracing::info!(dir = %dir.display(), "the data folder was brought from format 1 to format 2");
    Ok(())
}

#[cfg(test)]
mod tests;
