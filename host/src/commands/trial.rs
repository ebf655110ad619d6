//! `wasaga plugin test`: what a branch does in all the ways in which it can be called, without a server.
//!
//! A host never runs a contained attempt twice to an effect, and cancels only what took effect; a branch that asks
//! others for something over HTTP has no such luxury. Whoever wrote it wants to know what it makes of both.

mod memory;

use std::{error::Error, fmt, fmt::Write as _, path::Path, sync::Arc, time::Duration};

use futures_util::{FutureExt as _, future::BoxFuture};

use self::memory::{Data, Memory};
use super::Verdict;
use crate::{
    branch::{Call, Departure, Exit, Held, Outcome, Reach},
    plugin::{self, Limits, Plugin, Runtime, Settings},
    saga::{Definition, Gid, Op, Options, Order, Slot, Step, Timestamp},
};

/// How long one attempt may take: a host's own default, when the saga does not say.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Runs all trials and prints what was seen.
pub async fn run(settings: &Settings, file: &Path, payload: &str) -> Result<Verdict, Box<dyn Error>> {
    let mut trials = Trials { branch: Branch::new(load(settings, file)?, payload)?, failed: 0 };
    if !trials.twice().await {
        println!(
            "\ntry does not succeed with this payload, so there is nothing more to see: give one that it accepts, --payload"
        );
        return Ok(Verdict::Bad);
    }
    trials.cancelled().await;
    trials.cancelled_without_try().await;
    trials.cancelled_after_lost_try().await;
    // Every operation on a key is one too many, and the guest is told so.
    let limits = Limits { kv_operations: 0, ..settings.limits.clone() };
    let faulty = load(&Settings { limits, ..settings.clone() }, file)?;
    trials.without_store(&Branch::new(faulty, payload)?).await;
    if trials.failed == 0 {
        println!("\nNothing wrong was seen.");
        return Ok(Verdict::Good);
    }
    println!("\n{} of the above must not be so.", trials.failed);
    Ok(Verdict::Bad)
}

fn load(settings: &Settings, file: &Path) -> Result<Arc<Plugin>, Box<dyn Error>> {
    let runtime = Runtime::new(settings)?;
    let loaded =
        plugin::read(file, runtime.limits()).and_then(|bytes| Plugin::load(&runtime, plugin::name(file)?, &bytes));
    Ok(loaded.map_err(|fault| format!("{} is no plugin: {fault}", file.display()))?)
}

struct Trials {
    branch: Branch,
    failed: u32,
}

impl Trials {
    /// Whether `try` succeeds at all.
    async fn twice(&mut self) -> bool {
        title("try, and try again: a repetition must do no harm");
        let memory = Memory::default();
        let first = self.branch.run(Op::Action, 1, None, &memory).await;
        say("try", &first);
        if !first.has_succeeded() {
            return false;
        }
        let before = memory.data();
        let second = self.branch.run(Op::Action, 2, None, &memory).await;
        say("try again", &second);
        let is_same = memory.data() == before && second.output() == first.output();
        if self.branch.is_contained() {
            note(
                is_same,
                "the second changes nothing more",
                "it differs: fine while it is contained, for one counts then",
            );
        } else {
            self.must(second.has_succeeded(), "a repetition must succeed as well");
            let otherwise = "it differs: have the second find what the first did, by the call's idempotency-key";
            note(is_same, "the second changes nothing more", otherwise);
        }
        true
    }

    async fn cancelled(&mut self) {
        title("try, cancel, and cancel again: all is as before");
        let memory = Memory::default();
        let tried = self.branch.run(Op::Action, 1, None, &memory).await;
        let output = tried.output().unwrap_or_default().to_owned();
        let first = self.branch.run(Op::Compensate, 1, Some(&output), &memory).await;
        say("cancel", &first);
        self.must(first.has_succeeded(), "cancel must succeed after a try that did");
        note(memory.data() == Data::default(), "all data is as before try", "data stays behind");
        let before = memory.data();
        let second = self.branch.run(Op::Compensate, 2, Some(&output), &memory).await;
        say("cancel again", &second);
        self.must(second.has_succeeded(), "a repetition of cancel must succeed as well");
        let otherwise = if self.branch.is_contained() {
            "the second takes back more: fine while it is contained, for one counts then"
        } else {
            "the second takes back what is not its own"
        };
        note(memory.data() == before, "the second changes nothing more", otherwise);
    }

    async fn cancelled_without_try(&mut self) {
        title("cancel without try: there is nothing to take back, and cancel is not told");
        let memory = Memory::default();
        let cancelled = self.branch.run(Op::Compensate, 1, None, &memory).await;
        say("cancel", &cancelled);
        self.must(cancelled.has_succeeded(), "cancel must succeed where there is nothing to take back");
        self.must(memory.data() == Data::default(), "cancel must change nothing where there is nothing to take back");
    }

