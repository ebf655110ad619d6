//! A share of the budget: reservations of bytes, without locks.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use tokio::sync::{Mutex, Notify};

/// Part of a share that large items leave to small ones: one of so many.
const PART_FOR_SMALL: usize = 8;

/// One kind of use, and how many bytes it may hold.
#[derive(Debug)]
pub struct Share {
    limit: usize,
    /// Items up to so many bytes may use the whole share, larger ones leave an eighth of it to them: a few large items
    /// do not stop many small ones.
    small: usize,
    used: AtomicUsize,
    refused: AtomicU64,
    /// Held by the first of those that wait; the others wait for the lock, in their order.
    turn: Mutex<()>,
    /// Bytes that the first of those that wait needs; 0 if none waits. Large items that need not wait leave that room, so
    /// that it gathers.
    wanted: AtomicUsize,
    /// Told of every release while `wanted` is not 0.
    released: Notify,
}

impl Share {
    /// An unused share of `limit` bytes, in which items up to `small` bytes have room of their own.
    pub fn new(limit: usize, small: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            small,
            used: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            turn: Mutex::default(),
            wanted: AtomicUsize::new(0),
            released: Notify::new(),
        })
    }

    /// The bytes of the share.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The bytes that are reserved now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::SeqCst)
    }

    /// How often there was no room since the start.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// A reservation of nothing, to be grown.
    pub fn nothing(self: &Arc<Self>) -> Reserved {
        Reserved { share: self.clone(), bytes: 0 }
    }

    /// Reserves bytes; `None` if there is no room now. An item that is larger than the share gets it while it is unused.
    pub fn try_reserve(self: &Arc<Self>, bytes: usize) -> Option<Reserved> {
        let mut reserved = self.nothing();
        reserved.try_grow(bytes).then_some(reserved)
    }

    /// Reserves bytes, and waits until there is room. Small items do not wait behind large ones; large ones get room in
    /// their order.
    pub async fn reserve(self: &Arc<Self>, bytes: usize) -> Reserved {
        let mut reserved = self.nothing();
        if self.take(0, bytes, self.wanted.load(Ordering::SeqCst)) {
            reserved.bytes = bytes;
            return reserved;
        }
        let _turn = self.turn.lock().await;
        let _wanted = Wanted::new(self, bytes);
        loop {
            // Before the look: a release after it is then not missed.
            let released = self.released.notified();
            if self.take(0, bytes, 0) {
                reserved.bytes = bytes;
                return reserved;
            }
            released.await;
        }
    }

    /// Adds `more` bytes to an item that holds `own`, unless there is no room. Large items leave `kept` bytes free.
    fn take(&self, own: usize, more: usize, kept: usize) -> bool {
        let is_small = own.saturating_add(more) <= self.small;
        let ceiling =
            if is_small { self.limit } else { (self.limit - self.limit / PART_FOR_SMALL).saturating_sub(kept) };
        let added = |used: usize| {
            let after = used.saturating_add(more);
            (after <= ceiling || used == own).then_some(after)
        };
        self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, added).is_ok()
    }

    fn release(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.used.fetch_sub(bytes, Ordering::SeqCst);
        if self.wanted.load(Ordering::SeqCst) > 0 {
            self.released.notify_one();
        }
    }
}

/// The need of the first of those that wait, for as long as it waits.
struct Wanted<'a>(&'a Share);

impl<'a> Wanted<'a> {
    fn new(share: &'a Share, bytes: usize) -> Self {
        share.wanted.store(bytes.max(1), Ordering::SeqCst);
        Self(share)
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.wanted.store(0, Ordering::SeqCst);
    }
}

/// Bytes of a share that one item holds. Dropping it releases them.
#[derive(Debug)]
pub struct Reserved {
    share: Arc<Share>,
    bytes: usize,
}

impl Reserved {
    /// The bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reserves `more` bytes for the same item. `false`: there is no room now, and nothing has changed.
    pub fn try_grow(&mut self, more: usize) -> bool {
        let fits = self.share.take(self.bytes, more, self.share.wanted.load(Ordering::SeqCst));
        if fits {
            self.bytes += more;
        } else {
            self.share.refused.fetch_add(1, Ordering::Relaxed);
        }
        fits
    }

    /// Counts `more` bytes that are held already, also beyond the limit: others then wait or are refused.
    pub fn grow_over(&mut self, more: usize) {
        self.share.used.fetch_add(more, Ordering::SeqCst);
        self.bytes += more;
    }

    /// Releases all but `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let released = self.bytes.saturating_sub(bytes);
        self.bytes -= released;
        self.share.release(released);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.share.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use futures_util::{FutureExt, poll};

    use super::*;

    /// A share without room of their own for small items.
    fn share(limit: usize) -> Arc<Share> {
        Share::new(limit, usize::MAX)
    }

