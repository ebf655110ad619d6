//! The store fails at every commit, the power goes at every sync: for sagas of every shape, at every commit.
//!
//! After a restart on the same directory every acknowledged saga is there, and all sagas end; no effect
//! is left of those that failed, none is missing of those that succeeded, none counts twice, no action follows the
//! first compensation.

use std::time::Duration;

use wasaga::engine::{Settings, Submitted};
use wasaga_testkit::engine::{Host, Plan, Setup, until};

use crate::world::{Troubles, World};

/// What goes wrong, and when.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The nth commit and all later ones are refused.
    Commit(u64),
    /// The nth sync of the journal, and everything after it, fails; what was not synced is lost.
    Sync(u64),
}

fn impatient(settings: &mut Settings) {
    settings.policy.retry_interval = Duration::from_millis(1);
    settings.policy.retry_interval_max = Duration::from_millis(2);
    settings.policy.ongoing_min = Duration::from_millis(1);
}

fn shapes() -> Vec<Plan> {
    let steps = [
        Plan::new("two contained").contained().contained(),
        Plan::new("two external").external().external(),
        Plan::new("mixed").contained().external().step("contained-pure", "").contained(),
        Plan::new("ordered").external().contained().external().concurrent().after(2, &[0, 1]),
        Plan::new("side by side").contained().external().contained().concurrent(),
        Plan::new("two gated").gated().gated(),
        Plan::new("all kinds").gated().contained().external().gated(),
        Plan::new("gates side by side").gated().external().gated().contained().concurrent().after(3, &[0]),
    ];
    let limited = Plan::new("limited").contained().gated().external().with(|options| options.retry_limit = 2);
    steps.into_iter().chain([limited]).flat_map(|plan| [plan.clone(), plan.wait()]).collect()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// One life with a fault, and one to clean up. Whether the fault came.
fn run(plan: &Plan, seed: u64, troubles: Troubles, fault: Fault) -> bool {
    let world = World::new(seed, troubles);
    let setup = Setup::new(world.map()).with(impatient);
    let mut promised = Vec::new();
    let came = runtime().block_on(async {
        let host = world.begin_life(&setup);
        match fault {
            Fault::Commit(commit) => host.store.fail_from(commit),
            // The journal's header is the first.
            Fault::Sync(sync) => host.disk.cut_at_sync(1 + sync),
        }
        let came = live(&host, plan, &mut promised).await;
        world.end_life(host).await;
        came
    });
    runtime().block_on(async {
        world.trouble(Troubles::default());
        let host = world.begin_life(&setup);
        until(async || (host.engine.counts().open == 0).then_some(())).await;
        for gid in &promised {
            let record = host.find(gid).await;
            world.check_end(&record);
        }
        // A saga that was not acknowledged has ended, or was never stored.
        if let Some(record) = host.engine.find(&plan.gid).await.unwrap() {
            world.check_end(&record);
        }
        world.check();
        world.end_life(host).await;
    });
    came
}

/// Submits the saga beside another one, until both have ended or the store has failed. Whether it has.
async fn live(host: &Host, plan: &Plan, promised: &mut Vec<String>) -> bool {
    let beside = Plan::new("beside").contained().external();
    for plan in [&beside, plan] {
        if let Ok(Submitted::Accepted | Submitted::Waited(_)) = host.engine.submit(plan.now(&host.engine)).await {
            promised.push(plan.gid.clone());
        }
    }
    tokio::select! {
        () = host.engine.store_failed() => {}
        () = until(async || (host.engine.counts().open == 0).then_some(())) => {}
    }
    host.store.has_failed() || host.disk.is_cut()
}

fn run_all(fault: fn(u64) -> Fault, troubles: Troubles, seeds: std::ops::Range<u64>) {
    let first = wasaga_testkit::seed(0);
    let mut runs = 0;
    for plan in shapes() {
        for seed in seeds.clone() {
            let mut moments = (1..).take_while(|moment| {
                runs += 1;
                run(&plan, first.wrapping_add(seed), troubles, fault(*moment))
            });
            let met = moments.by_ref().count();
            assert!(met >= 2, "{}: only {met} moments", plan.gid);
            assert!(met < 200, "{}: does not come to an end", plan.gid);
        }
    }
    println!("{runs} runs");
}

const TROUBLES: Troubles = Troubles { rejected: 15, unknown: 15, ongoing: 10, panicking: 0, slow: 20 };

#[test]
fn the_store_fails_at_every_commit_of_sagas_that_go_well() {
    run_all(Fault::Commit, Troubles::default(), 0..1);
}

#[test]
fn the_store_fails_at_every_commit_of_sagas_in_trouble() {
    run_all(Fault::Commit, TROUBLES, 1..4);
}

#[test]
fn the_power_goes_at_every_sync_of_sagas_that_go_well() {
    run_all(Fault::Sync, Troubles::default(), 0..1);
}

#[test]
fn the_power_goes_at_every_sync_of_sagas_in_trouble() {
    run_all(Fault::Sync, TROUBLES, 1..4);
}

#[test]
fn the_power_goes_at_every_sync_of_sagas_that_all_roll_back() {
    run_all(Fault::Sync, Troubles { rejected: 100, ..Troubles::default() }, 0..1);
}
