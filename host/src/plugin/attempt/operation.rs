//! Runs an attempt: a fresh store and instance, one call, and its outcome.
//!
//! The data that an attempt has read may have changed by the time it ends:
//!
//! - **The guest succeeds**: its reads and writes go to the engine as one batch. If that conflicts, the attempt has had no
//!   effect, and the engine makes it again.
//! - **The guest ends in any other way, and its reads are current**: the outcome is final, and its writes are discarded. A
//!   rejection takes its place in the commit order where the reads were compared.
//! - **The guest ends in any other way, and its reads are stale**: the outcome is discarded. Values of different times can
//!   make a correct guest reject, wait or trap, so the guest runs again, and that counts as no failure. A few runs follow
//!   at once, unless something has left the host; then the engine makes the attempt again, with a pause and with its
//!   count of attempts that sent something.

use std::sync::{Arc, atomic::Ordering};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::{task::yield_now, time::timeout};
use tracing::debug;
use wasmtime::Store;

use super::{
    answer::{Answer, explain, outcome, timed_out, unknown, with_refusal},
    scope::{AttemptHandles, AttemptScope},
};
use crate::{
    branch::{Branch, Call, Containment, Destination, Host, Outcome},
    plugin::{
        component::plugin::Plugin,
        contract,
        imports::{
            http::{identity::Identity, outgoing::Outgoing},
            keyvalue::KeyValue,
            output_gate::{End, OutputGate, Reads as _},
            transaction::Transaction,
        },
        sandbox::{
            guest::{Guest, Parts},
            scheduler::Demotable,
        },
    },
    saga::{Op, Verdict, text},
};

/// One of the two functions of a plugin, as the engine calls it.
struct Operation {
    plugin: Arc<Plugin>,
    op: Op,
}

impl Plugin {
    /// The branch that carries out an operation: `try` is the action, `cancel` the compensation.
    pub fn operation(self: &Arc<Self>, op: Op) -> Arc<dyn Branch> {
        Arc::new(Operation { plugin: self.clone(), op })
    }
}

impl Branch for Operation {
    fn call<'a>(&'a self, call: &'a Call, host: &'a Host) -> BoxFuture<'a, Outcome> {
        Box::pin(attempt(&self.plugin, self.op, call, host))
    }

    fn containment(&self) -> Containment {
        self.plugin.classification().containment
    }

    fn destination(&self) -> Option<Destination> {
        Some(Destination::Plugin(self.plugin.policy.plugin.clone()))
    }
}

/// What each attempt reserves at least, in bytes: a page. What has begun to reserve is not held up by what waits.
const LEAST_BYTES: usize = 64 << 10;

async fn attempt(plugin: &Arc<Plugin>, op: Op, call: &Call, host: &Host) -> Outcome {
    // Before the time limit starts: the guest is not responsible for a full host.
    // For as much as the attempt before has needed; more is reserved as the guest grows.
    let room = plugin.memory.reserve(plugin.memory_estimate.load(Ordering::Relaxed).max(LEAST_BYTES)).await;
    let mut scope = AttemptScope::new(plugin, call, host, room);
    let handles = scope.handles.clone();
    let limit = call.timeout.min(plugin.policy.limits.attempt_timeout);
    // The guest owns everything it needs, as it may move to another thread and be dropped there after this has returned.
    // That includes its place, which is free only when the guest is gone.
    let guest = {
        let (plugin, call, host, handles) = (plugin.clone(), call.clone(), host.clone(), handles.clone());
        async move { decide(&plugin, op, &call, &host, &handles).await }
    };
    let is_long = plugin.cpu_estimate.is_long();
    let guest = Demotable::new(guest.boxed(), handles.cpu_meter.clone(), is_long, plugin.runtime.scheduler());
    let ended = timeout(limit, guest).await;
    scope.has_ended = ended.is_ok();
    drop(scope);
    let outcome = ended.unwrap_or_else(|_| unknown(timed_out(limit, call.timeout), &handles.stdio, plugin));
    with_refusal(outcome, handles.refusal.get(), plugin)
}

/// Runs of one attempt. Each costs little, so a few spare the engine its pauses when data is busy only briefly.
const RUNS_MAX: u32 = 8;

