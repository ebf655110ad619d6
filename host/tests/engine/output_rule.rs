//! Before anything leaves the host, everything that led to it is on disk; nothing else waits for the disk.
//!
//! 1. No external branch is called before its attempt, and all that came before it, is durable.
//! 2. A client learns nothing that is not durable: not that its saga was taken on, not how it ended, not how it stands.
//! 3. Contained sagas with a waiting client cost one commit, forward and back.

use std::sync::Arc;

use futures_util::FutureExt;
use wasaga::{
    branch::{self, Branch, Call, Containment, Directory, NotFound, Outcome},
    engine::Filter,
    saga::{BranchOp, Definition, Op, Pin, Status},
    store::Store,
};
use wasaga_testkit::engine::{Host, Plan, Setup, settle, settled, until};

use crate::stage::{Attempt, Stage};

/// Waits until the store has accepted so many commits.
async fn until_commits(host: &Host, commits: u64) {
    until(async || (host.store.commits() >= commits).then_some(())).await;
}

#[tokio::test]
async fn external_branches_are_called_only_when_everything_before_is_durable() {
    let stage = Stage::new();
    let host = Setup::new(stage.clone()).start();
    let plan = Plan::new("g").contained().external().contained().external().contained();
    host.disk.hold();
    let engine = host.engine.clone();
    let definition = plan.now(&engine);
    let client = tokio::spawn(async move { engine.submit(definition).await });
    let durable = |attempt: &Attempt| {
        assert!(host.store.barrier().is_durable(), "{:?} before what led to it is on disk", attempt.call.branch_op);
    };

    stage.action(0, 1).await.succeed();
    // The submission, and the start of the external attempt.
    until_commits(&host, 2).await;
    assert!(stage.is_quiet().await, "called with nothing on disk");
    host.disk.release();
    let first = stage.action(1, 1).await;
    durable(&first);
    client.await.unwrap().unwrap();

    host.disk.hold();
    first.succeed();
    stage.action(2, 1).await.succeed();
    until_commits(&host, 3).await;
    assert!(stage.is_quiet().await, "called before the start is on disk");
    host.disk.release();
    let second = stage.action(3, 1).await;
    durable(&second);

    // Backwards: the abort and the contained compensation must be durable before the external compensation.
    host.disk.hold();
    second.succeed();
    stage.action(4, 1).await.reject();
    until_commits(&host, 4).await;
    assert!(stage.is_quiet().await, "compensated before the abort is on disk");
    host.disk.release();
    let third = stage.compensation(3, 1).await;
    durable(&third);
    third.succeed();
    stage.compensation(2, 1).await.succeed();
    let fourth = stage.compensation(1, 1).await;
    durable(&fourth);
    fourth.succeed();
    stage.compensation(0, 1).await.succeed();
    host.until_status("g", Status::Failed).await;
}

#[tokio::test]
async fn a_submission_is_answered_only_when_it_is_durable() {
    let stage = Stage::new();
    let host = Setup::new(stage.clone()).start();
    host.disk.hold();
    for prepared in [true, false] {
        let plan = Plan::new(format!("{prepared}")).contained();
        let definition = plan.now(&host.engine);
        let answer = async {
            if prepared {
                host.engine.prepare(definition).await.map(|()| None)
            } else {
                host.engine.submit(definition).await.map(Some)
            }
        };
        let mut answer = Box::pin(answer);
        assert!((&mut answer).now_or_never().is_none());
        settle().await;
        assert!((&mut answer).now_or_never().is_none(), "answered before it is on disk");
        // A repetition may not promise what the first one could not yet.
        let repeated = plan.now(&host.engine);
        let repeated = async {
            if prepared { host.engine.prepare(repeated).await } else { host.engine.submit(repeated).await.map(|_| ()) }
        };
        let mut repeated = Box::pin(repeated);
        assert!((&mut repeated).now_or_never().is_none());
        settle().await;
        assert!((&mut repeated).now_or_never().is_none(), "the repetition is answered before the first is on disk");
        host.disk.release();
        answer.await.unwrap();
        repeated.await.unwrap();
        host.disk.hold();
    }
    stage.action(0, 1).await.succeed();
    host.disk.release();
}

#[tokio::test]
async fn a_result_is_told_only_when_it_is_durable() {
    let stage = Stage::new();
    let host = Setup::new(stage.clone()).start();
    for end in [Status::Succeed, Status::Failed] {
        let plan = Plan::new(end.as_str()).contained().contained().wait();
        host.disk.hold();
        let engine = host.engine.clone();
        let definition = plan.now(&engine);
        let commits = host.store.commits();
        let mut client = tokio::spawn(async move { engine.submit(definition).await });
        stage.action(0, 1).await.succeed();
        let last = stage.action(1, 1).await;
        assert!((&mut client).now_or_never().is_none());
        if end == Status::Succeed {
            last.succeed();
        } else {
            last.reject();
            stage.compensation(0, 1).await.succeed();
        }
        until_commits(&host, commits + 1).await;
        settle().await;
        assert!((&mut client).now_or_never().is_none(), "told before the end is on disk");
        host.disk.release();
        assert_eq!(settled(client.await.unwrap().unwrap()).status(), end);
        assert_eq!(host.store.commits(), commits + 1, "one commit for the whole saga");
    }
}

