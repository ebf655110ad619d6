//! Retrying many sagas now, as when a service is back and its sagas still wait for their backoff.

use std::{cmp::Reverse, collections::BTreeMap};

use tracing::error;

use super::{
    error::{ControlError, Error},
    format::{self, OPEN, Open, SagaId},
    inner::Inner,
};
use crate::{
    saga::{Event, Gid, Timestamp},
    store::{self, Range, Ticket},
};

/// Most sagas that one request retries: so many are remembered while all are looked at.
const RETRIES_MAX: usize = 10_000;

/// The result of `Engine::retry_all_due_after`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retried {
    /// Sagas that are retried now.
    pub count: u64,
    /// Whether others also wait, which the limit has left unchanged.
    pub has_more: bool,
}

impl Inner {
    /// See `Engine::retry_all_due_after`.
    pub async fn retry_all_due_after(&self, moment: Timestamp, limit: u64) -> Result<Retried, Error> {
        let (longest, has_more) = self.waiting_longest(moment, limit).await?;
        let (mut count, mut newest): (u64, Option<Ticket>) = (0, None);
        for (done, gid) in longest.into_iter().enumerate() {
            if done % store::SCAN_ENTRIES_MAX == 0 {
                tokio::task::yield_now().await;
            }
            match self.control(gid.as_str(), |at| Event::RetryRequested { at }) {
                Ok(ticket) => {
                    newest = Some(ticket);
                    count += 1;
                }
                // It has ended since its row was read.
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
        // Commits have one order: when the newest is on disk, all are.
        if let Some(ticket) = newest {
            self.durable(&ticket).await?;
        }
        Ok(Retried { count, has_more })
    }

    /// The gids of up to `limit` sagas that are due after `moment`, the last one to be due first and of equal ones the
    /// oldest; and whether there are more.
    async fn waiting_longest(&self, moment: Timestamp, limit: u64) -> Result<(Vec<Gid>, bool), Error> {
        let most = usize::try_from(limit).unwrap_or(usize::MAX).min(RETRIES_MAX);
        let mut range = Range::prefix(OPEN);
        let mut longest: BTreeMap<(Timestamp, Reverse<Option<SagaId>>), Gid> = BTreeMap::new();
        let mut has_more = false;
        loop {
            let page = self.store.scan(&range, store::SCAN_ENTRIES_MAX)?;
            let Some((last, _)) = page.last() else { break };
            range = range.beyond(last);
            for (key, row) in &page {
                // What cannot be read has been reported at the start.
                let Ok(Open { due: Some(due), gid, .. }) = format::read_open(row) else { continue };
                if due > moment {
                    longest.insert((due, Reverse(format::id_in(key))), gid);
                    has_more |= longest.len() > most && longest.pop_first().is_some();
                }
            }
            tokio::task::yield_now().await;
        }
        Ok((longest.into_values().rev().collect(), has_more))
    }
}
