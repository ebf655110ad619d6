//! The holders of a bulkhead, their places and their waits.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    time::Duration,
};

use crate::engine::format::SagaId;

/// The reserve is one part of so many.
const RESERVE: usize = 4;

/// Of the reserve, one part of so many is for quick holders.
const QUICK: usize = 2;

/// A holder that has returned its last place sooner than this is quick.
const QUICK_TIME: Duration = Duration::from_secs(1);

/// Most holders without places and waits that are remembered, for their counts of refusals and for being quick.
const IDLE_MAX: usize = 10_000;

/// How many places there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// In all. 0 counts as 1.
    pub total: usize,
    /// The most of one holder. 0 counts as 1.
    pub per_holder: usize,
}

/// The use that a holder makes of a bulkhead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load<K> {
    pub holder: K,
    /// Places in use.
    pub running: usize,
    /// Waits for a place, those of parked sagas included.
    pub waiting: usize,
    /// Submissions that were refused since the holder is remembered.
    pub refused: u64,
}

/// What can hold places.
pub trait Holder: Clone + Eq + Hash + Unpin {}

impl<K: Clone + Eq + Hash + Unpin> Holder for K {}

/// All holders. `W` stands for what a live saga waits with.
pub struct State<K: Holder, W> {
    pub limits: Limits,
    pub used: usize,
    /// Holders that have places or wait for some, and the quick ones of them.
    pub active: usize,
    pub active_quick: usize,
    next: u64,
    holders: HashMap<K, Entry<W>>,
    /// The holders that wait: those with the fewest places first, and of these the one that has been there longest. If the
    /// first has no room, none has.
    slow: BTreeMap<Turn, K>,
    /// The same, of quick holders.
    quick: BTreeMap<Turn, K>,
}

/// Where a holder that waits stands: behind those with fewer places, and those that came before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    running: usize,
    number: u64,
}

/// One holder's places and waits.
pub struct Entry<W> {
    pub running: usize,
    pub refused: u64,
    /// By ticket, and so in the order in which the waits began.
    pub queue: BTreeMap<u64, Waiter<W>>,
    /// The tickets of parked sagas: each waits once.
    pub parked: HashMap<SagaId, u64>,
    is_quick: bool,
    /// Where it stands, and whether among the quick ones.
    turn: Option<(bool, Turn)>,
}

/// What waits for a place.
pub enum Waiter<W> {
    Live(W),
    Parked(SagaId),
}

impl<W> Default for Entry<W> {
    fn default() -> Self {
        let (queue, parked) = (BTreeMap::new(), HashMap::new());
        Self { running: 0, refused: 0, queue, parked, is_quick: false, turn: None }
    }
}

impl<W> Entry<W> {
    fn is_active(&self) -> bool {
        self.running > 0 || !self.queue.is_empty()
    }
}