#[tokio::test]
async fn a_saga_is_shown_only_as_it_is_on_disk() {
    let stage = Stage::new();
    let host = Setup::new(stage.clone()).start();
    let plan = Plan::new("g").contained().contained().wait();
    let engine = host.engine.clone();
    let definition = plan.now(&engine);
    let client = tokio::spawn(async move { engine.submit(definition).await });
    stage.action(0, 1).await.succeed();
    let second = stage.action(1, 1).await;

    // Nothing of it is stored yet. A query makes it durable first.
    host.disk.hold();
    let mut find = Box::pin(host.engine.find("g"));
    assert!((&mut find).now_or_never().is_none(), "shown before it is on disk");
    host.disk.release();
    let found = find.await.unwrap().unwrap();
    assert_eq!(found.saga.status(), Status::Submitted);
    assert!(found.saga.steps()[0].action.has_succeeded());

    host.disk.hold();
    second.succeed();
    until_commits(&host, 2).await;
    let filter = Filter { limit: 10, ..Filter::default() };
    let mut list = Box::pin(host.engine.list(&filter));
    let mut find = Box::pin(host.engine.find("g"));
    assert!((&mut find).now_or_never().is_none(), "its end is shown before it is on disk");
    assert!((&mut list).now_or_never().is_none(), "its end is listed before it is on disk");
    host.disk.release();
    assert_eq!(find.await.unwrap().unwrap().saga.status(), Status::Succeed);
    assert_eq!(list.await.unwrap().sagas[0].saga.status(), Status::Succeed);
    client.await.unwrap().unwrap();
}

#[tokio::test]
async fn controls_are_answered_only_when_they_are_durable() {
    let stage = Stage::new();
    let host = Setup::new(stage.clone()).start();
    host.engine.prepare(Plan::new("prepared").external().now(&host.engine)).await.unwrap();
    host.submit(&Plan::new("running").external()).await;
    let _running = stage.action(0, 1).await;
    for gid in ["prepared", "running"] {
        host.disk.hold();
        let mut retry_now = Box::pin(host.engine.retry_now(gid));
        assert!((&mut retry_now).now_or_never().is_none());
        settle().await;
        assert!((&mut retry_now).now_or_never().is_none(), "{gid}: a retry request is answered before it is on disk");
        let mut stop = Box::pin(host.engine.force_stop(gid));
        assert!((&mut stop).now_or_never().is_none());
        settle().await;
        assert!((&mut stop).now_or_never().is_none(), "{gid}: the stop is answered before it is on disk");
        host.disk.release();
        retry_now.await.unwrap();
        stop.await.unwrap();
    }
}

/// Succeeds at once, or is rejected.
struct AtOnce {
    rejected: Option<BranchOp>,
}

impl Branch for AtOnce {
    fn call<'a>(&'a self, call: &'a Call, _: &'a branch::Host) -> futures_util::future::BoxFuture<'a, Outcome> {
        let outcome = if self.rejected == Some(call.branch_op) {
            Outcome::rejected("no")
        } else {
            Outcome::succeeded(Some("1".into()))
        };
        async { outcome }.boxed()
    }

    fn containment(&self) -> Containment {
        Containment::Contained
    }
}

struct Everywhere(Arc<AtOnce>);

impl Directory for Everywhere {
    fn find(&self, _: &Definition, _: BranchOp, _: Option<&Pin>) -> Result<Arc<dyn Branch>, NotFound> {
        Ok(self.0.clone())
    }
}

#[tokio::test]
async fn a_contained_saga_costs_one_commit_and_one_sync_however_it_ends() {
    for rejected in [None, Some(BranchOp { step: 1, op: Op::Action })] {
        let branch = Arc::new(AtOnce { rejected });
        let host = Setup::new(Arc::new(Everywhere(branch))).start();
        for count in 1..=20 {
            let before = host.store.local().stats();
            let plan = Plan::new(format!("g{count}")).contained().contained().wait();
            let saga = host.settle(&plan).await;
            assert_eq!(saga.status(), if rejected.is_some() { Status::Failed } else { Status::Succeed });
            let after = host.store.local().stats();
            assert_eq!(after.commits - before.commits, 1);
            assert_eq!(after.syncs - before.syncs, 1);
        }
    }
}
