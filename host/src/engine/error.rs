//! What the engine refuses, and why.

use std::time::Duration;

use super::format::Unreadable;
use crate::{
    keys,
    saga::{IllegalEvent, Op, Status},
    store,
};

/// The engine cannot do what was asked: not the asker's mistake.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed; the host is about to stop.
    #[error("the store failed")]
    Store(#[from] store::Error),
    /// A commit was refused that nothing should stand against.
    #[error("a commit was refused")]
    Commit(#[from] store::CommitError),
    /// The stored saga makes no sense.
    #[error("the stored saga {gid} cannot be read")]
    Unreadable {
        /// Its gid, or its id where the gid is not known.
        gid: String,
        /// Why.
        source: Unreadable,
    },
    /// A newer version has written rows that this one does not read. The engine does not start.
    #[error("sagas cannot be run")]
    Newer(#[from] keys::Unknown),
    /// The machine refused its own decision: a bug.
    #[error("the saga refused an event")]
    Illegal(#[from] IllegalEvent),
    /// The saga's driver panicked: a bug.
    #[error("the saga's driver panicked: its message is in the log")]
    Panicked,
    /// The saga's driver ended without an answer: the host is stopping, or the saga was set aside.
    #[error("the saga is no longer driven here: submit it again, it does not run twice")]
    Gone,
}

impl Error {
    /// Whether a newer version of Wasaga can read what this one cannot.
    pub fn is_newer(&self) -> bool {
        match self {
            Self::Newer(_) => true,
            Self::Unreadable { source, .. } => source.is_newer(),
            _ => false,
        }
    }
}

/// Why a saga was not accepted. Nothing has been stored or changed, unless the engine itself failed.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// There is such a saga, and it can no longer be submitted or prepared.
    #[error("current status '{}'", .0.as_str())]
    Status(Status),
    /// There is an unfinished saga with this gid that asks for something else.
    #[error("the gid belongs to an unfinished saga with another definition: choose another gid")]
    Different,
    /// A branch's address leads nowhere.
    #[error("the {} of step {step} (counted from 0) cannot be called: {reason}", op.as_str())]
    Target {
        /// Index of the step.
        step: usize,
        /// Which of its addresses.
        op: Op,
        /// Why, and what would do.
        reason: String,
    },
    /// As many sagas are running, or open, as the host takes on.
    #[error("the host is busy: try again in {} s", retry_after.as_secs())]
    Busy {
        /// When a place may be free.
        retry_after: Duration,
    },
    /// The host is shutting down.
    #[error("the host is stopping: try again when it is back")]
    Stopping,
    /// The engine failed.
    #[error("the saga could not be stored")]
    Engine(#[from] Error),
}

/// Why a person's request about one saga was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No such saga.
    #[error("no saga has this gid")]
    NotFound,
    /// It has ended.
    #[error("the saga has ended: {}", .0.as_str())]
    Finished(Status),
    /// The engine failed.
    #[error("the request could not be carried out")]
    Engine(#[from] Error),
}
