//! Retrying many sagas now, as when a service is back and its sagas still wait for their backoff.

use tracing::error;

use super::{
    error::{ControlError, Error},
    format::{self, OPEN, Open},
    inner::Inner,
};
use crate::{
    saga::{Event, Timestamp},
    store::{self, Range, Ticket},
};

/// The result of `Engine::retry_all_due_after`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retried {
    /// Sagas that are retried now.
    pub count: u64,
    /// Whether others also wait, which `limit` has left unchanged.
    pub has_more: bool,
}

impl Inner {
    /// See `Engine::retry_all_due_after`.
    pub async fn retry_all_due_after(&self, moment: Timestamp, limit: u64) -> Result<Retried, Error> {
        let mut range = Range::prefix(OPEN);
        let mut retried = Retried::default();
        let mut newest: Option<Ticket> = None;
        'pages: loop {
            let page = self.store.scan(&range, store::SCAN_ENTRIES_MAX)?;
            let Some((last, _)) = page.last() else { break };
            range = range.beyond(last);
            for (_, row) in &page {
                // What cannot be read has been reported at the start.
                let Ok(Open { due: Some(due), gid, .. }) = format::read_open(row) else { continue };
                if due <= moment {
                    continue;
                }
                if retried.count == limit {
                    retried.has_more = true;
                    break 'pages;
                }
                match self.control(gid.as_str(), |at| Event::RetryRequested { at }) {
                    Ok(ticket) => {
                        newest = Some(ticket);
                        retried.count += 1;
                    }
                    // It has ended since the page was read.
                    Err(ControlError::NotFound | ControlError::Finished(_)) => {}
                    Err(ControlError::Engine(error @ Error::Unreadable { .. })) => {
                        error!(gid = gid.as_str(), error = &error as &dyn std::error::Error, "a saga is not retried");
                    }
                    Err(ControlError::Engine(error)) => {
                        self.notice(&error);
                        return Err(error);
                    }
                }
            }
            tokio::task::yield_now().await;
        }
        // Commits have one order: when the newest is on disk, all are.
        if let Some(ticket) = newest {
            self.durable(&ticket).await?;
        }
        Ok(retried)
    }
}
