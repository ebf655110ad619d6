//! A fair share of the processors for guests that compute for long.
//!
//! A guest runs inside the poll of its future, on one of the host's own threads, and a timer makes it yield again and
//! again. Most are done long before that. One that is not is *busy*, and from then on each of its polls needs a turn;
//! there are fewer turns than processors, so that commits, the network and all short calls always have one. A guest
//! that waits for the host holds no turn.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use tokio::sync::Semaphore;
use tokio_util::sync::PollSemaphore;

/// Set once a guest has used up its free time.
#[derive(Clone, Default)]
pub struct Busy(Arc<AtomicBool>);

impl Busy {
    /// From now on the guest runs only in its turn.
    pub fn set(&self) {
        self.0.store(true, Relaxed);
    }

    /// Whether it has.
    pub fn is_set(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// A guest's future that takes turns with others once it is busy.
pub struct TakingTurns<F> {
    guest: F,
    busy: Busy,
    turns: PollSemaphore,
}

impl<F> TakingTurns<F> {
    /// `turns` holds as many permits as busy guests may run at once.
    pub fn new(guest: F, busy: Busy, turns: Arc<Semaphore>) -> Self {
        Self { guest, busy, turns: PollSemaphore::new(turns) }
    }
}

impl<F: Future + Unpin> Future for TakingTurns<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // Dropped at the end of this poll: the next guest in line gets the turn.
        let _turn = if self.busy.is_set() { ready!(self.turns.poll_acquire(cx)) } else { None };
        Pin::new(&mut self.guest).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, sync::Mutex};

    use super::*;

    /// A guest that is polled `polls` times and writes its name down each time.
    fn guest(name: char, polls: usize, trace: Arc<Mutex<String>>) -> impl Future<Output = ()> + Unpin {
        let mut left = polls;
        poll_fn(move |cx| {
            trace.lock().unwrap().push(name);
            left -= 1;
            if left == 0 {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }

    #[tokio::test]
    async fn a_short_guest_needs_no_turn() {
        let turns = Arc::new(Semaphore::new(1));
        let _taken = turns.clone().acquire_owned().await.unwrap();
        let trace = Arc::new(Mutex::new(String::new()));
        TakingTurns::new(guest('c', 2, trace.clone()), Busy::default(), turns).await;
        assert_eq!(*trace.lock().unwrap(), "cc");
    }

    #[tokio::test]
    async fn a_turn_lasts_for_one_poll() {
        let turns = Arc::new(Semaphore::new(1));
        let trace = Arc::new(Mutex::new(String::new()));
        let busy = Busy::default();
        busy.set();
        let mut first = pin!(TakingTurns::new(guest('a', 2, trace.clone()), busy.clone(), turns.clone()));
        assert!(poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx))).await.is_pending());
        TakingTurns::new(guest('b', 2, trace.clone()), busy, turns).await;
        first.await;
        assert_eq!(*trace.lock().unwrap(), "abba");
    }

    #[tokio::test]
    async fn a_busy_guest_waits_for_its_turn_and_is_woken_for_it() {
        let turns = Arc::new(Semaphore::new(1));
        let trace = Arc::new(Mutex::new(String::new()));
        let busy = Busy::default();
        busy.set();
        let taken = turns.clone().acquire_owned().await.unwrap();
        let mut waiting = pin!(TakingTurns::new(guest('a', 1, trace.clone()), busy, turns));
        assert!(poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx))).await.is_pending());
        assert_eq!(*trace.lock().unwrap(), "");
        drop(taken);
        waiting.await;
        assert_eq!(*trace.lock().unwrap(), "a");
    }
}
