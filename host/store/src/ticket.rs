//! Waiting for durability: the journal thread publishes the last durable record, and each waiter is woken when its own
//! record is durable.

use std::{
    collections::BTreeMap,
    fmt, mem,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use crate::{error::Error, sync::lock};

/// A place in the commit order, to wait until it and everything before it is durable. Cheap to make, clone and drop.
#[derive(Clone)]
pub struct Ticket {
    seq: u64,
    /// `None`: durable when it was made.
    progress: Option<Arc<Progress>>,
}

impl Ticket {
    pub(crate) fn new(seq: u64, progress: Arc<Progress>) -> Self {
        Self { seq, progress: Some(progress) }
    }

    /// A ticket for something that is already durable; for other implementations of [`crate::Store`].
    pub const fn settled(seq: u64) -> Self {
        Self { seq, progress: None }
    }

    /// The place in the commit order; 0 is before the first commit.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// A ticket that nothing makes durable: it ends with the store's failure.
    pub(crate) const fn never(progress: Arc<Progress>) -> Self {
        Self { seq: u64::MAX, progress: Some(progress) }
    }

    /// Whether it is on disk.
    pub fn is_durable(&self) -> bool {
        self.progress.as_ref().is_none_or(|progress| progress.durable() >= self.seq)
    }

    /// Resolves when it is on disk, or with an error when the store has failed before that.
    ///
    /// After an error the batch may or may not be there after a restart: the outcome is unknown.
    pub async fn durable(&self) -> Result<(), Error> {
        match &self.progress {
            None => Ok(()),
            Some(progress) => Wait { progress, seq: self.seq, id: None }.await,
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Ticket").field("seq", &self.seq).field("durable", &self.is_durable()).finish_non_exhaustive()
    }
}

/// How much of the journal is on disk, and the wakers of those tickets that wait for more.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    durable: AtomicU64,
    failed: OnceLock<Error>,
    waiters: Mutex<Waiters>,
}

#[derive(Debug, Default)]
struct Waiters {
    next_id: u64,
    /// By sequence number and waiter: the waiters for durable records are a prefix.
    by_place: BTreeMap<(u64, u64), Waker>,
}

impl Progress {
    pub(crate) fn starting_at(durable: u64) -> Self {
        Self { durable: AtomicU64::new(durable), ..Self::default() }
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Everything up to `seq` is on disk: wakes exactly the waiters for that.
    pub(crate) fn publish(&self, seq: u64) {
        self.durable.store(seq, Ordering::Release);
        let done = {
            let mut waiters = self.waiters();
            let later = waiters.by_place.split_off(&(seq.saturating_add(1), 0));
            mem::replace(&mut waiters.by_place, later)
        };
        done.into_values().for_each(Waker::wake);
    }

    /// Wakes all waiters with this error. The first failure stands.
    pub(crate) fn fail(&self, error: Error) {
        if self.failed.set(error).is_ok() {
            let all = mem::take(&mut self.waiters().by_place);
            all.into_values().for_each(Waker::wake);
        }
    }

    pub(crate) fn failure(&self) -> Option<&Error> {
        self.failed.get()
    }

    /// The result for `seq`, if it is final.
    fn settled(&self, seq: u64) -> Option<Result<(), Error>> {
        if self.durable() >= seq { Some(Ok(())) } else { self.failed.get().map(|error| Err(error.clone())) }
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        lock(&self.waiters)
    }
}

struct Wait<'a> {
    progress: &'a Progress,
    seq: u64,
    /// Set while a waker is registered.
    id: Option<u64>,
}

impl Future for Wait<'_> {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let progress = self.progress;
        if let Some(result) = progress.settled(self.seq) {
            // The thread that made it final has removed the waker.
            self.id = None;
            return Poll::Ready(result);
        }
        let mut waiters = progress.waiters();
        // Again, under the lock: from here on a publisher finds this waiter.
        if let Some(result) = progress.settled(self.seq) {
            return Poll::Ready(result);
        }
        let id = *self.id.get_or_insert_with(|| {
            waiters.next_id += 1;
            waiters.next_id
        });
        let replaced = waiters.by_place.insert((self.seq, id), context.waker().clone());
        drop(waiters);
        // Outside the lock: dropping a waker can drop a task, and with it another `Wait`.
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let waker = self.progress.waiters().by_place.remove(&(self.seq, id));
            drop(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicUsize, task::Wake};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Two waiters, for records 1 and 2, polled once each. Returns how often each was woken.
    fn with_two_waiters(act: impl FnOnce(&Progress)) -> [usize; 2] {
        let progress = Arc::new(Progress::default());
        let tickets = [1, 2].map(|seq| Ticket::new(seq, Arc::clone(&progress)));
        let mut waits = tickets.each_ref().map(|ticket| Box::pin(ticket.durable()));
        let counts = [(); 2].map(|()| Arc::new(Count::default()));
        for (wait, count) in waits.iter_mut().zip(&counts) {
            assert!(wait.as_mut().poll(&mut Context::from_waker(&Arc::clone(count).into())).is_pending());
        }
        act(&progress);
        drop(waits);
        assert!(progress.waiters().by_place.is_empty());
        counts.map(|count| count.0.load(Ordering::Relaxed))
    }

    #[test]
    fn only_those_who_are_done_are_woken() {
        assert_eq!(with_two_waiters(|progress| progress.publish(1)), [1, 0]);
        assert_eq!(with_two_waiters(|progress| progress.publish(7)), [1, 1]);
        assert_eq!(with_two_waiters(|progress| progress.fail(Error::Closed)), [1, 1]);
        assert_eq!(with_two_waiters(|_| ()), [0, 0]);
    }
}
