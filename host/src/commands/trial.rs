//! `wasaga plugin test`: calls a branch in all the ways that a host can call it, without a host.
//!
//! A contained branch never takes effect twice, and `cancel` is called only if `try` took effect. A branch that sends HTTP
//! requests has neither guarantee: it must handle repetitions, and `cancel` when the outcome of `try` is unknown. The
//! test makes both kinds of calls.

pub mod arguments;
mod branch;
mod lines;
mod memory;

use std::error::Error;

use self::{
    arguments::Trial,
    branch::{Branch, Ended},
    lines::Lines,
    memory::{Data, Memory},
};
use super::{name::name_of, print::say, verdict::Verdict};
use crate::{
    plugin::{Limits, Settings, grants::header},
    saga::Op,
};

/// Makes all calls and prints what they did.
pub async fn run(settings: &Settings, trial: &Trial) -> Result<Verdict, Box<dyn Error>> {
    let name = name_of(&trial.file, trial.name.as_deref())?;
    let lines = Lines::default();
    lines.listen();
    let branch = Branch::new(settings, trial, name, &lines)?;
    let reach = if branch.is_contained() { "contained" } else { "external" };
    let reason = &branch.classification().reason;
    say(format_args!("{name} is {reach}: it {reason} (settings of this name: {})", header(name)));
    let mut trials = Trials { branch, allow_leftovers: trial.allow_leftovers, failed: 0, notes: 0 };
    if !trials.twice().await {
        let advice = if trials.branch.was_denied() {
            REQUEST_DENIED
        } else {
            "try does not succeed with this payload, so the test ends here: give a payload that it accepts with --payload"
        };
        say(format_args!("\n{advice}"));
        return Ok(Verdict::Bad);
    }
    trials.cancelled().await;
    trials.cancelled_without_try().await;
    trials.cancelled_after_lost_try().await;
    // With a limit of 0, every operation of the key-value store returns an error.
    let limits = Limits { kv_operations: 0, ..settings.limits.clone() };
    let faulty = Settings { limits, ..settings.clone() };
    trials.without_store(&Branch::new(&faulty, trial, name, &lines)?).await;
    Ok(trials.verdict())
}

/// Advice for a plugin that sends requests.
const REQUEST_DENIED: &str = "It sends requests, and this test makes no requests: give the response that they would get, as in \
                    --answer 200 or --answer '200:{\"id\": 7}'. `POST /api/v1/sagas/plan` of a running host shows what a \
                    whole saga would do up to its first request, and sends nothing either.";

struct Trials {
    branch: Branch,
    allow_leftovers: bool,
    failed: u32,
    notes: u32,
}

impl Trials {
    /// Returns whether `try` succeeds at all.
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
            "it differs: harmless for a contained branch, of which only one attempt takes effect"
        } else {
            self.must(second.has_succeeded(), "a repetition must succeed as well");
            "it differs: let the second find what the first did, by the call's idempotency-key"
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
            self.must(
                false,
                "data stays behind: cancel must take back what try did (if it is meant to stay: --allow-leftovers)",
            );
        }
        let before = memory.data();
        let second = self.branch.run(Op::Compensate, 2, Some(&output), &memory).await;
        show("cancel again", &second);
        self.must(second.has_succeeded(), "a repetition of cancel must succeed as well");
        let otherwise = if self.branch.is_contained() {
            "the second takes back more: harmless for a contained branch, of which only one attempt takes effect"
        } else {
            "the second takes back more than try did"
        };
        self.note(memory.data() == before, "the second changes nothing more", otherwise);
    }

    async fn cancelled_without_try(&mut self) {
        title("cancel without try: there is nothing to take back, and cancel does not know");
        let memory = Memory::default();
        let cancelled = self.branch.run(Op::Compensate, 1, None, &memory).await;
        show("cancel", &cancelled);
        self.must(cancelled.has_succeeded(), "cancel must succeed where there is nothing to take back");
        self.must(memory.data() == Data::default(), "cancel must change nothing where there is nothing to take back");
    }

    async fn cancelled_after_lost_try(&mut self) {
        title("try, whose outcome is lost, and cancel, which does not know that try succeeded");
        let memory = Memory::default();
        self.branch.run(Op::Action, 1, None, &memory).await;
        let cancelled = self.branch.run(Op::Compensate, 1, None, &memory).await;
        show("cancel", &cancelled);
        self.must(cancelled.has_succeeded(), "cancel must succeed whether try did or not");
        let otherwise = if self.branch.is_contained() {
            "data stays behind: harmless for a contained branch, whose outcome the host always knows"
        } else {
            "data stays behind: let cancel look for what try did"
        };
        self.note(memory.data() == Data::default(), "all data is as before try", otherwise);
    }

    async fn without_store(&mut self, faulty: &Branch) {
        title("try and cancel while the key-value store returns errors, which must not become a decision");
        // Each starts with the data that it expects: a second `try` may be rejected whatever the store does.
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

    /// A finding that need not be a mistake.
    fn note(&mut self, is_good: bool, good: &str, otherwise: &str) {
        if is_good {
            say(format_args!("  ok    {good}"));
        } else {
            self.notes += 1;
            say(format_args!("  note  {otherwise}"));
        }
    }

    fn verdict(&self) -> Verdict {
        if self.branch.was_denied() {
            say(format_args!("\n{REQUEST_DENIED}"));
        }
        match (self.failed, self.notes) {
            (0, 0) => say("\nNothing wrong was seen."),
            (0, notes) => {
                say(format_args!("\nNothing wrong was seen. Lines that begin with `note`: {notes}; read them."));
            }
            (failed, _) => say(format_args!("\n{failed} of the above must not be so.")),
        }
        if self.failed == 0 { Verdict::Good } else { Verdict::Bad }
    }
}

fn title(text: &str) {
    say(format_args!("\n{text}"));
}

/// Prints the outcome of a call, and below it the lines that the guest wrote.
fn show(name: &str, ended: &Ended) {
    say(format_args!("        {name}: {ended}"));
    for line in &ended.lines {
        say(format_args!("          {line}"));
    }
}