    async fn cancelled_after_lost_try(&mut self) {
        title("try, whose answer is lost, and cancel: it is not told that try succeeded");
        let memory = Memory::default();
        self.branch.run(Op::Action, 1, None, &memory).await;
        let cancelled = self.branch.run(Op::Compensate, 1, None, &memory).await;
        say("cancel", &cancelled);
        self.must(cancelled.has_succeeded(), "cancel must succeed whether try did or not");
        let contained = "data stays behind: for a contained branch the host always knows, so this does not happen";
        let external = "data stays behind: have cancel look for what try did";
        let is_contained = self.branch.is_contained();
        note(
            memory.data() == Data::default(),
            "all data is as before try",
            if is_contained { contained } else { external },
        );
    }

    async fn without_store(&mut self, faulty: &Branch) {
        title("try and cancel while the key-value store answers with errors: nobody may take them for a decision");
        let memory = Memory::default();
        let output = self.branch.run(Op::Action, 1, None, &memory).await.output().unwrap_or_default().to_owned();
        for (name, op, tried) in [("try", Op::Action, None), ("cancel", Op::Compensate, Some(&*output))] {
            let (for_one, for_other) = (memory.copy(), memory.copy());
            let usual = self.branch.run(op, 1, tried, &for_one).await;
            let ended = faulty.run(op, 1, tried, &for_other).await;
            say(name, &ended);
            if usual.uses_store() {
                let is_open = !matches!(ended.0, Outcome::Succeeded { .. } | Outcome::Rejected { .. });
                self.must(is_open, "an error of the store must become `unavailable`, or a trap");
            } else {
                println!("  ok    it uses no store");
            }
        }
    }

    fn must(&mut self, is_so: bool, what: &str) {
        if !is_so {
            self.failed += 1;
            println!("  FAIL  {what}");
        }
    }
}

fn title(text: &str) {
    println!("\n{text}");
}

fn say(name: &str, ended: &Ended) {
    println!("        {name}: {ended}");
}

/// What is worth knowing and no mistake for certain.
fn note(is_good: bool, good: &str, otherwise: &str) {
    if is_good { println!("  ok    {good}") } else { println!("  note  {otherwise}") }
}

/// A step that is carried out by the plugin.
struct Branch {
    plugin: Arc<Plugin>,
    saga: Arc<Definition>,
}

impl Branch {
    fn new(plugin: Arc<Plugin>, payload: &str) -> Result<Self, Box<dyn Error>> {
        let target = |function: &str| format!("wasm://{}/{function}", plugin.name());
        let payload = payload.to_owned().into();
        let step = Step { action: target("try"), compensation: target("cancel"), payload };
        let gid = Gid::new("plugin-test")?;
        let saga = Definition::new(gid, vec![step], Order::default(), Options::default(), Timestamp(0))?;
        Ok(Self { plugin, saga: Arc::new(saga) })
    }

    fn is_contained(&self) -> bool {
        self.plugin.judgement().reach == Reach::Contained
    }

    /// Makes one attempt; its effects are kept if it succeeds, as a host would keep them.
    async fn run(&self, op: Op, attempt: u32, tried: Option<&str>, memory: &Memory) -> Ended {
        let call = Call {
            saga: self.saga.clone(),
            slot: Slot { step: 0, op },
            attempt,
            results: Vec::new(),
            tried: tried.map(ToOwned::to_owned),
            timeout: TIMEOUT,
            state: Arc::new(memory.clone()),
            exit: Some(Arc::new(Closed)),
            is_rehearsal: false,
        };
        let outcome = self.plugin.operation(op).call(&call).await;
        if let Outcome::Succeeded { effects, .. } = &outcome {
            memory.commit(effects);
        }
        Ended(outcome)
    }
}

/// Nothing leaves, but people see what would.
struct Closed;

impl Exit for Closed {
    fn leave(&self, Departure { what }: Departure) -> BoxFuture<'_, Result<(), Held>> {
        async move { Err(Held(format!("it would ask for {what}, which this test does not do"))) }.boxed()
    }
}

struct Ended(Outcome);

impl Ended {
    fn has_succeeded(&self) -> bool {
        matches!(self.0, Outcome::Succeeded { .. })
    }

    fn uses_store(&self) -> bool {
        matches!(&self.0, Outcome::Succeeded { effects, .. } if !effects.is_empty())
    }

    fn output(&self) -> Option<&str> {
        match &self.0 {
            Outcome::Succeeded { output, .. } => output.as_deref(),
            _ => None,
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Outcome::Succeeded { output, effects } => {
                let output = output.as_deref().unwrap_or("no output");
                write!(f, "succeeded, {output}{}", changes(effects))
            }
            Outcome::Rejected { reason } => write!(f, "rejected: {reason}"),
            Outcome::Ongoing { .. } => f.write_str("ongoing"),
            Outcome::Unknown { error } => write!(f, "unavailable: {error}"),
            // Nobody else changes the data here.
            Outcome::Outdated => f.write_str("to be made again"),
        }
    }
}

/// What an attempt has written.
fn changes(effects: &crate::store::Batch) -> String {
    let mut text = String::new();
    for (key, value) in effects.writes() {
        let Some(plugin::data::Place { bucket, key, .. }) = plugin::data::place(key) else { continue };
        // Writing to a string does not fail.
        let _ = match value {
            Some(value) => write!(text, "; {bucket}/{key} is now {}", String::from_utf8_lossy(value)),
            None => write!(text, "; {bucket}/{key} is deleted"),
        };
    }
    text
}
