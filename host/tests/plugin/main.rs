//! What the plugin runtime promises, shown with real components: the tutorial's two services, and one that misbehaves.

mod account;
mod behaviour;
mod cache;
mod descriptors;
mod grants;
mod hostile;
mod http;
mod imports;
mod keyvalue;
mod languages;
mod limits;
mod loading;
mod logging;
mod made;
mod resolve;
mod serialisable;
mod sharing;
mod versions;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    time::Duration,
};

use serde_json::{Value, json};
use wasaga::{
    branch::{Branch, Call, Containment, Host, Outcome},
    plugin::{Registry, Runtime, Settings},
    saga::{BranchId, BranchOp, Definition, Gid, Op, Options, Order, Step, Timestamp, Verdict},
    store::{self, LocalStore},
};
use wasaga_testkit::{component, component_dir};

/// Long enough for any guest that ends by itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// A store that all tests share which need none of their own.
static SCRATCH: LazyLock<Arc<LocalStore>> =
    LazyLock::new(|| Arc::new(LocalStore::open(store::Settings::new(tempfile::tempdir().unwrap().keep())).unwrap().0));

fn store() -> Arc<LocalStore> {
    SCRATCH.clone()
}

/// The misbehaving plugin under the default settings, for all tests that need no others.
static CHAOS: LazyLock<Registry> = LazyLock::new(|| chaos(&Settings::default()));

fn chaos(settings: &Settings) -> Registry {
    let registry = load(settings, &component_dir("fixtures"));
    assert_eq!(registry.plugins().len(), 1, "run `make plugins fixtures`");
    registry
}

fn load(settings: &Settings, dir: &Path) -> Registry {
    Registry::load(&Runtime::new(settings).unwrap(), dir, Vec::new())
}

fn branch(registry: &Registry, plugin: &str, op: Op) -> Arc<dyn Branch> {
    let function = if op == Op::Action { "try" } else { "cancel" };
    registry.resolve(&format!("wasm://{plugin}/{function}"), op).unwrap().unwrap()
}

/// A call of step 02 of a saga.
fn call(op: Op, payload: &str) -> Call {
    let step = Step {
        action: "wasm://chaos/try".into(),
        compensation: "wasm://chaos/cancel".into(),
        payload: payload.to_owned().into(),
    };
    let steps = vec![step.clone(), step];
    let options = Options { branch_headers: vec![("x-test".into(), "1".into())], ..Options::default() };
    let gid = Gid::new("gid-1").unwrap();
    Call {
        saga: Arc::new(Definition::new(gid, steps, Order::default(), options, Timestamp(0)).unwrap()),
        branch_op: BranchOp { step: 1, op },
        attempt: 3,
        results: [(BranchId(0), r#"{"seat":7}"#.to_owned())].into(),
        tried: None,
        timeout: PATIENCE,
    }
}

/// A host without egress, with a store of its own.
fn host() -> Host {
    Host { state: store(), egress: None, is_dry_run: false, place: None }
}

async fn try_(registry: &Registry, plugin: &str, payload: &Value) -> Outcome {
    branch(registry, plugin, Op::Action).call(&call(Op::Action, &payload.to_string()), &host()).await
}

async fn cancel(registry: &Registry, plugin: &str, payload: &Value, tried: Option<&str>) -> Outcome {
    let call = Call { tried: tried.map(Into::into), ..call(Op::Compensate, &payload.to_string()) };
    branch(registry, plugin, Op::Compensate).call(&call, &host()).await
}

/// The output of an attempt that must have succeeded, as JSON.
fn output(outcome: Outcome) -> Value {
    match outcome {
        Outcome::Ended { verdict: Verdict::Succeeded { output: Some(output) }, .. } => {
            serde_json::from_str(&output).unwrap()
        }
        Outcome::Ended { verdict: Verdict::Succeeded { output: None }, .. } => Value::Null,
        other => panic!("not succeeded: {other:?}"),
    }
}

/// The error of an attempt whose effect is unknown.
fn unknown(outcome: Outcome) -> String {
    match outcome {
        Outcome::Ended { verdict: Verdict::Unknown { error }, .. } => error,
        other => panic!("not unknown: {other:?}"),
    }
}

fn rejected(outcome: Outcome) -> String {
    match outcome {
        Outcome::Ended { verdict: Verdict::Rejected { reason }, .. } => reason,
        other => panic!("not rejected: {other:?}"),
    }
}
