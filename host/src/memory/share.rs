//! A share of the budget, and its holders: reservations of bytes, without locks unless something waits.
//!
//! **No holder takes the room of others.** A holder may have at most [`LARGE`] times the bytes that are free after it has taken
//! more, so the more others hold, the less it may have: one alone has at most three quarters of the share, two that take what
//! they can three sevenths each, and there is always room for one that has little. These are the dynamic thresholds of
//! A. K. Choudhury and E. L. Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches", IEEE/ACM
//! Transactions on Networking 6 (1998). For small items the factor is [`SMALL`]: a few large items do not stop many small ones.
//!
//! **An item counts at most half of the share**, so that each gets room at some time, however large it is.
//!
//! **What waits** gets room in the order in which it began among the items of its holder, and stands in the way of no other
//! holder, with one exception, or a large item would wait for ever while others take small ones all the time. Room gathers for
//! the item that has waited longest among those of holders that would have no more than an equal part of the share, or have
//! nothing. Meanwhile each other holder takes no new item beyond its equal part of what will be left; what it has begun goes on.
//!
//! Invariants:
//!
//! 1. What is counted in a share is the sum over its holders, and of a holder the sum over its items.
//! 2. It is at most the limit, except for what [`Reserved::grow_over`] has added.
//! 3. Nothing waits while it could have room: each release looks at what waits, and what begins to wait looks once more.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::sync::oneshot;

use crate::store::sync::lock;

/// How many times the free bytes a holder may have that takes a large item.
const LARGE: usize = 3;

/// The same with a small item.
const SMALL: usize = 7;

/// An item counts at most one part of so many.
const ITEM: usize = 2;

/// Part of a share that is for holders of all of it: one of so many.
const KEPT: usize = 8;

/// Room gathers for no item.
const UNBOUNDED: usize = usize::MAX;

/// One kind of use, and how many bytes it may hold.
#[derive(Debug)]
pub struct Share {
    limit: usize,
    /// The longest small item, in bytes.
    small: usize,
    used: AtomicUsize,
    refused: AtomicU64,
    /// How many items wait, to be read without the lock.
    waiting: AtomicUsize,
    /// Holders that have anything.
    active: AtomicUsize,
    /// The most that a holder may have after it has taken a new item, while room gathers for an item of another.
    bound: AtomicUsize,
    waits: Mutex<Waits>,
}

/// The holders that wait, by the tickets of their first items.
#[derive(Debug, Default)]
struct Waits {
    next_ticket: u64,
    /// The first ticket of the holder for which room gathers.
    gathers_for: Option<u64>,
    by_first: BTreeMap<u64, Waiting>,
}

/// The items of one holder that wait, in their order. Never empty.
#[derive(Debug)]
struct Waiting {
    holder: Arc<Holder>,
    items: VecDeque<Item>,
}

#[derive(Debug)]
struct Item {
    ticket: u64,
    bytes: usize,
    room: oneshot::Sender<Reserved>,
}

/// What one client or plugin, say, has of a share.
#[derive(Debug)]
pub struct Holder {
    share: Arc<Share>,
    /// It takes nothing if more than that would be used in the share.
    ceiling: usize,
    used: AtomicUsize,
    /// How many of its items wait.
    waiting: AtomicUsize,
}

