//! A host in this process, and a disk that loses at each cut whatever was not synced.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::Request,
};
use futures_util::{FutureExt, future::BoxFuture};
use tower::ServiceExt;
use wasaga::{
    api::{self, Context, Limits, Uploads},
    branch::{grpc, http},
    directory::Branches,
    plugin::{Registry, Runtime, Settings},
};
use wasaga_testkit::{
    engine::{Host, Setup},
    process,
};

use crate::{
    bank::{Bank, Door},
    books, duration, seed,
};

struct InProcess(Router);

impl Door for InProcess {
    fn send<'a>(&'a self, path: &'a str, body: Option<String>) -> BoxFuture<'a, Option<(u16, String)>> {
        async move {
            let request = if body.is_some() { Request::post(path) } else { Request::get(path) };
            let request = request.body(Body::from(body.unwrap_or_default())).unwrap();
            let response = self.0.clone().oneshot(request).await.unwrap();
            let status = response.status().as_u16();
            let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
            Some((status, String::from_utf8(body.into()).unwrap()))
        }
        .boxed()
    }
}

/// The plugins outlive the hosts, which saves loading them at every start.
fn load(dir: &Path) -> (Arc<Registry>, Arc<Branches>) {
    let settings = http::Settings::default();
    let plugins = Arc::new(Registry::load(&Runtime::new(&Settings::default()).unwrap(), dir, Vec::new()));
    let services = (http::Client::new(&settings).unwrap(), grpc::Client::new(&settings));
    (plugins.clone(), Arc::new(Branches::new(plugins, services.0, services.1)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_books_balance_when_the_disk_loses_what_was_not_synced() {
    let mut random = fastrand::Rng::with_seed(seed());
    let (plugins, branches) = load(&process::plugins());
    let setup = Setup::new(branches);
    let bank = Bank::new();
    let start = || {
        let host: Host = setup.start();
        let context = Context::new(
            host.engine.clone(),
            plugins.clone(),
            Uploads::Off,
            prometheus_client::registry::Registry::default(),
            Limits::default(),
        );
        bank.set_door(Some(Arc::new(InProcess(api::router(context)))));
        host
    };
    let mut host = start();
    bank.open().await;
    let mut clients = bank.start_clients(random.u64(..));
    let (end, mut cuts) = (Instant::now() + duration(), 0);
    while Instant::now() < end {
        // At a sync some way ahead, so that it happens in the middle of what is being written.
        host.disk.cut_at_sync(host.disk.syncs() + random.u64(50..400));
        host.engine.store_failed().await;
        bank.set_door(None);
        host.kill().await;
        cuts += 1;
        host = start();
    }
    bank.close();
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    books::audit(&bank).await;
    println!("{cuts} cuts");
    assert!(cuts > 5);
    bank.set_door(None);
    host.stop(Duration::ZERO).await;
}
