//! A bulkhead: a number of places that several holders share, so that no holder can take the places of the others. A
//! holder is a destination of attempts, or a client that submits sagas.
//!
//! The last quarter of the places is a reserve for holders that have few ([`state::has_room`]): a holder that asks for its
//! first place gets one, even if others would take all that there are. This is max-min fairness with equal weights, as in
//! D. Bertsekas and R. Gallager, "Data Networks" (1992), section 6.5.2, for the reserve only, and without taking back.
//!
//! The last half of the reserve is for holders that have used their last place for less than a second. Otherwise one client could
//! take all places with sagas that name thousands of services that do not answer.
//!
//! Invariants:
//!
//! 1. The places in use are the sum over all holders, and at most `total`; no holder has more than `per_holder`.
//! 2. No holder waits while it may have a place.
//! 3. The waits of one holder end in the order in which they began.
//! 4. A place that was granted is used, or returned: [`Place`] returns it on drop.

mod state;

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

pub use self::state::{Holder, Limits, Load};
use self::state::{State, Waiter};
use super::format::SagaId;
use crate::store::sync::lock;

/// The places, and what waits for them. Clones are handles of the same.
#[derive(Clone)]
pub struct Bulkhead<K: Holder>(Arc<Shared<K>>);

struct Shared<K: Holder> {
    state: Mutex<State<K, oneshot::Sender<Place<K>>>>,
    /// The waits of all holders, to be read without the lock.
    waiting: AtomicUsize,
    granted: mpsc::UnboundedSender<(SagaId, Place<K>)>,
}

impl<K: Holder> Bulkhead<K> {
    /// A bulkhead with all places free. Parked sagas are sent to `granted` with their places.
    pub fn new(limits: Limits, granted: mpsc::UnboundedSender<(SagaId, Place<K>)>) -> Self {
        let Limits { total, per_holder } = limits;
        let limits = Limits { total: total.max(1), per_holder: per_holder.max(1) };
        Self(Arc::new(Shared { state: Mutex::new(State::new(limits)), waiting: AtomicUsize::new(0), granted }))
    }

    /// A place, if the holder may have one now.
    pub fn try_enter(&self, holder: K) -> Option<Place<K>> {
        let takes = lock(&self.0.state).take(&holder);
        takes.then(|| self.place(holder))
    }

    /// A place, or a wait for one. A saga that is parked here already keeps its turn.
    pub fn enter(&self, holder: K, saga: Option<SagaId>) -> Result<Place<K>, Waiting<K>> {
        let mut state = lock(&self.0.state);
        if state.take(&holder) {
            drop(state);
            return Ok(self.place(holder));
        }
        let (sender, place) = oneshot::channel();
        let (parked, ahead) = state.change(&holder, |entry| {
            let ahead = Ahead { parked: !entry.parked.is_empty(), waits: entry.queue.len() };
            (saga.and_then(|id| entry.parked.remove(&id)), ahead)
        });
        let ticket = parked.unwrap_or_else(|| {
            self.0.waiting.fetch_add(1, Relaxed);
            state.next_ticket()
        });
        state.change(&holder, |entry| entry.queue.insert(ticket, Waiter::Live(sender)));
        drop(state);
        Err(Waiting { bulkhead: self.clone(), holder, ticket: Some(ticket), ahead, place })
    }

    /// A place, after a wait if need be.
    pub async fn enter_or_wait(&self, holder: K) -> Place<K> {
        match self.enter(holder, None) {
            Ok(place) => place,
            Err(waiting) => waiting.await,
        }
    }

    /// Counts a submission that was refused because of this holder.
    pub fn refuse(&self, holder: &K) {
        lock(&self.0.state).change(holder, |entry| entry.refused += 1);
    }

    /// The waits of one holder.
    pub fn waiting(&self, holder: &K) -> usize {
        lock(&self.0.state).waiting(holder)
    }

    /// The waits of all holders. Takes no lock.
    pub fn waiting_in_all(&self) -> usize {
        self.0.waiting.load(Relaxed)
    }

    /// The use of all holders that are remembered, in no order.
    pub fn loads(&self) -> Vec<Load<K>> {
        let state = lock(&self.0.state);
        state.loads().collect()
    }

    fn place(&self, holder: K) -> Place<K> {
        Place { bulkhead: self.clone(), holder, since: None, is_returned: false }
    }

    /// Takes back a place. What may have it, or another, is taken off its queue.
    fn free(&self, place: &Place<K>) -> Vec<(K, Waiter<oneshot::Sender<Place<K>>>)> {
        let used_for = place.since.map(|since| since.elapsed());
        let mut state = lock(&self.0.state);
        state.free(&place.holder, used_for);
        state.grant()
    }

    /// Sends places to what has waited. Without the lock, which the drop of a place takes. In a loop, as a place that is not
    /// wanted any more passes on to the next, of which there may be millions when the host stops.
    fn hand_out(&self, granted: Vec<(K, Waiter<oneshot::Sender<Place<K>>>)>) {
        let mut granted = VecDeque::from(granted);
        while let Some((holder, waiter)) = granted.pop_front() {
            self.0.waiting.fetch_sub(1, Relaxed);
            let place = self.place(holder);
            let unwanted = match waiter {
                Waiter::Live(sender) => sender.send(place).err(),
                Waiter::Parked(id) => self.0.granted.send((id, place)).err().map(|error| error.0.1),
            };
            if let Some(mut place) = unwanted {
                place.is_returned = true;
                granted.extend(self.free(&place));
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
    /// When its use began.
    since: Option<Instant>,
    is_returned: bool,
}

impl<K: Holder> Place<K> {
    /// What holds the place.
    pub fn holder(&self) -> &K {
        &self.holder
    }

    /// The use of the place begins: how long it lasts tells whether the holder is quick.
    pub fn begin(mut self) -> Self {
        self.since = Some(Instant::now());
        self
    }
}

impl<K: Holder> Drop for Place<K> {
    fn drop(&mut self) {
        if !self.is_returned {
            self.bulkhead.hand_out(self.bulkhead.free(self));
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
mod tests;
