//! A bulkhead: a number of places that several holders share, so that no holder can take the places of the others. A
//! holder is a destination of attempts, or a client that submits sagas.
//!
//! The last quarter of the places is a reserve for holders that have few ([`has_room`]): a holder that asks for its
//! first place gets one, even if others would take all that there are. This is max-min fairness with equal weights, as in
//! D. Bertsekas and R. Gallager, "Data Networks" (1992), section 6.5.2, for the reserve only, and without taking back.
//!
//! Invariants:
//!
//! 1. The places in use are the sum over all holders, and at most `total`; no holder has more than `per_holder`.
//! 2. No holder waits while it may have a place.
//! 3. The waits of one holder end in the order in which they began.
//! 4. A place that was granted is used, or returned: [`Place`] returns it on drop.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    hash::Hash,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use tokio::sync::{mpsc, oneshot};

use super::format::SagaId;
use crate::store::sync::lock;

/// The reserve is one part of so many.
const RESERVE: usize = 4;

/// Most holders without places and waits that are remembered, for their counts of refusals.
const IDLE_MAX: usize = 1000;

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

/// The places, and what waits for them. Clones are handles of the same.
#[derive(Clone)]
pub struct Bulkhead<K: Holder>(Arc<Shared<K>>);

struct Shared<K: Holder> {
    state: Mutex<State<K>>,
    /// The waits of all holders, to be read without the lock.
    waiting: AtomicUsize,
    granted: mpsc::UnboundedSender<(SagaId, Place<K>)>,
}

struct State<K: Holder> {
    limits: Limits,
    used: usize,
    /// Holders that have places or wait for some.
    active: usize,
    next_ticket: u64,
    holders: HashMap<K, Entry<K>>,
    /// The holders that wait, in the order in which they are looked at.
    ring: VecDeque<K>,
}

/// One holder's places and waits.
struct Entry<K: Holder> {
    running: usize,
    refused: u64,
    /// By ticket, and so in the order in which the waits began.
    queue: BTreeMap<u64, Waiter<K>>,
    /// The tickets of parked sagas: each waits once.
    parked: HashMap<SagaId, u64>,
    is_in_ring: bool,
}

enum Waiter<K: Holder> {
    Live(oneshot::Sender<Place<K>>),
    Parked(SagaId),
}

impl<K: Holder> Default for Entry<K> {
    fn default() -> Self {
        Self { running: 0, refused: 0, queue: BTreeMap::new(), parked: HashMap::new(), is_in_ring: false }
    }
}

impl<K: Holder> Entry<K> {
    fn is_active(&self) -> bool {
        self.running > 0 || !self.queue.is_empty()
    }
}

impl<K: Holder> State<K> {
    fn has_room(&self, running: usize, active: usize) -> bool {
        has_room(self.limits, self.used, running, active)
    }

    /// Changes a holder's entry, and keeps the number of active holders.
    fn change<R>(&mut self, holder: &K, change: impl FnOnce(&mut Entry<K>) -> R) -> R {
        let entry = match self.holders.get_mut(holder) {
            Some(entry) => entry,
            None => self.holders.entry(holder.clone()).or_default(),
        };
        let was_active = entry.is_active();
        let result = change(entry);
        match (was_active, entry.is_active()) {
            (false, true) => self.active += 1,
            (true, false) => {
                self.active = self.active.saturating_sub(1);
                if self.holders.len().saturating_sub(self.active) > IDLE_MAX {
                    self.holders.retain(|_, entry| entry.is_active());
                }
            }
            _ => {}
        }
        result
    }

    /// Takes a place, if the holder may have one and nothing of it waits.
    fn take(&mut self, holder: &K) -> bool {
        // One search for the holder, as this is done for every attempt.
        let (limits, used) = (self.limits, self.used);
        let active = self.active;
        let takes = self.change(holder, |entry| {
            let active = active + usize::from(!entry.is_active());
            let takes = entry.queue.is_empty() && has_room(limits, used, entry.running, active);
            entry.running += usize::from(takes);
            takes
        });
        self.used += usize::from(takes);
        takes
    }

    fn enqueue(&mut self, holder: &K, ticket: u64, waiter: Waiter<K>) {
        let is_new_in_ring = self.change(holder, |entry| {
            entry.queue.insert(ticket, waiter);
            !std::mem::replace(&mut entry.is_in_ring, true)
        });
        if is_new_in_ring {
            self.ring.push_back(holder.clone());
        }
    }