/// Runs the guest until its end counts, or until it may not run again without a pause.
async fn decide(plugin: &Arc<Plugin>, op: Op, call: &Call, host: &Host, handles: &AttemptHandles) -> Outcome {
    let AttemptHandles { cancelled, stdio, refusal, .. } = handles;
    for run_number in 1..=RUNS_MAX {
        let transaction = Transaction::new(host.state.clone(), &plugin.policy.limits);
        let key_value = KeyValue::new(plugin.policy.plugin.clone(), plugin.policy.grants.clone(), transaction);
        let reads = Arc::new(key_value.clone());
        let gate = OutputGate::new(host.egress.clone(), reads, refusal.clone(), cancelled.clone());
        let guest = run(plugin, op, call, handles, &key_value, &gate);
        let end = match until_ended(guest, &gate).await {
            Ok(Ok(answer)) => Some(outcome(op, answer, plugin)),
            Ok(Err(error)) => Some(unknown(error, stdio, plugin)),
            Err(denied @ End::Denied(_)) => return unknown(denied.to_string(), stdio, plugin),
            Err(End::Stale) => None,
        };
        match end {
            None => {}
            Some(Outcome::Ended { verdict: verdict @ Verdict::Succeeded { .. }, .. }) => {
                return Outcome::Ended { verdict, effects: key_value.transaction().effects() };
            }
            Some(end) => match key_value.are_current() {
                Ok(true) => return end,
                Ok(false) => {}
                Err(error) => return unknown(format!("what it has read cannot be compared: {error}"), stdio, plugin),
            },
        }
        if gate.has_let_out() || run_number == RUNS_MAX {
            break;
        }
        let (gid, branch) = (call.saga.gid(), call.branch_id());
        debug!(plugin = plugin.name(), gid = gid.as_str(), %branch, "what the attempt has read has changed: it runs again");
        stdio.begin_again();
        refusal.clear();
        yield_now().await;
    }
    Outcome::Stale
}

/// The guest's own end, unless the gate ends the run: then the guest is dropped.
async fn until_ended<T>(guest: impl Future<Output = T>, gate: &OutputGate) -> Result<T, End> {
    let answer = tokio::select! {
        biased;
        end = gate.ended() => return Err(end),
        answer = guest => answer,
    };
    // The gate may have ended the run while the guest answered without waiting for its request. From now on it cannot: the
    // guest was dropped.
    gate.end().map_or(Ok(answer), Err)
}

/// Runs the guest once. An error is a text that names the cause.
async fn run(
    plugin: &Arc<Plugin>,
    op: Op,
    call: &Call,
    AttemptHandles { stdio, cpu_meter, room, .. }: &AttemptHandles,
    key_value: &KeyValue,
    gate: &OutputGate,
) -> Result<Answer, String> {
    let identity = Identity { saga: call.saga.clone(), branch_op: call.branch_op, attempt: call.attempt };
    let outgoing = Outgoing::new(plugin.policy.clone(), identity, gate.clone(), stdio.clone());
    let mut store = plugin.runtime.store(Parts {
        stdio: stdio.clone(),
        key_value: key_value.clone(),
        outgoing,
        cpu_meter: cpu_meter.clone(),
        room: room.clone(),
    });
    let answer = call_guest(plugin, op, call, &mut store).await;
    answer.map_err(|error| {
        // With a backtrace of the guest's functions, as far as the component names them.
        let (gid, branch) = (call.saga.gid(), call.branch_id());
        debug!(plugin = plugin.name(), gid = gid.as_str(), %branch, "{}", text::escape(&format!("{error:?}")));
        explain(&error, store.data().meter().denied(), &plugin.policy.limits)
    })
}

async fn call_guest(plugin: &Plugin, op: Op, call: &Call, store: &mut Store<Guest>) -> wasmtime::Result<Answer> {
    let component = &plugin.component;
    let instance = component.instance.instantiate_async(&mut *store).await?;
    let branch_id = call.branch_id().to_string();
    let idempotency_key = call.idempotency_key();
    let payload = call.payload();
    let results: Vec<_> = call.results.iter().map(|(id, output)| (id.to_string(), output.as_str())).collect();
    let record = contract::Call {
        gid: call.saga.gid().as_str(),
        branch_id: &branch_id,
        attempt: call.attempt,
        payload: str::from_utf8(&payload)?,
        headers: &call.saga.options().branch_headers,
        results: &results,
        idempotency_key: &idempotency_key,
    };
    match op {
        Op::Action => {
            let function: contract::Try = instance.get_typed_func(&mut *store, component.try_)?;
            Ok(function.call_async(store, (&record,)).await?.0)
        }
        Op::Compensate => {
            let function: contract::Cancel = instance.get_typed_func(&mut *store, component.cancel)?;
            let (answer,) = function.call_async(store, (&record, call.tried.as_deref())).await?;
            Ok(answer.map(|()| None))
        }
    }
}
