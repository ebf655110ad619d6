//! What one plugin gives reaches the others, and its own compensation.

use serde_json::{Value, json};
use wasaga::saga::Status;
use wasaga_testkit::engine::Setup;

use crate::world::{Plugins, saga};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_reach_later_steps_of_other_plugins() {
    let plugins = Plugins::contained();
    let host = Setup::new(plugins.branches.clone()).start();
    let steps = [
        ("account", json!({"account": "alice", "open": 70})),
        ("inside", json!({})),
        ("inside", json!({"try": "echo"})),
    ];
    let saga = host.settle(&saga("g", &steps).wait()).await;
    assert_eq!(saga.status(), Status::Succeed);
    let outputs: Vec<(usize, &str)> = saga.outputs().collect();
    assert_eq!(serde_json::from_str::<Value>(outputs[0].1).unwrap(), json!({"account": "alice", "balance": 70}));
    let echo: Value = serde_json::from_str(outputs[2].1).unwrap();
    assert_eq!(echo["results"], json!([["01", outputs[0].1], ["02", ""]]));
    assert_eq!(echo["idempotency-key"], "g-03-action");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_reaches_the_compensation_of_its_own_step_and_no_other() {
    let plugins = Plugins::contained();
    let host = Setup::new(plugins.branches.clone()).start();
    // Its `cancel` succeeds only if it is given what its `try` gave.
    let steps = [
        ("inside", json!({"try": "version", "cancel": "version"})),
        ("inside", json!({"try": "output", "text": "\"another\"", "cancel": "echo"})),
        ("inside", json!({"try": "reject", "text": "no"})),
    ];
    host.submit(&saga("g", &steps)).await;
    host.until_idle().await;
    let saga = host.find("g").await.saga;
    let error = saga.steps()[1].compensation.last_error.clone().expect("it says what it was given");
    let told: Value = serde_json::from_str(&error).unwrap();
    assert_eq!(told["tried"], json!("\"another\""));
    // The first one waits for it.
    assert_eq!((saga.status(), saga.steps()[0].compensation.attempts), (Status::Aborting, 0));
    host.engine.force_stop("g").await.unwrap();

    let steps = [steps[0].clone(), steps[2].clone()];
    let saga = host.settle(&crate::world::saga("h", &steps).wait()).await;
    assert_eq!((saga.status(), saga.steps()[0].compensation.attempts), (Status::Failed, 1));
}
