//! `wasaga plugin test`: what a branch does in all the ways in which it can be called, without a server.
//!
//! A host never runs a contained attempt twice to an effect, and cancels only what took effect; a branch that asks
//! others for something over HTTP has no such luxury. Whoever wrote it wants to know what it makes of both.

mod branch;
mod lines;
mod memory;

use std::{error::Error, path::PathBuf};

use clap::Args;
use http::StatusCode;

use self::{
    branch::{Branch, Ended},
    lines::Lines,
    memory::{Data, Memory},
};
use super::{Verdict, name_of, print::say};
use crate::{
    branch::Reply,
    plugin::{Limits, Settings},
    saga::Op,
};

/// What is tried, and how.
#[derive(Debug, Args)]
pub struct Trial {
    /// The component, NAME.wasm
    file: PathBuf,
    /// Name of the plugin, which grants and settings are for [default: that of the file]
    #[arg(long)]
    name: Option<String>,
    /// What the step is given: a payload that try accepts
    #[arg(long, value_name = "JSON", default_value = "{}")]
    payload: String,
    /// What every request that it is granted is answered; nothing is sent
    #[arg(long, value_name = "STATUS[:BODY]", value_parser = reply)]
    answer: Option<Reply>,
    /// Let cancel leave data behind, where that is meant
    #[arg(long)]
    allow_leftovers: bool,
}

/// Reads `404` or `200:{"id": 7}`.
fn reply(text: &str) -> Result<Reply, String> {
    let (status, body) = text.split_once(':').unwrap_or((text, ""));
    let status = status.parse().ok().filter(|status| (200..600).contains(status));
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.ok_or("a status from 200 to 599 is needed, and may be followed by a colon and a body")?;
    Ok(Reply { status, body: body.to_owned().into() })
}

/// Runs all trials and prints what was seen.
pub async fn run(settings: &Settings, trial: &Trial) -> Result<Verdict, Box<dyn Error>> {
    let name = name_of(&trial.file, trial.name.as_deref())?;
    let lines = Lines::default();
    lines.listen();
    let branch = Branch::new(settings, trial, name, &lines)?;
    let reach = if branch.is_contained() { "contained" } else { "external" };
    let reason = &branch.classification().reason;
    say(format_args!("{name} is {reach}: it {reason} (settings of this name: [plugins.grants.{name}])"));
    let mut trials = Trials { branch, allow_leftovers: trial.allow_leftovers, failed: 0, notes: 0 };
    if !trials.twice().await {
        let mend = if trials.branch.was_held() {
            HELD
        } else {
            "try does not succeed with this payload, so there is nothing more to see: give one that it accepts, --payload"
        };
        say(format_args!("\n{mend}"));
        return Ok(Verdict::Bad);
    }
    trials.cancelled().await;
    trials.cancelled_without_try().await;
    trials.cancelled_after_lost_try().await;
    // Every operation on a key is one too many, and the guest is told so.
    let limits = Limits { kv_operations: 0, ..settings.limits.clone() };
    let faulty = Settings { limits, ..settings.clone() };
    trials.without_store(&Branch::new(&faulty, trial, name, &lines)?).await;
    Ok(trials.verdict())
}

/// What helps who wants to try a plugin that sends requests.
const HELD: &str = "It asks others for something, and this test makes no requests: say what they would answer, as in \
                    --answer 200 or --answer '200:{\"id\": 7}'. What a whole saga would do up to its first request, \
                    `POST /api/v1/sagas/plan` of a running host says, which sends nothing either.";

struct Trials {
    branch: Branch,
    allow_leftovers: bool,
    failed: u32,
    notes: u32,
}

impl Trials {
    /// Whether `try` succeeds at all.
    async fn twice(&mut self) -> bool {
        title("try, and try again: a repetition must do no harm");
        let memory = Memory::default();
        let first = self.branch.run(Op::Action, 1, None, &memory).await;
        show("try", &first);
        if !first.has_succeeded() {
            return false;
        }
        let before = memory.data();
        let second = self.branch.run(Op::Action, 2, None, &memory).await;
        show("try again", &second);
        let is_same = memory.data() == before && second.output() == first.output();
        let otherwise = if self.branch.is_contained() {
            "it differs: fine while it is contained, for one counts then"
        } else {
            self.must(second.has_succeeded(), "a repetition must succeed as well");
            "it differs: have the second find what the first did, by the call's idempotency-key"
        };
        self.note(is_same, "the second changes nothing more", otherwise);
        true
    }

