//! A saga's log as text, one line an event: for the API, golden tests and bug reports.

use std::fmt::{self, Write};

use crate::{
    definition::{BranchId, Definition},
    event::{AbortReason, Event, Failure},
    pins::{Pin, Pins},
    state::{IllegalEvent, Saga},
};

/// How many hexadecimal digits of a component's digest are shown: enough to tell versions apart.
const DIGEST_DIGITS: usize = 12;

/// Renders a saga's log; every line starts with the milliseconds since its creation.
pub fn log(definition: &std::sync::Arc<Definition>, events: &[Event]) -> Result<String, IllegalEvent> {
    let mut text = String::new();
    let mut saga = Saga::new(definition.clone());
    // Writing to a String cannot fail.
    let _ = writeln!(text, "saga {} with {} steps", definition.gid(), definition.steps().len());
    for event in events {
        let was = saga.status();
        saga.apply(event)?;
        let elapsed = definition.created_at().until(event.at()).as_millis();
        let _ = write!(text, "{elapsed:>8} ms  {}", Line(event));
        if saga.status() != was {
            let _ = write!(text, "  -> {}", saga.status().as_str());
        }
        text.push('\n');
    }
    Ok(text)
}

struct Line<'a>(&'a Event);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(branch_op) = self.0.branch_op() {
            write!(f, "{} {:<10} ", BranchId(branch_op.step), branch_op.op.as_str())?;
        }
        match self.0 {
            Event::Submitted { .. } => f.write_str("submitted"),
            Event::Started { .. } => f.write_str("started"),
            Event::Succeeded { output: Some(output), .. } => write!(f, "succeeded: {output}"),
            Event::Succeeded { output: None, .. } => f.write_str("succeeded"),
            Event::Rejected { reason, .. } => write!(f, "rejected: {reason}"),
            Event::Failed { failure, retry_at, at, .. } => {
                let wait = at.until(*retry_at).as_millis();
                match failure {
                    Failure::Ongoing => write!(f, "ongoing, asked again in {wait} ms"),
                    Failure::Unknown { error } => write!(f, "failed, tried again in {wait} ms: {error}"),
                }
            }
            Event::Skipped { .. } => f.write_str("not needed: the action had no effect"),
            Event::Aborted { reason: AbortReason::Timeout, .. } => f.write_str("timeout_to_fail ran out"),
            Event::Aborted { reason: AbortReason::RetryLimit, .. } => f.write_str("more failures than retry_limit"),
            Event::ForceStopped { .. } => f.write_str("stopped by force, nothing more is called"),
            Event::RetryRequested { .. } => f.write_str("retries asked for now"),
            Event::Retried { attempts: 0, retry_at, at, .. } => {
                f.write_str("the clock went back before this")?;
                let wait = retry_at.map(|retry_at| at.until(retry_at).as_millis());
                wait.map_or(Ok(()), |wait| write!(f, ", tried again in {wait} ms"))
            }
            Event::Retried { attempts, failures, last_error, .. } => {
                write!(f, "tried {attempts} times, {failures} times with an unknown result")?;
                last_error.as_ref().map_or(Ok(()), |error| write!(f, ", the last: {error}"))
            }
            Event::Pinned { pins, .. } => pinned(f, pins),
        }
    }
}

fn pinned(f: &mut fmt::Formatter<'_>, pins: &Pins) -> fmt::Result {
    f.write_str("pinned to")?;
    pins.components().iter().try_for_each(|Pin { plugin, digest }| {
        let digest = digest.to_string();
        write!(f, " {plugin}@{}", digest.get(..DIGEST_DIGITS).unwrap_or(&digest))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{BranchOp, Digest, Gid, Op, Options, Order, Step, Timestamp};

    #[test]
    fn a_log_names_the_versions_of_its_components() {
        let step = Step { action: "wasm://a/try".into(), compensation: String::new(), payload: "".into() };
        let (gid, order, options) = (Gid::new("g").unwrap(), Order::default(), Options::default());
        let definition = Arc::new(Definition::new(gid, vec![step], order, options, Timestamp(0)).unwrap());
        let mut pins = Pins::default();
        for (step, plugin) in ["a", "b"].into_iter().enumerate() {
            pins.set(BranchOp { step, op: Op::Action }, Pin { plugin: plugin.into(), digest: Digest([0xab; 32]) });
        }
        let events = [Event::Pinned { pins, at: Timestamp(0) }, Event::Submitted { at: Timestamp(5) }];
        let wanted = "saga g with 1 steps\n       0 ms  pinned to a@abababababab b@abababababab\n       \
                      5 ms  submitted  -> submitted\n";
        assert_eq!(log(&definition, &events).unwrap(), wanted);
    }
}
