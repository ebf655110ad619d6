//! Starting to drive stored sagas: those of an earlier process, and those that have become due.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::{Arc, atomic::Ordering},
};

use tokio::sync::OwnedSemaphorePermit;
use tracing::{error, info};

use super::{
    error::Error,
    format::{self, OPEN, Open, SagaId},
    inner::Inner,
    live::Live,
};
use crate::{
    keys,
    store::{self, Range},
};

/// What [`Inner::recover`] has found besides.
#[derive(Default)]
pub(super) struct Recovered {
    /// How many rows are damaged.
    pub unread: u64,
    /// Sagas that are due later than after any ordinary wait, for [`Inner::restart_waits`].
    pub far_ahead: Vec<SagaId>,
}

impl Inner {
    /// Fills the timer from the rows of unfinished sagas. There is no other recovery: a saga is replayed when it is due.
    /// Rows of a newer version are an error: nothing has been driven then.
    pub fn recover(&self) -> Result<Recovered, Error> {
        if let Some(unknown) = keys::find_unknown(&*self.store)? {
            return Err(unknown.into());
        }
        let mut range = Range::prefix(OPEN);
        let mut open = 0;
        let mut recovered = Recovered::default();
        loop {
            let page = self.store.scan(&range, store::SCAN_ENTRIES_MAX)?;
            let Some((last, _)) = page.last() else { break };
            range = range.beyond(last);
            for (key, value) in &page {
                open += 1;
                let error = match (format::id_in(key), format::read_open(value)) {
                    (Some(id), Ok(row)) => {
                        self.recover_saga(id, &row, &mut recovered.far_ahead);
                        continue;
                    }
                    (_, Err(source)) if source.is_newer() => {
                        return Err(Error::Unreadable { gid: format!("with the key {}", key.escape_ascii()), source });
                    }
                    (_, Err(error)) => error.to_string(),
                    (None, Ok(_)) => "its key is not that of a saga".to_owned(),
                };
                recovered.unread += 1;
                error!(error, key = %key.escape_ascii(), "an unfinished saga is set aside");
            }
        }
        let newest = self.store.scan(&Range::prefix(format::LOGS).reversed(), 1)?;
        let newest = newest.first().and_then(|(key, _)| format::id_in(key)).unwrap_or(SagaId(0));
        self.newest_id.store(newest.0, Ordering::Relaxed);
        self.stats.open.store(open, Ordering::Relaxed);
        info!(open, "recovered");
        Ok(recovered)
    }

    fn recover_saga(&self, id: SagaId, row: &Open, far_ahead: &mut Vec<SagaId>) {
        if let Some(pins) = row.pins.as_deref().filter(|pins| !pins.is_empty()) {
            self.directory.hold(pins);
        }
        if let Some(due) = row.due {
            self.timer.push(due, id);
            if self.is_far_ahead(due) {
                far_ahead.push(id);
            }
        }
    }

    /// Drives the sagas that are due, without end.
    pub async fn wake_the_due(self: Arc<Self>) {
        loop {
            let id = self.timer.next(&self.clock).await;
            let Ok(place) = self.places.clone().acquire_owned().await else { return };
            // A panic over one saga must not stop the timer of all others.
            let woken = panic::catch_unwind(AssertUnwindSafe(|| self.wake(id, place)));
            if let Err(error) = woken.unwrap_or(Err(Error::Panicked)) {
                error!(id = id.0, error = &error as &dyn std::error::Error, "a saga that is due is set aside");
                self.notice(&error);
            }
        }
    }

    /// Makes a parked saga live, if it is due: the timer's entry may be out of date.
    fn wake(self: &Arc<Self>, id: SagaId, place: OwnedSemaphorePermit) -> Result<(), Error> {
        let Some(row) = self.store.get(&format::open_key(id))? else { return Ok(()) };
        let open = format::read_open(&row)
            .map_err(|source| Error::Unreadable { gid: format!("with the id {}", id.0), source })?;
        let gid = open.gid.as_str();
        let mut shard = self.shard(gid)?;
        if open.due.is_none_or(|due| due > self.clock.now()) || shard.contains_key(gid) {
            return Ok(());
        }
        // The row was read before the shard was locked; what counts is the saga as it is now.
        if let Some(core) = self.load(gid)?
            && !core.saga().status().is_finished()
        {
            self.drive(&mut shard, Live::new(core), place);
        }
        Ok(())
    }
}
