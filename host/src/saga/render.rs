//! The log of a saga as people read it: one line an event. Serves the API, golden tests and bug reports alike.

use std::fmt::{self, Write};

use super::{AbortReason, BranchId, Definition, Event, Failure, IllegalEvent, Saga};

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
        if let Some(slot) = self.0.slot() {
            write!(f, "{} {:<10} ", BranchId(slot.step), slot.op.as_str())?;
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
            Event::Hastened { .. } => f.write_str("retries asked for now"),
            Event::Retried { attempts, failures, last_error, .. } => {
                write!(f, "tried {attempts} times, {failures} times with an unknown result")?;
                last_error.as_ref().map_or(Ok(()), |error| write!(f, ", the last: {error}"))
            }
        }
    }
}
