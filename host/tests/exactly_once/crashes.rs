//! The store fails at every commit, the power goes at every sync, while real plugins move money.
//!
//! After a restart every transfer that was promised is there, all have ended, and the books balance: each account holds
//! what it began with and what the transfers that succeeded have moved, each exactly once.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt, stream};
use serde_json::json;
use wasaga::{
    engine::{Settings, Submitted},
    saga::Status,
};
use wasaga_testkit::engine::{Host, Plan, Setup, until};

use crate::world::{Plugins, saga, value};

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The nth commit and all later ones are refused.
    Commit(u64),
    /// The nth sync of the journal fails, and what was not synced is lost.
    Sync(u64),
}

const OPENING: i64 = 100;

fn impatient(settings: &mut Settings) {
    settings.policy.retry_interval = Duration::from_millis(1);
    settings.policy.retry_interval_max = Duration::from_millis(2);
}

/// Accounts and amounts, in order; the steps of one transfer.
fn transfers() -> Vec<(Plan, Vec<(&'static str, i64)>)> {
    let transfer = |gid: &str, moves: &[(&'static str, i64)]| {
        let steps: Vec<_> =
            moves.iter().map(|(account, amount)| ("account", json!({"account": account, "amount": amount}))).collect();
        (saga(gid, &steps), moves.to_vec())
    };
    let (side_by_side, moves) = transfer("side by side", &[("b", -10), ("c", 10)]);
    let (refused, refused_moves) = transfer("refused side by side", &[("c", 500), ("a", -500)]);
    vec![
        transfer("goes well", &[("a", -30), ("b", 30)]),
        // The first step has moved money when the second is refused.
        transfer("is refused", &[("b", 500), ("a", -500)]),
        (side_by_side.concurrent(), moves),
        (refused.concurrent().wait(), refused_moves),
        transfer("three", &[("c", -5), ("a", 3), ("b", 2)]),
    ]
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn all_ended(host: &Host) {
    until(async || (host.engine.counts().open == 0).then_some(())).await;
}

/// One life with a fault, and one to clean up. Whether the fault came.
fn run(plugins: &Plugins, fault: Fault) -> bool {
    let setup = Setup::new(plugins.branches.clone()).with(impatient);
    let mut promised = BTreeMap::new();
    let came = runtime().block_on(async {
        let host = setup.start();
        for account in ["a", "b", "c"] {
            let open = saga(account, &[("account", json!({"account": account, "open": OPENING}))]);
            assert_eq!(host.settle(&open.wait()).await.status(), Status::Succeed);
        }
        match fault {
            Fault::Commit(commit) => host.store.fail_from(host.store.commits() + commit),
            Fault::Sync(sync) => host.disk.cut_at_sync(host.disk.syncs() + sync),
        }
        // One after the other they wait for more syncs.
        let at_once = if matches!(fault, Fault::Commit(_)) { transfers().len() } else { 1 };
        let mut submissions = stream::iter(transfers())
            .map(async |(plan, _)| (host.engine.submit(plan.now(&host.engine)).await, plan.gid))
            .buffered(at_once);
        while let Some((answer, gid)) = submissions.next().await {
            let status = match answer {
                Ok(Submitted::Waited(saga)) => Some(saga.status()),
                Ok(Submitted::Accepted) => None,
                Err(_) => continue,
            };
            promised.insert(gid, status.filter(|status| status.is_finished()));
        }
        drop(submissions);
        tokio::select! {
            () = host.engine.store_failed() => {}
            () = all_ended(&host) => {}
        }
        let came = host.store.has_failed() || host.disk.is_cut();
        host.kill().await;
        came
    });
    runtime().block_on(async {
        let host = setup.start();
        all_ended(&host).await;
        let mut expected = BTreeMap::from([("a", OPENING), ("b", OPENING), ("c", OPENING)]);
        for (plan, moves) in transfers() {
            let record = host.engine.find(&plan.gid).await.unwrap();
            let status = record.map(|record| record.saga.status());
            if let Some(promise) = promised.get(&plan.gid) {
                assert!(status.is_some(), "{fault:?}: {} is lost", plan.gid);
                assert!(promise.is_none() || *promise == status, "{fault:?}: {} was {promise:?}", plan.gid);
            }
            if status == Some(Status::Succeed) {
                for (account, amount) in moves {
                    *expected.get_mut(account).unwrap() += amount;
                }
            }
        }
        let balances: BTreeMap<&str, i64> = expected
            .keys()
            .map(|account| (*account, value(&host, "account", account).unwrap().parse().unwrap()))
            .collect();
        assert_eq!(balances, expected, "{fault:?}");
        host.stop(Duration::ZERO).await;
    });
    came
}

fn run_all(fault: fn(u64) -> Fault) {
    let plugins = Plugins::contained();
    let mut moments = (1..).take_while(|moment| run(&plugins, fault(*moment)));
    let met = moments.by_ref().count();
    println!("{met} moments");
    assert!((3..200).contains(&met), "{met} moments");
}

#[test]
fn the_store_fails_at_every_commit() {
    run_all(Fault::Commit);
}

#[test]
fn the_power_goes_at_every_sync() {
    run_all(Fault::Sync);
}
