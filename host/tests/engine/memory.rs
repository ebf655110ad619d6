//! Memory of live sagas.
//!
//! 1. A due saga for which there is no room waits until there is; no other waits behind it.
//! 2. What a large saga has reserved stays until it is on disk, also if it has ended or its client has gone.
//! 3. Outputs are counted once, however often their commit is refused.
//! 4. When no saga is live, nothing is reserved.

use std::time::Duration;

use bytes::Bytes;
use futures_util::poll;
use wasaga::{memory::Budget, saga::Status, store::Batch};
use wasaga_testkit::engine::{EFFECTS, Host, Plan, Setup, settle, until};

use crate::stage::Stage;

/// A budget whose share of live sagas has 3 MiB.
fn setup(stage: &std::sync::Arc<Stage>) -> Setup {
    Setup { memory: Budget::of(8 << 20), ..Setup::paused(stage.clone()) }
}

/// An external step with a large payload.
fn large(gid: &str) -> Plan {
    let mut plan = Plan::new(gid).external();
    plan.steps[0].payload = Bytes::from(vec![b'x'; LARGE]);
    plan
}

const LARGE: usize = 500_000;

fn used(host: &Host) -> usize {
    host.engine.memory().payloads().used()
}

async fn until_released(host: &Host) {
    until(async || (used(host) == 0).then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn a_due_saga_without_room_waits_and_nobody_waits_behind_it() {
    let stage = Stage::new();
    let host = setup(&stage).start();
    for plan in [large("large"), Plan::new("small").external()] {
        host.submit(&plan).await;
        stage.action(0, 1).await.fail();
        settle().await;
    }
    until_released(&host).await;

    let share = host.engine.memory().payloads();
    let mut held = share.holder().nothing();
    held.grow_over(share.limit() - LARGE);
    let small = stage.action(0, 2).await;
    assert_eq!(small.call.saga.gid().as_str(), "small");
    small.succeed();
    host.until_status("small", Status::Succeed).await;
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert!(stage.is_quiet().await);

    drop(held);
    let large = stage.action(0, 2).await;
    assert_eq!(large.call.saga.gid().as_str(), "large");
    assert!(used(&host) >= LARGE);
    large.succeed();
    host.until_status("large", Status::Succeed).await;
    until_released(&host).await;
}

#[tokio::test]
async fn what_a_large_saga_reserves_stays_until_it_is_on_disk() {
    let stage = Stage::new();
    let host = Setup { is_prompt: false, ..setup(&stage) }.start();
    host.disk.hold();
    let mut plan = large("g");
    plan.steps[0].action = String::new();
    let mut client = Box::pin(host.submit(&plan));
    assert!(poll!(&mut client).is_pending());
    drop(client);
    until(async || host.engine.counts().live.eq(&0).then_some(())).await;
    assert!(used(&host) >= LARGE, "{}", used(&host));
    host.disk.release();
    until_released(&host).await;
    assert_eq!(host.find("g").await.saga.status(), Status::Succeed);
}

#[tokio::test(start_paused = true)]
async fn outputs_are_counted_once() {
    let stage = Stage::new();
    let host = setup(&stage).start();
    host.submit(&Plan::new("g").contained().external()).await;
    let before = used(&host);
    let output = format!("{:?}", "x".repeat(9_998));
    for run in 1..=3 {
        let mut effects = Batch::new();
        effects.put([EFFECTS, b"key"].concat(), "value");
        let running = stage.action(0, 1).await;
        assert_eq!(used(&host), before);
        if run < 3 {
            host.store.conflict_next(1);
        }
        running.output_with_effects(&output, effects);
    }
    let last = stage.action(1, 1).await;
    assert_eq!(used(&host), before + 10_000);
    last.succeed();
    until_released(&host).await;
}
