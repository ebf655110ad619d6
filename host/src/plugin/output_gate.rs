//! The way out of the host for one attempt.
//!
//! Nothing is sent for an attempt before its egress has let it out, and nothing that follows is sent if the attempt has
//! read something since: what leaves rests on what is so, and what is on disk, at the moment at which it leaves. An
//! attempt that may not leave ends there and then: its guest is never told, so it cannot go on as if it had asked and
//! been answered.

use std::{
    future::pending,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
};

use futures_util::future;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::store::sync::lock;
use crate::{
    branch::{Egress, EgressDenied, EgressRequest, Reply},
    store,
};

/// What an attempt has read so far.
pub trait Reads: Send + Sync {
    /// Grows with everything that is read: while it stays the same, nothing is known that was not known before.
    fn count(&self) -> u64;

    /// Whether all of it is so now, at one moment.
    fn are_current(&self) -> Result<bool, store::Error>;
}

/// Why an attempt ended at the gate, with nothing sent by the request that ended it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// Its egress did not let it out.
    #[error("nothing was sent: {0}")]
    Denied(EgressDenied),
    /// It rests on what is no longer so, and must not act on it: the attempt is to be made again.
    #[error("nothing was sent: what the attempt had read has changed since")]
    Stale,
}

/// What the host refused an attempt last: the guest's own words for it are poorer. Clones are the same.
#[derive(Clone, Default)]
pub struct Refusal(Arc<Mutex<Option<String>>>);

impl Refusal {
    /// What was refused, and why, if anything was.
    pub fn get(&self) -> Option<String> {
        self.lock().clone()
    }

    /// The attempt is made again, and nothing of it counts.
    pub fn clear(&self) {
        *self.lock() = None;
    }

    fn set(&self, what: String) {
        *self.lock() = Some(what);
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        lock(&self.0)
    }
}

/// The gate of one run of an attempt's guest. Clones are the same gate.
#[derive(Clone)]
pub struct OutputGate(Arc<Shared>);

struct Shared {
    egress: Option<Arc<dyn Egress>>,
    reads: Arc<dyn Reads>,
    refusal: Refusal,
    /// Whether nobody waits for the attempt any more. Its guest may run on for a moment all the same.
    given_up: CancellationToken,
    state: Mutex<State>,
    /// Wakes who waits for the end.
    ended: Notify,
    /// Wakes who waits to leave, since nobody will any more.
    over: Notify,
}

#[derive(Default)]
struct State {
    end: Option<End>,
    is_closed: bool,
    /// What had been read, by [`Reads::count`], when something was let out last.
    let_out: Option<u64>,
}

impl State {
    fn is_over(&self) -> bool {
        self.is_closed || self.end.is_some()
    }
}

impl OutputGate {
    /// A gate that opens when `egress` does, as long as `reads` are current and the attempt is not `given_up`.
    pub fn new(
        egress: Option<Arc<dyn Egress>>,
        reads: Arc<dyn Reads>,
        refusal: Refusal,
        given_up: CancellationToken,
    ) -> Self {
        let (ended, over) = (Notify::new(), Notify::new());
        Self(Arc::new(Shared { egress, reads, refusal, given_up, state: Mutex::default(), ended, over }))
    }

    /// Resolves when something may leave. Otherwise it never does, and [`OutputGate::ended`] says why.
    pub async fn request(&self, egress_request: EgressRequest) {
        if self.is_over() {
            return pending().await;
        }
        // Before it is checked: what is read meanwhile has not been let out.
        let count = self.0.reads.count();
        let is_let_out = match self.may_leave(egress_request).await {
            Ok(()) => self.let_out(count),
            Err(end) => {
                self.end_with(end);
                false
            }
        };
        if !is_let_out {
            pending::<()>().await;
        }
    }

    /// What its egress answers in place of whom a request is for, if it does.
    pub fn reply(&self) -> Option<Reply> {
        self.0.egress.as_ref().and_then(|egress| egress.reply())
    }