impl<K: Holder, W> State<K, W> {
    /// All places are free.
    pub fn new(limits: Limits) -> Self {
        let (holders, slow, quick) = (HashMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { limits, used: 0, active: 0, active_quick: 0, next: 0, holders, slow, quick }
    }

    /// A number that is greater than those before.
    pub fn next_ticket(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// The waits of one holder.
    pub fn waiting(&self, holder: &K) -> usize {
        self.holders.get(holder).map_or(0, |entry| entry.queue.len())
    }

    /// The use of all holders that are remembered, in no order.
    pub fn loads(&self) -> impl Iterator<Item = Load<K>> {
        self.holders.iter().map(|(holder, entry)| Load {
            holder: holder.clone(),
            running: entry.running,
            waiting: entry.queue.len(),
            refused: entry.refused,
        })
    }

    /// Changes a holder's entry, and keeps what depends on it: the numbers of active holders, and where it stands.
    pub fn change<R>(&mut self, holder: &K, change: impl FnOnce(&mut Entry<W>) -> R) -> R {
        let entry = match self.holders.get_mut(holder) {
            Some(entry) => entry,
            None => self.holders.entry(holder.clone()).or_default(),
        };
        let (was_active, was_quick) = (entry.is_active(), entry.is_quick);
        let result = change(entry);
        let (is_active, is_quick) = (entry.is_active(), entry.is_quick);
        let place = (!entry.queue.is_empty()).then_some((is_quick, entry.running));
        if place != entry.turn.map(|(is_quick, turn)| (is_quick, turn.running)) {
            self.next += 1;
            let turn = place.map(|(is_quick, running)| (is_quick, Turn { running, number: self.next }));
            let old = std::mem::replace(&mut entry.turn, turn);
            if let Some((is_quick, turn)) = old {
                if is_quick { &mut self.quick } else { &mut self.slow }.remove(&turn);
            }
            if let Some((is_quick, turn)) = turn {
                if is_quick { &mut self.quick } else { &mut self.slow }.insert(turn, holder.clone());
            }
        }
        self.active = (self.active + usize::from(is_active)).saturating_sub(usize::from(was_active));
        self.active_quick = (self.active_quick + usize::from(is_active && is_quick))
            .saturating_sub(usize::from(was_active && was_quick));
        if !is_active && self.idle() > IDLE_MAX {
            self.forget_idle();
        }
        result
    }

    /// Holders without places and waits.
    fn idle(&self) -> usize {
        self.holders.len().saturating_sub(self.active)
    }

    /// Forgets the idle holders, the quick ones only if they are many: any number of names may have been asked for in vain.
    fn forget_idle(&mut self) {
        self.holders.retain(|_, entry| entry.is_active() || entry.is_quick);
        if self.idle() > IDLE_MAX / 2 {
            self.holders.retain(|_, entry| entry.is_active());
        }
    }

    /// Takes a place, if the holder may have one and nothing of it waits.
    pub fn take(&mut self, holder: &K) -> bool {
        // One search for the holder, as this is done for every attempt.
        let (limits, used, active, active_quick) = (self.limits, self.used, self.active, self.active_quick);
        let takes = self.change(holder, |entry| {
            let is_new = usize::from(!entry.is_active());
            let share = share(limits, active + is_new, entry.is_quick.then_some(active_quick + is_new));
            let takes = entry.queue.is_empty() && has_room(limits, used, entry.running, entry.is_quick, share);
            entry.running += usize::from(takes);
            takes
        });
        self.used += usize::from(takes);
        takes
    }

    /// Takes back a place of a holder, which it has made use of for so long, if it has.
    pub fn free(&mut self, holder: &K, used_for: Option<Duration>) {
        self.used = self.used.saturating_sub(1);
        self.change(holder, |entry| {
            entry.running = entry.running.saturating_sub(1);
            entry.is_quick = used_for.map_or(entry.is_quick, |time| time < QUICK_TIME);
        });
    }

    /// Whether a holder that is active already may have one more place than it has.
    pub fn has_room(&self, running: usize, is_quick: bool) -> bool {
        let share = share(self.limits, self.active, is_quick.then_some(self.active_quick));
        has_room(self.limits, self.used, running, is_quick, share)
    }

    /// The holder that is the next to have a place, if one that waits may have one.
    fn next(&self) -> Option<K> {
        let first = |turns: &BTreeMap<Turn, K>, is_quick| {
            let (turn, holder) = turns.first_key_value()?;
            self.has_room(turn.running, is_quick).then(|| (*turn, holder.clone()))
        };
        let firsts = [first(&self.slow, false), first(&self.quick, true)];
        firsts.into_iter().flatten().min_by_key(|(turn, _)| *turn).map(|(_, holder)| holder)
    }

    /// Takes places for those that wait and may have one.
    pub fn grant(&mut self) -> Vec<(K, Waiter<W>)> {
        let mut granted = Vec::new();
        while let Some(holder) = self.next() {
            let waiter = self.change(&holder, |entry| {
                let (_, waiter) = entry.queue.pop_first()?;
                if let Waiter::Parked(id) = waiter {
                    entry.parked.remove(&id);
                }
                entry.running += 1;
                Some(waiter)
            });
            self.used += 1;
            granted.extend(waiter.map(|waiter| (holder, waiter)));
        }
        granted
    }
}

/// How many places of the reserve one holder may have: an equal part of its first half for each that is active, or of its last
/// half for each that is quick, if it is quick. One part more is made, so that the next one to come finds a place.
fn share(limits: Limits, active: usize, active_quick: Option<usize>) -> usize {
    let reserve = limits.total / RESERVE;
    let for_quick = reserve / QUICK;
    let quick = active_quick.map_or(0, |active| for_quick / active.saturating_add(1));
    ((reserve - for_quick) / active.saturating_add(1)).max(quick).max(1)
}

/// Whether a holder with this many places may have one more: outside the reserve as long as there are any; of the reserve,
/// while it has less than its share; of its last half, only if it is quick.
fn has_room(limits: Limits, used: usize, running: usize, is_quick: bool, share: usize) -> bool {
    let Limits { total, per_holder } = limits;
    let reserve = total / RESERVE;
    let end = if is_quick { total } else { total - reserve / QUICK };
    running < per_holder && used < end && (used < total - reserve || running < share)
}
