//! Branches that the test plays itself.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::{mpsc, oneshot};
use wasaga::{
    branch::{Branch, Call, Containment, Destination, Directory, EgressDenied, EgressRequest, Host, NotFound, Outcome},
    saga::{BranchOp, Definition, Op, Pin, Verdict},
    store::{self, Batch, Range, Read},
};
use wasaga_testkit::engine::settle;

/// A directory in which every attempt waits for the test to answer it.
///
/// Addresses that begin with `contained`, `gated` or `external` lead to branches of that containment, until they are closed.
/// What follows an `@` is their destination: a service, or a plugin if they are contained.
pub struct Stage {
    started: mpsc::UnboundedSender<Attempt>,
    attempts: tokio::sync::Mutex<mpsc::UnboundedReceiver<Attempt>>,
    closed: Mutex<HashMap<String, &'static str>>,
    traps: Mutex<HashSet<String>>,
}

/// An attempt that waits for its answer.
#[derive(Debug)]
pub struct Attempt {
    pub call: Call,
    pub host: Host,
    answer: oneshot::Sender<Outcome>,
}

impl Stage {
    pub fn new() -> Arc<Self> {
        let (started, attempts) = mpsc::unbounded_channel();
        Arc::new(Self { started, attempts: attempts.into(), closed: Mutex::default(), traps: Mutex::default() })
    }

    /// The next attempt, whenever it comes. In paused time, that may be long from now.
    pub async fn next(&self) -> Attempt {
        self.attempts.lock().await.recv().await.unwrap()
    }

    /// The next attempt, which must be of this operation, and the nth of it.
    pub async fn expect(&self, step: usize, op: Op, attempt: u32) -> Attempt {
        let next = self.next().await;
        let Call { branch_op, attempt: number, .. } = next.call;
        assert_eq!((branch_op, number), (BranchOp { step, op }, attempt), "of {}", next.call.saga.gid());
        next
    }

    /// The next attempt, which must be the nth of this action.
    pub async fn action(&self, step: usize, attempt: u32) -> Attempt {
        self.expect(step, Op::Action, attempt).await
    }

    /// The next attempt, which must be the nth of this compensation.
    pub async fn compensation(&self, step: usize, attempt: u32) -> Attempt {
        self.expect(step, Op::Compensate, attempt).await
    }

    /// Whether no attempt has started that has not been taken, now that everything has happened that can.
    pub async fn is_quiet(&self) -> bool {
        settle().await;
        self.attempts.lock().await.is_empty()
    }

    /// From now on the address leads nowhere.
    pub fn close(&self, address: &str, why: &'static str) {
        self.closed.lock().unwrap().insert(address.into(), why);
    }

    /// From now on finding this address panics.
    pub fn trap(&self, address: &str) {
        self.traps.lock().unwrap().insert(address.into());
    }

    /// Ends [`Stage::close`] and [`Stage::trap`].
    pub fn open(&self, address: &str) {
        self.closed.lock().unwrap().remove(address);
        self.traps.lock().unwrap().remove(address);
    }
}

impl Attempt {
    pub fn succeed(self) {
        self.answer(Outcome::succeeded(None));
    }

    pub fn output(self, output: &str) {
        self.answer(Outcome::succeeded(Some(output.into())));
    }

    pub fn effects(self, effects: Batch) {
        self.answer(Outcome::Ended { verdict: Verdict::Succeeded { output: None }, effects });
    }

    pub fn output_with_effects(self, output: &str, effects: Batch) {
        self.answer(Outcome::Ended { verdict: Verdict::Succeeded { output: Some(output.into()) }, effects });
    }

    pub fn reject(self) {
        self.answer(Outcome::rejected("no"));
    }

    pub fn fail(self) {
        let error = format!("trouble {}", self.call.attempt);
        self.fail_because(&error);
    }

    pub fn fail_because(self, error: &str) {
        self.answer(Outcome::unknown(error));
    }

