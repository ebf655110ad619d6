//! A step that is carried out by the plugin, without a host around it.

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

use super::{Trial, lines::Lines, memory::Memory};
use crate::{
    branch::{Call, Containment, Egress, EgressDenied, EgressRequest, Outcome, Reply},
    plugin::{self, Plugin, Runtime, Settings, grants::containment::Classification},
    saga::{BranchOp, Definition, Gid, Op, Options, Order, Step, Timestamp},
    store::Batch,
};

/// How long one attempt may take: a host's own default, when the saga does not say.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The plugin as a step of a saga, and the world around it.
pub struct Branch {
    plugin: Arc<Plugin>,
    saga: Arc<Definition>,
    lines: Lines,
    world: Arc<World>,
}

impl Branch {
    /// Loads the plugin under this name.
    pub fn new(settings: &Settings, trial: &Trial, name: &str, lines: &Lines) -> Result<Self, Box<dyn Error>> {
        let plugin = load(settings, &trial.file, name)?;
        let target = |function: &str| format!("wasm://{name}/{function}");
        let payload = trial.payload.clone().into();
        let step = Step { action: target("try"), compensation: target("cancel"), payload };
        let gid = Gid::new("plugin-test")?;
        let saga = Definition::new(gid, vec![step], Order::default(), Options::default(), Timestamp(0))?;
        let world = World { reply: trial.answer.clone(), lines: lines.clone(), has_held: AtomicBool::default() };
        Ok(Self { plugin, saga: Arc::new(saga), lines: lines.clone(), world: Arc::new(world) })
    }

    /// What it can do outside.
    pub fn classification(&self) -> &Classification {
        self.plugin.classification()
    }

    /// Whether nothing that it does can leave the host.
    pub fn is_contained(&self) -> bool {
        self.classification().containment == Containment::Contained
    }

    /// Whether it wanted to ask for something, and nobody has said what the answer is.
    pub fn was_held(&self) -> bool {
        self.world.has_held.load(Relaxed)
    }

    /// Makes one attempt; its effects are kept if it succeeds, as a host would keep them.
    pub async fn run(&self, op: Op, attempt: u32, tried: Option<&str>, memory: &Memory) -> Ended {
        let call = Call {
            saga: self.saga.clone(),
            branch_op: BranchOp { step: 0, op },
            attempt,
            results: Arc::default(),
            tried: tried.map(Into::into),
            timeout: TIMEOUT,
            state: Arc::new(memory.clone()),
            egress: Some(self.world.clone()),
            is_dry_run: false,
        };
        let reads = memory.reads();
        let outcome = self.plugin.operation(op).call(&call).await;
        let mut uses_store = memory.reads() > reads;
        if let Outcome::Succeeded { effects, .. } = &outcome {
            uses_store |= !effects.is_empty();
            memory.commit(effects);
        }
        Ended { outcome, uses_store, lines: self.lines.take() }
    }
}

fn load(settings: &Settings, file: &Path, name: &str) -> Result<Arc<Plugin>, Box<dyn Error>> {
    let runtime = Runtime::new(settings)?;
    let loaded = plugin::read(file, runtime.limits()).and_then(|bytes| Plugin::load(&runtime, name, &bytes));
    Ok(loaded.map_err(|fault| format!("{} is no plugin: {fault}", file.display()))?)
}

/// Nothing leaves, but people see what would.
struct World {
    reply: Option<Reply>,
    lines: Lines,
    has_held: AtomicBool,
}

impl Egress for World {
    fn request(&self, EgressRequest { what }: EgressRequest) -> BoxFuture<'_, Result<(), EgressDenied>> {
        async move {
            if let Some(Reply { status, .. }) = &self.reply {
                self.lines.push(format!("ASKED {what}; answered {}, and not sent", status.as_u16()));
                return Ok(());
            }
            self.has_held.store(true, Relaxed);
            Err(EgressDenied(format!("it would ask for {what}, and this test makes no requests")))
        }
        .boxed()
    }

    fn reply(&self) -> Option<Reply> {
        self.reply.clone()
    }
}

/// What came of an attempt.
pub struct Ended {
    /// Its end.
    pub outcome: Outcome,
    /// Whether it has read or written a key.
    pub uses_store: bool,
    /// What it has written and asked for.
    pub lines: Vec<String>,
}

impl Ended {
    /// Whether it took effect.
    pub fn has_succeeded(&self) -> bool {
        matches!(self.outcome, Outcome::Succeeded { .. })
    }

    /// What it gave, if it took effect and gave something.
    pub fn output(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Succeeded { output, .. } => output.as_deref(),
            _ => None,
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::Succeeded { output, effects } => {
                let output = output.as_deref().unwrap_or("no output");
                write!(f, "succeeded, {output}{}", changes(effects))
            }
            Outcome::Rejected { reason } => write!(f, "rejected: {reason}"),
            Outcome::Ongoing { .. } => f.write_str("ongoing"),
            Outcome::Unknown { error } => write!(f, "unavailable: {error}"),
            // Nobody else changes the data here.
            Outcome::Stale => f.write_str("to be made again"),
        }
    }
}

/// What an attempt has written.
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
