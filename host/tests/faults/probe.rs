//! Honest clients, at work while something else is broken.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use wasaga_testkit::process::{Host, poll};

use crate::client::{Client, FLOODING, saga_with};

/// Clients that submit sagas of a healthy plugin, one after the other, and wait for each. Two keep their connections, two
/// make a new one for every saga.
pub struct Probe {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

struct Shared {
    is_over: AtomicBool,
    succeeded: AtomicU64,
    /// Everything else that clients saw, and how often.
    other: Mutex<BTreeMap<String, u64>>,
}

/// What became of the sagas of the honest clients.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    pub succeeded: u64,
    /// Answers that are no success, and missing answers, with their numbers.
    pub other: BTreeMap<String, u64>,
}

impl Probe {
    /// Starts them; `name` tells their sagas from those of other probes of the same data.
    pub fn start(host: &Host, name: &str) -> Self {
        Self::start_with(|| Client::new(&host.address), name)
    }

    /// As [`Probe::start`], with clients from the address of those that flood the host.
    pub fn start_beside_flood(host: &Host, name: &str) -> Self {
        Self::start_with(|| Client::from(FLOODING, &host.address), name)
    }

    fn start_with(client: impl Fn() -> Client, name: &str) -> Self {
        let shared = Arc::new(Shared { is_over: false.into(), succeeded: 0.into(), other: Mutex::default() });
        let mut clients = JoinSet::new();
        for number in 0..4 {
            clients.spawn(run(client(), format!("{name}-{number}"), number < 2, shared.clone()));
        }
        Self { shared, clients }
    }

    /// Waits until so many more sagas have succeeded or anything else was seen.
    pub async fn wait_for(&self, more: u64) {
        let wanted = self.shared.succeeded.load(Relaxed) + more;
        let done = || async {
            let is_done = self.shared.succeeded.load(Relaxed) >= wanted;
            (is_done || !self.shared.other.lock().unwrap().is_empty()).then_some(())
        };
        poll(done, || format!("honest sagas do not get on: {:?}", self.seen())).await;
    }

    /// Ends them, and says what they have seen.
    pub async fn end(self) -> Seen {
        self.shared.is_over.store(true, Relaxed);
        let shared = self.shared.clone();
        self.clients.join_all().await;
        Self { shared, clients: JoinSet::new() }.seen()
    }

    /// Ends them; all their sagas must have succeeded, at least so many.
    pub async fn end_unharmed(self, least: u64) {
        let seen = self.end().await;
        assert!(seen.other.is_empty(), "honest sagas were harmed: {seen:?}");
        assert!(seen.succeeded >= least, "too few honest sagas to tell anything: {seen:?}");
    }

    fn seen(&self) -> Seen {
        let other = self.shared.other.lock().unwrap().clone();
        Seen { succeeded: self.shared.succeeded.load(Relaxed), other }
    }
}

async fn run(mut client: Client, name: String, keeps: bool, shared: Arc<Shared>) {
    for number in 0.. {
        if shared.is_over.load(Relaxed) {
            return;
        }
        if !keeps {
            client.disconnect();
        }
        let what = match client.submit(&honest(&format!("{name}-{number}"))).await {
            Ok(answer) if answer.status == 200 => None,
            Ok(answer) => Some(format!("{} {}", answer.status, answer.body)),
            Err(gone) => Some(format!("{gone:?}")),
        };
        match what {
            None => _ = shared.succeeded.fetch_add(1, Relaxed),
            Some(what) => *shared.other.lock().unwrap().entry(what).or_default() += 1,
        }
        // Little load: they are to find out whether the host serves, not how much.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A saga of a healthy plugin that a client waits for.
pub fn honest(gid: &str) -> Value {
    let payload = json!({ "account": gid, "open": 1 });
    saga_with(gid, "wasm://account/try", &payload, &json!({ "wait_result": true }))
}