    /// What it has read has changed.
    pub fn outdated(self) {
        self.answer(Outcome::Stale);
    }

    pub fn ongoing(self, retry_after: Option<Duration>) {
        self.answer(Outcome::ongoing(retry_after));
    }

    /// Asks to be let out of the host.
    pub async fn leave(&self) -> Result<(), EgressDenied> {
        leave(&self.call, &self.host).await
    }

    /// Lets the branch panic.
    pub fn panic(self) {
        drop(self.answer);
    }

    /// Whether the caller has stopped waiting for the answer.
    pub fn is_given_up(&self) -> bool {
        self.answer.is_closed()
    }

    /// Waits until the caller has stopped waiting for the answer.
    pub async fn given_up(&mut self) {
        self.answer.closed().await;
    }

    fn answer(self, outcome: Outcome) {
        // A test may answer an attempt that has been given up.
        let _ = self.answer.send(outcome);
    }
}

impl Directory for Stage {
    fn find(&self, saga: &Definition, branch_op: BranchOp, _: Option<&Pin>) -> Result<Arc<dyn Branch>, NotFound> {
        let address = saga.target(branch_op);
        let is_trap = self.traps.lock().unwrap().contains(address);
        assert!(!is_trap, "the test lets the directory panic");
        if let Some(why) = self.closed.lock().unwrap().get(address) {
            return Err(NotFound((*why).to_owned()));
        }
        let containment = containment(address)?;
        let destination = address.split_once('@').map(|(_, name)| match containment {
            Containment::Contained => Destination::Plugin(name.into()),
            _ => Destination::Service(name.into()),
        });
        Ok(Arc::new(Actor { containment, destination, started: self.started.clone() }))
    }
}

/// Asks for an attempt to be let out of the host.
pub async fn leave(call: &Call, host: &Host) -> Result<(), EgressDenied> {
    let egress = host.egress.as_ref().expect("a way out");
    egress.request(EgressRequest { what: format!("POST {}", call.target()) }).await
}

/// What kind of branch an address of these tests leads to.
pub fn containment(address: &str) -> Result<Containment, NotFound> {
    match address {
        _ if address.starts_with("contained") => Ok(Containment::Contained),
        _ if address.starts_with("gated") => Ok(Containment::Gated),
        _ if address.starts_with("external") => Ok(Containment::External),
        _ => Err(NotFound(format!("nothing is at {address}"))),
    }
}

struct Actor {
    containment: Containment,
    destination: Option<Destination>,
    started: mpsc::UnboundedSender<Attempt>,
}

impl Branch for Actor {
    fn call<'a>(&'a self, call: &'a Call, host: &'a Host) -> BoxFuture<'a, Outcome> {
        async {
            let (answer, outcome) = oneshot::channel();
            let state = Arc::new(Borrowed(Arc::downgrade(&host.state)));
            // The place is the branch's to keep: a test may keep an attempt for longer than it runs.
            let host = Host { state, place: None, ..host.clone() };
            self.started.send(Attempt { call: call.clone(), host, answer }).unwrap();
            outcome.await.unwrap_or_else(|_| panic!("the test lets the branch panic"))
        }
        .boxed()
    }

    fn containment(&self) -> Containment {
        self.containment
    }

    fn destination(&self) -> Option<Destination> {
        self.destination.clone()
    }
}

/// The state of a host, for a test that may keep an attempt longer than its host.
struct Borrowed(Weak<dyn Read>);

impl Borrowed {
    fn state(&self) -> Result<Arc<dyn Read>, store::Error> {
        self.0.upgrade().ok_or(store::Error::Closed)
    }
}

impl Read for Borrowed {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, store::Error> {
        self.state()?.get(key)
    }

    fn scan(&self, range: &Range, limit: usize) -> Result<Vec<(Bytes, Bytes)>, store::Error> {
        self.state()?.scan(range, limit)
    }

    fn is_current(&self, batch: &Batch) -> Result<bool, store::Error> {
        self.state()?.is_current(batch)
    }
}
