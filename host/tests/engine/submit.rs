//! Submitting and preparing, once and again: DTM's table, with the decisions that a saga is never run twice and never
//! changed by a repetition.
//!
//! 1. However many submit the same saga, it runs once, and everybody learns what came of it.
//! 2. A repetition that asks for something else, or comes too late, is refused and changes nothing.
//! 3. A repetition retries waiting operations. How the answer is wanted (`wait_result`) is no part of what is asked for.
//! 4. What could never run is refused before anything is stored.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::sync::Barrier;
use wasaga::{
    engine::{Engine, Filter, SubmitError, Submitted},
    saga::{Event, Op, Status},
};
use wasaga_testkit::engine::{Host, Plan, Setup, settled};

use crate::stage::Stage;

/// Submits from a task of its own, and meets the others at the barrier as soon as it is inside.
async fn submit_with(engine: Engine, plan: Plan, inside: Arc<Barrier>) -> Result<Submitted, SubmitError> {
    let mut submission = Box::pin(engine.submit(plan.now(&engine)));
    let at_once = (&mut submission).now_or_never();
    inside.wait().await;
    match at_once {
        Some(answer) => answer,
        None => submission.await,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn submitted_by_many_at_once_a_saga_runs_once_and_all_are_answered() {
    let stage = Stage::new();
    let host = Setup::new(stage.clone()).start();
    for round in 0..50 {
        let plan = Plan::new(format!("g{round}")).external().contained();
        let inside = Arc::new(Barrier::new(17));
        let clients: Vec<_> = (0..16)
            .map(|client| {
                let plan = if client % 2 == 0 { plan.clone().wait() } else { plan.clone() };
                tokio::spawn(submit_with(host.engine.clone(), plan, inside.clone()))
            })
            .collect();
        inside.wait().await;
        stage.action(0, 1).await.succeed();
        stage.action(1, 1).await.succeed();
        for (number, client) in clients.into_iter().enumerate() {
            match client.await.unwrap().unwrap() {
                Submitted::Accepted => assert_eq!(number % 2, 1),
                Submitted::Waited(saga) => assert_eq!(saga.status(), Status::Succeed),
            }
        }
        let log = host.find(&plan.gid).await.log;
        assert_eq!(log.len(), 4, "submitted, started, succeeded, succeeded: {log:#?}");
    }
    assert_eq!(host.engine.counts().submitted, 50);
    assert_eq!(host.engine.counts().open, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_and_submitted_by_many_at_once_a_saga_runs_once() {
    let stage = Stage::new();
    let host = Setup::new(stage.clone()).start();
    for round in 0..50 {
        let plan = Plan::new(format!("g{round}")).contained();
        let inside = Arc::new(Barrier::new(16));
        let clients: Vec<_> = (0..16)
            .map(|client| {
                let (engine, plan, inside) = (host.engine.clone(), plan.clone(), inside.clone());
                tokio::spawn(async move {
                    inside.wait().await;
                    let definition = plan.now(&engine);
                    if client % 2 == 0 {
                        engine.submit(definition).await.map(|_| ())
                    } else {
                        engine.prepare(definition).await
                    }
                })
            })
            .collect();
        for client in clients {
            match client.await.unwrap() {
                // Submitted before it could be prepared.
                Ok(()) | Err(SubmitError::Status(Status::Submitted)) => {}
                Err(other) => panic!("{other}"),
            }
        }
        stage.action(0, 1).await.succeed();
        host.until_status(&plan.gid, Status::Succeed).await;
    }
    assert_eq!(host.engine.counts().open, 0);
}

#[tokio::test(start_paused = true)]
async fn another_saga_with_the_same_gid_is_refused_and_changes_nothing() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let plan = Plan::new("g").external().external();
    let others = [
        plan.clone().external(),
        Plan::new("g").external(),
        plan.clone().concurrent(),
        plan.clone().with(|options| options.retry_limit = 3),
        plan.clone().with(|options| options.branch_headers = vec![("a".into(), "b".into())]),
        Plan::new("g").external().step("external", "external:other"),
    ];
    let refuse_all = async |host: &Host| {
        let before = host.find("g").await;
        for other in &others {
            for other in [other.clone(), other.clone().wait()] {
                let answer = host.engine.submit(other.now(&host.engine)).await;
                assert!(matches!(answer, Err(SubmitError::Different)), "{answer:?}");
            }
        }
        assert_eq!(host.find("g").await, before);
    };

    host.engine.prepare(plan.now(&host.engine)).await.unwrap();
    refuse_all(&host).await;
    host.submit(&plan).await;
    let first = stage.action(0, 1).await;
    refuse_all(&host).await;
    first.fail();
    host.until_idle().await;
    refuse_all(&host).await;
    stage.action(0, 2).await.succeed();
    stage.action(1, 1).await.succeed();
    let end = host.until_status("g", Status::Succeed).await;
    for other in others.iter().chain([&plan]) {
        let answer = host.engine.submit(other.now(&host.engine)).await;
        assert!(matches!(answer, Err(SubmitError::Status(Status::Succeed))), "{answer:?}");
    }
    assert_eq!(host.find("g").await, end);
    assert!(stage.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn a_saga_that_turns_back_or_has_ended_cannot_be_submitted_or_prepared() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let plan = Plan::new("g").external().external();
    let refuse = async |host: &Host, status: Status| {
        let before = host.find("g").await;
        for plan in [plan.clone(), plan.clone().wait()] {
            let answer = host.engine.submit(plan.now(&host.engine)).await;
            assert!(matches!(&answer, Err(SubmitError::Status(was)) if *was == status), "{answer:?}");
        }
        let answer = host.engine.prepare(plan.now(&host.engine)).await;
        assert!(matches!(&answer, Err(SubmitError::Status(was)) if *was == status), "{answer:?}");
        assert_eq!(host.find("g").await, before);
    };

    host.submit(&plan).await;
    let answer = host.engine.prepare(plan.now(&host.engine)).await;
    assert!(matches!(&answer, Err(SubmitError::Status(Status::Submitted))), "{answer:?}");
    stage.action(0, 1).await.succeed();
    stage.action(1, 1).await.reject();
    let compensation = stage.compensation(1, 1).await;
    refuse(&host, Status::Aborting).await;
    compensation.fail();
    host.until_idle().await;
    refuse(&host, Status::Aborting).await;
    stage.compensation(1, 2).await.succeed();
    stage.compensation(0, 1).await.succeed();
    host.until_status("g", Status::Failed).await;
    refuse(&host, Status::Failed).await;
    let host = host.stop(Duration::ZERO).await.start();
    refuse(&host, Status::Failed).await;
}

#[tokio::test(start_paused = true)]
async fn a_repeated_submission_retries_what_waits_and_runs_nothing_twice() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let plan = Plan::new("g").external().contained().with(|options| options.retry_interval_s = 1000);
    host.submit(&plan).await;
    let first = stage.action(0, 1).await;
    host.submit(&plan).await;
    assert!(stage.is_quiet().await, "called twice");
    first.fail();
    host.until_idle().await;

    let before = host.engine.now();
    host.submit(&plan).await;
    stage.action(0, 2).await.succeed();
    assert_eq!(host.engine.now(), before, "it waited all the same");
    stage.action(1, 1).await.ongoing(None);
    host.until_idle().await;

    // However the answer is wanted: it is the same saga.
    let before = host.engine.now();
    let (saga, ()) = tokio::join!(host.settle(&plan.clone().wait()), async {
        stage.action(1, 2).await.succeed();
    });
    assert_eq!(saga.status(), Status::Succeed);
    assert_eq!(host.engine.now(), before);
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert!(stage.is_quiet().await, "an out-of-date timer has woken it");
}

#[tokio::test(start_paused = true)]
async fn a_prepared_saga_waits_to_be_submitted_through_restarts_too() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let plan = Plan::new("g").contained();
    host.engine.prepare(plan.now(&host.engine)).await.unwrap();
    let prepared = host.find("g").await;
    tokio::time::sleep(Duration::from_hours(100)).await;
    // Prepared again, with whatever steps: as under DTM, nothing is updated.
    host.engine.prepare(plan.now(&host.engine)).await.unwrap();
    host.engine.prepare(plan.clone().contained().now(&host.engine)).await.unwrap();
    assert_eq!(host.find("g").await, prepared);
    assert_eq!(prepared.saga.status(), Status::Prepared);

    let host = host.stop(Duration::ZERO).await.start();
    tokio::time::sleep(Duration::from_hours(100)).await;
    assert!(stage.is_quiet().await, "run without having been submitted");
    assert_eq!(host.engine.counts().open, 1);
    let (saga, ()) = tokio::join!(host.settle(&plan.clone().wait()), async { stage.action(0, 1).await.succeed() });
    assert_eq!(saga.status(), Status::Succeed);
    assert_eq!(saga.definition().created_at(), prepared.saga.definition().created_at());
    assert_eq!(host.engine.counts().open, 0);
}

#[tokio::test(start_paused = true)]
async fn a_prepared_saga_can_be_submitted_by_its_gid_alone() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.engine.prepare(Plan::new("g").contained().now(&host.engine)).await.unwrap();
    let (saga, ()) = tokio::join!(host.settle(&Plan::new("g").wait()), async { stage.action(0, 1).await.succeed() });
    assert_eq!((saga.status(), saga.steps().len()), (Status::Succeed, 1));
}

#[tokio::test(start_paused = true)]
async fn a_saga_without_steps_or_calls_succeeds_at_once() {
    let host = Setup::paused(Stage::new()).start();
    let plan = Plan::new("none").wait();
    assert_eq!(host.settle(&plan).await.status(), Status::Succeed);
    let plan = Plan::new("empty addresses").step("", "").step("", "").wait();
    assert_eq!(host.settle(&plan).await.status(), Status::Succeed);
    assert_eq!(host.find("none").await.log.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_leads_nowhere_is_refused_before_anything_is_stored() {
    let host = Setup::paused(Stage::new()).start();
    for (plan, at, wrong) in [
        (Plan::new("g").contained().step("not_found", "contained"), 1, Op::Action),
        (Plan::new("g").step("contained", "not_found").contained(), 0, Op::Compensate),
    ] {
        for prepared in [true, false] {
            let definition = plan.now(&host.engine);
            let refusal = if prepared {
                host.engine.prepare(definition).await.unwrap_err()
            } else {
                host.engine.submit(definition).await.unwrap_err()
            };
            assert!(
                matches!(&refusal, SubmitError::Target { step, op, .. } if (*step, *op) == (at, wrong)),
                "{refusal:?}"
            );
        }
    }
    assert_eq!(host.store.commits(), 0);
    assert!(host.engine.list(&Filter { limit: 10, ..Filter::default() }).await.unwrap().sagas.is_empty());
}

#[tokio::test(start_paused = true)]
async fn every_step_is_given_what_it_may_know() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let plan = Plan::new("g").contained().external().contained().with(|options| options.request_timeout_s = 7);
    host.submit(&plan).await;
    let first = stage.action(0, 1).await;
    assert_eq!((first.call.payload(), first.call.tried.as_deref()), ("payload 0".into(), None));
    assert_eq!(first.call.timeout, Duration::from_secs(7));
    assert!(first.call.results.is_empty());
    first.output("0");
    stage.action(1, 1).await.fail();
    let second = stage.action(1, 2).await;
    assert_eq!(second.call.idempotency_key(), "g-02-action");
    second.succeed();
    let third = stage.action(2, 1).await;
    let results: Vec<_> = third.call.results.iter().map(|(id, output)| (id.to_string(), output.as_str())).collect();
    assert_eq!(results, [("01".to_owned(), "0"), ("02".to_owned(), "")], "a step without an output has an empty one");
    third.reject();
    let back = stage.compensation(1, 1).await;
    assert_eq!(
        (back.call.payload(), back.call.tried.as_deref()),
        ("payload 1".into(), Some("")),
        "no output, yet committed"
    );
    assert_eq!(back.call.idempotency_key(), "g-02-compensate");
    back.succeed();
    let back = stage.compensation(0, 1).await;
    assert_eq!(back.call.tried.as_deref(), Some("0"));
    back.succeed();
    host.until_status("g", Status::Failed).await;

    // An external action without a result: it is unknown whether it took effect.
    host.submit(&Plan::new("h").external().with(|options| options.retry_limit = 1)).await;
    stage.action(0, 1).await.fail();
    stage.action(0, 2).await.fail();
    let back = stage.compensation(0, 1).await;
    assert_eq!(back.call.tried, None);
    back.succeed();
    let record = host.until_status("h", Status::Failed).await;
    assert!(record.log.iter().any(|event| matches!(event, Event::Aborted { .. })));
    assert_eq!(settled(Submitted::Waited(Arc::new(record.saga))).retries(), 2);
}
