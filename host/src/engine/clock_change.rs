//! After a start: sagas whose waits were recorded when the wall clock stood ahead of where it stands now.
//!
//! The rule is in the saga crate's `clock_change`. It is applied to a saga whenever that is loaded. But a saga that waits is
//! loaded when its row says that it is due, which may be as far ahead as the clock has gone back. So sagas whose rows are due
//! later than after any ordinary wait are loaded once after the start, and their rows rewritten if their waits begin anew.
//! Those that are due earlier are loaded soon enough.
//!
//! Branches and clients can ask for waits of hours, so a row alone does not tell whether the clock has gone back. Loading a
//! saga takes some tens of microseconds; it is done beside the ordinary work, not before it.

use tracing::{error, warn};

use super::{
    error::Error,
    format::{self, SagaId},
    inner::Inner,
    live::Core,
};
use crate::{saga::Timestamp, store::Ticket};

/// Sagas after which the loop waits until what it has committed is on disk, so that it fills neither the queue of the
/// journal nor the time of other tasks.
const BATCH: usize = 256;

impl Inner {
    /// Whether a saga that is due then waits longer than the host itself lets one wait.
    pub fn is_far_ahead(&self, due: Timestamp) -> bool {
        due > self.clock.now().after(self.settings.policy.backoff_max())
    }

    /// Lets the waits of these sagas begin anew that were recorded ahead of the clock.
    pub async fn restart_waits(&self, far_ahead: Vec<SagaId>) {
        let mut restarted = 0;
        for batch in far_ahead.chunks(BATCH) {
            let mut newest = None;
            for id in batch {
                match self.restart_waits_of(*id) {
                    Ok(None) => {}
                    Ok(Some(ticket)) => {
                        newest = Some(ticket);
                        restarted += 1;
                    }
                    Err(error @ Error::Unreadable { .. }) => {
                        error!(
                            id = id.0,
                            error = &error as &dyn std::error::Error,
                            "a saga is not woken before its row says"
                        );
                    }
                    Err(error) => return self.notice(&error),
                }
            }
            match newest {
                // The error has been reported.
                Some(ticket) if self.durable(&ticket).await.is_err() => return,
                Some(_) => {}
                None => tokio::task::yield_now().await,
            }
        }
        if restarted > 0 {
            warn!(
                sagas = restarted,
                "the system's clock has gone back since these sagas began to wait: their waits begin anew"
            );
        }
    }

    /// The ticket of the rewritten row; `None` if the saga's waits stay.
    fn restart_waits_of(&self, id: SagaId) -> Result<Option<Ticket>, Error> {
        let Some(row) = self.store.get(&format::open_key(id))? else { return Ok(None) };
        let open = format::read_open(&row)
            .map_err(|source| Error::Unreadable { gid: format!("with the id {}", id.0), source })?;
        let gid = open.gid.as_str();
        let shard = self.shard(gid)?;
        // One that is live was loaded, and needs nothing more.
        if shard.contains_key(gid) {
            return Ok(None);
        }
        match self.load_as_stored(gid)? {
            Some(mut core) => self.restart_waits_in(&mut core),
            None => Ok(None),
        }
    }

    /// Records at once which waits of a saga begin anew, if any do: otherwise a crash would let them begin anew again.
    pub fn restart_waits_in(&self, core: &mut Core) -> Result<Option<Ticket>, Error> {
        let events = core.saga().restart_waits(self.clock.now(), self.clock.started_at());
        if events.is_empty() {
            return Ok(None);
        }
        events.iter().try_for_each(|event| core.apply(event))?;
        self.park(core).map(Some)
    }
}