    /// Takes places for those that wait and may have one, round-robin over the holders.
    fn grant(&mut self) -> Vec<(K, Waiter<K>)> {
        let mut granted = Vec::new();
        let mut passed_over = 0;
        while self.used < self.limits.total && passed_over < self.ring.len() {
            let Some(holder) = self.ring.pop_front() else { break };
            let Some(entry) = self.holders.get_mut(&holder) else { continue };
            let running = entry.running;
            if entry.queue.is_empty() {
                entry.is_in_ring = false;
            } else if self.has_room(running, self.active) {
                let next = self.change(&holder, |entry| {
                    let (_, waiter) = entry.queue.pop_first()?;
                    if let Waiter::Parked(id) = waiter {
                        entry.parked.remove(&id);
                    }
                    entry.running += 1;
                    Some(waiter)
                });
                self.used += 1;
                granted.extend(next.map(|waiter| (holder.clone(), waiter)));
                passed_over = 0;
                self.ring.push_back(holder);
            } else {
                passed_over += 1;
                self.ring.push_back(holder);
            }
        }
        granted
    }
}

/// Whether a holder with this many places may have one more: outside the reserve as long as there are any; of the reserve,
/// while it has less than an equal share. One share more than there are holders is made, so that the next one to come finds
/// a place.
fn has_room(Limits { total, per_holder }: Limits, used: usize, running: usize, active: usize) -> bool {
    let reserve = total / RESERVE;
    let share = (reserve / active.saturating_add(1)).max(1);
    let is_outside_reserve = used < total - reserve;
    running < per_holder && used < total && (is_outside_reserve || running < share)
}

impl<K: Holder> Bulkhead<K> {
    /// A bulkhead with all places free. Parked sagas are sent to `granted` with their places.
    pub fn new(limits: Limits, granted: mpsc::UnboundedSender<(SagaId, Place<K>)>) -> Self {
        let Limits { total, per_holder } = limits;
        let limits = Limits { total: total.max(1), per_holder: per_holder.max(1) };
        let state =
            State { limits, used: 0, active: 0, next_ticket: 0, holders: HashMap::new(), ring: VecDeque::new() };
        Self(Arc::new(Shared { state: Mutex::new(state), waiting: AtomicUsize::new(0), granted }))
    }

    /// A place, if the holder may have one now.
    pub fn try_enter(&self, holder: K) -> Option<Place<K>> {
        let takes = lock(&self.0.state).take(&holder);
        takes.then(|| Place { bulkhead: self.clone(), holder, is_returned: false })
    }

    /// A place, or a wait for one. A saga that is parked here already keeps its turn.
    pub fn enter(&self, holder: K, saga: Option<SagaId>) -> Result<Place<K>, Waiting<K>> {
        let mut state = lock(&self.0.state);
        if state.take(&holder) {
            drop(state);
            return Ok(Place { bulkhead: self.clone(), holder, is_returned: false });
        }
        let (sender, place) = oneshot::channel();
        let (parked, ahead) = state.change(&holder, |entry| {
            let ahead = Ahead { parked: !entry.parked.is_empty(), waits: entry.queue.len() };
            (saga.and_then(|id| entry.parked.remove(&id)), ahead)
        });
        let ticket = parked.unwrap_or(state.next_ticket);
        if parked.is_none() {
            state.next_ticket += 1;
            self.0.waiting.fetch_add(1, Relaxed);
        }
        state.enqueue(&holder, ticket, Waiter::Live(sender));
        drop(state);
        Err(Waiting { bulkhead: self.clone(), holder, ticket: Some(ticket), ahead, place })
    }

    /// Counts a submission that was refused because of this holder.
    pub fn refuse(&self, holder: &K) {
        lock(&self.0.state).change(holder, |entry| entry.refused += 1);
    }

    /// The waits of one holder.
    pub fn waiting(&self, holder: &K) -> usize {
        lock(&self.0.state).holders.get(holder).map_or(0, |entry| entry.queue.len())
    }

    /// The waits of all holders. Takes no lock.
    pub fn waiting_in_all(&self) -> usize {
        self.0.waiting.load(Relaxed)
    }

