//! The output gate: all output of one run of a guest passes it before it leaves the host.
//!
//! The engine's egress lets an attempt send once the attempt's possible effect is on disk. If the attempt has read
//! something since, the gate asks again before it sends more: output depends only on data that is current and durable when
//! it leaves. A denied attempt ends at once, and its guest is dropped without an answer to its request, so that it cannot
//! go on as if it had been sent.

use std::{
    future::pending,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
};

use futures_util::future;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    branch::{Egress, EgressDenied, EgressRequest, Reply},
    store::{self, sync::lock},
};

/// The reads of an attempt so far.
pub trait Reads: Send + Sync {
    /// Grows with every read: while it stays the same, the guest has learned nothing new.
    fn count(&self) -> u64;

    /// Whether all reads are current, compared with one state of the store.
    fn are_current(&self) -> Result<bool, store::Error>;
}

/// Why the gate ended a run. The request that ended it was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum End {
    #[error("nothing was sent: {0}")]
    Denied(EgressDenied),
    /// The attempt's reads conflict with a later commit: it must be made again.
    #[error("nothing was sent: what the attempt had read has changed since")]
    Stale,
}

/// The last request of an attempt that was refused or has failed, with the reason: the guest learns only an error code. Clones share it.
#[derive(Clone, Default)]
pub struct Refusal(Arc<Mutex<Option<String>>>);

impl Refusal {
    /// The refused or failed request and the reason, if there was one.
    pub fn get(&self) -> Option<String> {
        self.lock().clone()
    }

    /// Forgets the refusal, for another run of the guest.
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
    /// Cancelled at the end of the attempt. Its guest may run on another thread for a little longer.
    cancelled: CancellationToken,
    state: Mutex<State>,
    /// Notified when `State::over` is set.
    over: Notify,
}

#[derive(Default)]
struct State {
    over: Option<Over>,
    /// [`Reads::count`] when output was last let out; `None` if none was.
    let_out: Option<u64>,
}

/// Why a run is over. The first reason counts.
enum Over {
    /// The guest was dropped, with or without an answer.
    Closed,
    /// The gate ended it.
    Ended(End),
}

impl OutputGate {
    /// A gate that opens when `egress` does, while `reads` are current and the attempt is not `cancelled`.
    pub fn new(
        egress: Option<Arc<dyn Egress>>,
        reads: Arc<dyn Reads>,
        refusal: Refusal,
        cancelled: CancellationToken,
    ) -> Self {
        Self(Arc::new(Shared { egress, reads, refusal, cancelled, state: Mutex::default(), over: Notify::new() }))
    }

    /// Resolves when output may leave. Otherwise it never resolves, and [`OutputGate::ended`] gives the reason.
    pub async fn request(&self, egress_request: EgressRequest) {
        if self.is_over() {
            return pending().await;
        }
        // Counted before the check: reads during the check are not covered by it.
        let count = self.0.reads.count();
        let is_let_out = match self.may_leave(egress_request).await {
            Ok(()) => self.let_out(count),
            Err(end) => {
                self.set_over(Over::Ended(end));
                false
            }
        };
        if !is_let_out {
            pending::<()>().await;
        }
    }

    /// The egress's own reply to every request, if it has one: then requests are answered with it and not sent.
    pub fn reply(&self) -> Option<Reply> {
        self.0.egress.as_ref().and_then(|egress| egress.reply())
    }

    /// Whether more output may follow without another request, since the guest has read nothing since the last one.
    pub fn is_open(&self) -> bool {
        let count = self.0.reads.count();
        let state = self.lock();
        !self.is_over_in(&state) && state.let_out.is_some_and(|let_out| let_out >= count)
    }

    /// As [`OutputGate::request`], but resolves to `false` once the run is over.
    pub async fn follow(self, egress_request: EgressRequest) -> bool {
        tokio::select! {
            biased;
            () = self.finished() => false,
            () = self.request(egress_request) => true,
        }
    }

    /// Whether any output has been let out.
    pub fn has_let_out(&self) -> bool {
        self.lock().let_out.is_some()
    }

    /// Records that output leaves; `false` if the run ended while it waited here, and then it must not be sent.
    fn let_out(&self, count: u64) -> bool {
        let mut state = self.lock();
        if self.is_over_in(&state) {
            return false;
        }
        state.let_out = state.let_out.max(Some(count));
        true
    }

    fn set_over(&self, over: Over) {
        let mut state = self.lock();
        if state.over.is_none() {
            state.over = Some(over);
            drop(state);
            self.0.over.notify_waiters();
        }
    }

    /// Resolves when the run is over or the attempt has ended.
    pub async fn finished(&self) {
        let mut over = pin!(self.0.over.notified());
        over.as_mut().enable();
        if !self.is_over() {
            future::select(over, pin!(self.0.cancelled.cancelled())).await;
        }
    }

    async fn may_leave(&self, egress_request: EgressRequest) -> Result<(), End> {
        let denied = |reason: String| End::Denied(EgressDenied(reason));
        let current = self.0.reads.are_current().map_err(|error| denied(error.to_string()))?;
        if !current {
            return Err(End::Stale);
        }
        let egress =
            self.0.egress.as_ref().ok_or_else(|| denied("nothing may leave the host for this attempt".to_owned()))?;
        egress.request(egress_request).await.map_err(End::Denied)
    }

    /// Resolves when the gate has ended the run.
    pub async fn ended(&self) -> End {
        let mut over = pin!(self.0.over.notified());
        over.as_mut().enable();
        if self.lock().over.is_none() {
            over.await;
        }
        match self.end() {
            Some(end) => end,
            None => pending().await,
        }
    }

