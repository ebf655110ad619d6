//! What the operating system may refuse although nothing is damaged.

use std::{fmt, io};

use rustix::io::Errno;

/// What the operating system has refused, and the mend. It says nothing about the content of files: nothing is set aside,
/// marked or rebuilt for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// `ENOSPC`.
    NoSpace,
    /// `ENOSPC` although there is space: the file system can hold no more files.
    NoInodes,
    /// `EDQUOT`.
    Quota,
    /// `EROFS`.
    ReadOnly,
    /// `EACCES` or `EPERM`.
    Denied,
    /// `EMFILE`: this process has as many files and connections open as it may.
    Descriptors,
    /// `ENFILE`: all processes together have.
    SystemDescriptors,
    /// `EIO`: the disk or its file system reports errors.
    Faulty,
}

impl Obstacle {
    /// What the error means, unless it means something else.
    pub fn of(error: &io::Error) -> Option<Self> {
        Some(match Errno::from_raw_os_error(code(error)?) {
            Errno::NOSPC => Self::NoSpace,
            Errno::DQUOT => Self::Quota,
            Errno::ROFS => Self::ReadOnly,
            Errno::ACCESS | Errno::PERM => Self::Denied,
            Errno::MFILE => Self::Descriptors,
            Errno::NFILE => Self::SystemDescriptors,
            Errno::IO => Self::Faulty,
            _ => return None,
        })
    }

    /// Whether it may be gone in a while, by itself or because somebody makes room.
    pub(crate) fn may_pass(self) -> bool {
        match self {
            Self::NoSpace | Self::NoInodes | Self::Quota | Self::Descriptors | Self::SystemDescriptors => true,
            Self::ReadOnly | Self::Denied | Self::Faulty => false,
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::NoSpace => "the disk is full: free space on it, or move the data folder to a larger one",
            Self::NoInodes => "the file system has no inode left for a new file: remove files from it",
            Self::Quota => "the disk quota of this user is used up: free space, or raise the quota",
            Self::ReadOnly => {
                "the file system is read-only: mount it for writing (the system makes it read-only when it finds an error, \
                 its log says so)"
            }
            Self::Denied => "the permission is missing: give the data folder to the user that runs the host",
            Self::Descriptors => {
                "this process has too many open files and connections: raise its limit (`ulimit -n`, or `LimitNOFILE` of \
                 its systemd service)"
            }
            Self::SystemDescriptors => "the system has too many open files: raise `fs.file-max`",
            Self::Faulty => "the disk reports errors: look into the system's log, and replace the disk or mend its file system",
        })
    }
}

/// The system's number of an error. sled copies the errors of its background writes as text, as in
/// `Os { code: 28, kind: StorageFull, message: "No space left on device" }`.
pub(crate) fn code(error: &io::Error) -> Option<i32> {
    error.raw_os_error().or_else(|| code_in(&error.to_string()))
}

/// The number in such a text.
pub(crate) fn code_in(text: &str) -> Option<i32> {
    let (_, rest) = text.split_once("Os { code: ")?;
    let digits = rest.split(|character: char| !character.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_known_by_their_number_also_in_a_text() {
        let full = io::Error::from_raw_os_error(Errno::NOSPC.raw_os_error());
        assert_eq!(Obstacle::of(&full), Some(Obstacle::NoSpace));
        let copied = io::Error::new(full.kind(), format!("{full:?}"));
        assert_eq!((copied.raw_os_error(), Obstacle::of(&copied)), (None, Some(Obstacle::NoSpace)));
        let panic = format!("called `Result::unwrap()` on an `Err` value: Io({:?})", io::Error::from_raw_os_error(24));
        assert_eq!(code_in(&panic), Some(24));
        for other in ["Os { code: , kind", "no code", "Os { code: 99999999999"] {
            assert_eq!(code_in(other), None, "{other}");
        }
        assert_eq!(Obstacle::of(&io::ErrorKind::UnexpectedEof.into()), None);
    }
}