    /// Whether more of what has been let out may follow without asking, since nothing has been read meanwhile.
    pub fn is_open(&self) -> bool {
        let count = self.0.reads.count();
        let state = self.lock();
        !self.ends(&state) && state.let_out.is_some_and(|let_out| let_out >= count)
    }

    /// As [`OutputGate::request`], for who must learn that the attempt is over: then it is `false`.
    pub async fn follow(self, egress_request: EgressRequest) -> bool {
        tokio::select! {
            biased;
            () = self.is_finished() => false,
            () = self.request(egress_request) => true,
        }
    }

    /// Whether anything has been let out.
    pub fn has_let_out(&self) -> bool {
        self.lock().let_out.is_some()
    }

    /// Who has come to an end while waiting must not begin anything.
    fn let_out(&self, count: u64) -> bool {
        let mut state = self.lock();
        if self.ends(&state) {
            return false;
        }
        state.let_out = state.let_out.max(Some(count));
        true
    }

    /// An attempt has one end: what comes after the guest's own is too late.
    fn end_with(&self, end: End) {
        let mut state = self.lock();
        if !state.is_over() {
            state.end = Some(end);
            drop(state);
            self.0.ended.notify_one();
            self.0.over.notify_waiters();
        }
    }

    /// Resolves when the attempt is over.
    pub async fn is_finished(&self) {
        let mut over = pin!(self.0.over.notified());
        over.as_mut().enable();
        if !self.is_over() {
            future::select(over, pin!(self.0.given_up.cancelled())).await;
        }
    }

    async fn may_leave(&self, egress_request: EgressRequest) -> Result<(), End> {
        let held = |reason: String| End::Denied(EgressDenied(reason));
        let current = self.0.reads.are_current().map_err(|error| held(error.to_string()))?;
        if !current {
            return Err(End::Stale);
        }
        let egress =
            self.0.egress.as_ref().ok_or_else(|| held("nothing may leave the host for this attempt".to_owned()))?;
        egress.request(egress_request).await.map_err(End::Denied)
    }

    /// Resolves when the attempt has to end.
    pub async fn ended(&self) -> End {
        loop {
            if let Some(end) = self.end() {
                return end;
            }
            self.0.ended.notified().await;
        }
    }

    /// Why the attempt has to end, if it has.
    pub fn end(&self) -> Option<End> {
        self.lock().end.clone()
    }

