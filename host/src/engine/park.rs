//! Ending the driving of a saga: it has ended, waits until it is due, or cannot continue.

use std::sync::Arc;

use tracing::{debug, error, info};

use super::{
    destinations::Places,
    error::Error,
    format,
    inner::Inner,
    live::{Core, Live, WaitResult},
};
use crate::{
    saga::{Next, Status, Timestamp},
    store::Ticket,
};

impl Inner {
    /// Commits a saga that is not driven: it has ended, or waits until it is due, which may be now.
    pub fn park(&self, core: &mut Core) -> Result<Ticket, Error> {
        let now = self.clock.now();
        let next = core.saga().next(core.in_flight(), now);
        let due = match next {
            Next::Finished => None,
            Next::Wait(due) => due,
            Next::Call(_) | Next::Decide(_) | Next::Drop(_) => Some(now),
        };
        let ticket = core.save_until(&*self.store, due)?;
        if let Some(due) = due {
            self.timer.push(due, core.id);
        }
        if next == Next::Finished {
            self.stats.finished(core.saga().status());
            self.closed(core);
            log_end(core, now);
        }
        Ok(ticket)
    }

    /// Commits a saga that waits for its destination and is not driven meanwhile. Its clients go on waiting.
    ///
    /// It stays due, so that a restart drives it at once; here its turn wakes it, or the time that it also waits for.
    pub fn park_in_queue(&self, core: &mut Core, places: &mut Places, until: Option<Timestamp>) -> Result<(), Error> {
        let now = self.clock.now();
        core.save(&*self.store, now)?;
        self.parked_waiters.park(core.id, core.take_waiters());
        if !places.park(core.id) {
            self.timer.push(now, core.id);
        } else if let Some(until) = until {
            self.timer.push(until, core.id);
        }
        Ok(())
    }

    /// Answers the clients of all sagas that wait for their destinations: the host stops.
    pub fn answer_parked_waiters(&self) {
        for (id, waiters) in self.parked_waiters.take_all() {
            // On an error the client learns that its saga is no longer driven.
            let Ok(Some(record)) = self.read_parked(id) else { continue };
            let (saga, ticket) = (Arc::new(record.saga), self.store.barrier());
            for waiter in waiters {
                // An error says that the client has disconnected.
                let _ = waiter.send(WaitResult { saga: saga.clone(), ticket: ticket.clone() });
            }
        }
    }

    /// Removes a saga that cannot continue from the table. Its row stays, so the next start drives it again.
    pub fn set_aside(&self, live: &Live, failure: &Error) {
        let gid = live.core().saga().definition().gid().clone();
        if self.store_failed.is_cancelled() {
            // Of all sagas at once. The store has said so.
            debug!(gid = gid.as_str(), error = failure as &dyn std::error::Error, "saga set aside");
        } else {
            error!(gid = gid.as_str(), error = failure as &dyn std::error::Error, "saga set aside");
        }
        let mut shard = self.table.shard(gid.as_str());
        if let Some(shard) = &mut shard {
            shard.remove(gid.as_str());
        }
        let mut core = live.core();
        core.cancel_all();
        // The store decides whether it is open. If that cannot be read, the host is about to stop.
        let has_row = self.store.get(&format::open_key(core.id)).map_or(true, |row| row.is_some());
        if !core.is_stored() || !has_row {
            self.closed(&mut core);
        }
        self.notice(failure);
    }
}

fn log_end(core: &Core, now: Timestamp) {
    let saga = core.saga();
    let (gid, status) = (saga.definition().gid(), saga.status().as_str());
    let duration_ms = saga.definition().created_at().until(now).as_millis();
    if saga.status() == Status::Succeed {
        info!(gid = gid.as_str(), status, duration_ms, "saga finished");
    } else {
        info!(gid = gid.as_str(), status, duration_ms, reason = ?saga.reason(), "saga finished");
    }
}
