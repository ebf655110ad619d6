//! Queries: one saga by gid, and the list by time and status.

use std::sync::Arc;

use bytes::Bytes;
use tracing::error;

use super::{
    error::Error,
    format::{self, FAILED, LOGS, OPEN, OpenStatus, Record, SagaId},
    inner::Inner,
    live::{Chunk, Core},
};
use crate::{
    memory::{Holder, Reserved},
    saga::{Gid, Status, Timestamp},
    store::{self, Range},
};

/// Most sagas that one page looks at to find those of a status that has no index; the next page goes on from there.
const EXAMINED_MAX: usize = 10_000;

/// What a saga in a list holds, as a multiple of its stored bytes: as stored, decoded, and encoded for the client.
const LIST_COPIES: usize = 3;

/// Which sagas to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only those of this status.
    pub status: Option<Status>,
    /// Only those created at this time or later.
    pub created_from: Option<Timestamp>,
    /// Only those created at this time or earlier.
    pub created_to: Option<Timestamp>,
    /// Only those before this one in the list: where the page before ended.
    pub before: Option<SagaId>,
    /// At most so many.
    pub limit: usize,
}

/// A page of the list of sagas, newest first.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The sagas.
    pub sagas: Vec<Record>,
    /// Where the next page goes on; `None` at the end of the list. A page may be short, or empty, and not the last.
    pub next: Option<SagaId>,
}

/// What has become of a saga that was given to a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is in the list, which goes on.
    AndMore,
    /// It is in the list, which is long enough.
    AsLast,
    /// There was no room in memory for it: it is not in the list, which ends before it.
    NoRoom,
}

/// The end of a list.
#[derive(Clone, Copy, Debug, Default)]
pub struct Listed {
    /// Where the next page goes on; `None` at the end of the list.
    pub next: Option<SagaId>,
    /// How many sagas were taken.
    pub count: usize,
    /// Whether it ends before its limit: it became long, or there was no room in memory for the next saga.
    pub is_cut: bool,
}

impl Inner {
    /// See `Engine::find`.
    pub fn find(&self, gid: &str) -> Result<Option<Record>, Error> {
        match self.id_of_saved(gid)? {
            Some((gid, id)) => Ok(self.read(id, gid.as_str())?.map(|(record, _)| record)),
            None => Ok(None),
        }
    }

    /// The saga with this gid: the gid as the table has it, and the id. What a live saga has not committed is committed.
    fn id_of_saved(&self, gid: &str) -> Result<Option<(Gid, SagaId)>, Error> {
        // `Gid::new` also normalises it.
        let Ok(gid) = Gid::new(gid) else { return Ok(None) };
        if let Some(live) = self.shard(gid.as_str())?.get(gid.as_str()) {
            live.core().save(&*self.store, self.clock.now())?;
        }
        Ok(self.id_of(gid.as_str())?.map(|id| (gid, id)))
    }

    /// As [`Inner::find`], with room for what is read and `copies` of it in all; `None` if there is no room.
    pub fn find_within(
        &self,
        gid: &str,
        copies: usize,
        holder: &Arc<Holder>,
    ) -> Result<Option<(Option<Record>, Reserved)>, Error> {
        let Some((gid, id)) = self.id_of_saved(gid)? else { return Ok(Some((None, holder.nothing()))) };
        let chunks = self.chunks(id)?;
        let Some(room) = room_for_reading(&chunks, copies, holder) else { return Ok(None) };
        Ok(Some((decode(id, gid.as_str(), &chunks)?.map(|(record, _)| record), room)))
    }

    /// Gives the sagas that match to `take`, newest first and one at a time, until it takes the last, `filter.limit` is
    /// reached, or there is no room in memory. `take` gets the reservation of a saga as
    /// it is stored, decoded and encoded.
    pub fn list(
        &self,
        filter: &Filter,
        holder: &Arc<Holder>,
        mut take: impl FnMut(Record, Reserved) -> Taken,
    ) -> Result<Listed, Error> {
        let prefix = match filter.status {
            None | Some(Status::Succeed) => LOGS,
            Some(Status::Failed) => FAILED,
            Some(Status::Prepared | Status::Submitted | Status::Aborting) => OPEN,
        };
        let mut range = id_range(prefix, filter);
        let mut listed = Listed { next: filter.before, ..Listed::default() };
        let (mut newest, mut examined) = (None, 0);
        while listed.count < filter.limit && examined < EXAMINED_MAX {
            let rows = self.rows(prefix, &range, filter.limit.clamp(1, store::SCAN_ENTRIES_MAX))?;
            let Some((last, _)) = rows.last() else { return Ok(Listed { next: None, ..listed }) };
            range = range.beyond(last);
            for (key, value) in &rows {
                let Some(id) = format::id_in(key) else { continue };
                if newest == Some(id) || listed.count >= filter.limit {
                    continue;
                }
                newest = Some(id);
                examined += 1;
                let is_wanted = prefix != OPEN
                    || format::read_open(value)
                        .is_ok_and(|open| Some(open.status) == filter.status.and_then(OpenStatus::of));
                if is_wanted {
                    let chunks = self.chunks(id)?;
                    let Some(room) = room_for_reading(&chunks, LIST_COPIES, holder) else {
                        return Ok(Listed { is_cut: true, ..listed });
                    };
                    if let Some(found) = decode_if_sound(id, &chunks)?
                        && filter.status.is_none_or(|status| status == found.saga.status())
                    {
                        drop(chunks);
                        let taken = take(found, room);
                        if taken == Taken::NoRoom {
                            return Ok(Listed { is_cut: true, ..listed });
                        }
                        listed.count += 1;
                        if taken == Taken::AsLast {
                            return Ok(Listed { next: Some(id), is_cut: true, ..listed });
                        }
                    }
                }
                listed.next = Some(id);
            }
        }
        Ok(listed)
    }

