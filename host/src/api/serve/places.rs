//! The places of connections: how many there are, and which connection gives its place to a new one.
//!
//! A connection is idle while it has no request under way: also one that has never said anything, and one that has sent
//! half a header. If all places are taken, a new connection gets the place of an idle one: of the address with the most
//! idle connections, there first of those that never made a request, and of these the one that has been idle longest. So
//! silent connections, however many, displace each other, and neither the requests under way nor the kept connections of
//! others.
//!
//! Finding them looks at all connections, which happens once for many places if there are many connections: the order is
//! kept for a while, and each is looked at again before it is closed.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::settings::Settings;

/// Most idle connections that one search finds: an eighth of them. More makes a search rarer, and its order older.
const FOUND_MAX: usize = 256;
const FOUND_PART: usize = 8;

/// Least that one search finds, also if it must go on to connections that have made a request: a 64th of them. Otherwise
/// each new silent connection would cost a search, where there are few of these and many others.
const FOUND_LEAST_PART: usize = 64;

/// How long a new connection waits before it searches again, when all others have requests.
const SEARCH_PAUSE: Duration = Duration::from_millis(50);

/// Time without progress after which an answer that its client does not read no longer counts as a request.
const STALLED: Duration = Duration::from_secs(10);

/// All accepted connections of the host, over all listeners. Clones share them.
#[derive(Clone, Debug)]
pub struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: Settings,
    places: Arc<Semaphore>,
    open: Mutex<HashMap<u64, Arc<Entry>>>,
    next_id: AtomicU64,
    /// Idle connections in the order in which they are closed.
    found: Mutex<VecDeque<Idle>>,
    displaced: AtomicU64,
    tasks: TaskTracker,
    is_closing: AtomicBool,
    closing: CancellationToken,
    began: Instant,
}

/// Counts for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that are open now.
    pub open: u64,
    /// Idle connections that were closed to make room for new ones, since the start.
    pub displaced: u64,
}

impl Connections {
    /// No connection yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let places = Arc::new(Semaphore::new(settings.connections_max.clamp(1, Semaphore::MAX_PERMITS)));
        Self(Arc::new(Shared {
            settings,
            places,
            open: Mutex::default(),
            next_id: AtomicU64::new(0),
            found: Mutex::default(),
            displaced: AtomicU64::new(0),
            tasks: TaskTracker::new(),
            is_closing: AtomicBool::new(false),
            closing: CancellationToken::new(),
            began: Instant::now(),
        }))
    }

    /// Counts for metrics.
    pub fn counts(&self) -> Counts {
        Counts { open: lock(&self.0.open).len() as u64, displaced: self.0.displaced.load(Relaxed) }
    }

    /// From now on each connection ends: after its next answer, which says so, or after a second of silence. Call it when
    /// no connection is accepted any more.
    pub fn close(&self) {
        self.0.is_closing.store(true, Relaxed);
        self.0.closing.cancel();
        self.0.tasks.close();
    }

    /// Resolves when all connections have ended after [`Connections::close`]. There is no limit of time: the caller sets
    /// one.
    pub async fn ended(&self) {
        self.0.tasks.wait().await;
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.0.settings
    }

    pub(super) fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }

    pub(super) fn closing(&self) -> CancellationToken {
        self.0.closing.clone()
    }

    pub(super) fn is_closing(&self) -> bool {
        self.0.is_closing.load(Relaxed)
    }

    /// A place for a connection of this address. Waits until one is free, or one of an idle connection is.
    pub(super) async fn place(&self, peer: IpAddr) -> Place {
        loop {
            if let Some(place) = self.try_place(peer) {
                return place;
            }
            self.make_room();
            // Until the place of the other one is free; or until the next search, if there was none or it has a request
            // by now.
            let free = tokio::time::timeout(SEARCH_PAUSE, self.0.places.clone().acquire_owned()).await;
            if let Ok(Ok(permit)) = free {
                return self.take(peer, permit);
            }
        }
    }

    /// A place for a connection of this address, if one is free.
    pub(super) fn try_place(&self, peer: IpAddr) -> Option<Place> {
        let permit = self.0.places.clone().try_acquire_owned().ok()?;
        Some(self.take(peer, permit))
    }

    fn take(&self, peer: IpAddr, permit: OwnedSemaphorePermit) -> Place {
        let id = self.0.next_id.fetch_add(1, Relaxed);
        let entry = Arc::new(Entry {
            peer: peer.to_canonical(),
            began: self.0.began,
            requests: AtomicU32::new(0),
            has_asked: AtomicBool::new(false),
            idle_since: AtomicU64::new(ms(self.0.began.elapsed())),
            stalled_since: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            is_chosen: AtomicBool::new(false),
            displace: Notify::new(),
        });
        lock(&self.0.open).insert(id, entry.clone());
        Place { connections: self.clone(), id, entry, _permit: permit }
    }

    /// Asks an idle connection to end; `false` if there is none.
    pub(super) fn make_room(&self) -> bool {
        loop {
            let first = lock(&self.0.found).pop_front();
            let Some(Idle { since, entry, .. }) = first else {
                let found = self.search();
                if found.is_empty() {
                    return false;
                }
                *lock(&self.0.found) = found;
                continue;
            };
            let is_as_found = entry.is_idle() && entry.idle_since.load(Relaxed) == since;
            // The entry of one that has ended in the meantime is held here alone.
            if is_as_found && Arc::strong_count(&entry) > 1 && !entry.is_chosen.swap(true, Relaxed) {
                entry.displace.notify_one();
                return true;
            }
        }
    }

    /// The idle connections that are closed first, in order.
    fn search(&self) -> VecDeque<Idle> {
        let mut by_peer: HashMap<IpAddr, Vec<Idle>> = HashMap::new();
        for entry in lock(&self.0.open).values() {
            if entry.is_idle() && !entry.is_chosen.load(Relaxed) {
                by_peer.entry(entry.peer).or_default().push(Idle::new(entry));
            }
        }
        let mut lists: Vec<_> = by_peer.into_values().collect();
        for list in &mut lists {
            // The last one is closed first.
            list.sort_unstable_by_key(Idle::rank);
        }
        let rank = |list: &Vec<Idle>| (list.len(), list.last().map(Idle::rank));
        let idle: usize = lists.iter().map(Vec::len).sum();
        let (least, most) = (idle / FOUND_LEAST_PART, (idle / FOUND_PART).clamp(1, FOUND_MAX));
        let mut heap: BinaryHeap<_> = lists.iter().enumerate().map(|(index, list)| (rank(list), index)).collect();
        let mut found = VecDeque::new();
        let mut some_are_silent = false;
        while found.len() < most
            && let Some((_, index)) = heap.pop()
            && let Some(list) = lists.get_mut(index)
            && let Some(idle) = list.pop()
        {
            // By the time that these are needed, there may be new silent ones.
            if some_are_silent && !idle.is_silent && found.len() >= least {
                break;
            }
            some_are_silent |= idle.is_silent;
            found.push_back(idle);
            heap.push((rank(list), index));
        }
        found
    }
}

