//! Starts a new component once: its initialisation is the same in every attempt, so a component that fails to start would
//! fail every saga. Loading it fails instead.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use wasmtime::UpdateDeadline;

use super::answer::{explain, with_last_errors};
use crate::{
    memory::Share,
    plugin::{
        component::{error::Error, plugin::Plugin},
        imports::{
            http::{identity::Identity, outgoing::Outgoing},
            keyvalue::KeyValue,
            output_gate::{OutputGate, Refusal},
            stdio::{Origin, Stdio},
            transaction::Transaction,
        },
        limits::Room,
        name,
        sandbox::{guest::Parts, runtime::Runtime, scheduler::CpuMeter},
    },
    saga::{BranchOp, Definition, Gid, Op, Options, Order, Timestamp},
    store::Memory,
};

/// The time limit. Most components start in microseconds, large language runtimes in milliseconds.
const TIME_MAX: Duration = Duration::from_secs(2);

impl Plugin {
    /// Makes a plugin of a component that is new to the host: compiles (or finds compiled), checks and starts it. Takes from
    /// milliseconds to seconds. Must not run twice at a time: the pool of instances has room for one start.
    pub fn load(runtime: &Runtime, name: &str, bytes: &[u8]) -> Result<Arc<Self>, Error> {
        name::check(name)?;
        let plugin = Self::load_again(runtime, name, bytes)?;
        check_start(&plugin)?;
        Ok(plugin)
    }
}

/// Starts an instance and drops it. Its effects are discarded, and its output is logged as that of a dry run.
///
/// Needs no place: the pool has one more instance than there are places.
fn check_start(plugin: &Plugin) -> Result<(), Error> {
    // The placeholder is valid, so this does not return early.
    let Some(saga) = placeholder_saga() else { return Ok(()) };
    let branch_op = BranchOp { step: 0, op: Op::Action };
    let policy = &plugin.policy;
    let (name, grants, limits) = (policy.plugin.clone(), policy.grants.clone(), &policy.limits);
    let cancelled = CancellationToken::new();
    let origin = Origin {
        plugin: name.clone(),
        grants: grants.clone(),
        guest_log: policy.guest_log.clone(),
        saga: saga.clone(),
        branch_op,
        is_dry_run: true,
    };
    let stdio = Stdio::new(origin, limits, cancelled.clone());
    let key_value = KeyValue::new(name, grants, Transaction::new(Arc::new(Memory::default()), limits));
    let gate = OutputGate::new(None, Arc::new(key_value.clone()), Refusal::default(), cancelled.clone());
    let outgoing = Outgoing::new(policy.clone(), Identity { saga, branch_op, attempt: 1 }, gate, stdio.clone());
    let cpu_meter = CpuMeter::new(cancelled);
    // Not in the budget: there is one at a time, and a host that is short of memory now must not refuse a component.
    let room = Room::new(Share::new(usize::MAX, 0).holder().nothing());
    let mut store = plugin.runtime.store(Parts { stdio: stdio.clone(), key_value, outgoing, cpu_meter, room });
    let end = Instant::now() + TIME_MAX;
    store.epoch_deadline_callback(move |_| {
        Ok(if Instant::now() < end { UpdateDeadline::Continue(1) } else { UpdateDeadline::Interrupt })
    });
    // A component may wait for something while it starts. The check does not wait, and accepts it.
    let started = plugin.component.instance.instantiate_async(&mut store).now_or_never();
    let Some(Err(error)) = started else { return Ok(()) };
    let detail = with_last_errors(explain(&error, store.data().meter().denied(), limits), &stdio);
    Err(Error::DoesNotStart { detail })
}

fn placeholder_saga() -> Option<Arc<Definition>> {
    let gid = Gid::new("none").ok()?;
    Definition::new(gid, Vec::new(), Order::default(), Options::default(), Timestamp(0)).ok().map(Arc::new)
}
