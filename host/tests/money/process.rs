//! The real program, killed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::BoxFuture};
use wasaga_testkit::process::Host;

use crate::{
    bank::{Bank, Door},
    books, duration, seed,
};

impl Door for Host {
    fn send<'a>(&'a self, path: &'a str, body: Option<String>) -> BoxFuture<'a, Option<(u16, String)>> {
        async move {
            match body {
                Some(body) => self.post(path, body).await.ok(),
                None => self.get(path).await.ok(),
            }
        }
        .boxed()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_books_balance_when_the_host_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(seed());
    let bank = Bank::new();
    let start = || {
        let host = Arc::new(Host::start(dir.path()));
        bank.set_door(Some(host.clone()));
        host
    };
    let mut host = start();
    bank.open().await;
    let mut clients = bank.start_clients(random.u64(..));
    let (end, mut kills) = (Instant::now() + duration(), 0);
    while Instant::now() < end {
        // A random delay, not a wait for a condition.
        tokio::time::sleep(Duration::from_millis(random.u64(200..1200))).await;
        host.signal_kill();
        bank.set_door(None);
        kills += 1;
        host = start();
    }
    bank.close();
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    books::audit(&bank).await;
    println!("{kills} kills");
    assert!(kills > 2);
}
