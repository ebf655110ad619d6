//! Retrying many sagas now: for when a participant is back, and its sagas would wait out their backoff.

use tracing::error;

use super::{
    ControlError, Engine, Error,
    format::{self, OPEN, Open},
};
use crate::{
    saga::{Event, Timestamp},
    store::{self, Range, Ticket},
};

/// What [`Engine::retry_all_due_after`] has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetriedNow {
    /// So many sagas are retried now.
    pub count: u64,
    /// Others wait for as long and are left as they are.
    pub has_more: bool,
}

impl Engine {
    /// Retries now up to `limit` unfinished sagas that wait until later than `moment`, the oldest first.
    ///
    /// Prepared sagas wait for their submission and running ones for nothing: neither counts. Looks at every unfinished
    /// saga until it has found enough and one more, about a second for a million of them, a page at a time between
    /// other work.
    pub async fn retry_all_due_after(&self, moment: Timestamp, limit: u64) -> Result<RetriedNow, Error> {
        let mut range = Range::prefix(OPEN);
        let mut retried = RetriedNow::default();
        let mut newest: Option<Ticket> = None;
        'pages: loop {
            let page = self.0.store.scan(&range, store::SCAN_ENTRIES_MAX)?;
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
                match self.0.control(gid.as_str(), |at| Event::RetryRequested { at }) {
                    Ok(ticket) => {
                        newest = Some(ticket);
                        retried.count += 1;
                    }
                    // It has ended since the page was read.
                    Err(ControlError::NotFound | ControlError::Finished(_)) => {}
                    Err(ControlError::Engine(error @ Error::Unreadable { .. })) => {
                        error!(%gid, error = &error as &dyn std::error::Error, "a saga is not retried");
                    }
                    Err(ControlError::Engine(error)) => {
                        self.0.notice(&error);
                        return Err(error);
                    }
                }
            }
            tokio::task::yield_now().await;
        }
        // Commits have one order: when the newest is on disk, all are.
        if let Some(ticket) = newest {
            self.0.durable(&ticket).await?;
        }
        Ok(retried)
    }
}