impl Share {
    /// An unused share of `limit` bytes, in which items up to `small` bytes are small.
    pub fn new(limit: usize, small: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            small,
            used: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            bound: AtomicUsize::new(UNBOUNDED),
            waits: Mutex::default(),
        })
    }

    /// A holder that has nothing yet.
    pub fn holder(self: &Arc<Self>) -> Arc<Holder> {
        self.holder_up_to(self.limit)
    }

    /// The same, of all but an eighth of the share, which is left to the others however many such holders there are.
    pub fn holder_of_most(self: &Arc<Self>) -> Arc<Holder> {
        self.holder_up_to(self.limit - self.limit / KEPT)
    }

    fn holder_up_to(self: &Arc<Self>, ceiling: usize) -> Arc<Holder> {
        Arc::new(Holder { share: self.clone(), ceiling, used: AtomicUsize::new(0), waiting: AtomicUsize::new(0) })
    }

    /// The bytes of the share.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The bytes that are reserved now. An item larger than half of the share counts as half of it.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::SeqCst)
    }

    /// How often there was no room since the start.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// What an item of so many bytes counts.
    fn counted(&self, bytes: usize) -> usize {
        bytes.min(self.limit / ITEM)
    }

    /// Gives what waits the room that there is, the holder first that has waited longest.
    fn grant(&self) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        // Sent without the lock: a reservation whose receiver has gone is released at once, which comes back here.
        for (room, reserved) in self.granted() {
            // If nothing receives it, it is dropped.
            let _ = room.send(reserved);
        }
    }

    fn granted(&self) -> Vec<(oneshot::Sender<Reserved>, Reserved)> {
        let mut waits = lock(&self.waits);
        self.gather(&mut waits);
        let mut granted = Vec::new();
        let mut from = 0;
        while let Some((&ticket, waiting)) = waits.by_first.range(from..).next() {
            let bound = if waits.gathers_for == Some(ticket) { UNBOUNDED } else { self.bound.load(Ordering::SeqCst) };
            let reserved = waiting.items.front().and_then(|item| waiting.holder.take_new(item.bytes, bound));
            // What is granted changes for which item room gathers, and so what the others may have.
            from = if reserved.is_some() { 0 } else { ticket + 1 };
            if let Some(reserved) = reserved
                && let Some(item) = self.forget(&mut waits, ticket, 0)
            {
                granted.push((item.room, reserved));
            }
        }
        granted
    }

    /// Takes an item out of those that wait.
    fn forget(&self, waits: &mut Waits, first: u64, index: usize) -> Option<Item> {
        let mut waiting = waits.by_first.remove(&first)?;
        let item = waiting.items.remove(index);
        if item.is_some() {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            waiting.holder.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        if let Some(next) = waiting.items.front() {
            waits.by_first.insert(next.ticket, waiting);
        }
        self.gather(waits);
        item
    }

    /// Chooses for which item room gathers, and what the others may have meanwhile.
    fn gather(&self, waits: &mut Waits) {
        let active = self.active.load(Ordering::SeqCst);
        let equal_part = self.limit / (active + 1);
        let chosen = waits.by_first.iter().find_map(|(ticket, waiting)| {
            let held = waiting.holder.used();
            let after = held.saturating_add(self.counted(waiting.items.front()?.bytes));
            (held == 0 || after <= equal_part).then_some((*ticket, held, after))
        });
        waits.gathers_for = chosen.map(|(ticket, ..)| ticket);
        let bound = chosen.map_or(UNBOUNDED, |(_, held, after)| {
            // It gets room when a third of what its holder then has is free, see `LARGE`.
            let left = self.limit.saturating_sub(after).saturating_sub(after.div_ceil(LARGE));
            let others = active - usize::from(held > 0).min(active);
            left / (others + 1)
        });
        self.bound.store(bound, Ordering::SeqCst);
    }
}