    /// The use of all holders that are remembered, in no order.
    pub fn loads(&self) -> Vec<Load<K>> {
        let state = lock(&self.0.state);
        let load = |(holder, entry): (&K, &Entry<K>)| Load {
            holder: holder.clone(),
            running: entry.running,
            waiting: entry.queue.len(),
            refused: entry.refused,
        };
        state.holders.iter().map(load).collect()
    }

    /// Returns a holder's place. What may have it, or another, is taken off its queue.
    fn free(&self, holder: &K) -> Vec<(K, Waiter<K>)> {
        let mut state = lock(&self.0.state);
        state.used = state.used.saturating_sub(1);
        state.change(holder, |entry| entry.running = entry.running.saturating_sub(1));
        state.grant()
    }

    /// Sends places to what has waited. Without the lock, which the drop of a place takes. In a loop, as a place that is not
    /// wanted any more passes on to the next, of which there may be millions when the host stops.
    fn hand_out(&self, granted: Vec<(K, Waiter<K>)>) {
        let mut granted = VecDeque::from(granted);
        while let Some((holder, waiter)) = granted.pop_front() {
            self.0.waiting.fetch_sub(1, Relaxed);
            let place = Place { bulkhead: self.clone(), holder, is_returned: false };
            let unwanted = match waiter {
                Waiter::Live(sender) => sender.send(place).err(),
                Waiter::Parked(id) => self.0.granted.send((id, place)).err().map(|error| error.0.1),
            };
            if let Some(mut place) = unwanted {
                place.is_returned = true;
                granted.extend(self.free(&place.holder));
            }
        }
    }

    /// Ends a wait, unless its turn has come.
    fn stop_waiting(&self, holder: &K, ticket: u64) {
        let mut state = lock(&self.0.state);
        if state.change(holder, |entry| entry.queue.remove(&ticket)).is_some() {
            self.0.waiting.fetch_sub(1, Relaxed);
            // Perhaps one holder less is active, and each has a larger share.
            let granted = state.grant();
            drop(state);
            self.hand_out(granted);
        }
    }

    /// Replaces a wait by that of a parked saga. False if there is none: its turn has come.
    fn park(&self, holder: &K, ticket: u64, id: SagaId) -> bool {
        let mut state = lock(&self.0.state);
        state.change(holder, |entry| {
            if !entry.queue.contains_key(&ticket) {
                return false;
            }
            // A saga that is parked here already waits in the earlier turn.
            let (kept, surplus) = match entry.parked.get(&id) {
                Some(other) => (ticket.min(*other), Some(ticket.max(*other))),
                None => (ticket, None),
            };
            entry.queue.insert(kept, Waiter::Parked(id));
            entry.parked.insert(id, kept);
            if let Some(surplus) = surplus {
                entry.queue.remove(&surplus);
                self.0.waiting.fetch_sub(1, Relaxed);
            }
            true
        })
    }
}

/// A holder's place, until it is dropped.
pub struct Place<K: Holder> {
    bulkhead: Bulkhead<K>,
    holder: K,
    is_returned: bool,
}

impl<K: Holder> Place<K> {
    /// What holds the place.
    pub fn holder(&self) -> &K {
        &self.holder
    }
}

impl<K: Holder> Drop for Place<K> {
    fn drop(&mut self) {
        if !self.is_returned {
            self.bulkhead.hand_out(self.bulkhead.free(&self.holder));
        }
    }
}

impl<K: Holder + fmt::Debug> fmt::Debug for Place<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({:?})", self.holder)
    }
}

/// What waits before a wait that begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// Whether sagas are parked, and so for a while.
    pub parked: bool,
    /// The waits, those of parked sagas included.
    pub waits: usize,
}

/// A wait for a place: a future of it. Dropping it ends the wait.
pub struct Waiting<K: Holder> {
    bulkhead: Bulkhead<K>,
    holder: K,
    /// Until a parked saga has taken the turn.
    ticket: Option<u64>,
    ahead: Ahead,
    place: oneshot::Receiver<Place<K>>,
}

impl<K: Holder> Waiting<K> {
    /// What waited here when the wait began.
    pub fn ahead(&self) -> Ahead {
        self.ahead
    }

    /// Lets a saga wait in the same turn without a task: it is sent to the channel with its place. False if the turn has
    /// come just now: the saga does not wait any more, and the place returns.
    #[must_use]
    pub fn park(mut self, id: SagaId) -> bool {
        self.ticket.take().is_some_and(|ticket| self.bulkhead.park(&self.holder, ticket, id))
    }
}

