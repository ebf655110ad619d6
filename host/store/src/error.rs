//! Errors, each with the action that mends it.

use std::{fmt, io, path::PathBuf, sync::Arc};

use bytes::Bytes;

use crate::{
    codec,
    limits::{KEY_BYTES_MAX, SCAN_ENTRIES_MAX},
    obstacle::Obstacle,
};

/// Why a read failed or a ticket will never resolve.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The disk or sled failed. Final for this process: acknowledged commits are safe, the outcome of others is
    /// unknown.
    #[error("the store has failed and accepts nothing more: restart the host, it recovers from its journal")]
    Failed(#[source] Arc<Failure>),
    /// [`crate::LocalStore::close`] was called.
    #[error("the store is closed")]
    Closed,
    /// A scan asked for more entries than one snapshot may hold.
    #[error("a scan for {0} entries: at most {SCAN_ENTRIES_MAX} at once, read the range in pages")]
    ScanTooLong(usize),
}

/// Why a batch was not accepted. It had no effect.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// A precondition does not hold: read again, and decide again.
    #[error("conflict: {} is no longer as it was read", key.escape_ascii())]
    Conflict {
        /// The first key found to differ.
        key: Bytes,
    },
    /// A key or the batch is over its limit: a retry cannot help.
    #[error("a {what} of {bytes} bytes is too large: at most {max} bytes are allowed")]
    TooLarge {
        /// `key` or `batch`.
        what: &'static str,
        bytes: usize,
        max: usize,
    },
    /// The store has failed or is closed.
    #[error("the batch could not be committed")]
    Store(#[from] Error),
}

impl CommitError {
    pub(crate) fn key_too_large(bytes: usize) -> Self {
        Self::TooLarge { what: "key", bytes, max: KEY_BYTES_MAX }
    }
}

/// The cause of a failure: the disk, sled, or a bug.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Disk {
        /// As in "cannot write".
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// There is less space than is needed.
    #[error("about {wanted} bytes are needed on the disk, and {free} are free")]
    NoRoom { wanted: u64, free: u64 },
    /// A file operation of sled failed, which says nothing about its content.
    #[error("sled failed to {action}")]
    StateIo { action: &'static str, source: io::Error },
    /// sled found its files corrupted, or panicked.
    #[error("sled failed to {action}: {cause}")]
    State {
        action: &'static str,
        /// Its error, or the panic's message.
        cause: String,
    },
    /// sled's content contradicts itself, or what was written to it.
    #[error("the state in sled is damaged: {0}")]
    Damaged(String),
    /// A thread of the store ended by a panic, which is a bug.
    #[error("the {0} thread of the store panicked: this is a bug")]
    Thread(&'static str),
}

impl Failure {
    pub(crate) fn disk(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Disk { action, path, source }
    }

    /// What the operating system has refused, if that is the cause.
    pub fn obstacle(&self) -> Option<Obstacle> {
        match self {
            Self::Disk { source, .. } | Self::StateIo { source, .. } => Obstacle::of(source),
            Self::NoRoom { .. } => Some(Obstacle::NoSpace),
            Self::State { .. } | Self::Damaged(_) | Self::Thread(_) => None,
        }
    }

    /// Whether sled's content is not to be trusted after it.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self, Self::State { .. } | Self::Damaged(_))
    }

    /// Whether the operation may be tried again later: the system refused it before it had an effect.
    pub(crate) fn may_pass(&self) -> bool {
        self.obstacle().is_some_and(Obstacle::may_pass)
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the directory open.
    #[error("{} is in use by another process: stop it, or choose another data directory", dir.display())]
    Locked { dir: PathBuf },
    /// The operating system refuses what an opening needs. Nothing is damaged, and nothing was set aside or marked.
    #[error("the store cannot be opened: {obstacle}{}", Deletable(deletable))]
    Refused {
        obstacle: Obstacle,
        #[source]
        failure: Failure,
        /// Copies of damaged files that are kept for inspection. Deleting them makes room.
        deletable: Vec<PathBuf>,
    },
    /// A file operation or sled failed.
    #[error("cannot open the store")]
    Failed(#[source] Failure),
    /// A newer version has written this file, or sled's directory. Nothing was changed.
    #[error(
        "{} was written by a newer Wasaga, {found}; this one reads up to {supported}: start that one. Nothing was \
         changed.",
        file.display()
    )]
    Newer {
        file: PathBuf,
        found: Unsupported,
        /// The greatest number that this version reads, of the same kind as `found`.
        supported: u32,
    },
    /// A file with the name of one of ours, in which nothing is ours. Nothing was changed.
    #[error("{} is no file of Wasaga: move it away. Nothing was changed.", file.display())]
    Foreign { file: PathBuf },
    /// Acknowledged records are missing or unreadable: opening the store would silently lose them.
    #[error(
        "{0}. Nothing was changed. Restore the data directory from a backup; or set `salvage` to keep the records \
         before the damage and lose those after it"
    )]
    Corrupt(Corruption),
    /// sled has to be rebuilt, the base for that is unreadable, and the journal does not reach back to the beginning.
    #[error(
        "the state has to be rebuilt ({reason}), but the base {} is unreadable ({what}). Nothing was changed. Restore \
         the data directory from a backup",
        base.display()
    )]
    NoBase {
        /// Why sled cannot be used.
        reason: String,
        /// The newest base.
        base: PathBuf,
        what: &'static str,
    },
}

impl From<Failure> for OpenError {
    fn from(failure: Failure) -> Self {
        match failure.obstacle() {
            Some(obstacle) => Self::Refused { obstacle, failure, deletable: Vec::new() },
            None => Self::Failed(failure),
        }
    }
}

/// Names the files that may be deleted.
struct Deletable<'a>(&'a [PathBuf]);

impl fmt::Display for Deletable<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, path) in self.0.iter().enumerate() {
            let before = if index == 0 { ". These copies of damaged files may be deleted: " } else { ", " };
            write!(out, "{before}{}", path.display())?;
        }
        Ok(())
    }
}

impl OpenError {
    /// Whether the mend is to start a newer version: the data is sound, and this version must not touch it.
    pub fn is_newer(&self) -> bool {
        matches!(self, Self::Newer { .. })
    }
}

/// How a file shows that a newer version has written it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsupported {
    /// The version in its header.
    Format(u32),
    /// The tag of an operation in a record with a right checksum.
    Operation(u8),
}

impl fmt::Display for Unsupported {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format(version) => write!(out, "format {version}"),
            Self::Operation(codec::FINISH) => write!(out, "operation {} (FINISH)", codec::FINISH),
            Self::Operation(tag) => write!(out, "operation {tag}"),
        }
    }
}

/// Acknowledged records that are unreadable or missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} is damaged at offset {offset}: records {first_seq} to {last_seq} are needed and unreadable ({what})",
    file.display()
)]
pub struct Corruption {
    /// The file, or where it should have been.
    pub file: PathBuf,
    /// Byte offset of the first unreadable record.
    pub offset: u64,
    /// First lost sequence number.
    pub first_seq: u64,
    /// Last lost sequence number.
    pub last_seq: u64,
    /// What is wrong.
    pub what: &'static str,
}