    #[test]
    fn what_is_dropped_is_released() {
        let share = share(100);
        let other = share.try_reserve(10).unwrap();
        let mut first = share.try_reserve(50).unwrap();
        assert!(share.try_reserve(41).is_none());
        assert!(!first.try_grow(41));
        assert!(first.try_grow(40));
        assert_eq!((share.used(), share.refused()), (100, 2));
        first.shrink_to(10);
        first.shrink_to(20);
        assert_eq!(first.bytes(), 10);
        let second = share.try_reserve(80).unwrap();
        drop((first, second));
        assert_eq!(share.used(), 10);
        drop(other);
        assert_eq!(share.used(), 0);
    }

    #[test]
    fn what_is_larger_than_the_share_gets_it_alone() {
        let share = share(100);
        let mut large = share.try_reserve(1000).unwrap();
        assert!(large.try_grow(1000));
        assert!(share.try_reserve(1).is_none());
        drop(large);
        let small = share.try_reserve(1).unwrap();
        assert!(share.try_reserve(1000).is_none());
        drop(small);
        assert_eq!(share.used(), 0);
    }

    #[test]
    fn large_items_leave_room_for_small_ones() {
        let share = Share::new(800, 10);
        let mut large: Vec<_> = std::iter::from_fn(|| share.try_reserve(100)).collect();
        assert_eq!(large.len(), 7);
        let small: Vec<_> = std::iter::from_fn(|| share.try_reserve(10)).collect();
        assert_eq!(small.len(), 10);
        large.clear();
        // A small item that grows is a large one.
        let mut grows = share.try_reserve(10).unwrap();
        assert!(grows.try_grow(580) && !grows.try_grow(100));
    }

    #[test]
    fn what_cannot_be_refused_is_counted() {
        let share = share(100);
        let mut over = share.nothing();
        over.grow_over(150);
        assert!(share.try_reserve(1).is_none());
        drop(over);
        assert_eq!(share.used(), 0);
    }

    #[tokio::test]
    async fn those_that_wait_get_room_in_their_order() {
        let share = Share::new(800, 10);
        let first = share.try_reserve(300).unwrap();
        let second = share.try_reserve(300).unwrap();
        let mut large = Box::pin(share.reserve(600));
        let mut next = Box::pin(share.reserve(100));
        assert!(poll!(&mut large).is_pending() && poll!(&mut next).is_pending());
        drop(first);
        // The room gathers for the first one: neither another that waits nor a large one that does not takes it.
        assert!(poll!(&mut large).is_pending() && poll!(&mut next).is_pending());
        assert!(share.try_reserve(100).is_none());
        assert!(share.reserve(10).now_or_never().is_some(), "a small one does not wait behind large ones");
        drop(second);
        let large = large.await;
        assert_eq!(large.bytes(), 600);
        assert_eq!(next.await.bytes(), 100);
    }

    #[tokio::test]
    async fn one_that_gives_up_waiting_stands_in_nobodys_way() {
        let share = Share::new(800, 10);
        let held = share.try_reserve(700).unwrap();
        let mut gives_up = Box::pin(share.reserve(700));
        let mut next = Box::pin(share.reserve(100));
        assert!(poll!(&mut gives_up).is_pending() && poll!(&mut next).is_pending());
        drop(gives_up);
        drop(held);
        assert_eq!(next.await.bytes(), 100);
        assert_eq!(share.used(), 0);
        assert!(share.try_reserve(700).is_some());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn reservations_are_never_more_than_the_limit_and_end_at_zero() {
        const LIMIT: usize = 10_000;
        let share = Share::new(LIMIT, 64);
        let tasks = (0..8).map(|seed| {
            let share = share.clone();
            tokio::spawn(async move {
                let mut rng = fastrand::Rng::with_seed(seed);
                let mut held: Vec<Reserved> = Vec::new();
                for _ in 0..5_000 {
                    match rng.u32(0..6) {
                        0 => held.extend(share.try_reserve(rng.usize(0..3_000))),
                        1 => held.extend(share.try_reserve(rng.usize(0..64))),
                        2 => {
                            // Waits with empty hands, so that no two wait for each other; sometimes not to the end.
                            held.clear();
                            let wait = share.reserve(rng.usize(0..3_000));
                            held.extend(tokio::time::timeout(Duration::from_micros(rng.u64(0..500)), wait).await);
                        }
                        3 => drop(held.pop()),
                        4 => {
                            // One that is larger than the share may have it alone.
                            if let Some(last) = held.last_mut().filter(|last| last.bytes() < 4_000) {
                                last.try_grow(rng.usize(0..1_000));
                            }
                        }
                        _ => {
                            if let Some(last) = held.last_mut() {
                                last.shrink_to(rng.usize(0..1_000));
                            }
                        }
                    }
                    let used = share.used();
                    assert!(used <= LIMIT, "{used}");
                    assert!(held.iter().map(Reserved::bytes).sum::<usize>() <= used);
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        assert_eq!(share.used(), 0);
        assert_eq!(share.wanted.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_panic_releases_too() {
        let share = share(100);
        let panicking = share.clone();
        let ended = thread::spawn(move || {
            let _held = panicking.try_reserve(50).unwrap();
            panic!("with bytes in its hands");
        });
        assert!(ended.join().is_err());
        assert_eq!(share.used(), 0);
    }
}