impl Holder {
    /// The bytes that it has.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::SeqCst)
    }

    /// A reservation of nothing, to be grown.
    pub fn nothing(self: &Arc<Self>) -> Reserved {
        Reserved { holder: self.clone(), bytes: 0, counted: 0 }
    }

    /// Reserves bytes; `None` if there is no room now.
    pub fn try_reserve(self: &Arc<Self>, bytes: usize) -> Option<Reserved> {
        let mut reserved = self.nothing();
        reserved.try_grow(bytes).then_some(reserved)
    }

    /// Reserves bytes, and waits until there is room.
    pub async fn reserve(self: &Arc<Self>, bytes: usize) -> Reserved {
        if self.waiting.load(Ordering::SeqCst) == 0
            && let Some(reserved) = self.take_new(bytes, self.share.bound.load(Ordering::SeqCst))
        {
            return reserved;
        }
        let (ticket, room) = self.wait(bytes);
        let wait = Wait { holder: self, ticket };
        // Between the look above and the wait there may have been a release.
        self.share.grant();
        let reserved = room.await;
        drop(wait);
        // The sender is dropped only with the wait.
        reserved.unwrap_or_else(|_| self.nothing())
    }

    fn wait(self: &Arc<Self>, bytes: usize) -> (u64, oneshot::Receiver<Reserved>) {
        let (room, receiver) = oneshot::channel();
        let mut waits = lock(&self.share.waits);
        let ticket = waits.next_ticket;
        waits.next_ticket += 1;
        let item = Item { ticket, bytes, room };
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.share.waiting.fetch_add(1, Ordering::SeqCst);
        if let Some(own) = waits.by_first.values_mut().find(|waiting| Arc::ptr_eq(&waiting.holder, self)) {
            own.items.push_back(item);
        } else {
            waits.by_first.insert(ticket, Waiting { holder: self.clone(), items: VecDeque::from([item]) });
        }
        self.share.gather(&mut waits);
        (ticket, receiver)
    }

    /// A new item of so many bytes, unless there is no room, or the holder would have more than `bound`.
    fn take_new(self: &Arc<Self>, bytes: usize, bound: usize) -> Option<Reserved> {
        let mut reserved = self.nothing();
        let counted = self.share.counted(bytes);
        if !self.take(counted, bytes <= self.share.small, bound) {
            return None;
        }
        (reserved.bytes, reserved.counted) = (bytes, counted);
        Some(reserved)
    }

    /// Counts `more` bytes, unless there is no room, or the holder would have more than `bound`.
    fn take(&self, more: usize, is_small: bool, bound: usize) -> bool {
        if more == 0 {
            return true;
        }
        let factor = if is_small { SMALL } else { LARGE };
        // Counted before it is judged, so that two items of one holder see each other.
        let held = self.add(more);
        let added = |used: usize| {
            let after = used.saturating_add(more);
            let free = self.ceiling.saturating_sub(after);
            (held <= free.saturating_mul(factor) && held <= bound).then_some(after)
        };
        let fits = self.share.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, added).is_ok();
        if !fits {
            self.subtract(more);
        }
        fits
    }

    /// Counts bytes of the holder, and returns what it has then.
    fn add(&self, more: usize) -> usize {
        let before = self.used.fetch_add(more, Ordering::SeqCst);
        if before == 0 && more > 0 {
            self.share.active.fetch_add(1, Ordering::SeqCst);
        }
        before.saturating_add(more)
    }

    fn subtract(&self, less: usize) {
        if less > 0 && self.used.fetch_sub(less, Ordering::SeqCst) == less {
            self.share.active.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn release(&self, counted: usize) {
        if counted > 0 {
            self.subtract(counted);
            self.share.used.fetch_sub(counted, Ordering::SeqCst);
            self.share.grant();
        }
    }
}

/// An item that waits. Dropping it ends the wait.
struct Wait<'a> {
    holder: &'a Arc<Holder>,
    ticket: u64,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let share = &self.holder.share;
        let forgotten = {
            let mut waits = lock(&share.waits);
            let place = waits.by_first.iter().find_map(|(first, waiting)| {
                let own = Arc::ptr_eq(&waiting.holder, self.holder);
                let index = own.then(|| waiting.items.iter().position(|item| item.ticket == self.ticket));
                index.flatten().map(|index| (*first, index))
            });
            place.and_then(|(first, index)| share.forget(&mut waits, first, index))
        };
        if forgotten.is_some() {
            // Room may have gathered for it.
            share.grant();
        }
    }
}

/// Bytes of a share that one item holds. Dropping it releases them.
#[derive(Debug)]
pub struct Reserved {
    holder: Arc<Holder>,
    bytes: usize,
    /// What of them counts in the share.
    counted: usize,
}

impl Reserved {
    /// The bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reserves `more` bytes for the same item. `false`: there is no room now, and nothing has changed.
    pub fn try_grow(&mut self, more: usize) -> bool {
        let bytes = self.bytes.saturating_add(more);
        let share = &self.holder.share;
        let missing = share.counted(bytes).saturating_sub(self.counted);
        // What has begun is not held up by what has not.
        let bound = if self.bytes > 0 { UNBOUNDED } else { share.bound.load(Ordering::SeqCst) };
        let fits = self.holder.take(missing, bytes <= share.small, bound);
        if fits {
            self.counted += missing;
            self.bytes = bytes;
        } else {
            share.refused.fetch_add(1, Ordering::Relaxed);
            // What was counted for a moment may have been in the way of what waits.
            share.grant();
        }
        fits
    }

    /// Counts `more` bytes that are held already, also beyond the limit: others then wait or are refused.
    pub fn grow_over(&mut self, more: usize) {
        self.holder.share.used.fetch_add(more, Ordering::SeqCst);
        self.holder.add(more);
        self.counted += more;
        self.bytes += more;
    }

    /// Releases all but `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        self.bytes = self.bytes.min(bytes);
        let released = self.counted.saturating_sub(self.bytes);
        self.counted -= released;
        self.holder.release(released);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.holder.release(self.counted);
    }
}

#[cfg(test)]
mod tests;
