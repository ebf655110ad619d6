//! What is slow or dead stops nothing else.
//!
//! 1. A destination runs no more attempts than its limit. What waits for it is parked after a short while: it is not live,
//!    keeps its turn, and its clients go on waiting.
//! 2. No saga is lost or run twice by waiting so: not by an operator, a timeout, a stop, a kill or a second submission.
//! 3. No destination, no client and no backlog takes the places of all others.

use std::{net::IpAddr, sync::Arc, time::Duration};

use wasaga::{
    branch::Destination,
    engine::{Limits, SubmitError, Submitted},
    saga::{Op, Status},
};
use wasaga_testkit::engine::{Host, Plan, Setup, settle, settled, until};

use crate::stage::{Attempt, Stage};

/// One attempt at a time at each service.
fn narrow(stage: &Arc<Stage>) -> Setup {
    Setup::paused(stage.clone()).with(|settings| settings.attempts.services = Limits { total: 100, per_holder: 1 })
}

fn slow(gid: &str) -> Plan {
    Plan::new(gid).step("external@slow", "external@slow")
}

/// Submits a saga whose attempt occupies the service `slow`.
async fn occupy(host: &Host, stage: &Stage) -> Attempt {
    host.submit(&slow("first")).await;
    stage.action(0, 1).await
}

/// Waits until so many sagas are live.
async fn until_live(host: &Host, live: u64) {
    until(async || (host.engine.counts().live == live).then_some(())).await;
}

