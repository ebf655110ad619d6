//! The list of sagas.
//!
//! 1. Newest first; pages have neither gaps nor repeats, whatever arrives meanwhile and however long the logs are.
//! 2. A filter by status or time gives exactly the sagas that match.

use std::time::Duration;

use wasaga::{
    engine::{Engine, Filter, SagaId},
    saga::{Status, Timestamp},
};
use wasaga_testkit::engine::{Host, Plan, Setup};

use crate::stage::Stage;

fn all() -> Filter {
    Filter { limit: 100, ..Filter::default() }
}

/// The gids of all pages; `between` runs after each.
async fn pages(engine: &Engine, filter: &Filter, between: impl AsyncFn()) -> Vec<String> {
    let (mut gids, mut filter) = (Vec::new(), filter.clone());
    loop {
        let page = engine.list(&filter).await.unwrap();
        assert!(page.sagas.len() <= filter.limit);
        gids.extend(page.sagas.iter().map(|record| record.saga.definition().gid().to_string()));
        assert!(page.sagas.is_sorted_by(|one, next| one.id > next.id));
        match page.next {
            Some(next) => filter.before = Some(next),
            None => return gids,
        }
        between().await;
    }
}

async fn gids(host: &Host, filter: &Filter) -> Vec<String> {
    pages(&host.engine, filter, async || {}).await
}