    /// Says that the attempt is over: from now on nothing leaves, and nothing unfinished is finished.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.0.over.notify_waiters();
    }

    /// Whether the attempt is over.
    pub fn is_over(&self) -> bool {
        self.ends(&self.lock())
    }

    fn ends(&self, state: &State) -> bool {
        state.is_over() || self.0.given_up.is_cancelled()
    }

    /// Remembers what the host refuses.
    pub fn refused(&self, what: String) {
        self.0.refusal.set(what);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

    use futures_util::{FutureExt as _, future::BoxFuture};

    use super::*;

    #[derive(Default)]
    struct Door {
        asked: AtomicU32,
        held: Option<&'static str>,
    }

    impl Egress for Door {
        fn request(&self, _departure: EgressRequest) -> BoxFuture<'_, Result<(), EgressDenied>> {
            self.asked.fetch_add(1, Relaxed);
            Box::pin(async move { self.held.map_or(Ok(()), |reason| Err(EgressDenied(reason.into()))) })
        }
    }

    struct Current(bool, AtomicU64);

    impl Reads for Current {
        fn count(&self) -> u64 {
            self.1.load(Relaxed)
        }

        fn are_current(&self) -> Result<bool, store::Error> {
            Ok(self.0)
        }
    }

    fn new(egress: Option<Arc<Door>>, is_current: bool) -> OutputGate {
        with_reads(egress, &Arc::new(Current(is_current, AtomicU64::new(0))))
    }

    fn with_reads(egress: Option<Arc<Door>>, reads: &Arc<Current>) -> OutputGate {
        OutputGate::new(egress.map(|door| door as _), reads.clone(), Refusal::default(), CancellationToken::new())
    }

    fn egress_request() -> EgressRequest {
        EgressRequest { what: "GET https://a.example/".into() }
    }

    fn leaves(gate: &OutputGate) -> bool {
        gate.request(egress_request()).now_or_never().is_some()
    }

    #[test]
    fn who_is_let_out_leaves() {
        let gate = new(Some(Arc::default()), true);
        assert!(leaves(&gate));
        assert_eq!(gate.end(), None);
    }

    #[test]
    fn who_is_held_ends() {
        let gate = new(Some(Arc::new(Door { held: Some("too late"), ..Door::default() })), true);
        assert!(gate.ended().now_or_never().is_none());
        assert!(!leaves(&gate));
        assert_eq!(gate.ended().now_or_never(), Some(End::Denied(EgressDenied("too late".into()))));
        assert!(!leaves(&new(None, true)), "without an egress nothing leaves");
    }

    #[test]
    fn who_has_read_what_is_no_longer_so_does_not_even_ask() {
        let door = Arc::new(Door::default());
        let gate = new(Some(door.clone()), false);
        assert!(!leaves(&gate));
        assert_eq!((gate.end(), door.asked.load(Relaxed)), (Some(End::Stale), 0));
    }

    #[test]
    fn nothing_leaves_once_the_attempt_is_over() {
        let gate = new(Some(Arc::default()), true);
        gate.close();
        assert!(!leaves(&gate));
        assert_eq!(gate.end(), None);
        assert_eq!(gate.clone().follow(egress_request()).now_or_never(), Some(false));
    }

    #[test]
    fn nothing_leaves_once_the_attempt_is_given_up() {
        let (given_up, reads) = (CancellationToken::new(), Arc::new(Current(true, AtomicU64::new(0))));
        let door = Arc::new(Door::default());
        let gate = OutputGate::new(Some(door.clone()), reads, Refusal::default(), given_up.clone());
        assert!(leaves(&gate) && gate.is_open());
        let mut finished = pin!(gate.is_finished());
        assert!(finished.as_mut().now_or_never().is_none());
        given_up.cancel();
        assert!(finished.now_or_never().is_some());
        assert!(!leaves(&gate) && !gate.is_open() && gate.is_over());
        assert_eq!(gate.clone().follow(egress_request()).now_or_never(), Some(false));
        assert_eq!(door.asked.load(Relaxed), 1, "it does not even ask");
    }

    /// A guest that has answered without waiting for its request ends by its answer, whatever becomes of the request.
    #[test]
    fn an_end_that_comes_after_the_guests_own_does_not_count() {
        for (door, is_current) in [(Door { held: Some("too late"), ..Door::default() }, true), (Door::default(), false)]
        {
            let gate = new(Some(Arc::new(door)), is_current);
            gate.close();
            assert!(!leaves(&gate));
            assert_eq!(gate.end(), None);
        }
    }

    #[test]
    fn what_follows_asks_again_only_when_something_has_been_read() {
        let (door, reads) = (Arc::new(Door::default()), Arc::new(Current(true, AtomicU64::new(3))));
        let gate = with_reads(Some(door), &reads);
        assert!(!gate.is_open() && !gate.has_let_out(), "nothing has been let out");
        assert!(leaves(&gate) && gate.is_open() && gate.has_let_out());
        reads.1.store(4, Relaxed);
        assert!(!gate.is_open());
        assert_eq!(gate.clone().follow(egress_request()).now_or_never(), Some(true));
        assert!(gate.is_open());
        gate.close();
        assert!(!gate.is_open());
    }

    #[test]
    fn who_waits_to_follow_learns_that_the_attempt_is_over() {
        let reads = Arc::new(Current(true, AtomicU64::new(0)));
        let gate = OutputGate::new(Some(Arc::new(Shut)), reads, Refusal::default(), CancellationToken::new());
        let mut following = Box::pin(gate.clone().follow(egress_request()));
        assert_eq!((&mut following).now_or_never(), None);
        gate.close();
        assert_eq!(following.now_or_never(), Some(false));
    }

    /// Neither opens nor says no.
    struct Shut;

    impl Egress for Shut {
        fn request(&self, _departure: EgressRequest) -> BoxFuture<'_, Result<(), EgressDenied>> {
            Box::pin(pending())
        }
    }
}
