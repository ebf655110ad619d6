//! What the engine and the branches need from a store; nothing in it assumes one process.

use std::pin::Pin;

use bytes::Bytes;

use crate::{
    batch::Batch,
    error::{CommitError, Error},
    range::Range,
    room::Shortage,
    ticket::Ticket,
};

/// Whether a store works, and whether it should be given new work.
#[derive(Clone, Debug)]
pub enum Condition {
    Sound,
    /// It accepts everything, but there is too little room to begin anything new.
    Short(Shortage),
    /// It accepts nothing more, and nothing that waits will become durable.
    Failed(Error),
}

/// Reading: what an attempt of a branch may do with a store itself.
pub trait Read: Send + Sync + 'static {
    /// The newest accepted value of `key`, durable or not: before it leaves the host, [`Store::barrier`] must be
    /// durable. It may share the memory of the whole batch that wrote it; copy what is kept long.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// Up to `limit` (at most [`SCAN_ENTRIES_MAX`](crate::SCAN_ENTRIES_MAX)) live entries of `range`, in its
    /// direction. One consistent snapshot.
    fn scan(&self, range: &Range, limit: usize) -> Result<Vec<(Bytes, Bytes)>, Error>;

    /// As [`Read::scan`], but only the keys: a list of large values costs no more than one of small ones.
    fn keys(&self, range: &Range, limit: usize) -> Result<Vec<Bytes>, Error> {
        Ok(self.scan(range, limit)?.into_iter().map(|(key, _)| key).collect())
    }

    /// Whether everything that `batch` expects holds now, all in one state. `false`: what was read has changed since,
    /// or never was one state.
    fn is_current(&self, batch: &Batch) -> Result<bool, Error>;
}

/// Reading and committing.
pub trait Store: Read {
    /// The commit point of order and visibility: checks the preconditions, gives the batch its place in the commit
    /// order and makes it visible, all or nothing. Never waits for a sync; durability is the ticket's. An accepted
    /// batch stays in memory until it is durable, so a caller that does not wait for tickets must bound how many
    /// batches it has under way.
    ///
    /// A batch without writes only checks its preconditions; its ticket stands for everything they may have seen.
    fn commit(&self, batch: Batch) -> Result<Ticket, CommitError>;

    /// A ticket for everything accepted so far.
    fn barrier(&self) -> Ticket;

    /// The condition now. Cheap, so that it can be asked before each piece of new work.
    fn condition(&self) -> Condition;

    /// Resolves when the store has failed, with the cause; never if it is closed before that. It does not keep the store
    /// open.
    fn failed(&self) -> Pin<Box<dyn Future<Output = Error> + Send>>;
}
