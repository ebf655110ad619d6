//! One attempt: a fresh store and instance, one call, and what came of it.
//!
//! What an attempt has read may have changed by the time it ends. What that means for each end:
//!
//! - **Succeeded**: its reads and writes go to the engine as one batch. If they conflict there, it has had no effect, and
//!   the engine makes the attempt again.
//! - **Anything else**, as long as what it read is still so: final. Its writes are forgotten. A rejection was right at the
//!   moment at which that was seen, which is its place in the order of all commits.
//! - **Anything else, based on what is no longer so**, or what never was at one time: it says nothing. Two values of
//!   different times can make a correct guest reject, wait or trap, so the guest runs again. That is no failure. Some runs
//!   follow at once, as long as nothing has left the host; then it is for the engine to make the attempt again, which
//!   pauses, and counts what has left.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt as _, future::BoxFuture};
use serde::de::IgnoredAny;
use tokio::{task::yield_now, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use wasmtime::{Store, Trap, component::ResourceTableError};
use wasmtime_wasi::I32Exit;

use super::{
    Plugin,
    contract::{self, Failure},
    http::{Identity, Outgoing},
    keyvalue::KeyValue,
    limits::{Denied, Limits},
    output_gate::{End, OutputGate, Reads as _, Refusal},
    runtime::{Guest, Parts},
    scheduler::{CpuEstimate, CpuMeter, Demotable},
    stdio::{self, Origin, Stdio},
    transaction::{Fault, Transaction},
};
use crate::{
    branch::{Branch, Call, Containment, Host, Outcome},
    saga::{Op, Verdict},
};

/// One of the two functions of a plugin, as the engine calls it.
pub struct Operation {
    /// Whose function.
    pub plugin: Arc<Plugin>,
    /// `try` is the action, `cancel` the compensation.
    pub op: Op,
}

impl Branch for Operation {
    fn call<'a>(&'a self, call: &'a Call, host: &'a Host) -> BoxFuture<'a, Outcome> {
        Box::pin(attempt(&self.plugin, self.op, call, host))
    }

    fn containment(&self) -> Containment {
        self.plugin.classification.containment
    }
}

/// What a guest that came to an end said: the output of `try`, nothing for `cancel`.
type Answer = Result<Option<String>, Failure>;

async fn attempt(plugin: &Arc<Plugin>, op: Op, call: &Call, host: &Host) -> Outcome {
    let stdio = Stdio::new(origin(plugin, call, host), plugin.runtime.limits());
    let (cpu_meter, refusal, given_up) = (CpuMeter::default(), Refusal::default(), CancellationToken::new());
    // Before the clock starts: that the host is full is not the guest's fault.
    let permit = plugin.permits.take().await;
    let limit = call.timeout.min(plugin.runtime.limits().attempt_timeout);
    // It owns all it needs, as it may move to another thread, and be gone from there only after this has returned.
    let guest = {
        let (plugin, call, host) = (plugin.clone(), call.clone(), host.clone());
        let lasting = Lasting {
            stdio: stdio.clone(),
            refusal: refusal.clone(),
            cpu_meter: cpu_meter.clone(),
            given_up: given_up.clone(),
        };
        async move {
            let _permit = permit;
            decide(&plugin, op, &call, &host, &lasting).await
        }
    };
    let mut over = Over {
        cpu_estimate: &plugin.cpu_estimate,
        cpu_meter: cpu_meter.clone(),
        stdio: stdio.clone(),
        given_up,
        has_ended: false,
    };
    let guest = Demotable::new(guest.boxed(), cpu_meter, plugin.cpu_estimate.is_long(), plugin.runtime.scheduler());
    let ended = timeout(limit, guest).await;
    over.has_ended = ended.is_ok();
    drop(over);
    let outcome = match ended {
        Ok(outcome) => outcome,
        Err(_) => unknown(timed_out(limit, call.timeout), &stdio, plugin),
    };
    match (outcome, refusal.get()) {
        // First, as a long text is cut at its end.
        (Outcome::Ended { verdict: Verdict::Unknown { error }, .. }, Some(refusal)) => {
            Outcome::unknown(text(&format!("the host refused {refusal}; {error}"), plugin))
        }
        (outcome, _) => outcome,
    }
}

