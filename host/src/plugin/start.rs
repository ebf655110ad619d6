//! Whether a component starts at all. What it does by itself, before it is called, is the same at every attempt, so a
//! start that fails would fail every saga: better to learn that when it is loaded.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use wasmtime::UpdateDeadline;

use super::{
    Plugin,
    attempt::explain,
    component::Fault,
    http::{Identity, Outgoing},
    keyvalue::KeyValue,
    output_gate::{OutputGate, Refusal},
    runtime::Parts,
    scheduler::CpuMeter,
    stdio::{Origin, Stdio},
    transaction::Transaction,
};
use crate::{
    saga::{BranchOp, Definition, Gid, Op, Options, Order, Timestamp},
    store::{Batch, Error, Range, Read},
};

/// How long it may take. Ordinary ones take microseconds, large runtimes milliseconds.
const TIME_MAX: Duration = Duration::from_secs(2);

/// Starts an instance and drops it. Nothing that it does counts, or is logged as a saga's.
///
/// Takes no place of those for attempts: the pool has one more, for one start at a time.
pub fn check(plugin: &Arc<Plugin>) -> Result<(), Fault> {
    // What stands for the saga is valid, so it can always be made.
    let Some(saga) = placeholder_saga() else { return Ok(()) };
    let branch_op = BranchOp { step: 0, op: Op::Action };
    let (limits, grants) = (plugin.runtime.limits(), plugin.grants.clone());
    let origin = Origin { plugin: plugin.name.clone(), grants, saga: saga.clone(), branch_op, is_dry_run: true };
    let stdio = Stdio::new(origin, limits);
    let transaction = Transaction::new(Arc::new(Nothing), limits);
    let key_value = KeyValue::new(plugin.name.clone(), plugin.grants.clone(), transaction);
    let gate = OutputGate::new(None, Arc::new(key_value.clone()), Refusal::default(), CancellationToken::new());
    let outgoing = Outgoing::new(plugin.clone(), Identity { saga, branch_op, attempt: 1 }, gate, stdio.clone());
    let mut store =
        plugin.runtime.store(Parts { stdio: stdio.clone(), key_value, outgoing, cpu_meter: CpuMeter::default() });
    let end = Instant::now() + TIME_MAX;
    store.epoch_deadline_callback(move |_| {
        Ok(if Instant::now() < end { UpdateDeadline::Continue(1) } else { UpdateDeadline::Interrupt })
    });
    // One that waits for something while it starts may do so: it is not waited for here.
    let started = plugin.component.instance.instantiate_async(&mut store).now_or_never();
    let Some(Err(error)) = started else { return Ok(()) };
    let mut detail = explain(&error, store.data().meter.denied(), limits);
    let said = stdio.last_errors();
    if !said.is_empty() {
        detail = format!("{detail}; it wrote: {said}");
    }
    Err(Fault::DoesNotStart { detail })
}

fn placeholder_saga() -> Option<Arc<Definition>> {
    let gid = Gid::new("none").ok()?;
    Definition::new(gid, Vec::new(), Order::default(), Options::default(), Timestamp(0)).ok().map(Arc::new)
}

/// A store without anything in it.
struct Nothing;

impl Read for Nothing {
    fn get(&self, _key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(None)
    }

    fn scan(&self, _range: &Range, _limit: usize) -> Result<Vec<(Bytes, Bytes)>, Error> {
        Ok(Vec::new())
    }

    fn is_current(&self, _batch: &Batch) -> Result<bool, Error> {
        Ok(true)
    }
}
