//! The places of connections: how many there are, and which connection gives its place to a new one.
//!
//! A connection is idle while it has no request under way: also one that has never said anything, and one that has sent
//! half a header. If all places are taken, a new connection gets the place of an idle one: of the address with the most
//! idle connections, there first of those that never made a request, and of these the one that has been idle longest. So
//! silent connections, however many, displace each other, and neither the requests under way nor the kept connections of
//! others. A network of IPv6 counts as one address ([`client_at`]). Proxies are named in the settings: as they speak for
//! many, theirs are closed last.
//!
//! Invariant: one address, unless it is a proxy, has no more connections that have sent no complete header since they
//! were made than [`Settings::silent_per_client`] and those that are younger than [`SLOW`]. A further one takes the place
//! of the oldest of them, also if other places are free: a crowd of them leaves the places of others alone.
//!
//! Finding them looks at all connections, which happens once for many places if there are many connections: the order is
//! kept for a while, and each is looked at again before it is closed.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::settings::Settings;
use crate::memory::client_at;

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

/// Age from which a connection without a complete header counts as slow: many may be made at once, and then ask.
const SLOW: Duration = Duration::from_secs(1);

/// The share of one client in the places for connections that have sent no complete header, unless the settings say it.
const SILENT_PART: usize = 4;

/// All accepted connections of the host, over all listeners. Clones share them.
#[derive(Clone, Debug)]
pub struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: Settings,
    places: Arc<Semaphore>,
    open: Mutex<HashMap<u64, Arc<Entry>>>,
    silent: Arc<Silent>,
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
            silent: Arc::default(),
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
        let peer = peer.to_canonical();
        let Settings { connections_max, silent_per_client, proxies, .. } = &self.0.settings;
        let is_proxy = proxies.iter().any(|network| network.contains(peer));
        let entry = Arc::new(Entry {
            peer,
            client: client_at(peer),
            is_proxy,
            silent: self.0.silent.clone(),
            is_silent: AtomicBool::new(!is_proxy),
            began: self.0.began,
            requests: AtomicU32::new(0),
            has_asked: AtomicBool::new(false),
            idle_since: AtomicU64::new(ms(self.0.began.elapsed())),
            stalled_since: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            is_chosen: AtomicBool::new(false),
            displace: Notify::new(),
        });
        if !is_proxy {
            let share = if *silent_per_client == 0 { connections_max / SILENT_PART } else { *silent_per_client };
            self.0.silent.join(&entry, share.max(1));
        }
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
        let mut by_peer: HashMap<(Reverse<bool>, IpAddr), Vec<Idle>> = HashMap::new();
        for entry in lock(&self.0.open).values() {
            if entry.is_idle() && !entry.is_chosen.load(Relaxed) {
                by_peer.entry((Reverse(entry.is_proxy), entry.client)).or_default().push(Idle::new(entry));
            }
        }
        let mut lists: Vec<_> = by_peer.into_iter().map(|((is_proxy, _), list)| (is_proxy, list)).collect();
        for (_, list) in &mut lists {
            // The last one is closed first.
            list.sort_unstable_by_key(Idle::rank);
        }
        let rank = |(is_proxy, list): &(Reverse<bool>, Vec<Idle>)| (*is_proxy, list.len(), list.last().map(Idle::rank));
        let idle: usize = lists.iter().map(|(_, list)| list.len()).sum();
        let (least, most) = (idle / FOUND_LEAST_PART, (idle / FOUND_PART).clamp(1, FOUND_MAX));
        let mut heap: BinaryHeap<_> = lists.iter().enumerate().map(|(index, list)| (rank(list), index)).collect();
        let mut found = VecDeque::new();
        let mut some_are_silent = false;
        while found.len() < most
            && let Some((_, index)) = heap.pop()
            && let Some(list) = lists.get_mut(index)
            && let Some(idle) = list.1.pop()
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
        self.entry.leave_silent();
        lock(&self.connections.0.open).remove(&self.id);
    }
}

/// What is known of one connection. Times are in ms since the first connection could come; 0 is never.
#[derive(Debug)]
pub(super) struct Entry {
    peer: IpAddr,
    client: IpAddr,
    is_proxy: bool,
    silent: Arc<Silent>,
    /// Whether it counts in `silent`.
    is_silent: AtomicBool,
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
        self.leave_silent();
        UnderWay(self.clone())
    }

    fn leave_silent(&self) {
        // Read first, as this is done for every request.
        if self.is_silent.load(Relaxed) && self.is_silent.swap(false, Relaxed) {
            self.silent.leave(self.client);
        }
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

/// The connections that have sent no complete header, by client.
#[derive(Debug, Default)]
struct Silent(Mutex<HashMap<IpAddr, OfClient>>);

#[derive(Debug, Default)]
struct OfClient {
    count: usize,
    /// In the order in which they were made; some of them have asked or ended since.
    queue: VecDeque<Weak<Entry>>,
}

impl Silent {
    /// Counts a new connection. If its client has its share, asks the oldest of them to end.
    fn join(&self, entry: &Arc<Entry>, share: usize) {
        let mut clients = lock(&self.0);
        let of_client = clients.entry(entry.client).or_default();
        if of_client.count >= share {
            of_client.displace_oldest();
        }
        of_client.count += 1;
        of_client.queue.push_back(Arc::downgrade(entry));
        // At most half of it is of no use, so that this costs a step for each connection.
        if of_client.queue.len() > of_client.count.saturating_mul(2) {
            of_client.queue.retain(|entry| entry.upgrade().is_some_and(|entry| entry.is_silent.load(Relaxed)));
        }
    }

    fn leave(&self, client: IpAddr) {
        let mut clients = lock(&self.0);
        if let Some(of_client) = clients.get_mut(&client) {
            of_client.count = of_client.count.saturating_sub(1);
            if of_client.count == 0 {
                clients.remove(&client);
            }
        }
    }
}

impl OfClient {
    fn displace_oldest(&mut self) {
        while let Some(oldest) = self.queue.front() {
            let oldest = oldest.upgrade().filter(|entry| entry.is_silent.load(Relaxed));
            if oldest.as_ref().is_some_and(|entry| !entry.is_idle_for(SLOW)) {
                return;
            }
            self.queue.pop_front();
            if let Some(entry) = oldest
                && !entry.is_chosen.swap(true, Relaxed)
            {
                entry.displace.notify_one();
                return;
            }
        }
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
mod tests;
