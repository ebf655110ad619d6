//! Queries: one saga by gid, and the list by time and status.

use tracing::error;

use super::{
    error::Error,
    format::{self, FAILED, LOGS, OPEN, OpenStatus, Record, SagaId},
    inner::Inner,
    live::{Chunk, Core},
};
use crate::{
    saga::{Gid, Status, Timestamp},
    store::{self, Range},
};

/// Most sagas that one page looks at to find those of a status that has no index; the next page goes on from there.
const EXAMINED_MAX: usize = 10_000;

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

impl Inner {
    /// See `Engine::find`.
    pub fn find(&self, gid: &str) -> Result<Option<Record>, Error> {
        // `Gid::new` also normalises it, as the table has it.
        let Ok(gid) = Gid::new(gid) else { return Ok(None) };
        let gid = gid.as_str();
        if let Some(live) = self.shard(gid)?.get(gid) {
            live.core().save(&*self.store, self.clock.now())?;
        }
        match self.id_of(gid)? {
            Some(id) => Ok(self.read(id, gid)?.map(|(record, _)| record)),
            None => Ok(None),
        }
    }

    /// See `Engine::list`.
    pub fn list(&self, filter: &Filter) -> Result<Page, Error> {
        let prefix = match filter.status {
            None | Some(Status::Succeed) => LOGS,
            Some(Status::Failed) => FAILED,
            Some(Status::Prepared | Status::Submitted | Status::Aborting) => OPEN,
        };
        let mut range = id_range(prefix, filter);
        let mut page = Page::default();
        let mut examined = 0;
        while page.sagas.len() < filter.limit && examined < EXAMINED_MAX {
            // One row at a time would be a scan each; a page of rows holds at least one saga, and mostly many.
            let rows = self.store.scan(&range, filter.limit.clamp(1, store::SCAN_ENTRIES_MAX))?;
            let Some((last, _)) = rows.last() else { return Ok(Page { next: None, ..page }) };
            range = range.beyond(last);
            for (key, value) in &rows {
                let Some(id) = format::id_in(key) else { continue };
                if page.next == Some(id) || page.sagas.len() >= filter.limit {
                    continue;
                }
                page.next = Some(id);
                examined += 1;
                let is_wanted = prefix != OPEN
                    || format::read_open(value)
                        .is_ok_and(|open| Some(open.status) == filter.status.and_then(OpenStatus::of));
                if is_wanted
                    && let Some(found) = self.read_if_sound(id)?
                    && filter.status.is_none_or(|status| status == found.saga.status())
                {
                    page.sagas.push(found);
                }
            }
        }
        Ok(page)
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

    /// As [`Inner::read`]. A damaged saga is logged and left out, so that it does not hide the others.
    fn read_if_sound(&self, id: SagaId) -> Result<Option<Record>, Error> {
        match self.read(id, "in the list") {
            Err(error @ Error::Unreadable { .. }) => {
                error!(id = id.0, error = &error as &dyn std::error::Error, "a saga is left out of the list");
                Ok(None)
            }
            found => Ok(found?.map(|(record, _)| record)),
        }
    }

    /// Replays a saga from the store. Also returns its newest chunk with its number.
    fn read(&self, id: SagaId, gid: &str) -> Result<Option<(Record, Chunk)>, Error> {
        let mut range = Range::prefix(&format::log_prefix(id));
        let mut chunks = Vec::new();
        loop {
            let page = self.store.scan(&range, store::SCAN_ENTRIES_MAX)?;
            let Some((last, _)) = page.last() else { break };
            range = range.beyond(last);
            chunks.extend(page.into_iter().map(|(_, chunk)| chunk));
        }
        let Some(newest) = chunks.last() else { return Ok(None) };
        let number = u32::try_from(chunks.len() - 1).unwrap_or(u32::MAX);
        let record = format::read_log(id, chunks.iter().map(|chunk| &**chunk))
            .map_err(|source| Error::Unreadable { gid: gid.to_owned(), source })?;
        Ok(Some((record, (number, newest.to_vec()))))
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
