//! An attempt that is given up while its guest runs leaves nothing behind.

use std::time::Duration;

use serde_json::json;
use wasaga::saga::{Options, Status};
use wasaga_testkit::{
    engine::{Host, Setup, until},
    server::Server,
};

use crate::world::{Plugins, request, saga, value};

/// Writes, and then sleeps for half a minute before it is done. Its compensation must not be called.
fn slow() -> serde_json::Value {
    json!({"try": "kv", "kv": [["increment", "n", 1]], "then": "sleep", "ms": 30_000, "cancel": "trap"})
}

/// The first step has no effect, and its compensation, a trap, is not called.
async fn nothing_is_left(host: &Host, gid: &str) {
    let record = host.until_status(gid, Status::Failed).await;
    assert_eq!(record.saga.steps()[0].compensation.attempts, 0, "{:?}", record.log);
    assert_eq!(value(host, "inside", "n"), None);
}

#[tokio::test(start_paused = true)]
async fn time_that_runs_out_while_a_plugin_runs() {
    let plugins = Plugins::contained();
    let host = Setup::paused(plugins.branches.clone()).start();
    let limits = |options: &mut Options| (options.timeout_to_fail_s, options.request_timeout_s) = (10, 60);
    host.submit(&saga("g", &[("inside", slow())]).with(limits)).await;
    nothing_is_left(&host, "g").await;
}

#[tokio::test(start_paused = true)]
async fn attempts_that_take_too_long_have_no_effect_until_one_does_not() {
    let plugins = Plugins::contained();
    let host = Setup::paused(plugins.branches.clone()).start();
    let limits = |limit| {
        move |options: &mut Options| {
            options.request_timeout_s = limit;
            options.retry_limit = 2;
        }
    };
    host.submit(&saga("g", &[("inside", slow())]).with(limits(5))).await;
    nothing_is_left(&host, "g").await;
    let record = host.find("g").await;
    let action = &record.saga.steps()[0].action;
    assert_eq!((action.attempts, action.failures), (3, 3));
    assert!(action.last_error.as_deref().is_some_and(|error| error.contains("(request_timeout)")));
    // With time enough, it counts once.
    host.submit(&saga("h", &[("inside", slow())]).with(limits(60))).await;
    host.until_status("h", Status::Succeed).await;
    assert_eq!(value(&host, "inside", "n").as_deref(), Some("1"));
}

/// Its sibling is rejected while it runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roll_back_while_a_plugin_runs() {
    let mut server = Server::start().await;
    let plugins = Plugins::reaching(&server);
    let host = Setup::new(plugins.branches.clone()).start();
    let mut stall = request(&server, "GET", "/stall");
    stall["between_bytes_ms"] = json!(100);
    let rejects = json!({"try": "fetch", "requests": [stall], "or": "reject", "text": "no"});
    let plan = saga("g", &[("inside", slow()), ("outside", rejects)]).concurrent();
    host.submit(&plan.with(|options| options.request_timeout_s = 60)).await;
    server.asked().await;
    nothing_is_left(&host, "g").await;
}

/// The host stops and does not wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_goes_while_a_plugin_runs() {
    let plugins = Plugins::contained();
    let host = Setup::new(plugins.branches.clone()).start();
    let plan = saga("g", &[("inside", json!({"try": "kv", "kv": [["increment", "n", 1]]})), ("inside", slow())]);
    host.submit(&plan.with(|options| options.request_timeout_s = 60)).await;
    until(async || value(&host, "inside", "n").is_some().then_some(())).await;
    let host = host.stop(Duration::ZERO).await.start();
    assert_eq!(value(&host, "inside", "n").as_deref(), Some("1"));
    host.engine.force_stop("g").await.unwrap();
    host.until_idle().await;
    assert_eq!(value(&host, "inside", "n").as_deref(), Some("1"));
}