/// An idle connection, as a search has found it.
#[derive(Debug)]
struct Idle {
    /// It has never made a request.
    is_silent: bool,
    since: u64,
    entry: Arc<Entry>,
}

impl Idle {
    fn new(entry: &Arc<Entry>) -> Self {
        let (is_silent, since) = (!entry.has_asked.load(Relaxed), entry.idle_since.load(Relaxed));
        Self { is_silent, since, entry: entry.clone() }
    }

    /// Of one address, the connection with the highest rank is closed first.
    fn rank(&self) -> (bool, Reverse<u64>) {
        (self.is_silent, Reverse(self.since))
    }
}

/// The place of one connection. Dropping it frees the place.
#[derive(Debug)]
pub(super) struct Place {
    connections: Connections,
    id: u64,
    entry: Arc<Entry>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// What is known of the connection.
    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// Whether the connection, which was asked to end, is still idle. If not, it stays.
    pub fn is_displaced(&self) -> bool {
        if self.entry.is_idle() {
            self.connections.0.displaced.fetch_add(1, Relaxed);
            return true;
        }
        self.entry.is_chosen.store(false, Relaxed);
        false
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.connections.0.open).remove(&self.id);
    }
}

/// What is known of one connection. Times are in ms since the first connection could come; 0 is never.
#[derive(Debug)]
pub(super) struct Entry {
    peer: IpAddr,
    began: Instant,
    /// Requests under way: from the end of their head until the body of the answer is written or dropped.
    requests: AtomicU32,
    has_asked: AtomicBool,
    idle_since: AtomicU64,
    /// Since when an answer waits for the client to read.
    stalled_since: AtomicU64,
    /// Bytes received.
    heard: AtomicU64,
    /// Whether it was asked to end.
    is_chosen: AtomicBool,
    displace: Notify,
}

impl Entry {
    /// The address of the client. One of IPv4 is written as such.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Resolves when the place is needed for another connection.
    pub async fn displaced(&self) {
        self.displace.notified().await;
    }

    /// Bytes received so far.
    pub fn heard(&self) -> u64 {
        self.heard.load(Relaxed)
    }