async fn prepare(host: &Host, gid: &str) {
    host.engine.prepare(Plan::new(gid).contained().now(&host.engine)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pages_have_no_gaps_and_no_repeats_while_sagas_arrive() {
    let host = Setup::paused(Stage::new()).start();
    for n in 0..50 {
        prepare(&host, &format!("old{n}")).await;
        if n % 7 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let newest_first: Vec<String> = (0..50).rev().map(|n| format!("old{n}")).collect();
    for limit in [1, 2, 3, 7, 49, 50, 51, 5000] {
        let arrived = std::cell::Cell::new(0);
        let filter = Filter { limit, created_to: None, ..Filter::default() };
        let before = host.engine.list(&Filter { limit: 1, ..all() }).await.unwrap().sagas[0].id;
        let filter = Filter { before: Some(SagaId(before.0 + 1)), ..filter };
        let listed = pages(&host.engine, &filter, async || {
            arrived.set(arrived.get() + 1);
            prepare(&host, &format!("new {limit} {}", arrived.get())).await;
        })
        .await;
        let old: Vec<_> = listed.into_iter().filter(|gid| gid.starts_with("old")).collect();
        assert_eq!(old, newest_first, "limit {limit}");
    }
    let whole = gids(&host, &Filter { limit: 10, ..all() }).await;
    assert_eq!(whole.len(), host.store.rows(b"g").len());
    assert_eq!(host.engine.list(&Filter { limit: 0, ..all() }).await.unwrap().sagas.len(), 0);
}

/// One saga of each status, twice; the gids begin with the status.
async fn one_of_each(host: &Host, stage: &Stage) {
    for n in 0..2 {
        prepare(host, &format!("prepared{n}")).await;
        host.submit(&Plan::new(format!("submitted{n}")).external()).await;
        stage.action(0, 1).await.fail();
        host.submit(&Plan::new(format!("aborting{n}")).external()).await;
        stage.action(0, 1).await.reject();
        stage.compensation(0, 1).await.fail();
        host.submit(&Plan::new(format!("succeed{n}")).contained()).await;
        stage.action(0, 1).await.succeed();
        host.submit(&Plan::new(format!("failed{n}")).contained()).await;
        stage.action(0, 1).await.reject();
        host.until_idle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_status_has_its_list() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    one_of_each(&host, &stage).await;
    let check = async |host: &Host| {
        for status in [Status::Prepared, Status::Submitted, Status::Aborting, Status::Succeed, Status::Failed] {
            for limit in [1, 2, 3, 100] {
                let listed = gids(host, &Filter { status: Some(status), limit, ..all() }).await;
                assert_eq!(listed, [1, 0].map(|n| format!("{}{n}", status.as_str())), "limit {limit}");
            }
        }
        assert_eq!(gids(host, &all()).await.len(), 10);
    };
    check(&host).await;
    let host = host.stop(Duration::ZERO).await.start();
    check(&host).await;
}

#[tokio::test(start_paused = true)]
async fn sagas_that_run_are_listed_as_they_are_stored_and_leave_the_list_of_the_open() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.submit(&Plan::new("g").external()).await;
    let attempt = stage.action(0, 1).await;
    let open = Filter { status: Some(Status::Submitted), ..all() };
    assert_eq!(gids(&host, &open).await, ["g"]);
    attempt.succeed();
    host.until_status("g", Status::Succeed).await;
    assert!(gids(&host, &open).await.is_empty());
    assert_eq!(gids(&host, &Filter { status: Some(Status::Succeed), ..all() }).await, ["g"]);
}

#[tokio::test(start_paused = true)]
async fn a_window_of_time_shows_what_was_created_in_it() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    let start = host.engine.now();
    let after = |ms: u64| Timestamp(start.0 + ms);
    for n in 0..10 {
        let definition = Plan::new(format!("g{n}")).external().at(after(n * 10));
        if n % 2 == 0 {
            host.engine.submit(definition).await.unwrap();
            stage.action(0, 1).await.reject();
            stage.compensation(0, 1).await.succeed();
        } else {
            host.engine.prepare(definition).await.unwrap();
        }
        host.until_idle().await;
    }
    let window = |from: Option<u64>, to: Option<u64>, status: Option<Status>, limit: usize| Filter {
        created_from: from.map(after),
        created_to: to.map(after),
        status,
        limit,
        before: None,
    };
    for limit in [1, 2, 100] {
        for (from, to, wanted) in [
            (None, None, 0..10),
            (Some(30), Some(30), 3..4),
            (Some(31), Some(39), 0..0),
            (Some(25), Some(60), 3..7),
            (None, Some(49), 0..5),
            (Some(50), None, 5..10),
            (Some(60), Some(20), 0..0),
            (Some(1000), None, 0..0),
        ] {
            let numbers: Vec<u64> = wanted.rev().collect();
            let gid = |n: &u64| format!("g{n}");
            let listed = gids(&host, &window(from, to, None, limit)).await;
            assert_eq!(listed, numbers.iter().map(gid).collect::<Vec<_>>(), "{from:?} to {to:?}");
            for (status, parity) in [(Status::Failed, 0), (Status::Prepared, 1)] {
                let listed = gids(&host, &window(from, to, Some(status), limit)).await;
                let wanted: Vec<_> = numbers.iter().filter(|n| *n % 2 == parity).map(gid).collect();
                assert_eq!(listed, wanted, "{from:?} to {to:?} {}", status.as_str());
            }
        }
        let filter = window(Some(0), Some(u64::MAX - start.0), None, limit);
        assert_eq!(gids(&host, &filter).await.len(), 10);
    }
}

#[tokio::test(start_paused = true)]
async fn a_saga_with_a_long_log_is_listed_once() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    for n in 0..3 {
        prepare(&host, &format!("before{n}")).await;
        let long = Plan::new(format!("long{n}")).external().with(|options| options.custom_data = "x".repeat(3000));
        host.submit(&long).await;
        let mut attempt = stage.action(0, 1).await;
        for number in 2..60 {
            attempt.fail_because(&"long ".repeat(30));
            attempt = stage.action(0, number).await;
        }
        attempt.succeed();
        host.until_idle().await;
    }
    assert!(host.store.rows(b"s").len() > 20, "the logs are not long: {}", host.store.rows(b"s").len());
    for limit in [1, 2, 4, 5, 100] {
        let listed = gids(&host, &Filter { limit, ..all() }).await;
        assert_eq!(listed, ["long2", "before2", "long1", "before1", "long0", "before0"], "limit {limit}");
        let listed = gids(&host, &Filter { limit, status: Some(Status::Succeed), ..all() }).await;
        assert_eq!(listed, ["long2", "long1", "long0"], "limit {limit}");
    }
}

/// A page looks at a bounded number of sagas; when none of them matches, the list goes on after it.
#[tokio::test(start_paused = true)]
async fn a_rare_status_is_found_among_many_sagas() {
    let stage = Stage::new();
    let host = Setup::paused(stage.clone()).start();
    host.submit(&Plan::new("rare").contained()).await;
    stage.action(0, 1).await.succeed();
    host.until_idle().await;
    for n in 0..10_100 {
        prepare(&host, &format!("g{n}")).await;
    }
    let filter = Filter { status: Some(Status::Succeed), ..all() };
    let first = host.engine.list(&filter).await.unwrap();
    assert!(first.sagas.is_empty() && first.next.is_some(), "looked at all of them for one page");
    assert_eq!(gids(&host, &filter).await, ["rare"]);
    assert_eq!(gids(&host, &Filter { limit: 1000, ..all() }).await.len(), 10_101);
}
