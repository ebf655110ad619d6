//! The clients, and the way to whichever host is alive.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::BoxFuture, stream};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};

use wasaga_testkit::process::PATIENCE;

pub const CLIENTS: u64 = 64;
pub const ACCOUNTS: usize = 100;
/// Most transfers are between so many of them.
const HOT: usize = 8;
/// Little enough that many transfers are refused.
pub const OPENING: i64 = 200;

/// The way to a host. An answer is a promise; no answer, and a host that says it has failed, are none.
pub trait Door: Send + Sync + 'static {
    /// Status and body; `None` if the host has gone.
    fn send<'a>(&'a self, path: &'a str, body: Option<String>) -> BoxFuture<'a, Option<(u16, String)>>;
}

/// What a client was told of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// It is on disk and will come to an end.
    Accepted,
    /// It has moved the money.
    Succeeded,
    /// It has moved nothing.
    Failed,
}

/// Money from one account to another.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    pub from: usize,
    pub to: usize,
    pub amount: i64,
    /// The money arrives before it is taken, so that a refusal has something to take back.
    is_reversed: bool,
    waits: bool,
}

impl Transfer {
    fn draw(random: &mut fastrand::Rng) -> Self {
        let accounts = if random.u8(0..10) < 8 { HOT } else { ACCOUNTS };
        let from = random.usize(0..accounts);
        let to = (from + random.usize(1..accounts)) % accounts;
        let (is_reversed, waits) = (random.bool(), random.u8(0..4) > 0);
        Self { from, to, amount: random.i64(1..=100), is_reversed, waits }
    }

    fn saga(&self, gid: &str) -> String {
        let mut payloads = [
            json!({ "account": name(self.from), "amount": -self.amount }),
            json!({ "account": name(self.to), "amount": self.amount }),
        ];
        if self.is_reversed {
            payloads.reverse();
        }
        saga(gid, &payloads, self.waits)
    }
}

pub fn name(account: usize) -> String {
    format!("account-{account}")
}

/// A saga with a step at the plugin `account` for each payload.
fn saga(gid: &str, payloads: &[Value], wait_result: bool) -> String {
    let step = json!({ "action": "wasm://account/try", "compensate": "wasm://account/cancel" });
    json!({
        "gid": gid,
        "trans_type": "saga",
        "steps": vec![step; payloads.len()],
        "payloads": payloads.iter().map(Value::to_string).collect::<Vec<_>>(),
        "wait_result": wait_result,
    })
    .to_string()
}

/// All transfers that were ever begun, with what was promised of each.
pub type Promises = BTreeMap<String, (Transfer, Promise)>;

pub struct Bank {
    door: watch::Sender<Option<Arc<dyn Door>>>,
    is_closing: AtomicBool,
    promises: Mutex<Promises>,
}

impl Bank {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            door: watch::Sender::new(None),
            is_closing: AtomicBool::new(false),
            promises: Mutex::default(),
        })
    }

    /// A host has come to life, or is gone.
    pub fn set_door(&self, door: Option<Arc<dyn Door>>) {
        self.door.send_replace(door);
    }

    /// Sends until a host answers.
    pub async fn ask(&self, path: &str, body: Option<&str>) -> (u16, String) {
        let deadline = Instant::now() + PATIENCE;
        let mut doors = self.door.subscribe();
        loop {
            let door = doors.wait_for(Option::is_some).await.unwrap().clone().unwrap();
            match door.send(path, body.map(ToOwned::to_owned)).await {
                Some((status, text)) if status < 500 => return (status, text),
                // It has gone, or is about to: the next one answers.
                other => assert!(Instant::now() < deadline, "{path}: nobody answers, last {other:?}"),
            }
            drop(door);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Opens all accounts.
    pub async fn open(&self) {
        stream::iter(0..ACCOUNTS)
            .for_each_concurrent(16, async |account| {
                let payload = json!({ "account": name(account), "open": OPENING });
                let body = saga(&format!("open-{account}"), &[payload], true);
                let (status, text) = self.ask("/api/dtmsvr/submit", Some(&body)).await;
                assert_eq!(status, 200, "{text}");
            })
            .await;
    }

    /// Lets the clients begin; each goes on until [`Bank::close`], and then until its last transfer is answered.
    pub fn start_clients(self: &Arc<Self>, seed: u64) -> JoinSet<()> {
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let bank = self.clone();
            let mut random = fastrand::Rng::with_seed(seed.wrapping_add(client));
            clients.spawn(async move {
                for number in 0.. {
                    if bank.is_closing.load(Ordering::Relaxed) {
                        break;
                    }
                    bank.transfer(&format!("transfer-{client}-{number}"), Transfer::draw(&mut random)).await;
                }
            });
        }
        clients
    }

    /// No more new transfers.
    pub fn close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
    }

    pub fn promises(&self) -> Promises {
        self.promises.lock().unwrap().clone()
    }

    async fn transfer(&self, gid: &str, transfer: Transfer) {
        let (status, text) = self.ask("/api/dtmsvr/submit", Some(&transfer.saga(gid))).await;
        let promise = match status {
            200 if transfer.waits => Promise::Succeeded,
            // Refused now, or known from a submission that was not answered: then it may have ended in any way.
            409 => self.end(gid).await,
            // 425: waited for, and not ended before the host wanted to answer.
            200 | 425 => Promise::Accepted,
            _ => panic!("{gid}: {status} {text}"),
        };
        self.promises.lock().unwrap().insert(gid.to_owned(), (transfer, promise));
    }

    /// How a transfer has ended, once it has.
    pub async fn end(&self, gid: &str) -> Promise {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, text) = self.ask(&format!("/api/dtmsvr/query?gid={gid}"), None).await;
            assert_eq!(status, 200, "{text}");
            let view: Value = serde_json::from_str(&text).unwrap();
            match view["transaction"]["status"].as_str() {
                Some("succeed") => return Promise::Succeeded,
                Some("failed") => return Promise::Failed,
                Some(_) => assert!(Instant::now() < deadline, "{gid} does not end: {text}"),
                None => panic!("{gid} was acknowledged and is lost"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What is in an account, as the plugin itself says.
    pub async fn balance(&self, account: usize) -> i64 {
        let gid = format!("balance-{account}");
        let body = saga(&gid, &[json!({ "account": name(account) })], true);
        let (status, text) = self.ask("/api/dtmsvr/submit", Some(&body)).await;
        assert_eq!(status, 200, "{text}");
        let (status, text) = self.ask(&format!("/api/v1/sagas/{gid}"), None).await;
        assert_eq!(status, 200, "{text}");
        let view: Value = serde_json::from_str(&text).unwrap();
        view["steps"][0]["action"]["output"]["balance"].as_i64().unwrap_or_else(|| panic!("{text}"))
    }
}