    /// Why the gate has ended the run, if it has.
    pub fn end(&self) -> Option<End> {
        match &self.lock().over {
            Some(Over::Ended(end)) => Some(end.clone()),
            _ => None,
        }
    }

    /// Called when the guest is dropped: from now on nothing leaves, and unfinished requests break off.
    pub fn close(&self) {
        self.set_over(Over::Closed);
    }

    /// Whether the run is over or the attempt has ended.
    pub fn is_over(&self) -> bool {
        self.is_over_in(&self.lock())
    }

    fn is_over_in(&self, state: &State) -> bool {
        state.over.is_some() || self.0.cancelled.is_cancelled()
    }

    /// Records a request that the host refuses, and why.
    pub fn refused(&self, what: &str) {
        self.0.refusal.set(format!("the host refused {what}"));
    }

    /// Records a request that has failed, and why.
    pub fn failed(&self, text: String) {
        self.0.refusal.set(text);
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
    struct CountingEgress {
        asked: AtomicU32,
        denied: Option<&'static str>,
    }

    impl Egress for CountingEgress {
        fn request(&self, _egress_request: EgressRequest) -> BoxFuture<'_, Result<(), EgressDenied>> {
            self.asked.fetch_add(1, Relaxed);
            Box::pin(async move { self.denied.map_or(Ok(()), |reason| Err(EgressDenied(reason.into()))) })
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

    fn new(egress: Option<Arc<CountingEgress>>, is_current: bool) -> OutputGate {
        with_reads(egress, &Arc::new(Current(is_current, AtomicU64::new(0))))
    }

    fn with_reads(egress: Option<Arc<CountingEgress>>, reads: &Arc<Current>) -> OutputGate {
        OutputGate::new(egress.map(|egress| egress as _), reads.clone(), Refusal::default(), CancellationToken::new())
    }

    fn egress_request() -> EgressRequest {
        EgressRequest { what: "GET https://a.example/".into() }
    }

    fn leaves(gate: &OutputGate) -> bool {
        gate.request(egress_request()).now_or_never().is_some()
    }

    #[test]
    fn output_leaves_once_the_egress_lets_it_out() {
        let gate = new(Some(Arc::default()), true);
        assert!(leaves(&gate));
        assert_eq!(gate.end(), None);
    }

    #[test]
    fn a_denied_run_ends() {
        let gate = new(Some(Arc::new(CountingEgress { denied: Some("too late"), ..CountingEgress::default() })), true);
        assert!(gate.ended().now_or_never().is_none());
        assert!(!leaves(&gate));
        assert_eq!(gate.ended().now_or_never(), Some(End::Denied(EgressDenied("too late".into()))));
        assert!(!leaves(&new(None, true)), "without an egress nothing leaves");
    }

    #[test]
    fn a_run_with_stale_reads_ends_without_a_request() {
        let egress = Arc::new(CountingEgress::default());
        let gate = new(Some(egress.clone()), false);
        assert!(!leaves(&gate));
        assert_eq!((gate.end(), egress.asked.load(Relaxed)), (Some(End::Stale), 0));
    }

    #[test]
    fn nothing_leaves_once_the_guest_is_dropped() {
        let gate = new(Some(Arc::default()), true);
        gate.close();
        assert!(!leaves(&gate));
        assert_eq!(gate.end(), None);
        assert_eq!(gate.clone().follow(egress_request()).now_or_never(), Some(false));
    }

    #[test]
    fn nothing_leaves_once_the_attempt_is_cancelled() {
        let (cancelled, reads) = (CancellationToken::new(), Arc::new(Current(true, AtomicU64::new(0))));
        let egress = Arc::new(CountingEgress::default());
        let gate = OutputGate::new(Some(egress.clone()), reads, Refusal::default(), cancelled.clone());
        assert!(leaves(&gate) && gate.is_open());
        let mut finished = pin!(gate.finished());
        assert!(finished.as_mut().now_or_never().is_none());
        cancelled.cancel();
        assert!(finished.now_or_never().is_some());
        assert!(!leaves(&gate) && !gate.is_open() && gate.is_over());
        assert_eq!(gate.clone().follow(egress_request()).now_or_never(), Some(false));
        assert_eq!(egress.asked.load(Relaxed), 1, "it makes no request");
    }

    /// A guest that answers without waiting for its request ends with its answer, also if the request is denied later.
    #[test]
    fn an_end_after_the_guests_answer_does_not_count() {
        for (egress, is_current) in [
            (CountingEgress { denied: Some("too late"), ..CountingEgress::default() }, true),
            (CountingEgress::default(), false),
        ] {
            let gate = new(Some(Arc::new(egress)), is_current);
            gate.close();
            assert!(!leaves(&gate));
            assert_eq!(gate.end(), None);
        }
    }

    #[test]
    fn output_asks_again_only_after_a_read() {
        let (egress, reads) = (Arc::new(CountingEgress::default()), Arc::new(Current(true, AtomicU64::new(3))));
        let gate = with_reads(Some(egress), &reads);
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
    fn waiting_output_learns_that_the_run_is_over() {
        let reads = Arc::new(Current(true, AtomicU64::new(0)));
        let gate = OutputGate::new(Some(Arc::new(SilentEgress)), reads, Refusal::default(), CancellationToken::new());
        let mut following = Box::pin(gate.clone().follow(egress_request()));
        assert_eq!((&mut following).now_or_never(), None);
        gate.close();
        assert_eq!(following.now_or_never(), Some(false));
    }

    /// Never answers.
    struct SilentEgress;

    impl Egress for SilentEgress {
        fn request(&self, _egress_request: EgressRequest) -> BoxFuture<'_, Result<(), EgressDenied>> {
            Box::pin(pending())
        }
    }
}
