//! The layout of the data folder, and its format: what is where, and which versions of Wasaga may touch it.
//!
//! ```text
//! FORMAT        one line: `wasaga-data 2`
//! database/     the store: journal, base, state
//! components/   code of plugins: current, spare, and what unfinished sagas need
//! compiled/     that code, compiled: may be deleted
//! store         a file, in the way of hosts that only know format 1
//! ```
//!
//! All of it is for the host's user alone: folders have mode 0700, files 0600.
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

mod modes;

use std::{
    fs::{self, TryLockError},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

pub use modes::keep_private;

use crate::{
    files,
    store::{Obstacle, disk::Disk},
};

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
    /// A file or folder has the name of one of ours, and is not.
    #[error("{} is not of Wasaga. Is this the right data folder? Nothing was changed", path.display())]
    Foreign { path: PathBuf },
    /// The folder has been used, and its store is gone.
    #[error(
        "{} is missing, although the data folder has been used: is its disk mounted? Nothing was changed. To begin anew, \
         use another data folder",
        path.display()
    )]
    NoStore { path: PathBuf },
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
    /// A file operation failed. If the system has refused it, the text says what mends it.
    #[error("cannot {action} {}{}", path.display(), mend(source))]
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

fn mend(source: &io::Error) -> String {
    Obstacle::of(source).map(|obstacle| format!(" ({obstacle})")).unwrap_or_default()
}

/// Makes the folder if there is none, checks its format, and brings format 1 up to date. What it has done is on disk
/// when it returns. The folder and all in it are private then, unless the log says otherwise.
pub fn open(dir: &Path, disk: &dyn Disk) -> Result<(), Error> {
    let opened = check(dir, disk);
    if opened.is_ok() {
        modes::mend(dir);
    }
    opened
}

fn check(dir: &Path, disk: &dyn Disk) -> Result<(), Error> {
    create(dir)?;
    let (old, new) = (old_store(dir), store(dir));
    match (read_format(dir)?, kind(&old)?, kind(&new)?) {
        (Some(()), Kind::Folder, _) | (None, Kind::Folder, Kind::Folder) => {
            Err(Error::TwoStores { dir: dir.to_owned() })
        }
        (Some(()), _, Kind::Nothing) => Err(Error::NoStore { path: new }),
        (Some(()), Kind::File, Kind::Folder) => Ok(()),
        (Some(()), Kind::Nothing, Kind::Folder) => write_note(&old, disk),
        (None, Kind::Folder, Kind::Nothing | Kind::File) => {
            move_store(dir, disk)?;
            write_format(dir, disk)
        }
        // A new folder, or one whose first start or upgrade was cut off.
        (None, Kind::Nothing | Kind::File, Kind::Nothing | Kind::Folder) => {
            write_note(&old, disk)?;
            create(&new)?;
            write_format(dir, disk)
        }
        (_, _, Kind::File) => Err(Error::Foreign { path: new }),
    }
}

enum Kind {
    Nothing,
    File,
    Folder,
}

/// What is there. A link that leads nowhere is an error: what it leads to may come back, as a disk that is not mounted.
fn kind(path: &Path) -> Result<Kind, Error> {
    match (fs::symlink_metadata(path), fs::metadata(path)) {
        (Ok(_), Ok(found)) if found.is_dir() => Ok(Kind::Folder),
        (Ok(_), Ok(_)) => Ok(Kind::File),
        (Err(error), _) if error.kind() == ErrorKind::NotFound => Ok(Kind::Nothing),
        (Err(error), _) | (_, Err(error)) => Err(Error::disk("look at", path)(error)),
    }
}

fn create(dir: &Path) -> Result<(), Error> {
    files::create_dir_durably(dir, 0o700).map_err(Error::disk("create", dir))
}

/// `Some` if the folder is of this format; `None` if it does not say.
fn read_format(dir: &Path) -> Result<Option<()>, Error> {
    let file = dir.join("FORMAT");
    if let Kind::Nothing = kind(&file)? {
        return Ok(None);
    }
    let text = fs::read(&file).map_err(Error::disk("read", &file))?;
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
        None => Err(Error::Foreign { path: file }),
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
    check_is_ours(&old, &new)?;
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
        exchanged => exchanged.map_err(Error::disk(
            "exchange the names of `store` and `database` (a store that is a mount of its own: mount it as `database`) in",
            dir,
        ))?,
    }
    disk.sync_dir(dir).map_err(Error::disk("sync", dir))?;
    tracing::info!(dir = %dir.display(), "the data folder was brought from format 1 to format 2");
    Ok(())
}

/// Refuses to move what is not a store of format 1, and to replace what is not our note.
fn check_is_ours(old: &Path, new: &Path) -> Result<(), Error> {
    const NAMES: [&str; 5] = ["LOCK", "REBUILD", "base", "journal", "state"];
    for entry in fs::read_dir(old).map_err(Error::disk("list", old))? {
        let name = entry.map_err(Error::disk("list", old))?.file_name();
        let name = name.to_string_lossy();
        if !NAMES.contains(&&*name) && !name.starts_with("state.damaged-") {
            return Err(Error::Foreign { path: old.join(&*name) });
        }
    }
    match fs::read(new) {
        Ok(text) if text != NOTE.as_bytes() => Err(Error::Foreign { path: new.to_owned() }),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::disk("read", new)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
