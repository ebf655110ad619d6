//! From the end of a guest to the outcome of the attempt, with error texts that name the broken limit.

use std::time::Duration;

use serde::de::IgnoredAny;
use wasmtime::{Trap, component::ResourceTableError};
use wasmtime_wasi::I32Exit;

use crate::{
    branch::Outcome,
    plugin::{
        component::plugin::Plugin,
        contract::Failure,
        imports::{stdio::Stdio, transaction::Fault},
        limits::{DeniedGrowth, Limits},
    },
    saga::{Op, Verdict, text::escape},
};

/// How deep an output may be nested, in arrays and objects: what common JSON decoders accept, `serde_json` among them.
const NESTING_MAX: usize = 127;

/// A guest's answer: the output of `try`, nothing for `cancel`.
pub type Answer = Result<Option<String>, Failure>;

/// The outcome of an answer, without effects.
pub fn outcome(op: Op, answer: Answer, plugin: &Plugin) -> Outcome {
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
    let limit = plugin.policy.limits.output_bytes;
    let output = output.filter(|text| !text.is_empty());
    if let Some(text) = &output {
        if text.len() > limit {
            let bytes = text.len();
            return Outcome::unknown(format!("its output has {bytes} bytes, over {limit} (output_bytes)"));
        }
        if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
            return Outcome::unknown(format!("its output is not JSON: {error}"));
        }
        let levels = nesting(text);
        if levels > NESTING_MAX {
            let error = format!("its output is nested {levels} levels deep, over {NESTING_MAX}, which few could read");
            return Outcome::unknown(error);
        }
        if let Some(key) = plugin.policy.grants.revealed_by(text) {
            let error = format!("its output holds the secret {key:?}, and outputs are stored and shown: leave it out");
            return Outcome::unknown(error);
        }
    }
    Outcome::succeeded(output)
}

/// The most arrays and objects of a JSON text that are within each other.
fn nesting(json: &str) -> usize {
    let (mut level, mut deepest) = (0_usize, 0);
    let (mut is_text, mut is_escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => is_text = !is_text,
            b'[' | b'{' if !is_text => {
                level += 1;
                deepest = deepest.max(level);
            }
            b']' | b'}' if !is_text => level = level.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// The outcome of an error of the host. It ends with the guest's last lines of standard error, where languages write the
/// cause of a trap.
pub fn unknown(error: String, stdio: &Stdio, plugin: &Plugin) -> Outcome {
    Outcome::unknown(text(&with_last_errors(error, stdio), plugin))
}

/// Adds the guest's last lines of standard error to an error text.
pub fn with_last_errors(error: String, stdio: &Stdio) -> String {
    match stdio.last_errors() {
        lines if lines.is_empty() => error,
        lines => format!("{error}; it wrote: {lines}"),
    }
}

/// Adds the last request that was refused or has failed to an error: to its beginning, as a long text is cut at its end.
pub fn with_refusal(outcome: Outcome, refusal: Option<String>, plugin: &Plugin) -> Outcome {
    match (outcome, refusal) {
        (Outcome::Ended { verdict: Verdict::Unknown { error }, .. }, Some(refusal)) => {
            Outcome::unknown(text(&format!("{refusal}; {error}"), plugin))
        }
        (outcome, _) => outcome,
    }
}

/// The error of an attempt that took longer than `limit`; `requested` is the time limit of the saga.
pub fn timed_out(limit: Duration, requested: Duration) -> String {
    let setting = if limit < requested { "attempt_timeout" } else { "request_timeout" };
    format!("gave no answer within {limit:?}, the time limit of an attempt ({setting})")
}

/// The text of a guest's error. Names the limit that the guest broke, if it broke one.
pub fn explain(error: &wasmtime::Error, denied: Option<DeniedGrowth>, limits: &Limits) -> String {
    if let Some(I32Exit(code)) = error.downcast_ref() {
        return format!("ended itself with exit code {code} instead of returning");
    }
    if let Some(Trap::StackOverflow) = error.downcast_ref() {
        return format!("recursed too deeply for its stack of {} bytes (stack_bytes)", limits.stack_bytes);
    }
    match denied {
        Some(DeniedGrowth::Memory) => {
            return format!("needed more than {} bytes of memory (memory_bytes)", limits.memory_bytes);
        }
        Some(DeniedGrowth::Host) => {
            return "the host has no memory left for guests ([memory] budget_bytes): it is called again".to_owned();
        }
        Some(DeniedGrowth::Table) => {
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
    // The engine's error for this limit has no public type.
    if cause.contains("fuel allocated for hostcalls") {
        return format!("handed more than {} bytes to the host in one call (hostcall_bytes)", limits.hostcall_bytes);
    }
    format!("trapped: {}", escape(&cause))
}

/// A text as people may see it: without secrets, and within the limit.
fn text(text: &str, plugin: &Plugin) -> String {
    plugin.policy.grants.shown(text, plugin.policy.limits.text_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_count_outside_of_texts() {
        for (json, levels) in [
            ("1", 0),
            ("[]", 1),
            (r#"{"a":[{}],"b":[]}"#, 3),
            (r#"["[[[", "\"[[", "\\", [1]]"#, 2),
            (r#"{"[{":"{{"}"#, 1),
        ] {
            assert_eq!(nesting(json), levels, "{json}");
        }
    }
}
