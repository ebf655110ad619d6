//! The modes of the data folder: it is for its owner alone, since journal and state hold what sagas send, tokens included.
//!
//! Whatever a host creates is private from the beginning ([`keep_private`]). Folders of older versions, and files that were
//! put there with other modes, are mended at the start ([`mend`]).

use std::{
    fs::{self, Metadata, Permissions},
    io::{self, ErrorKind},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::{fs::Mode, process::umask};
use tracing::{info, warn};

/// What the group and others may do.
const OTHERS: u32 = 0o077;

/// Set for folders that all users share, such as `/tmp`.
const STICKY: u32 = 0o1000;

/// The folders whose content is the host's.
const OURS: [&str; 3] = ["database", "components", "compiled"];

/// What else is in a data folder. The last one is the file system's.
const BESIDE: [&str; 4] = ["FORMAT", "store", "store.draft", "lost+found"];

/// From now on, files and folders that this process creates are for its user alone. sled creates its files by itself, so
/// this is the only way to have them private from the beginning. For the whole process: a program that embeds the host
/// decides itself.
pub fn keep_private() {
    umask(Mode::from_raw_mode(OTHERS));
}

/// Takes the group's and others' permissions from a data folder and from all that is the host's in it. Links are not
/// followed, except where one stands for a folder of the host. What cannot be mended is logged: the data are readable, and
/// the host can do its work.
pub(super) fn mend(dir: &Path) {
    let mut mended = 0;
    for name in OURS {
        // Others may stop at the folder above, so this goes first.
        mend_one(&dir.join(name), fs::metadata(dir.join(name)), &mut mended);
        mend_below(dir.join(name), &mut mended);
    }
    for name in ["FORMAT", "store"] {
        mend_one(&dir.join(name), fs::symlink_metadata(dir.join(name)), &mut mended);
    }
    match is_only_ours(dir) {
        Ok(true) => mend_one(dir, fs::metadata(dir), &mut mended),
        Ok(false) => {}
        Err(error) => warn!(dir = %dir.display(), %error, "the data folder cannot be listed"),
    }
    if mended > 0 {
        info!(dir = %dir.display(), mended, "files and folders that others could read are now private");
    }
}

fn mend_below(top: PathBuf, mended: &mut usize) {
    let mut folders = vec![top];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => {
                warn!(dir = %folder.display(), %error, "a folder cannot be listed: others may be able to read it");
                continue;
            }
        };
        for entry in entries.flatten() {
            let metadata = entry.metadata();
            if metadata.as_ref().is_ok_and(Metadata::is_dir) {
                folders.push(entry.path());
            }
            mend_one(&entry.path(), metadata, mended);
        }
    }
}

/// Whether a folder has nothing but what is the host's, so that no other user needs to enter it.
fn is_only_ours(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if !OURS.iter().chain(&BESIDE).any(|known| name == *known) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn mend_one(path: &Path, metadata: io::Result<Metadata>, mended: &mut usize) {
    let metadata = match metadata {
        Ok(metadata) => metadata,
        // A file that is gone meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        Err(error) => {
            return warn!(file = %path.display(), %error, "the mode of this cannot be read: others may be able to read it");
        }
    };
    if metadata.is_symlink() || metadata.mode() & OTHERS == 0 {
        return;
    }
    let private = metadata.mode() & 0o700;
    let changed = match metadata.mode() & STICKY {
        0 => fs::set_permissions(path, Permissions::from_mode(private)),
        _ => Err(io::Error::other("it is a folder that all users share")),
    };
    match changed {
        Ok(()) => *mended += 1,
        Err(error) => warn!(
            file = %path.display(), %error,
            "other users of this machine may be able to read this: change its owner or its mode (chmod go=)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, os::unix::fs::symlink};

    use super::*;

    /// The modes of all that is below a folder, and of itself.
    fn modes(dir: &Path) -> BTreeMap<String, u32> {
        let mut modes = BTreeMap::from([(".".to_owned(), fs::metadata(dir).unwrap().mode() & 0o777)]);
        let mut folders = vec![dir.to_owned()];
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                let metadata = fs::symlink_metadata(&path).unwrap();
                if metadata.is_dir() {
                    folders.push(path.clone());
                }
                modes.insert(path.strip_prefix(dir).unwrap().display().to_string(), metadata.mode() & 0o777);
            }
        }
        modes
    }

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("database/state")).unwrap();
        for file in ["FORMAT", "store", "database/state/db", "database/LOCK"] {
            fs::write(dir.path().join(file), "").unwrap();
            fs::set_permissions(dir.path().join(file), Permissions::from_mode(0o644)).unwrap();
        }
        for folder in ["", "database", "database/state"] {
            fs::set_permissions(dir.path().join(folder), Permissions::from_mode(0o755)).unwrap();
        }
        dir
    }

    #[test]
    fn a_folder_of_an_older_version_becomes_private() {
        let dir = folder();
        mend(dir.path());
        let (file, folder) = (0o600, 0o700);
        let wanted = [
            (".", folder),
            ("FORMAT", file),
            ("database", folder),
            ("database/LOCK", file),
            ("database/state", folder),
            ("database/state/db", file),
            ("store", file),
        ];
        assert_eq!(modes(dir.path()), wanted.map(|(name, mode)| (name.to_owned(), mode)).into());
    }

    #[test]
    fn what_is_not_the_hosts_is_left_alone() {
        let (dir, elsewhere) = (folder(), tempfile::tempdir().unwrap());
        let (other, target) = (dir.path().join("notes"), elsewhere.path().join("file"));
        for file in [&other, &target] {
            fs::write(file, "").unwrap();
            fs::set_permissions(file, Permissions::from_mode(0o644)).unwrap();
        }
        symlink(&target, dir.path().join("database/link")).unwrap();
        mend(dir.path());
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&other), mode(&target), mode(dir.path())), (0o644, 0o644, 0o755));
        assert_eq!(mode(&dir.path().join("database")), 0o700);
    }

    #[test]
    fn a_folder_of_the_host_may_be_elsewhere() {
        let (dir, elsewhere) = (folder(), tempfile::tempdir().unwrap());
        fs::rename(dir.path().join("database"), elsewhere.path().join("db")).unwrap();
        symlink(elsewhere.path().join("db"), dir.path().join("database")).unwrap();
        mend(dir.path());
        assert_eq!(modes(&elsewhere.path().join("db"))["state/db"], 0o600);
        assert_eq!(modes(&elsewhere.path().join("db"))["."], 0o700);
    }

    #[test]
    fn a_folder_that_all_share_stays_so() {
        let dir = folder();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o1777)).unwrap();
        mend(dir.path());
        assert_eq!(modes(dir.path())["."], 0o777);
        assert_eq!(modes(dir.path())["database"], 0o700);
    }
}
