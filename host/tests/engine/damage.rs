//! What is damaged, or cannot work now, concerns one saga.
//!
//! 1. A saga whose stored rows make no sense is set aside with an error, at the start and when it is due; the others go
//!    on, and the list shows them.
//! 2. A branch that is not there when it is to be called is a failed attempt, and is looked for again.

use std::time::Duration;

use wasaga::{
    engine::{ControlError, Error, Filter, SubmitError},
    saga::Status,
    store::{Batch, Read, Store},
};
use wasaga_testkit::engine::{Host, Plan, Setup};

use crate::stage::Stage;

/// Writes `value` over every row that begins with `prefix` and is about the saga; a saga's id stands in its gid's row.
fn overwrite(host: &Host, prefix: &[u8], gid: &str, value: &[u8]) {
    let id = &host.store.get(&[b"g", gid.as_bytes()].concat()).unwrap().unwrap()[1..];
    let mut damage = Batch::new();
    let rows = host.store.rows(&[prefix, id].concat());
    assert!(!rows.is_empty());
    for (key, _) in &rows {
        damage.put(key, value);
    }
    host.store.local().commit(damage).unwrap();
}

const GARBAGE: [&[u8]; 5] = [b"", b"\x01", b"\x02\x00", b"\x01\xff\xff\xff\xff", b"\x01\x01\x00\x00"];

#[tokio::test(start_paused = true)]
async fn a_damaged_log_concerns_its_saga_alone() {
    for garbage in GARBAGE {
        for is_restarted in [true, false] {
            let stage = Stage::new();
            let mut host = Setup::paused(stage.clone()).start();
            for gid in ["one", "bad", "two"] {
                host.submit(&Plan::new(gid).external()).await;
                stage.action(0, 1).await.fail();
            }
            host.until_idle().await;
            overwrite(&host, b"s", "bad", garbage);
            if is_restarted {
                host = host.stop(Duration::ZERO).await.start();
            }
            for _ in 0..2 {
                stage.action(0, 2).await.succeed();
            }
            for gid in ["one", "two"] {
                host.until_status(gid, Status::Succeed).await;
            }
            tokio::time::sleep(Duration::from_hours(1)).await;
            assert!(stage.is_quiet().await);

            let plan = Plan::new("bad").external();
            let unreadable = |error: &Error| matches!(error, Error::Unreadable { gid, .. } if gid == "bad");
            assert!(host.engine.find("bad").await.is_err_and(|error| unreadable(&error)));
            let refused = host.engine.submit(plan.now(&host.engine)).await;
            assert!(matches!(&refused, Err(SubmitError::Engine(error)) if unreadable(error)), "{refused:?}");
            let refused = host.engine.force_stop("bad").await;
            assert!(matches!(&refused, Err(ControlError::Engine(error)) if unreadable(error)), "{refused:?}");
            let page = host.engine.list(&Filter { limit: 10, ..Filter::default() }).await.unwrap();
            let listed: Vec<_> = page.sagas.iter().map(|record| record.saga.definition().gid().as_str()).collect();
            assert_eq!(listed, ["two", "one"]);
            assert_eq!(host.engine.counts().live, 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_row_of_an_open_saga_concerns_its_saga_alone() {
    for garbage in GARBAGE {
        for is_restarted in [true, false] {
            let stage = Stage::new();
            let mut host = Setup::paused(stage.clone()).start();
            for gid in ["one", "bad", "two"] {
                host.submit(&Plan::new(gid).external()).await;
                stage.action(0, 1).await.fail();
            }
            host.until_idle().await;
            overwrite(&host, b"o", "bad", garbage);
            assert_eq!(host.engine.unread(), 0);
            if is_restarted {
                host = host.stop(Duration::ZERO).await.start();
                assert_eq!(host.engine.unread(), 1);
            }
            for _ in 0..2 {
                stage.action(0, 2).await.succeed();
            }
            for gid in ["one", "two"] {
                host.until_status(gid, Status::Succeed).await;
            }
            tokio::time::sleep(Duration::from_hours(1)).await;
            assert!(stage.is_quiet().await);
            // Its log is sound: it can be looked at.
            assert_eq!(host.find("bad").await.saga.status(), Status::Submitted);
            let open = Filter { limit: 10, status: Some(Status::Submitted), ..Filter::default() };
            host.engine.list(&open).await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_saga_does_not_keep_others_from_being_retried() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let gids = ["one", "bad", "two"];
    for gid in gids {
        host.submit(&Plan::new(gid).external().with(|options| options.retry_interval_s = 1000)).await;
        stage.action(0, 1).await.fail();
    }
    host.until_idle().await;
    overwrite(&host, b"s", "bad", b"");
    let from = host.engine.now();
    let retried = host.engine.retry_all_due_after(from, 10).await.unwrap();
    assert_eq!((retried.count, retried.has_more), (2, false));
    for _ in 0..2 {
        stage.action(0, 2).await.succeed();
    }
    assert_eq!(host.engine.now(), from);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_cannot_be_concerns_its_saga_alone() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.submit(&Plan::new("bad").external()).await;
    stage.action(0, 1).await.fail();
    host.until_idle().await;
    // The whole log twice: its second half is another definition.
    let (key, chunk) = host.store.rows(b"s").remove(0);
    let mut damage = Batch::new();
    damage.put(&key, [&chunk[..], &chunk[1..]].concat());
    host.store.local().commit(damage).unwrap();
    host.submit(&Plan::new("good").contained()).await;
    stage.action(0, 1).await.succeed();
    host.until_status("good", Status::Succeed).await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert!(stage.is_quiet().await);
    assert!(host.engine.find("bad").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_branch_that_is_not_there_is_looked_for_again() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    for address in ["contained", "external"] {
        let plan = Plan::new(address).step("contained", "contained:back").step(address, "contained:back");
        host.submit(&plan).await;
        let first = stage.action(0, 1).await;
        stage.close(address, "no such plugin");
        stage.close("contained:back", "no such plugin");
        first.succeed();
        host.until_idle().await;
        let saga = host.find(address).await.saga;
        let action = &saga.steps()[1].action;
        assert_eq!((action.attempts, action.failures, action.last_error.as_deref()), (1, 1, Some("no such plugin")));
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert!(stage.is_quiet().await);
        stage.open(address);
        let attempt = stage.next().await;
        assert!(attempt.call.attempt > 4 && attempt.call.branch_op.step == 1, "{:?}", attempt.call);
        attempt.reject();
        tokio::time::sleep(Duration::from_mins(10)).await;
        assert!(stage.is_quiet().await);
        assert_eq!(host.find(address).await.saga.status(), Status::Aborting);
        stage.open("contained:back");
        let steps = if address == "external" { vec![1, 0] } else { vec![0] };
        for step in steps {
            let back = stage.next().await;
            assert_eq!((back.call.branch_op.step, back.call.is_compensation()), (step, true));
            back.succeed();
        }
        host.until_status(address, Status::Failed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_action_that_started_is_compensated_though_its_branch_has_gone() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let plan = Plan::new("g").step("external", "external:back").with(|options| options.retry_limit = 1);
    host.submit(&plan).await;
    let _cut_off = stage.action(0, 1).await;
    stage.close("external", "no such service");
    let host = host.kill().await.start();
    let back = stage.compensation(0, 1).await;
    assert_eq!(back.call.tried, None);
    back.succeed();
    host.until_status("g", Status::Failed).await;
}
