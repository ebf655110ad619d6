//! What answers of services mean, against what DTM makes of the same bytes: tables of status, headers, body, protocol and
//! setting, sent by real servers.

mod grpc;
mod headers;
mod http;
mod model;
mod service;

use wasaga::{branch::Outcome, saga::Verdict};

/// A verdict without its texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    Succeeded,
    Rejected,
    Ongoing,
    Unknown,
}

/// The verdict of an outcome, and its text.
pub fn verdict_of(outcome: Outcome) -> (Is, String) {
    match outcome {
        Outcome::Ended { verdict, .. } => parts(verdict),
        Outcome::Stale => panic!("a service reads nothing of the host"),
    }
}

/// A verdict and its text.
pub fn parts(verdict: Verdict) -> (Is, String) {
    match verdict {
        Verdict::Succeeded { output } => (Is::Succeeded, output.unwrap_or_default()),
        Verdict::Rejected { reason } => (Is::Rejected, reason),
        Verdict::Ongoing { .. } => (Is::Ongoing, String::new()),
        Verdict::Unknown { error } => (Is::Unknown, error),
    }
}
