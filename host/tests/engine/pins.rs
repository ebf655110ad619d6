//! A saga runs on the components that were current when it was stored, and they are kept for exactly as long.
//!
//! 1. The pins are in the log from its first entry, and every attempt is made with them: after upgrades and restarts,
//!    forwards and backwards. A saga that uses no component has none.
//! 2. A refused saga holds nothing; a known saga is not held for again; an ended saga has released its pins, once.
//! 3. A component that is lost is a failed attempt, never another version.
//! 4. Sagas from before sagas pinned anything do so when they are next driven.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use wasaga::{
    engine::SubmitError,
    saga::{Event, Pin, Status},
    store::{Batch, Store},
};
use wasaga_testkit::engine::{Host, Plan, Setup, settle, until};

use crate::{
    component_store::ComponentStore,
    stage::Stage,
    world::{Troubles, World},
};

fn v(version: u8) -> Pin {
    ComponentStore::pin_of("contained", version)
}

/// A stage whose contained branches are the plugin `contained`, in version 1.
fn component_store() -> (Arc<Stage>, Arc<ComponentStore>) {
    let stage = Stage::new();
    let component_store = ComponentStore::new(stage.clone());
    component_store.publish("contained", 1);
    (stage, component_store)
}

async fn restart(host: Host, component_store: &ComponentStore) -> Host {
    let setup = host.kill().await;
    component_store.restart();
    setup.start()
}

#[tokio::test(start_paused = true)]
async fn pins_are_the_first_entry_of_the_log_of_sagas_that_use_components() {
    let (stage, component_store) = component_store();
    let host = Setup::paused(component_store.clone()).start();
    host.submit(&Plan::new("plugins").contained().external()).await;
    host.engine.prepare(Plan::new("prepared").contained().now(&host.engine)).await.unwrap();
    host.submit(&Plan::new("services").external()).await;
    for gid in ["plugins", "prepared"] {
        let record = host.find(gid).await;
        assert!(
            matches!(&record.log[0], Event::Pinned { pins, .. } if pins.components() == [v(1)]),
            "{:?}",
            record.log
        );
        assert_eq!(record.saga.pins().components(), [v(1)]);
    }
    let record = host.find("services").await;
    assert!(matches!(record.log[0], Event::Submitted { .. }), "{:?}", record.log);
    assert!(record.saga.pins().is_empty());
    assert_eq!(component_store.held(&v(1)), 2);
    component_store.check_holds(&host.engine).await;
    drop(stage);
}