    /// The next rows of a range, with their values only where those are short and needed. One row at a time would be a scan
    /// each; a page of rows holds at least one saga, and mostly many.
    fn rows(&self, prefix: &[u8], range: &Range, limit: usize) -> Result<Vec<(Bytes, Bytes)>, Error> {
        if prefix == OPEN {
            return Ok(self.store.scan(range, limit)?);
        }
        Ok(self.store.keys(range, limit)?.into_iter().map(|key| (key, Bytes::new())).collect())
    }

    /// The saga with this gid, ready to be driven: waits that were recorded ahead of the clock have begun anew. The caller
    /// holds its shard, and the saga is not live.
    pub fn load(&self, gid: &str) -> Result<Option<Core>, Error> {
        let mut core = self.load_as_stored(gid)?;
        if let Some(core) = &mut core {
            self.restart_waits_in(core)?;
        }
        Ok(core)
    }

    /// The saga with this gid as the store has it.
    pub fn load_as_stored(&self, gid: &str) -> Result<Option<Core>, Error> {
        let Some(id) = self.id_of(gid)? else { return Ok(None) };
        let Some((record, chunk)) = self.read(id, gid)? else { return Ok(None) };
        let unreadable = |source| Error::Unreadable { gid: gid.to_owned(), source };
        let open = self.store.get(&format::open_key(id))?;
        let open = open.map(|row| format::read_open(&row)).transpose().map_err(unreadable)?;
        Ok(Some(Core::stored(record, chunk, open)))
    }

    /// Compacts the log of a saga that is retried without end. The next commit replaces the stored log.
    pub fn compact(&self, core: &mut Core) -> Result<(), Error> {
        core.save(&*self.store, self.clock.now())?;
        match self.read(core.id, core.saga().definition().gid().as_str())? {
            Some((record, _)) => core.compact(&record.log),
            None => Ok(()),
        }
    }

    fn id_of(&self, gid: &str) -> Result<Option<SagaId>, Error> {
        // What is no gid belongs to no saga.
        let Ok(gid) = Gid::new(gid) else { return Ok(None) };
        let Some(value) = self.store.get(&format::gid_key(&gid))? else { return Ok(None) };
        let id = format::read_id(&value).map_err(|source| Error::Unreadable { gid: gid.to_string(), source })?;
        Ok(Some(id))
    }

    /// The saga of this id, as stored.
    pub fn read_parked(&self, id: SagaId) -> Result<Option<Record>, Error> {
        Ok(self.read(id, "that waits for its destination")?.map(|(record, _)| record))
    }

    /// Replays a saga from the store. Also returns its newest chunk with its number.
    fn read(&self, id: SagaId, gid: &str) -> Result<Option<(Record, Chunk)>, Error> {
        decode(id, gid, &self.chunks(id)?)
    }

    /// The chunks of a saga's log.
    fn chunks(&self, id: SagaId) -> Result<Vec<Bytes>, Error> {
        let mut range = Range::prefix(&format::log_prefix(id));
        let mut chunks = Vec::new();
        loop {
            let page = self.store.scan(&range, store::SCAN_ENTRIES_MAX)?;
            let Some((last, _)) = page.last() else { return Ok(chunks) };
            range = range.beyond(last);
            chunks.extend(page.into_iter().map(|(_, chunk)| chunk));
        }
    }
}

fn room_for_reading(chunks: &[Bytes], copies: usize, holder: &Arc<Holder>) -> Option<Reserved> {
    let bytes: usize = chunks.iter().map(Bytes::len).sum();
    holder.try_reserve(bytes.saturating_mul(copies))
}

/// Replays a saga from the chunks of its log; `None` if there are none. Also returns the newest chunk with its number.
fn decode(id: SagaId, gid: &str, chunks: &[Bytes]) -> Result<Option<(Record, Chunk)>, Error> {
    let Some(newest) = chunks.last() else { return Ok(None) };
    let number = u32::try_from(chunks.len() - 1).unwrap_or(u32::MAX);
    let record = format::read_log(id, chunks.iter().map(|chunk| &**chunk))
        .map_err(|source| Error::Unreadable { gid: gid.to_owned(), source })?;
    // A chunk that takes no more is not needed, and may hold the payloads.
    let newest = if format::takes_more(newest) { newest.to_vec() } else { Vec::new() };
    Ok(Some((record, (number, newest))))
}

/// As [`decode`]. A damaged saga is logged and left out, so that it does not hide the others.
fn decode_if_sound(id: SagaId, chunks: &[Bytes]) -> Result<Option<Record>, Error> {
    match decode(id, "in the list", chunks) {
        Err(error @ Error::Unreadable { .. }) => {
            error!(id = id.0, error = &error as &dyn std::error::Error, "a saga is left out of the list");
            Ok(None)
        }
        found => Ok(found?.map(|(record, _)| record)),
    }
}

/// The rows, newest first, in which the sagas are that the filter's times allow.
fn id_range(prefix: &[u8], filter: &Filter) -> Range {
    let all = Range::prefix(prefix).reversed();
    let key = |id: SagaId| [prefix, &id.0.to_be_bytes()].concat();
    let after = filter.created_to.map(|to| SagaId::first_at(Timestamp(to.0.saturating_add(1))));
    let end = [after, filter.before].into_iter().flatten().min();
    let range = match end {
        Some(end) => all.beyond(&key(end)),
        None => all,
    };
    match filter.created_from {
        Some(from) => range.through(&key(SagaId::first_at(from))),
        None => range,
    }
}
