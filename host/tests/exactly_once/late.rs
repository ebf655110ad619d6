//! An attempt that ends after another has replaced it is ignored, and gets no egress.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use futures_util::{FutureExt, future::BoxFuture};
use serde_json::json;
use tokio::{
    sync::{Notify, mpsc},
    time::timeout,
};
use wasaga::{
    branch::{Branch, Call, Containment, Directory, Host, NotFound, Outcome},
    saga::{BranchOp, Definition, Pin, Pins, Status, Verdict},
};
use wasaga_testkit::{
    engine::{Setup, settle},
    server::Server,
};

use crate::{
    PATIENCE,
    world::{Plugins, request, saga, starts, value},
};

/// A directory that can lose an attempt of the first step: it goes on elsewhere when nobody waits for it any more, as
/// one does that runs on a thread of its own. The second step waits until it may end, and the third can make the driver
/// panic.
struct Losing {
    inner: Arc<dyn Directory>,
    control: Arc<Control>,
}

struct Control {
    loses: AtomicBool,
    has_lost: Notify,
    /// The lost attempt begins.
    begin: Notify,
    ends: mpsc::UnboundedSender<Outcome>,
    second: Notify,
    traps: AtomicBool,
}

impl Losing {
    fn new(inner: Arc<dyn Directory>) -> (Arc<Self>, Arc<Control>, mpsc::UnboundedReceiver<Outcome>) {
        let (ends, ended) = mpsc::unbounded_channel();
        let control = Arc::new(Control {
            loses: AtomicBool::new(true),
            has_lost: Notify::new(),
            begin: Notify::new(),
            ends,
            second: Notify::new(),
            traps: AtomicBool::new(false),
        });
        (Arc::new(Self { inner, control: control.clone() }), control, ended)
    }
}

impl Directory for Losing {
    fn find(&self, saga: &Definition, branch_op: BranchOp, pin: Option<&Pin>) -> Result<Arc<dyn Branch>, NotFound> {
        let traps = branch_op.step == 2 && self.control.traps.load(Relaxed);
        assert!(!traps, "the test lets the directory panic");
        Ok(Arc::new(Actor { branch: self.inner.find(saga, branch_op, pin)?, control: self.control.clone() }))
    }

    fn pin(&self, saga: &Definition, branch_ops: &[BranchOp]) -> Result<Pins, (BranchOp, NotFound)> {
        self.inner.pin(saga, branch_ops)
    }

    fn hold(&self, pins: &[Pin]) {
        self.inner.hold(pins);
    }

    fn release(&self, pins: &[Pin]) {
        self.inner.release(pins);
    }
}

struct Actor {
    branch: Arc<dyn Branch>,
    control: Arc<Control>,
}

impl Branch for Actor {
    fn call<'a>(&'a self, call: &'a Call, host: &'a Host) -> BoxFuture<'a, Outcome> {
        async {
            if call.branch_op.step == 0 && self.control.loses.swap(false, Relaxed) {
                let (branch, control, call, host) =
                    (self.branch.clone(), self.control.clone(), call.clone(), host.clone());
                tokio::spawn(async move {
                    control.begin.notified().await;
                    let _ = control.ends.send(branch.call(&call, &host).await);
                });
                self.control.has_lost.notify_one();
                return pending().await;
            }
            if call.branch_op.step == 1 {
                self.control.second.notified().await;
            }
            self.branch.call(call, host).await
        }
        .boxed()
    }

    fn containment(&self) -> Containment {
        self.branch.containment()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_of_an_earlier_driver() {
    let mut server = Server::start().await;
    let plugins = Plugins::reaching(&server);
    for plugin in ["inside", "outside"] {
        let (directory, control, mut ended) = Losing::new(plugins.branches.clone());
        let host = Setup::new(directory).start();
        let mut counts = json!({"try": "kv", "kv": [["increment", plugin, 1]]});
        if plugin == "outside" {
            counts["then"] = json!("fetch");
            counts["requests"] = json!([request(&server, "GET", "/hello")]);
        }
        let plan = saga(plugin, &[(plugin, counts), ("inside", json!({})), ("inside", json!({}))]);
        let plan = plan.concurrent().after(2, &[1]);
        host.submit(&plan).await;
        timeout(PATIENCE, control.has_lost.notified()).await.unwrap();
        // The third step makes the driver panic; submitting the saga again gives it another.
        control.traps.store(true, Relaxed);
        control.second.notify_one();
        host.until_idle().await;
        control.traps.store(false, Relaxed);
        host.submit(&plan).await;
        control.second.notify_one();
        let before = host.until_status(plugin, Status::Succeed).await;
        assert_eq!(value(&host, plugin, plugin).as_deref(), Some("1"));

        control.begin.notify_one();
        let late = timeout(PATIENCE, ended.recv()).await.unwrap().unwrap();
        match late {
            // It has done its work, and its outcome is ignored.
            Outcome::Ended { verdict: Verdict::Succeeded { .. }, ref effects } if plugin == "inside" => {
                assert!(effects.has_writes());
            }
            Outcome::Ended { verdict: Verdict::Unknown { ref error }, .. } if plugin == "outside" => {
                assert!(error.starts_with("nothing was sent"), "{error}");
                assert_eq!(server.asked().await.headers["idempotency-key"], "outside-01-action-1");
                assert_eq!(server.requests(), 1, "of the second attempt");
            }
            ref other => panic!("{plugin}: {other:?}"),
        }
        settle().await;
        let after = host.find(plugin).await;
        assert_eq!((&after.log, starts(&after.log).len()), (&before.log, usize::from(plugin == "outside")));
        assert_eq!(value(&host, plugin, plugin).as_deref(), Some("1"));
    }
}

/// The same, but a person has stopped the saga meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_of_a_saga_that_has_been_stopped() {
    let server = Server::start().await;
    let plugins = Plugins::reaching(&server);
    let (directory, control, mut ended) = Losing::new(plugins.branches.clone());
    let host = Setup::new(directory).start();
    let fetch = json!({"try": "kv", "kv": [["set", "k", "v"]], "then": "fetch",
        "requests": [request(&server, "GET", "/hello")]});
    host.submit(&saga("g", &[("outside", fetch)])).await;
    timeout(PATIENCE, control.has_lost.notified()).await.unwrap();
    host.engine.force_stop("g").await.unwrap();
    host.until_idle().await;
    control.begin.notify_one();
    let late = timeout(PATIENCE, ended.recv()).await.unwrap().unwrap();
    assert!(
        matches!(&late, Outcome::Ended { verdict: Verdict::Unknown { error }, .. } if error.starts_with("nothing was sent")),
        "{late:?}"
    );
    assert_eq!((server.requests(), value(&host, "outside", "k")), (0, None));
}