    /// Counts bytes received.
    pub fn hear(&self, bytes: usize) {
        self.heard.fetch_add(bytes as u64, Relaxed);
    }

    /// Notes whether the client's system takes what is written.
    pub fn stall(&self, is_stalled: bool) {
        let was = self.stalled_since.load(Relaxed);
        if is_stalled && was == 0 {
            self.stalled_since.store(self.now().max(1), Relaxed);
        } else if !is_stalled && was != 0 {
            self.stalled_since.store(0, Relaxed);
        }
    }

    /// Counts a request as under way until the guard is dropped.
    pub fn request(self: &Arc<Self>) -> UnderWay {
        self.requests.fetch_add(1, Relaxed);
        self.has_asked.store(true, Relaxed);
        UnderWay(self.clone())
    }

    /// Whether no request is under way.
    pub fn is_idle(&self) -> bool {
        match self.stalled_since.load(Relaxed) {
            0 => self.requests.load(Relaxed) == 0,
            since => self.now().saturating_sub(since) > ms(STALLED),
        }
    }

    /// Whether no request has been under way for this long.
    pub fn is_idle_for(&self, time: Duration) -> bool {
        self.is_idle() && self.now().saturating_sub(self.idle_since.load(Relaxed)) >= ms(time)
    }

    fn now(&self) -> u64 {
        ms(self.began.elapsed())
    }
}

/// A request under way.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Entry>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.now(), Relaxed);
        self.0.requests.fetch_sub(1, Relaxed);
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(connections_max: usize) -> Connections {
        Connections::new(Settings { connections_max, ..Settings::default() })
    }

    /// A connection of the address 10.0.0.`host` that has been idle since `ms`.
    fn idle(connections: &Connections, host: u8, ms: u64) -> Place {
        let place = connections.try_place([10, 0, 0, host].into()).unwrap();
        place.entry.idle_since.store(ms, Relaxed);
        place
    }

    /// Which of these connections are asked to end, in order, until none is.
    fn displaced(connections: &Connections, places: &[&Place]) -> Vec<usize> {
        let mut order = Vec::new();
        while connections.make_room() {
            let chosen = |index: &usize| places[*index].entry.is_chosen.load(Relaxed) && !order.contains(index);
            order.push((0..places.len()).find(chosen).unwrap());
        }
        order
    }

    #[tokio::test]
    async fn the_longest_idle_one_goes_first_and_one_with_a_request_never() {
        let connections = connections(10);
        let places = [idle(&connections, 1, 30), idle(&connections, 1, 10), idle(&connections, 1, 20)];
        let busy = places[1].entry.request();
        assert_eq!(displaced(&connections, &places.each_ref()), [2, 0]);
        drop(busy);
        assert_eq!(displaced(&connections, &places.each_ref()[1..2]), [0]);
    }

    #[tokio::test]
    async fn silent_ones_go_before_those_that_have_asked() {
        let connections = connections(10);
        let places = [idle(&connections, 1, 10), idle(&connections, 1, 50)];
        drop(places[0].entry.request());
        places[0].entry.idle_since.store(10, Relaxed);
        assert_eq!(displaced(&connections, &places.each_ref()), [1, 0]);
    }

    #[tokio::test]
    async fn the_address_with_the_most_idle_ones_gives_first() {
        let connections = connections(10);
        let places = [
            idle(&connections, 1, 10),
            idle(&connections, 2, 40),
            idle(&connections, 2, 30),
            idle(&connections, 2, 20),
        ];
        assert_eq!(displaced(&connections, &places.each_ref()), [3, 2, 0, 1]);
    }

    #[tokio::test]
    async fn one_that_was_found_and_has_asked_since_is_passed_over() {
        let connections = connections(20);
        // Enough that one search finds two.
        let places: Vec<_> = (1..=16).map(|since| idle(&connections, 1, since)).collect();
        assert!(connections.make_room());
        let busy = places[1].entry.request();
        assert!(connections.make_room());
        let chosen = |place: &Place| place.entry.is_chosen.load(Relaxed);
        assert_eq!(places.iter().map(chosen).collect::<Vec<_>>()[..4], [true, false, true, false]);
        drop(busy);
    }

    #[tokio::test]
    async fn a_place_is_free_when_its_connection_ends() {
        let connections = connections(1);
        let first = connections.place([10, 0, 0, 1].into()).await;
        assert!(connections.try_place([10, 0, 0, 2].into()).is_none());
        drop(first);
        let second = connections.place([10, 0, 0, 2].into()).await;
        assert_eq!(connections.counts(), Counts { open: 1, displaced: 0 });
        drop(second);
    }
}
