//! Submitting and preparing, once and again: DTM's table, with the decisions that a saga is never run twice and never
//! changed by a repetition.
//!
//! 1. However many submit the same saga, it runs once, and everybody learns what came of it.
//! 2. A repetition that asks for something else, or comes too late, is refused and changes nothing.
//! 3. A repetition hastens what waits. How the answer is wanted (`wait_result`) is no part of what is asked for.
//! 4. What could never run is refused before anything is stored.

use wasaga::{
    engine::{Engine, SubmitError, Submitted},
    saga::{Event, Op, Status},
};

use crate::support::{Host, Plan, Setup, Stage, settled};

/// Events of the saga's log that this picks.
async fn count(host: &Host, gid: &str, pick: impl Fn(&Event) -> bool) -> usize {
    host.find(gid).await.log.iter().filter(|event| pick(event)).count()
}

fn submit(
    engine: &Engine,
    plan: &Plan,
) -> tokio::task::JoinHandle<Result<Submitted, SubmitError>> {
    let (engine, definition) = (engine.clone(), plan.now(engine));
    tokio::spawn(async move { engine.submit(definition).await })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn submitted_by_many_at_once_a_saga_runs_once_and_all_are_answered() {
    let stage = Stage::new();
    let host = Setup::new(stage.clone()).start();
    for round in 0..50 {
        let plan = Plan::new(format!("g{round}")).external().contained();
        let waiting = plan.clone().wait();
        let clients: Vec<_> =
            (0..16).map(|client| submit(&host.engine, if client % 2 == 0 { &waiting } else { &plan })).collect();
        let first = stage.action(0, 1).await;
        // Everybody has got in; those who wait for the result are still waiting.
        crate::support::until(async || (host.engine.counts().live == 1).then_some(())).await;
        for client in clients.iter().skip(1).step_by(2) {
            crate::support::until(async || client.is_finished().then_some(())).await;
        }
        crate::support::until(async || host.engine.waiting("todo").then_some(())).await;
        first.succeed();
        stage.action(1, 1).await.succeed();
        for (number, client) in clients.into_iter().enumerate() {
            match client.await.unwrap().unwrap() {
                Submitted::Accepted => assert_eq!(number % 2, 1),
                Submitted::Settled(saga) => assert_eq!(saga.status(), Status::Succeed),
            }
        }
        let record = host.find(&plan.gid).await;
        assert_eq!(record.log.len(), 4, "{:#?}", record.log);
    }
    assert_eq!(host.engine.counts().submitted, 50);
}
