//! A saga's log as text, one line an event: for the API, golden tests and bug reports.
//!
//! Texts of branches stand at the end of a line, with their hidden characters escaped ([`text`](crate::text)): they begin no
//! line and move no cursor. The gid is quoted.

use std::{
    borrow::Cow,
    fmt::{self, Write},
};

use crate::{
    definition::{BranchId, Definition},
    event::{AbortReason, Event, Failure},
    pins::{Pin, Pins},
    state::{IllegalEvent, Saga},
    text,
};

/// How many hexadecimal digits of a component's digest are shown: enough to tell versions apart.
const DIGEST_DIGITS: usize = 12;

/// Stands before the status that the saga has from an event on.
const ARROW: &str = "  -> ";

/// Renders a saga's log; every line starts with the milliseconds since its creation.
pub fn log(definition: &std::sync::Arc<Definition>, events: &[Event]) -> Result<String, IllegalEvent> {
    log_with(definition, events, &|_, text| text.into())
}

/// As [`log`], with each text of a step's branch as `shown` returns it.
pub fn log_with(
    definition: &std::sync::Arc<Definition>,
    events: &[Event],
    shown: &Shown<'_>,
) -> Result<String, IllegalEvent> {
    let mut lines = String::new();
    let mut saga = Saga::new(definition.clone());
    // Writing to a String cannot fail.
    let _ = writeln!(lines, "saga {} with {} steps", text::quote(definition.gid().as_str()), definition.steps().len());
    for event in events {
        let was = saga.status();
        saga.apply(event)?;
        let elapsed = definition.created_at().until(event.at()).as_millis();
        let _ = write!(lines, "{elapsed:>8} ms  {}", Line { event, shown });
        if saga.status() != was {
            let _ = write!(lines, "{ARROW}{}", saga.status().as_str());
        }
        lines.push('\n');
    }
    Ok(lines)
}

/// What people may see of a text of the branch of a step.
pub type Shown<'a> = dyn Fn(usize, &str) -> Cow<'_, str> + 'a;

struct Line<'a> {
    event: &'a Event,
    shown: &'a Shown<'a>,
}

impl Line<'_> {
    /// A text of the branch, on one line.
    fn text(&self, text: &str) -> String {
        let step = self.event.branch_op().map_or(0, |branch_op| branch_op.step);
        let shown = (self.shown)(step, text);
        // What looks like the saga's new status is marked as the branch's.
        if shown.contains(ARROW) { text::quote(&shown) } else { text::escape(&shown).into_owned() }
    }
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(branch_op) = self.event.branch_op() {
            write!(f, "{} {:<10} ", BranchId(branch_op.step), branch_op.op.as_str())?;
        }
        match self.event {
            Event::Submitted { .. } => f.write_str("submitted"),
            Event::Started { .. } => f.write_str("started"),
            Event::Succeeded { output: Some(output), .. } => write!(f, "succeeded: {}", self.text(output)),
            Event::Succeeded { output: None, .. } => f.write_str("succeeded"),
            Event::Rejected { reason, .. } => write!(f, "rejected: {}", self.text(reason)),
            Event::Failed { failure, retry_at, at, .. } => {
                let wait = at.until(*retry_at).as_millis();
                match failure {
                    Failure::Ongoing => write!(f, "ongoing, asked again in {wait} ms"),
                    Failure::Unknown { error } => {
                        write!(f, "failed, tried again in {wait} ms: {}", self.text(error))
                    }
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
                last_error.as_ref().map_or(Ok(()), |error| write!(f, ", the last: {}", self.text(error)))
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
        let wanted = "saga \"g\" with 1 steps\n       0 ms  pinned to a@abababababab b@abababababab\n       \
                      5 ms  submitted  -> submitted\n";
        assert_eq!(log(&definition, &events).unwrap(), wanted);
    }
    #[test]
    fn no_text_begins_a_line_or_moves_the_cursor() {
        let step = Step { action: "wasm://a/try".into(), compensation: String::new(), payload: "".into() };
        let (gid, at) = (Gid::from_stored("g\" with 7 steps\u{202e}\u{2028}"), Timestamp(0));
        let definition = Definition::from_stored(gid, vec![step], Order::default(), Options::default(), at);
        let reason = "no\u{1b}[2K\r\nsaga forged with 1 steps\n\u{200b}é".to_owned();
        let events = [Event::Submitted { at }, Event::Rejected { step: 0, reason, at }];
        let wanted = concat!(
            r#"saga "g\" with 7 steps\u{202e}\u{2028}" with 1 steps"#,
            "\n       0 ms  submitted  -> submitted\n       0 ms  01 action     rejected: ",
            r"no\u{1b}[2K\r\nsaga forged with 1 steps\n\u{200b}é",
            "  -> aborting\n"
        );
        let definition = Arc::new(definition);
        assert_eq!(log(&definition, &events).unwrap(), wanted);
        let reason = "no  -> succeed".to_owned();
        let log = log(&definition, &[events[0].clone(), Event::Rejected { step: 0, reason, at }]).unwrap();
        assert!(log.ends_with("rejected: \"no  -> succeed\"  -> aborting\n"), "{log}");
    }
}
