//! Starting to drive stored sagas: those of an earlier process, and those that have become due.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::{Arc, atomic::Ordering},
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::mpsc;
use tracing::{error, info};

use super::{
    bulkhead::Place,
    destinations::AttemptPlace,
    error::Error,
    format::{self, OPEN, Open, SagaId},
    inner::Inner,
    live::{Live, Submitter},
};
use crate::{
    keys,
    memory::Reserved,
    store::{self, Range},
};

/// What has become of a saga that seemed due.
enum Woken {
    /// It is live, or need not be.
    Done,
    /// There is no room in memory for what it holds.
    NeedsRoom { bytes: usize },
}

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

    /// Drives the sagas that are due, and those whose turn at their destination has come, without end.
    pub async fn wake_sagas(self: Arc<Self>, granted: mpsc::UnboundedReceiver<(SagaId, AttemptPlace)>) {
        let (large, waiting) = mpsc::unbounded_channel();
        tokio::join!(
            self.wake_the_due(large.clone()),
            self.wake_the_granted(granted, large),
            self.wake_what_waits_for_room(waiting)
        );
    }

    /// Drives the sagas that are due.
    async fn wake_the_due(self: &Arc<Self>, large: mpsc::UnboundedSender<(SagaId, usize)>) {
        while self.check_store().is_ok() {
            let id = self.timer.next(&self.clock).await;
            self.wake_or_pass_on(id, None, &large).await;
        }
    }

    /// Drives the sagas whose turn at their destination has come.
    async fn wake_the_granted(
        self: &Arc<Self>,
        mut granted: mpsc::UnboundedReceiver<(SagaId, AttemptPlace)>,
        large: mpsc::UnboundedSender<(SagaId, usize)>,
    ) {
        // Each waits for its own place: a destination whose sagas have theirs does not hold up the next.
        let mut waking = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(()) = waking.next() => {}
                next = granted.recv() => match next {
                    Some((id, attempt_place)) => waking.push(self.wake_or_pass_on(id, Some(attempt_place), &large)),
                    None => return,
                },
            }
        }
    }

    /// Wakes a saga. If there is no room in memory for it, it is passed on, so that others do not wait behind it; its place
    /// at its destination returns.
    async fn wake_or_pass_on(
        self: &Arc<Self>,
        id: SagaId,
        attempt_place: Option<AttemptPlace>,
        large: &mpsc::UnboundedSender<(SagaId, usize)>,
    ) {
        let turn = attempt_place.as_ref().map(|place| Submitter::Turn(place.holder().clone()));
        let place = self.place_for(turn.unwrap_or(Submitter::Due)).await;
        if let Err(bytes) = self.wake_or_set_aside(id, place, attempt_place, self.memory.payloads_of_due().nothing()) {
            // The receiver lives as long as this task.
            let _ = large.send((id, bytes));
        }
    }

    /// Wakes sagas one after the other, each when there is room for it.
    async fn wake_what_waits_for_room(self: &Arc<Self>, mut waiting: mpsc::UnboundedReceiver<(SagaId, usize)>) {
        while let Some((id, mut bytes)) = waiting.recv().await {
            loop {
                let place = self.place_for(Submitter::Due).await;
                let room = self.memory.payloads_of_large_due().reserve(bytes).await;
                match self.wake_or_set_aside(id, place, None, room) {
                    Ok(()) => break,
                    Err(needed) => bytes = needed,
                }
            }
        }
    }

    /// A place for a saga that is due.
    async fn place_for(&self, submitter: Submitter) -> Place<Submitter> {
        let Some(kept) = &self.live_due else { return self.live.enter_or_wait(submitter).await };
        tokio::select! {
            biased;
            place = self.live.enter_or_wait(submitter.clone()) => place,
            place = kept.enter_or_wait(submitter) => place,
        }
    }

    /// Wakes a saga that is due. An error: it needs room for so many bytes.
    fn wake_or_set_aside(
        self: &Arc<Self>,
        id: SagaId,
        place: Place<Submitter>,
        attempt_place: Option<AttemptPlace>,
        room: Reserved,
    ) -> Result<(), usize> {
        // A panic over one saga must not stop the task that wakes all others.
        let woken = panic::catch_unwind(AssertUnwindSafe(|| self.wake(id, place, attempt_place, room)));
        match woken.unwrap_or(Err(Error::Panicked)) {
            Ok(Woken::Done) => Ok(()),
            Ok(Woken::NeedsRoom { bytes }) => Err(bytes),
            Err(error) => {
                error!(id = id.0, error = &error as &dyn std::error::Error, "a saga that is due is set aside");
                self.notice(&error);
                Ok(())
            }
        }
    }

    /// Makes a parked saga live, if it is due: the entry that woke it may be out of date.
    ///
    /// Its size is known when it has been read. If `room` is too small for it, it is dropped, and read again when there is
    /// room.
    fn wake(
        self: &Arc<Self>,
        id: SagaId,
        place: Place<Submitter>,
        attempt_place: Option<AttemptPlace>,
        mut room: Reserved,
    ) -> Result<Woken, Error> {
        let Some(row) = self.store.get(&format::open_key(id))? else { return Ok(Woken::Done) };
        let open = format::read_open(&row)
            .map_err(|source| Error::Unreadable { gid: format!("with the id {}", id.0), source })?;
        let gid = open.gid.as_str();
        let mut shard = self.shard(gid)?;
        if open.due.is_none_or(|due| due > self.clock.now()) || shard.contains_key(gid) {
            return Ok(Woken::Done);
        }
        // The row was read before the shard was locked; what counts is the saga as it is now.
        if let Some(core) = self.load(gid)?
            && !core.saga().status().is_finished()
        {
            let bytes = core.live_bytes();
            if !room.try_grow(bytes.saturating_sub(room.bytes())) {
                return Ok(Woken::NeedsRoom { bytes });
            }
            room.shrink_to(bytes);
            self.drive(&mut shard, Live::holding(core, room), place, attempt_place);
        }
        Ok(Woken::Done)
    }
}