    async fn cancelled(&mut self) {
        title("try, cancel, and cancel again: all is as before");
        let memory = Memory::default();
        let tried = self.branch.run(Op::Action, 1, None, &memory).await;
        let output = tried.output().unwrap_or_default().to_owned();
        let first = self.branch.run(Op::Compensate, 1, Some(&output), &memory).await;
        show("cancel", &first);
        self.must(first.has_succeeded(), "cancel must succeed after a try that did");
        let is_undone = memory.data() == Data::default();
        if is_undone || self.allow_leftovers || !self.branch.is_contained() {
            self.note(is_undone, "all data is as before try", "data stays behind");
        } else {
            self.must(false, "data stays behind: cancel must take back what try did (meant so? --allow-leftovers)");
        }
        let before = memory.data();
        let second = self.branch.run(Op::Compensate, 2, Some(&output), &memory).await;
        show("cancel again", &second);
        self.must(second.has_succeeded(), "a repetition of cancel must succeed as well");
        let otherwise = if self.branch.is_contained() {
            "the second takes back more: fine while it is contained, for one counts then"
        } else {
            "the second takes back what is not its own"
        };
        self.note(memory.data() == before, "the second changes nothing more", otherwise);
    }

    async fn cancelled_without_try(&mut self) {
        title("cancel without try: there is nothing to take back, and cancel is not told");
        let memory = Memory::default();
        let cancelled = self.branch.run(Op::Compensate, 1, None, &memory).await;
        show("cancel", &cancelled);
        self.must(cancelled.has_succeeded(), "cancel must succeed where there is nothing to take back");
        self.must(memory.data() == Data::default(), "cancel must change nothing where there is nothing to take back");
    }

    async fn cancelled_after_lost_try(&mut self) {
        title("try, whose answer is lost, and cancel: it is not told that try succeeded");
        let memory = Memory::default();
        self.branch.run(Op::Action, 1, None, &memory).await;
        let cancelled = self.branch.run(Op::Compensate, 1, None, &memory).await;
        show("cancel", &cancelled);
        self.must(cancelled.has_succeeded(), "cancel must succeed whether try did or not");
        let otherwise = if self.branch.is_contained() {
            "data stays behind: for a contained branch the host always knows, so this does not happen"
        } else {
            "data stays behind: have cancel look for what try did"
        };
        self.note(memory.data() == Data::default(), "all data is as before try", otherwise);
    }

    async fn without_store(&mut self, faulty: &Branch) {
        title("try and cancel while the key-value store answers with errors: nobody may take them for a decision");
        // On what is there before each: a second `try` may be rejected whatever the store does.
        let (before, tried) = (Memory::default(), Memory::default());
        let output = self.branch.run(Op::Action, 1, None, &tried).await.output().unwrap_or_default().to_owned();
        for (name, op, output, memory) in
            [("try", Op::Action, None, before), ("cancel", Op::Compensate, Some(&*output), tried)]
        {
            let usual = self.branch.run(op, 1, output, &memory.copy()).await;
            let ended = faulty.run(op, 1, output, &memory).await;
            show(name, &ended);
            if usual.uses_store {
                let is_open = !ended.is_decided();
                self.must(is_open, "an error of the store must become `unavailable`, or a trap");
            } else {
                say("  ok    it uses no store");
            }
        }
    }

    fn must(&mut self, is_so: bool, what: &str) {
        if !is_so {
            self.failed += 1;
            say(format_args!("  FAIL  {what}"));
        }
    }

    /// What is worth knowing and no mistake for certain.
    fn note(&mut self, is_good: bool, good: &str, otherwise: &str) {
        if is_good {
            say(format_args!("  ok    {good}"));
        } else {
            self.notes += 1;
            say(format_args!("  note  {otherwise}"));
        }
    }

    fn verdict(&self) -> Verdict {
        if self.branch.was_held() {
            say(format_args!("\n{HELD}"));
        }
        match (self.failed, self.notes) {
            (0, 0) => say("\nNothing wrong was seen."),
            (0, notes) => {
                say(format_args!("\nNothing wrong was seen; lines that begin with `note`: {notes}, look at them."));
            }
            (failed, _) => say(format_args!("\n{failed} of the above must not be so.")),
        }
        if self.failed == 0 { Verdict::Good } else { Verdict::Bad }
    }
}

fn title(text: &str) {
    say(format_args!("\n{text}"));
}

/// What came of a call, and under it what the guest wrote meanwhile.
fn show(name: &str, ended: &Ended) {
    say(format_args!("        {name}: {ended}"));
    for line in &ended.lines {
        say(format_args!("          {line}"));
    }
}
