//! Runs the plugin as the one step of a saga, without a host.

use std::{
    error::Error,
    fmt,
    fmt::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};

use super::{arguments::Trial, lines::Lines, memory::Memory};
use crate::{
    branch::{Call, Containment, Egress, EgressDenied, EgressRequest, Host, Outcome, Reply},
    plugin::{self, Plugin, Runtime, Settings, grants::containment::Classification},
    saga::{BranchOp, Definition, Gid, Op, Options, Order, Step, Timestamp, Verdict},
    store::Batch,
};

/// Longest time of one attempt: the default of a host.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The plugin as the step of a saga.
pub struct Branch {
    plugin: Arc<Plugin>,
    saga: Arc<Definition>,
    lines: Lines,
    egress: Arc<NoEgress>,
}

impl Branch {
    /// Loads the plugin, with the grants of this name.
    pub fn new(settings: &Settings, trial: &Trial, name: &str, lines: &Lines) -> Result<Self, Box<dyn Error>> {
        let plugin = load(settings, &trial.file, name)?;
        let target = |function: &str| format!("wasm://{name}/{function}");
        let payload = trial.payload.clone().into();
        let step = Step { action: target("try"), compensation: target("cancel"), payload };
        let gid = Gid::new("plugin-test")?;
        let saga = Definition::new(gid, vec![step], Order::default(), Options::default(), Timestamp(0))?;
        let egress = NoEgress { reply: trial.answer.clone(), lines: lines.clone(), has_denied: AtomicBool::default() };
        Ok(Self { plugin, saga: Arc::new(saga), lines: lines.clone(), egress: Arc::new(egress) })
    }

    /// Whether the plugin is contained, and why.
    pub fn classification(&self) -> &Classification {
        self.plugin.classification()
    }

    /// Whether no attempt can have an effect outside the host.
    pub fn is_contained(&self) -> bool {
        self.classification().containment == Containment::Contained
    }

    /// Whether a request was denied because no response is given for it.
    pub fn was_denied(&self) -> bool {
        self.egress.has_denied.load(Relaxed)
    }

    /// Makes one attempt. Commits its effects to `memory` if it succeeds, as a host does.
    pub async fn run(&self, op: Op, attempt: u32, tried: Option<&str>, memory: &Memory) -> Ended {
        let call = Call {
            saga: self.saga.clone(),
            branch_op: BranchOp { step: 0, op },
            attempt,
            results: Arc::default(),
            tried: tried.map(Into::into),
            timeout: TIMEOUT,
        };
        let host =
            Host { state: Arc::new(memory.clone()), egress: Some(self.egress.clone()), is_dry_run: false, place: None };
        let reads = memory.reads();
        let outcome = self.plugin.operation(op).call(&call, &host).await;
        let mut uses_store = memory.reads() > reads;
        if let Outcome::Ended { verdict: Verdict::Succeeded { .. }, effects } = &outcome {
            uses_store |= !effects.is_empty();
            memory.commit(effects);
        }
        Ended { outcome, uses_store, lines: self.lines.take() }
    }
}

fn load(settings: &Settings, file: &Path, name: &str) -> Result<Arc<Plugin>, Box<dyn Error>> {
    let runtime = Runtime::new(settings)?;
    let loaded = plugin::read(file, runtime.limits()).and_then(|bytes| Plugin::load(&runtime, name, &bytes));
    Ok(loaded.map_err(|fault| format!("{} is not a plugin: {fault}", file.display()))?)
}

/// Prints requests instead of sending them.
struct NoEgress {
    reply: Option<Reply>,
    lines: Lines,
    has_denied: AtomicBool,
}

impl Egress for NoEgress {
    fn request(&self, EgressRequest { what }: EgressRequest) -> BoxFuture<'_, Result<(), EgressDenied>> {
        async move {
            if let Some(Reply { status, .. }) = &self.reply {
                self.lines.push(format!("ASKED {what}; answered {}, and not sent", status.as_u16()));
                return Ok(());
            }
            self.has_denied.store(true, Relaxed);
            Err(EgressDenied(format!("it would ask for {what}, and this test makes no requests")))
        }
        .boxed()
    }

    fn reply(&self) -> Option<Reply> {
        self.reply.clone()
    }
}

/// A finished attempt.
pub struct Ended {
    pub outcome: Outcome,
    /// Whether the attempt has read or written a key.
    pub uses_store: bool,
    /// The lines that the guest has written, and its requests.
    pub lines: Vec<String>,
}

impl Ended {
    /// Whether the attempt succeeded.
    pub fn has_succeeded(&self) -> bool {
        self.outcome.has_succeeded()
    }

    /// Whether it took effect or was rejected.
    pub fn is_decided(&self) -> bool {
        matches!(self.outcome, Outcome::Ended { verdict: Verdict::Succeeded { .. } | Verdict::Rejected { .. }, .. })
    }

    /// The output, if the attempt succeeded and has one.
    pub fn output(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Ended { verdict: Verdict::Succeeded { output }, .. } => output.as_deref(),
            _ => None,
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::Ended { verdict: Verdict::Succeeded { output }, effects } => {
                let output = output.as_deref().unwrap_or("no output");
                write!(f, "succeeded, {output}{}", changes(effects))
            }
            Outcome::Ended { verdict: Verdict::Rejected { reason }, .. } => write!(f, "rejected: {reason}"),
            Outcome::Ended { verdict: Verdict::Ongoing { .. }, .. } => f.write_str("ongoing"),
            Outcome::Ended { verdict: Verdict::Unknown { error }, .. } => write!(f, "unavailable: {error}"),
            // Does not occur: nothing else changes the data.
            Outcome::Stale => f.write_str("stale"),
        }
    }
}

/// The writes of an attempt, as text.
fn changes(effects: &Batch) -> String {
    let mut text = String::new();
    for (key, value) in effects.writes() {
        let Some(plugin::keyvalue_keys::Place { bucket, key, .. }) = plugin::keyvalue_keys::place(key) else {
            continue;
        };
        // Writing to a string does not fail.
        let _ = match value {
            Some(value) => write!(text, "; {bucket}/{key} is now {}", String::from_utf8_lossy(value)),
            None => write!(text, "; {bucket}/{key} is deleted"),
        };
    }
    text
}