impl<K: Holder> Future for Waiting<K> {
    type Output = Place<K>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Place<K>> {
        match Pin::new(&mut self.place).poll(context) {
            Poll::Ready(Ok(place)) => Poll::Ready(place),
            // The sender lives in the queue until it sends.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

impl<K: Holder> Drop for Waiting<K> {
    fn drop(&mut self) {
        // If its turn has come, the receiver drops the place.
        if let Some(ticket) = self.ticket {
            self.bulkhead.stop_waiting(&self.holder, ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    type Granted = mpsc::UnboundedReceiver<(SagaId, Place<u8>)>;

    fn bulkhead(total: usize, per_holder: usize) -> (Bulkhead<u8>, Granted) {
        let (granted, receiver) = mpsc::unbounded_channel();
        (Bulkhead::new(Limits { total, per_holder }, granted), receiver)
    }

    fn waiting(bulkhead: &Bulkhead<u8>, holder: u8) -> Waiting<u8> {
        bulkhead.enter(holder, None).err().unwrap()
    }

    fn numbers(bulkhead: &Bulkhead<u8>, holder: u8) -> (usize, usize) {
        let load = bulkhead.loads().into_iter().find(|load| load.holder == holder);
        load.map_or((0, 0), |load| (load.running, load.waiting))
    }

    #[test]
    fn one_holder_has_at_most_its_own_limit() {
        let (bulkhead, _granted) = bulkhead(8, 2);
        let places = [bulkhead.try_enter(1), bulkhead.try_enter(1), bulkhead.try_enter(1)];
        assert_eq!(places.map(|place| place.is_some()), [true, true, false]);
    }

    #[test]
    fn greedy_holders_leave_places_for_those_that_have_few() {
        let (bulkhead, _granted) = bulkhead(64, 64);
        let greedy: Vec<_> = (0..200).filter_map(|n| bulkhead.try_enter(n % 2)).collect();
        assert!(greedy.len() >= 48, "what nobody else asks for is used: {}", greedy.len());
        for holder in 2..10 {
            assert!(bulkhead.try_enter(holder).is_some(), "{holder}");
        }
        let few: Vec<_> = (2..7).map(|holder| bulkhead.try_enter(holder)).collect();
        assert!(few.iter().all(Option::is_some), "one of each at once");
    }

    #[test]
    fn waits_of_a_holder_end_in_order_and_a_parked_saga_keeps_its_turn() {
        let (bulkhead, mut granted) = bulkhead(4, 1);
        let place = bulkhead.try_enter(1).unwrap();
        let (first, mut second, third) = (waiting(&bulkhead, 1), waiting(&bulkhead, 1), waiting(&bulkhead, 1));
        assert!(first.park(SagaId(1)) && third.park(SagaId(3)));
        assert!((&mut second).now_or_never().is_none());
        assert_eq!(numbers(&bulkhead, 1), (1, 3));
        drop(place);
        let (id, place) = granted.try_recv().unwrap();
        assert_eq!((id, granted.try_recv().is_err()), (SagaId(1), true));
        drop(place);
        let place = second.now_or_never().unwrap();
        assert!(granted.try_recv().is_err());
        // Saga 3 is driven for another reason: it takes up its turn, before one that comes later.
        let mut third = bulkhead.enter(1, Some(SagaId(3))).err().unwrap();
        let mut late = waiting(&bulkhead, 1);
        drop(place);
        let place = (&mut third).now_or_never().unwrap();
        assert!((&mut late).now_or_never().is_none());
        assert_eq!(numbers(&bulkhead, 1), (1, 1));
        drop((place, third, late));
        assert_eq!(numbers(&bulkhead, 1), (0, 0));
    }

    #[test]
    fn a_saga_that_parks_twice_waits_once() {
        let (bulkhead, mut granted) = bulkhead(4, 1);
        let place = bulkhead.try_enter(1).unwrap();
        assert!(waiting(&bulkhead, 1).park(SagaId(1)) && waiting(&bulkhead, 1).park(SagaId(1)));
        assert_eq!((numbers(&bulkhead, 1), bulkhead.waiting_in_all()), ((1, 1), 1));
        drop(place);
        assert_eq!(granted.try_recv().unwrap().0, SagaId(1));
        assert_eq!((numbers(&bulkhead, 1), bulkhead.waiting_in_all()), ((0, 0), 0));
    }

    #[test]
    fn a_turn_that_comes_while_its_saga_parks_is_not_lost() {
        let (bulkhead, mut granted) = bulkhead(4, 1);
        let place = bulkhead.try_enter(1).unwrap();
        let wait = waiting(&bulkhead, 1);
        drop(place);
        assert!(!wait.park(SagaId(1)), "the caller drives it again");
        assert!(granted.try_recv().is_err());
        assert_eq!(numbers(&bulkhead, 1), (0, 0));
    }

    #[test]
    fn a_saga_that_parks_twice_keeps_the_earlier_turn() {
        let (bulkhead, mut granted) = bulkhead(4, 1);
        let place = bulkhead.try_enter(1).unwrap();
        let [early, other, late] = [waiting(&bulkhead, 1), waiting(&bulkhead, 1), waiting(&bulkhead, 1)];
        assert!(early.park(SagaId(1)) && other.park(SagaId(2)) && late.park(SagaId(1)));
        drop(place);
        let (first, place) = granted.try_recv().unwrap();
        drop(place);
        assert_eq!((first, granted.try_recv().unwrap().0), (SagaId(1), SagaId(2)));
    }

    /// When the host stops, nothing receives the sagas whose turn comes.
    #[test]
    fn places_that_nothing_wants_return_however_many_sagas_are_parked() {
        let (bulkhead, granted) = bulkhead(4, 1);
        let place = bulkhead.try_enter(1).unwrap();
        for id in 0..200_000 {
            assert!(waiting(&bulkhead, 1).park(SagaId(id)));
        }
        drop(granted);
        drop(place);
        assert_eq!((numbers(&bulkhead, 1), bulkhead.waiting_in_all()), ((0, 0), 0));
    }

    /// Random entries, waits, parkings and ends; the invariants are checked after each.
    #[test]
    fn invariants_hold_in_any_order_of_events() {
        wasaga_seed::seeds(300).for_each(|seed| {
            let mut random = wasaga_seed::rng(seed);
            let (total, per_holder) = (random.usize(1..12), random.usize(1..8));
            let (bulkhead, mut granted) = bulkhead(total, per_holder);
            let (mut places, mut waits, mut next) = (Vec::new(), Vec::new(), 0);
            for _ in 0..200 {
                let holder = random.u8(0..4);
                match random.u8(0..6) {
                    0 | 1 => match bulkhead.enter(holder, None) {
                        Ok(place) => places.push(place),
                        Err(wait) => waits.push(wait),
                    },
                    2 if !places.is_empty() => drop(places.swap_remove(random.usize(0..places.len()))),
                    3 if !waits.is_empty() => drop(waits.swap_remove(random.usize(0..waits.len()))),
                    4 if !waits.is_empty() => {
                        next += 1;
                        let _has_parked = waits.swap_remove(random.usize(0..waits.len())).park(SagaId(next));
                    }
                    _ => places.extend(bulkhead.try_enter(holder)),
                }
                let mut at = 0;
                while let Some(wait) = waits.get_mut(at) {
                    match wait.now_or_never() {
                        Some(place) => {
                            waits.swap_remove(at);
                            places.push(place);
                        }
                        None => at += 1,
                    }
                }
                while let Ok((_, place)) = granted.try_recv() {
                    places.push(place);
                }
                let loads = bulkhead.loads();
                let state = lock(&bulkhead.0.state);
                assert_eq!(loads.iter().map(|load| load.running).sum::<usize>(), places.len(), "seed {seed}");
                assert!(places.len() <= total && loads.iter().all(|load| load.running <= per_holder), "seed {seed}");
                assert_eq!(state.used, places.len(), "seed {seed}");
                assert_eq!(loads.iter().map(|load| load.waiting).sum::<usize>(), bulkhead.waiting_in_all());
                let active = loads.iter().filter(|load| load.running + load.waiting > 0).count();
                assert_eq!(state.active, active, "seed {seed}");
                for load in loads.iter().filter(|load| load.waiting > 0) {
                    assert!(!state.has_room(load.running, active), "{load:?} waits for nothing, seed {seed}");
                }
            }
        });
    }
}