fn load(host: &Host, name: &str) -> (usize, usize) {
    let destination = Destination::Service(name.into());
    let found = host.engine.destinations().into_iter().find(|load| load.holder == destination);
    found.map_or((0, 0), |load| (load.running, load.waiting))
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_destination_is_parked_and_keeps_its_turn() {
    let stage = Stage::new();
    let host = narrow(&stage).start();
    let first = occupy(&host, &stage).await;
    for n in 0..50 {
        host.submit(&slow(&format!("g{n:02}"))).await;
    }
    until_live(&host, 1).await;
    assert_eq!((host.engine.counts().open, load(&host, "slow")), (51, (1, 50)));
    assert!(stage.is_quiet().await);

    // Another destination is not concerned.
    host.submit(&Plan::new("other").step("external@quick", "")).await;
    stage.action(0, 1).await.succeed();
    host.until_status("other", Status::Succeed).await;

    first.succeed();
    for n in 0..50 {
        let next = stage.action(0, 1).await;
        assert_eq!(next.call.saga.gid().as_str(), format!("g{n:02}"));
        assert!(stage.is_quiet().await, "one at a time");
        next.succeed();
    }
    host.until_idle().await;
    assert_eq!((host.engine.counts().open, load(&host, "slow")), (0, (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_short_wait_costs_no_commit() {
    let stage = Stage::new();
    let host = narrow(&stage).start();
    let first = occupy(&host, &stage).await;
    let second = host.engine.submit(slow("second").wait().now(&host.engine));
    let (second, ()) = tokio::join!(second, async {
        settle().await;
        assert_eq!((host.engine.counts().live, load(&host, "slow")), (2, (1, 1)));
        let commits = host.store.commits();
        first.succeed();
        let second = stage.action(0, 1).await;
        assert!(host.store.commits() <= commits + 2, "the end of the first, the start of the second");
        second.succeed();
    });
    assert_eq!(settled(second.unwrap()).status(), Status::Succeed);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_client_waits_for_a_parked_saga_too() {
    let stage = Stage::new();
    let host = narrow(&stage).start();
    let first = occupy(&host, &stage).await;
    let client = host.engine.submit(slow("second").wait().now(&host.engine));
    let again = host.engine.submit(slow("second").wait().now(&host.engine));
    let (client, again, ()) = tokio::join!(client, again, async {
        until_live(&host, 1).await;
        first.succeed();
        let second = stage.action(0, 1).await;
        assert_eq!(second.call.saga.gid().as_str(), "second");
        second.reject();
        stage.compensation(0, 1).await.succeed();
    });
    for answer in [client, again] {
        assert_eq!(settled(answer.unwrap()).status(), Status::Failed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_waits_no_longer_than_wait_max() {
    let stage = Stage::new();
    let host = narrow(&stage).start();
    let _first = occupy(&host, &stage).await;
    let answer = host.engine.submit(slow("second").wait().now(&host.engine)).await.unwrap();
    assert_eq!(settled(answer).status(), Status::Submitted);
    assert_eq!(load(&host, "slow"), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_parked_saga_can_be_stopped_and_asked_to_hurry() {
    let stage = Stage::new();
    let host = narrow(&stage).start();
    let first = occupy(&host, &stage).await;
    let client = host.engine.submit(slow("stopped").wait().now(&host.engine));
    let (stopped, ()) = tokio::join!(client, async {
        until_live(&host, 1).await;
        host.submit(&slow("hurried")).await;
        host.submit(&slow("last")).await;
        until_live(&host, 1).await;
        for _ in 0..3 {
            host.engine.retry_now("last").await.unwrap();
            until_live(&host, 1).await;
        }
        host.submit(&slow("hurried")).await;
        until_live(&host, 1).await;
        host.engine.force_stop("stopped").await.unwrap();
    });
    assert_eq!(settled(stopped.unwrap()).status(), Status::Failed);
    first.succeed();
    for gid in ["hurried", "last"] {
        let next = stage.action(0, 1).await;
        assert_eq!(next.call.saga.gid().as_str(), gid, "their turns are as they were");
        next.succeed();
    }
    host.until_idle().await;
    assert!(stage.is_quiet().await);
    assert_eq!((host.engine.counts().open, load(&host, "slow")), (0, (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn the_timeout_of_a_parked_saga_passes() {
    let stage = Stage::new();
    let host = narrow(&stage).start();
    let first = occupy(&host, &stage).await;
    let late = slow("late").with(|options| options.timeout_to_fail_s = 60);
    host.submit(&Plan { steps: [Plan::new("").contained().steps, late.steps.clone()].concat(), ..late }).await;
    stage.action(0, 1).await.succeed();
    until_live(&host, 1).await;
    tokio::time::sleep(Duration::from_secs(61)).await;
    stage.compensation(0, 1).await.succeed();
    let record = host.until_status("late", Status::Failed).await;
    assert!(record.saga.steps()[1].action.attempts == 0, "it was never called");
    first.succeed();
    host.until_idle().await;
    assert!(stage.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn one_step_that_waits_holds_up_no_other_of_its_saga() {
    let stage = Stage::new();
    let host = narrow(&stage).start();
    let first = occupy(&host, &stage).await;
    let plan = Plan::new("both").step("external@slow", "external@slow").step("external@quick", "external@quick");
    host.submit(&plan.concurrent()).await;
    let quick = stage.action(1, 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(host.engine.counts().live, 2, "an attempt of it runs");
    quick.fail();
    until_live(&host, 1).await;
    stage.action(1, 2).await.succeed();
    until_live(&host, 1).await;
    first.succeed();
    stage.action(0, 1).await.reject();
    stage.compensation(1, 1).await.succeed();
    stage.compensation(0, 1).await.succeed();
    host.until_status("both", Status::Failed).await;
    host.until_idle().await;
    assert_eq!((load(&host, "slow"), load(&host, "quick")), ((0, 0), (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_stop_answers_the_clients_of_parked_sagas_and_the_next_start_drives_them() {
    let stage = Stage::new();
    let host = narrow(&stage).start();
    let _first = occupy(&host, &stage).await;
    let (engine, plan) = (host.engine.clone(), slow("second").wait());
    let client = tokio::spawn(async move { engine.submit(plan.now(&engine)).await });
    host.submit(&slow("third")).await;
    until(async || (load(&host, "slow") == (1, 2) && host.engine.counts().live == 1).then_some(())).await;
    host.engine.stop(Duration::ZERO).await;
    assert_eq!(settled(client.await.unwrap().unwrap()).status(), Status::Submitted);
    let host = host.stop(Duration::ZERO).await.start();
    for _ in 0..3 {
        stage.next().await.succeed();
    }
    for gid in ["first", "second", "third"] {
        host.until_status(gid, Status::Succeed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_kill_loses_no_parked_saga() {
    let stage = Stage::new();
    let host = narrow(&stage).start();
    let _first = occupy(&host, &stage).await;
    for n in 0..20 {
        host.submit(&slow(&format!("g{n}"))).await;
    }
    until_live(&host, 1).await;
    let host = host.kill().await.start();
    for _ in 0..21 {
        let next = stage.next().await;
        assert!(stage.is_quiet().await);
        next.succeed();
    }
    host.until_idle().await;
    assert_eq!(host.engine.counts().open, 0);
}

/// Ten dead services and twelve places: others get through all the same.
#[tokio::test(start_paused = true)]
async fn many_dead_services_leave_places_for_others() {
    let stage = Stage::new();
    let setup = Setup::paused(stage.clone());
    let host = setup.with(|settings| settings.attempts.services = Limits { total: 12, per_holder: 4 }).start();
    let mut dead = Vec::new();
    for n in 0..60 {
        host.submit(&Plan::new(format!("dead{n}")).step(&format!("external@dead{}", n % 10), "")).await;
    }
    until(async || {
        let (waiting, running) = host
            .engine
            .destinations()
            .iter()
            .fold((0, 0), |(waiting, running), load| (waiting + load.waiting, running + load.running));
        (waiting + running == 60 && host.engine.counts().live == running as u64).then_some(())
    })
    .await;
    while !stage.is_quiet().await {
        dead.push(stage.next().await);
    }
    assert!((9..12).contains(&dead.len()), "{}", dead.len());
    for n in 0..20 {
        host.submit(&Plan::new(format!("healthy{n}")).step("external@healthy", "")).await;
        let next = stage.next().await;
        assert_eq!(next.call.target(), "external@healthy");
        next.succeed();
        host.until_status(&format!("healthy{n}"), Status::Succeed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_client_does_not_take_the_places_of_others() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).with(|settings| settings.live_max = 16).start();
    let address = |n: u8| Some(IpAddr::from([192, 0, 2, n]));
    let submit = async |client: u8, gid: String| {
        let plan = Plan::new(gid).external();
        host.engine.submit_from(address(client), plan.now(&host.engine)).await
    };
    let mut taken = 0;
    for n in 0..40 {
        match submit(1, format!("flood{n}")).await {
            Ok(Submitted::Accepted) => taken += 1,
            Err(SubmitError::Busy { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!((10..14).contains(&taken), "{taken}");
    assert_eq!(host.engine.counts().refused_by_client, 40 - taken);
    submit(2, "other".into()).await.unwrap();
    submit(3, "third".into()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn many_clients_leave_places_for_sagas_that_are_due() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).with(|settings| settings.live_max = 16).start();
    host.submit(&Plan::new("due").contained()).await;
    stage.action(0, 1).await.fail();
    host.until_idle().await;
    let mut taken = Vec::new();
    for client in 0..100 {
        let plan = Plan::new(format!("flood{client}")).external();
        let address = Some(IpAddr::from([192, 0, 2, client]));
        if host.engine.submit_from(address, plan.now(&host.engine)).await.is_ok() {
            taken.push(stage.action(0, 1).await);
        }
    }
    // Two of 16 are kept for what is due, and one more for clients whose sagas end at once.
    assert_eq!(taken.len(), 13);
    assert_eq!(stage.expect(0, Op::Action, 2).await.call.saga.gid().as_str(), "due");
}

/// A backlog of a dead service, after a restart: new sagas of others are accepted at once.
#[tokio::test(start_paused = true)]
async fn a_backlog_leaves_places_for_new_sagas() {
    let stage = Stage::new();
    let setup = Setup::paused(stage.clone()).with(|settings| settings.live_max = 16);
    let host = setup.start();
    for n in 0..100 {
        let plan = Plan::new(format!("g{n}")).contained().with(|options| options.retry_interval_s = 60);
        host.submit(&plan).await;
        stage.action(0, 1).await.fail();
        host.until_idle().await;
    }
    let host = host.stop(Duration::ZERO).await.start();
    tokio::time::sleep(Duration::from_hours(1)).await;
    let mut due = Vec::new();
    while !stage.is_quiet().await {
        due.push(stage.expect(0, Op::Action, 2).await);
    }
    assert!((12..16).contains(&due.len()), "{}", due.len());
    host.submit(&Plan::new("new").external()).await;
    assert_eq!(stage.action(0, 1).await.call.saga.gid().as_str(), "new");
}

#[tokio::test(start_paused = true)]
async fn a_quarter_of_the_open_sagas_may_wait_for_one_destination() {
    let stage = Stage::new();
    let host = narrow(&stage).with(|settings| settings.open_max = 20).start();
    let _first = occupy(&host, &stage).await;
    for n in 0..5 {
        host.submit(&slow(&format!("g{n}"))).await;
        settle().await;
    }
    let refused = host.engine.submit(slow("more").now(&host.engine)).await;
    assert!(matches!(refused, Err(SubmitError::Busy { .. })), "{refused:?}");
    assert!(host.engine.find("more").await.unwrap().is_none());
    let slow = host.engine.destinations().into_iter().find(|load| load.holder.name() == "slow").unwrap();
    assert_eq!((slow.running, slow.waiting, slow.refused), (1, 5, 1));
    host.submit(&Plan::new("other").step("external@quick", "")).await;
    stage.action(0, 1).await.succeed();
}

#[tokio::test(start_paused = true)]
async fn a_long_request_timeout_is_cut() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    for (asked, given) in [(0, 3), (30, 30), (86_400, 300)] {
        let plan = Plan::new(format!("g{asked}")).external().with(|options| options.request_timeout_s = asked);
        host.submit(&plan).await;
        let attempt = stage.action(0, 1).await;
        assert_eq!(attempt.call.timeout, Duration::from_secs(given));
        assert_eq!(host.engine.request_timeout(&host.find(&plan.gid).await.saga), Duration::from_secs(given));
        attempt.succeed();
    }
}

/// A burst to one dead service is not live for as long as it might wait there.
#[tokio::test(start_paused = true)]
async fn few_live_sagas_wait_for_one_destination() {
    let stage = Stage::new();
    let host = narrow(&stage).with(|settings| settings.live_max = 80).start();
    let _first = occupy(&host, &stage).await;
    for n in 0..60 {
        host.submit(&slow(&format!("g{n}"))).await;
        settle().await;
        assert!(host.engine.counts().live <= 11, "one runs, an eighth of 80 wait: {:?}", host.engine.counts());
    }
    assert_eq!(load(&host, "slow"), (1, 60));
}