/// What all runs of an attempt share.
struct Lasting {
    stdio: Stdio,
    refusal: Refusal,
    cpu_meter: CpuMeter,
    given_up: CancellationToken,
}

/// The end of an attempt, whether it is waited for or given up: from then on its guest, which may be on another thread
/// and there for a moment longer, reaches nobody.
struct Over<'a> {
    cpu_estimate: &'a CpuEstimate,
    cpu_meter: CpuMeter,
    stdio: Stdio,
    given_up: CancellationToken,
    has_ended: bool,
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.given_up.cancel();
        self.stdio.close();
        self.cpu_estimate.learn(self.cpu_meter.spent(), self.has_ended);
    }
}

fn origin(plugin: &Plugin, call: &Call, host: &Host) -> Origin {
    let (plugin, grants) = (plugin.name.clone(), plugin.grants.clone());
    Origin { plugin, grants, saga: call.saga.clone(), branch_op: call.branch_op, is_dry_run: host.is_dry_run }
}

/// Runs of one attempt. Each costs little, so a few spare the engine its pauses where data is only busy for a moment.
const RUNS_MAX: u32 = 8;

/// Runs the guest until its end counts, or for as often as it may without a pause.
async fn decide(plugin: &Arc<Plugin>, op: Op, call: &Call, host: &Host, lasting: &Lasting) -> Outcome {
    let Lasting { stdio, refusal, .. } = lasting;
    for run_number in 1..=RUNS_MAX {
        let transaction = Transaction::new(host.state.clone(), plugin.runtime.limits());
        let key_value = KeyValue::new(plugin.name.clone(), plugin.grants.clone(), transaction);
        let gate = OutputGate::new(
            host.egress.clone(),
            Arc::new(key_value.clone()),
            refusal.clone(),
            lasting.given_up.clone(),
        );
        let guest = run(plugin, op, call, lasting, &key_value, &gate);
        let end = match until_ended(guest, &gate).await {
            Ok(Ok(answer)) => Some(outcome(op, answer, plugin)),
            Ok(Err(error)) => Some(unknown(error, stdio, plugin)),
            Err(held @ End::Denied(_)) => return unknown(held.to_string(), stdio, plugin),
            Err(End::Stale) => None,
        };
        match end {
            None => {}
            Some(Outcome::Ended { verdict: Verdict::Succeeded { output }, .. }) => {
                return Outcome::Ended {
                    verdict: Verdict::Succeeded { output },
                    effects: key_value.transaction().effects(),
                };
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
        debug!(plugin = plugin.name(), %gid, %branch, "what the attempt has read has changed: it runs again");
        stdio.begin_again();
        refusal.clear();
        yield_now().await;
    }
    Outcome::Stale
}

/// What a guest comes to by itself, unless the gate ends the attempt: then its guest is dropped as it is.
async fn until_ended<T>(guest: impl Future<Output = T>, gate: &OutputGate) -> Result<T, End> {
    let answer = tokio::select! {
        biased;
        end = gate.ended() => return Err(end),
        answer = guest => answer,
    };
    // It may have ended while the guest was answering without waiting for its request. The guest is gone, so from now
    // on it cannot.
    gate.end().map_or(Ok(answer), Err)
}

/// Runs the guest once; an error is a text that names what it broke.
async fn run(
    plugin: &Arc<Plugin>,
    op: Op,
    call: &Call,
    Lasting { stdio, cpu_meter, .. }: &Lasting,
    key_value: &KeyValue,
    gate: &OutputGate,
) -> Result<Answer, String> {
    let runtime = &plugin.runtime;
    let identity = Identity { saga: call.saga.clone(), branch_op: call.branch_op, attempt: call.attempt };
    let outgoing = Outgoing::new(plugin.clone(), identity, gate.clone(), stdio.clone());
    let mut store = runtime.store(Parts {
        stdio: stdio.clone(),
        key_value: key_value.clone(),
        outgoing,
        cpu_meter: cpu_meter.clone(),
    });
    let answer = call_guest(plugin, op, call, &mut store).await;
    answer.map_err(|error| {
        // With the guest's own functions, as far as the component names them.
        let (gid, branch) = (call.saga.gid(), call.branch_id());
        debug!(plugin = plugin.name(), %gid, %branch, "{}", stdio::escape(&format!("{error:?}")));
        explain(&error, store.data().meter.denied(), runtime.limits())
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

/// The contract's answers in the engine's words.
fn outcome(op: Op, answer: Answer, plugin: &Plugin) -> Outcome {
    match (answer, op) {
        (Ok(output), _) => succeeded(output, plugin),
        (Err(Failure::Rejected(reason)), Op::Action) => Outcome::rejected(text(&reason, plugin)),
        (Err(Failure::Rejected(reason)), Op::Compensate) => {
            let error = format!("cancel answered `rejected`, but a compensation never fails: {reason}");
            Outcome::unknown(text(&error, plugin))
        }
        (Err(Failure::Ongoing(ms)), _) => Outcome::ongoing(ms.map(|ms| Duration::from_millis(ms.into()))),
        (Err(Failure::Unavailable(error)), _) => Outcome::unknown(text(&error, plugin)),
    }
}

fn succeeded(output: Option<String>, plugin: &Plugin) -> Outcome {
    let limits = plugin.runtime.limits();
    let output = output.filter(|text| !text.is_empty());
    if let Some(text) = &output {
        if text.len() > limits.output_bytes {
            let (bytes, limit) = (text.len(), limits.output_bytes);
            return Outcome::unknown(format!("its output has {bytes} bytes, over {limit} (output_bytes)"));
        }
        if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
            return Outcome::unknown(format!("its output is not JSON: {error}"));
        }
        if let Some(key) = plugin.grants.revealed_by(text) {
            let error = format!("its output holds the secret {key:?}, and outputs are stored and shown: leave it out");
            return Outcome::unknown(error);
        }
    }
    Outcome::succeeded(output)
}

/// `asked`: what the saga would have given it.
fn timed_out(limit: Duration, asked: Duration) -> String {
    let setting = if limit < asked { "attempt_timeout" } else { "request_timeout" };
    format!("gave no answer within {limit:?}, the time limit of an attempt ({setting})")
}

/// An error of the host, followed by what the guest last wrote to standard error: there languages put what led to a
/// trap.
fn unknown(error: String, stdio: &Stdio, plugin: &Plugin) -> Outcome {
    let error = match stdio.last_errors() {
        lines if lines.is_empty() => error,
        lines => format!("{error}; it wrote: {lines}"),
    };
    Outcome::unknown(text(&error, plugin))
}

/// Names the limit that a guest broke, if it broke one.
pub fn explain(error: &wasmtime::Error, denied: Option<Denied>, limits: &Limits) -> String {
    if let Some(I32Exit(code)) = error.downcast_ref() {
        return format!("ended itself with exit code {code} instead of returning");
    }
    if let Some(Trap::StackOverflow) = error.downcast_ref() {
        return format!("recursed too deeply for its stack of {} bytes (stack_bytes)", limits.stack_bytes);
    }
    match denied {
        Some(Denied::Memory) => {
            return format!("needed more than {} bytes of memory (memory_bytes)", limits.memory_bytes);
        }
        Some(Denied::Table) => {
            return format!("needed a table of more than {} elements (table_elements)", limits.table_elements);
        }
        None => {}
    }
    if let Some(ResourceTableError::Full) = error.downcast_ref() {
        return format!("held more than {} handles at once (handles)", limits.handles);
    }
    if let Some(fault) = error.downcast_ref::<Fault>() {
        return format!("{}: {}", fault, error.root_cause());
    }
    let cause = error.root_cause().to_string();
    // The engine's error for it has no public type.
    if cause.contains("fuel allocated for hostcalls") {
        return format!("handed more than {} bytes to the host in one call (hostcall_bytes)", limits.hostcall_bytes);
    }
    format!("trapped: {}", stdio::escape(&cause))
}

/// A text for people: without secrets, and no longer than it may be.
fn text(text: &str, plugin: &Plugin) -> String {
    plugin.grants.shown(text, plugin.runtime.limits().text_bytes)
}
