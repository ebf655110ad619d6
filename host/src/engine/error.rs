//! What the engine refuses, and why.

use std::time::Duration;

use super::format::Unreadable;
use crate::{
    keys,
    saga::{IllegalEvent, Op, Status},
    store::{self, Shortage},
};

/// A failure of the engine. The caller's request was not at fault.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed; the host is about to stop.
    #[error("the store failed")]
    Store(#[from] store::Error),
    /// The store refused a commit that cannot conflict: a bug.
    #[error("a commit was refused")]
    Commit(#[from] store::CommitError),
    /// The stored saga cannot be read.
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
    /// A task panicked while it read sagas for a client: a bug.
    #[error("the task that read the saga panicked: its message is in the log")]
    NotShown,
    /// The saga's driver ended without an answer: the host is stopping, or the saga was set aside.
    #[error("the saga is no longer driven here: submit it again, it does not run twice")]
    Gone,
}

impl Error {
    /// Whether the store has failed or was closed, which ends the host.
    pub fn is_of_the_store(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Commit(store::CommitError::Store(_)))
    }

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
    /// A saga with this gid exists, and its status does not allow this request.
    #[error("current status '{}'", .0.as_str())]
    Status(Status),
    /// An unfinished saga with this gid has another definition.
    #[error("the gid belongs to an unfinished saga with another definition: choose another gid")]
    Different,
    /// A branch's address was not found.
    #[error("the {} of step {step} (counted from 0) cannot be called: {reason}", op.as_str())]
    Target {
        step: usize,
        op: Op,
        /// The cause and the mend.
        reason: String,
    },
    /// The limit of running sagas (`live_max`) or of open sagas (`open_max`) is reached.
    #[error("the host is busy: try again in {} s", retry_after.as_secs())]
    Busy { retry_after: Duration },
    /// The disk is nearly full: what has been begun may end, and nothing new is begun.
    #[error("no new saga is taken on: {shortage}; try again when there is room")]
    Full { shortage: Shortage, retry_after: Duration },
    /// The store has failed; the host is about to stop.
    #[error("the host is stopping, as its store has failed: try again when it is back")]
    StoreFailed(#[source] store::Error),
    /// The share of live sagas in the budget of memory is used up.
    #[error("the host has no memory left for a saga of this size: try again in {} s", retry_after.as_secs())]
    Memory { retry_after: Duration },
    /// The host is shutting down.
    #[error("the host is stopping: try again when it is back")]
    Stopping,
    /// The engine failed.
    #[error("the saga could not be stored")]
    Engine(#[from] Error),
}

/// Why a saga or a list was not shown.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    /// The share of requests in the budget of memory is used up.
    #[error("the host has no memory left for large answers")]
    Memory,
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] Error),
}

/// Why a person's request about one saga was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("no saga has this gid")]
    NotFound,
    #[error("the saga has ended: {}", .0.as_str())]
    Finished(Status),
    /// The engine failed.
    #[error("the request could not be carried out")]
    Engine(#[from] Error),
}
