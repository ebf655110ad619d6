//! The way out of the host for one attempt.
//!
//! Nothing is sent for an attempt before its exit has let it out. An attempt that may not leave ends there and then: its
//! guest is never told, so it cannot go on as if it had asked and been answered.

use std::{
    future::pending,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio::sync::Notify;

use crate::{
    branch::{Departure, Exit, Held},
    store,
};

/// What an attempt has read so far.
pub trait Reads: Send + Sync {
    /// Whether all of it is so now, at one moment.
    fn are_current(&self) -> Result<bool, store::Error>;
}

/// Why an attempt ended at the gate, with nothing sent by the request that ended it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// Its exit did not let it out.
    #[error("nothing was sent: {0}")]
    Held(Held),
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The gate of one run of an attempt's guest. Clones are the same gate.
#[derive(Clone)]
pub struct Gate(Arc<Shared>);

struct Shared {
    exit: Option<Arc<dyn Exit>>,
    reads: Arc<dyn Reads>,
    refusal: Refusal,
    is_over: AtomicBool,
    end: Mutex<Option<End>>,
    ended: Notify,
}

impl Gate {
    /// A gate that opens when `exit` does, as long as `reads` are current.
    pub fn new(exit: Option<Arc<dyn Exit>>, reads: Arc<dyn Reads>, refusal: Refusal) -> Self {
        let (is_over, end, ended) = (AtomicBool::new(false), Mutex::default(), Notify::new());
        Self(Arc::new(Shared { exit, reads, refusal, is_over, end, ended }))
    }

    /// Resolves when something may leave. Otherwise it never does, and [`Gate::ended`] says why.
    pub async fn leave(&self, departure: Departure) {
        match self.may_leave(departure).await {
            // Who has come to an end while waiting must not begin anything.
            Ok(()) if !self.is_over() => {}
            Ok(()) => pending().await,
            Err(end) => {
                self.lock().get_or_insert(end);
                self.0.ended.notify_one();
                pending::<()>().await;
            }
        }
    }

    async fn may_leave(&self, departure: Departure) -> Result<(), End> {
        let held = |reason: String| End::Held(Held(reason));
        let current = self.0.reads.are_current().map_err(|error| held(error.to_string()))?;
        if !current {
            return Err(End::Stale);
        }
        let exit =
            self.0.exit.as_ref().ok_or_else(|| held("nothing may leave the host for this attempt".to_owned()))?;
        exit.leave(departure).await.map_err(End::Held)
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
        self.lock().clone()
    }

    /// Says that the attempt is over: from now on nothing leaves, and nothing unfinished is finished.
    pub fn close(&self) {
        self.0.is_over.store(true, Relaxed);
    }

    /// Whether the attempt is over.
    pub fn is_over(&self) -> bool {
        self.0.is_over.load(Relaxed)
    }

    /// Remembers what the host refuses.
    pub fn refused(&self, what: String) {
        self.0.refusal.set(what);
    }

    fn lock(&self) -> MutexGuard<'_, Option<End>> {
        self.0.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use futures_util::{FutureExt as _, future::BoxFuture};

    use super::*;

    #[derive(Default)]
    struct Door {
        asked: AtomicU32,
        held: Option<&'static str>,
    }

    impl Exit for Door {
        fn leave(&self, _departure: Departure) -> BoxFuture<'_, Result<(), Held>> {
            self.asked.fetch_add(1, Relaxed);
            Box::pin(async move { self.held.map_or(Ok(()), |reason| Err(Held(reason.into()))) })
        }
    }

    struct Current(bool);

    impl Reads for Current {
        fn are_current(&self) -> Result<bool, store::Error> {
            Ok(self.0)
        }
    }

    fn new(exit: Option<Arc<Door>>, is_current: bool) -> Gate {
        Gate::new(exit.map(|door| door as _), Arc::new(Current(is_current)), Refusal::default())
    }

    fn leaves(gate: &Gate) -> bool {
        gate.leave(Departure { what: "GET https://a.example/".into() }).now_or_never().is_some()
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
        assert_eq!(gate.ended().now_or_never(), Some(End::Held(Held("too late".into()))));
        assert!(!leaves(&new(None, true)), "without an exit nothing leaves");
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
    }
}