#[tokio::test(start_paused = true)]
async fn a_saga_runs_on_the_same_component_through_upgrades_and_restarts_and_back() {
    for is_prepared in [false, true] {
        let (stage, component_store) = component_store();
        let mut host = Setup::paused(component_store.clone()).start();
        let plan = Plan::new("old").contained().external().contained();
        if is_prepared {
            host.engine.prepare(plan.now(&host.engine)).await.unwrap();
            component_store.publish("contained", 2);
        }
        host.submit(&plan).await;
        stage.action(0, 1).await.succeed();
        let _cut_off = stage.action(1, 1).await;
        component_store.publish("contained", 2);
        host = restart(host, &component_store).await;
        assert_eq!(component_store.held(&v(1)), 1, "held before anything is driven");
        let external = stage.action(1, 2).await;
        component_store.publish("contained", 3);
        external.succeed();
        let last = stage.action(2, 1).await;
        assert_eq!(component_store.used("old", 2), Some(v(1)));
        host.submit(&Plan::new("new").contained()).await;
        stage.action(0, 1).await.succeed();
        assert_eq!(component_store.used("new", 0), Some(v(3)));
        last.reject();
        stage.compensation(1, 1).await.fail();
        host.until_idle().await;
        host = restart(host, &component_store).await;
        stage.compensation(1, 2).await.succeed();
        stage.compensation(0, 1).await.succeed();
        host.until_status("old", Status::Failed).await;
        host.until_idle().await;
        assert!(!component_store.has(&v(1)) && !component_store.has(&v(2)) && component_store.has(&v(3)));
        component_store.check_holds(&host.engine).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_known_saga_is_not_held_for_again_and_needs_no_current_plugin() {
    let (stage, component_store) = component_store();
    let host = Setup::paused(component_store.clone()).start();
    let plan = Plan::new("g").contained();
    for _ in 0..2 {
        host.engine.prepare(plan.now(&host.engine)).await.unwrap();
    }
    host.submit(&plan).await;
    let running = stage.action(0, 1).await;
    host.submit(&plan).await;
    running.fail();
    host.until_idle().await;
    component_store.take_away("contained");
    host.submit(&plan).await;
    let running = stage.action(0, 2).await;
    assert_eq!(component_store.held(&v(1)), 1);
    let different = host.engine.submit(Plan::new("g").contained().contained().now(&host.engine)).await;
    assert!(matches!(different, Err(SubmitError::Different)), "{different:?}");
    running.succeed();
    host.until_idle().await;
    let finished = host.engine.submit(plan.now(&host.engine)).await;
    assert!(matches!(finished, Err(SubmitError::Status(Status::Succeed))), "{finished:?}");
    assert!(!component_store.has(&v(1)));
    component_store.check_holds(&host.engine).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_saga_holds_nothing() {
    let (_stage, component_store) = component_store();
    let host = Setup::paused(component_store.clone()).start();
    let refused = host.engine.submit(Plan::new("g").contained().step("elsewhere", "").now(&host.engine)).await;
    assert!(matches!(refused, Err(SubmitError::Target { step: 1, .. })), "{refused:?}");
    component_store.check_holds(&host.engine).await;
    // What cannot be stored has not been taken on either.
    host.store.fail_from(host.store.commits() + 1);
    let plan = Plan::new("g").contained();
    assert!(host.engine.submit(plan.now(&host.engine)).await.is_err());
    assert!(host.engine.prepare(plan.now(&host.engine)).await.is_err());
    assert_eq!((component_store.held(&v(1)), host.engine.counts().open), (0, 0));
    component_store.check();
}

#[tokio::test(start_paused = true)]
async fn a_component_that_is_replaced_as_soon_as_it_is_chosen_stays_for_all_operations() {
    let (stage, component_store) = component_store();
    let host = Setup::paused(component_store.clone()).start();
    component_store.replace_when_chosen();
    host.submit(&Plan::new("g").contained().contained()).await;
    stage.action(0, 1).await.succeed();
    stage.action(1, 1).await.reject();
    stage.compensation(0, 1).await.succeed();
    host.until_status("g", Status::Failed).await;
    assert_eq!(host.find("g").await.saga.pins().components(), [v(1)]);
    assert_eq!(component_store.used("g", 1), Some(v(1)));
    host.until_idle().await;
    assert!(!component_store.has(&v(1)), "nothing lets go of it");
    component_store.check_holds(&host.engine).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_component_is_a_failed_attempt_until_it_is_back() {
    let (stage, component_store) = component_store();
    let host = Setup::paused(component_store.clone()).start();
    host.submit(&Plan::new("g").contained().contained()).await;
    let first = stage.action(0, 1).await;
    component_store.publish("contained", 2);
    component_store.lose(&v(1), true);
    first.succeed();
    host.until_idle().await;
    let saga = host.find("g").await.saga;
    let action = &saga.steps()[1].action;
    assert_eq!((action.failures, action.last_error.as_deref()), (1, Some("version 1 of contained is lost")));
    assert!(stage.is_quiet().await);
    component_store.lose(&v(1), false);
    stage.action(1, 2).await.succeed();
    host.until_status("g", Status::Succeed).await;
    host.until_idle().await;
    component_store.check_holds(&host.engine).await;
}

#[tokio::test(start_paused = true)]
async fn a_saga_that_is_stopped_lets_go_once_wherever_it_is() {
    let (stage, component_store) = component_store();
    let host = Setup::paused(component_store.clone()).start();
    host.engine.prepare(Plan::new("prepared").contained().now(&host.engine)).await.unwrap();
    host.submit(&Plan::new("waiting").contained()).await;
    stage.action(0, 1).await.ongoing(Some(Duration::from_hours(1)));
    host.until_idle().await;
    host.submit(&Plan::new("running").contained()).await;
    let mut running = stage.action(0, 1).await;
    assert_eq!(component_store.held(&v(1)), 3);
    for (left, gid) in [(2, "prepared"), (1, "waiting"), (0, "running")] {
        host.engine.force_stop(gid).await.unwrap();
        assert!(host.engine.force_stop(gid).await.is_err());
        settle().await;
        assert_eq!((component_store.held(&v(1)), host.engine.counts().open), (left, left), "{gid}");
        component_store.check_holds(&host.engine).await;
    }
    running.given_up().await;
}

#[tokio::test(start_paused = true)]
async fn a_saga_that_is_stopped_while_the_host_gives_up_lets_go_once() {
    // Which of the two the driver hears of first is not decided.
    for _ in 0..20 {
        let (stage, component_store) = component_store();
        let host = Setup::paused(component_store.clone()).start();
        host.submit(&Plan::new("g").contained()).await;
        let _running = stage.action(0, 1).await;
        let (stopped, ()) = tokio::join!(host.engine.force_stop("g"), host.engine.stop(Duration::ZERO));
        stopped.unwrap();
        assert_eq!((component_store.held(&v(1)), host.engine.counts().open), (0, 0));
        component_store.check();
    }
}

#[tokio::test(start_paused = true)]
async fn a_saga_that_is_set_aside_is_held_for_if_it_is_stored() {
    for is_stored in [false, true] {
        let (stage, component_store) = component_store();
        let host = Setup::paused(component_store.clone()).start();
        let plan = Plan::new("g").contained().step("contained:trap", "contained").wait();
        let mut client = Box::pin(host.engine.submit(plan.now(&host.engine)));
        assert!((&mut client).now_or_never().is_none());
        let first = stage.action(0, 1).await;
        if is_stored {
            host.find("g").await;
        }
        stage.trap("contained:trap");
        first.succeed();
        assert!(client.await.is_err());
        let open = u64::from(is_stored);
        assert_eq!((component_store.held(&v(1)), host.engine.counts().open), (open, open));
        stage.open("contained:trap");
        component_store.check_holds(&host.engine).await;
        host.submit(&plan.with(|options| options.wait_result = false)).await;
        stage.action(0, 1).await.reject();
        host.until_status("g", Status::Failed).await;
        host.until_idle().await;
        component_store.check_holds(&host.engine).await;
        assert_eq!(component_store.held(&v(1)), 0);
    }
}

/// Makes the row of an open saga what a host wrote that did not pin anything.
fn forget_pinning(host: &Host) {
    let (key, row) = host.store.rows(b"o").remove(0);
    assert_eq!((row[0], row[row.len() - 1]), (2, 0), "a row without components");
    let mut batch = Batch::new();
    batch.put(&key, [&[1], &row[1..row.len() - 1]].concat());
    host.store.local().commit(batch).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_saga_from_before_pins_is_pinned_when_it_is_next_driven() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.submit(&Plan::new("g").contained().contained()).await;
    stage.action(0, 1).await.succeed();
    stage.action(1, 1).await.fail();
    host.until_idle().await;
    forget_pinning(&host);
    let component_store = ComponentStore::new(stage.clone());
    let mut setup = host.stop(Duration::ZERO).await;
    setup.directory = component_store.clone();
    let host = setup.start();

    // Its plugin is not there, so it cannot be pinned: that is a failed attempt, and no other code runs.
    tokio::time::sleep(Duration::from_secs(2)).await;
    settle().await;
    let saga = host.find("g").await.saga;
    assert!(saga.steps()[1].action.failures > 1 && saga.pins().is_empty());
    assert_eq!(saga.steps()[1].action.last_error.as_deref().map(|error| error.contains("no plugin")), Some(true));

    component_store.publish("contained", 7);
    let attempt = stage.next().await;
    assert_eq!(attempt.call.branch_op.step, 1);
    assert_eq!(host.find("g").await.saga.pins().components(), [v(7)]);
    assert_eq!(component_store.held(&v(7)), 1);
    component_store.publish("contained", 8);
    let host = restart(host, &component_store).await;
    assert_eq!(component_store.held(&v(7)), 1);
    stage.next().await.reject();
    stage.compensation(0, 1).await.succeed();
    host.until_status("g", Status::Failed).await;
    host.until_idle().await;
    component_store.check_holds(&host.engine).await;
}

#[tokio::test(start_paused = true)]
async fn a_service_stays_one_when_a_plugin_comes_to_its_address() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.submit(&Plan::new("g").contained()).await;
    stage.action(0, 1).await.fail();
    host.until_idle().await;
    let component_store = ComponentStore::new(stage.clone());
    component_store.publish("contained", 1);
    let mut setup = host.stop(Duration::ZERO).await;
    setup.directory = component_store.clone();
    let host = setup.start();
    tokio::time::sleep(Duration::from_secs(2)).await;
    settle().await;
    // This directory has no service there.
    let saga = host.find("g").await.saga;
    assert_eq!(saga.steps()[0].action.last_error.as_deref(), Some("contained is no service"));
    assert_eq!(component_store.held(&v(1)), 0);
}

/// Sagas come, are prepared, stopped, retried and end, plugins are replaced and the power goes: what is held is always
/// what the open sagas need, and no operation is ever looked for in two versions.
#[test]
fn what_is_held_is_what_open_sagas_have_pinned() {
    for seed in wasaga_testkit::seeds(6) {
        let mut random = fastrand::Rng::with_seed(seed);
        let world = World::new(seed, Troubles { rejected: 10, unknown: 15, ongoing: 10, panicking: 3, slow: 30 });
        let component_store = ComponentStore::new(world.map());
        component_store.publish("contained", 1);
        component_store.publish("contained-pure", 1);
        let setup = Setup::new(component_store.clone()).with(|settings| {
            settings.policy.retry_interval = Duration::from_millis(1);
            settings.policy.retry_interval_max = Duration::from_millis(3);
            settings.policy.ongoing_min = Duration::from_millis(1);
            settings.wait_max = Duration::from_millis(20);
        });
        for life in 0..4_u8 {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                component_store.restart();
                let host = world.begin_life(&setup);
                for n in 0..60_u8 {
                    let version = life * 60 + n + 1;
                    if random.u8(0..4) == 0 {
                        component_store.publish(["contained", "contained-pure"][random.usize(0..2)], version);
                    }
                    meddle(&host, &format!("{life}-{n}"), &mut random).await;
                }
                // The books are compared when nothing runs; what waits or is prepared is still held for.
                if life.is_multiple_of(2) {
                    host.disk.cut();
                } else {
                    until(async || (host.engine.counts().live == 0).then_some(())).await;
                    host.engine.stop(Duration::from_secs(10)).await;
                    component_store.check_holds(&host.engine).await;
                    world.check();
                }
                world.end_life(host).await;
                component_store.check();
            });
        }
    }
}

async fn meddle(host: &Host, gid: &str, random: &mut fastrand::Rng) {
    let plan = Plan::new(gid).contained().external().step("contained-pure", "");
    let plan = if random.bool() { plan.concurrent() } else { plan };
    let plan = if random.bool() { plan.wait() } else { plan };
    if random.u8(0..4) == 0 {
        let _ = host.engine.prepare(plan.now(&host.engine)).await;
    }
    for _ in 0..random.u8(0..3) {
        let _ = host.engine.submit(plan.now(&host.engine)).await;
    }
    match random.u8(0..6) {
        0 => drop(host.engine.force_stop(gid).await),
        1 => drop(host.engine.retry_now(gid).await),
        _ => tokio::task::yield_now().await,
    }
}
