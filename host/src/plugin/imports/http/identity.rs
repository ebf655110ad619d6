//! Headers that identify a request: `Idempotency-Key` and `traceparent` of W3C Trace Context.
//!
//! The key follows from the saga, the operation and the number of the request only, so a repeated attempt repeats its keys.
//! The trace follows from the saga, so logs of other services lead back to it.

use std::{fmt::Write as _, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};

use crate::{
    branch::idempotency_key,
    saga::{BranchId, BranchOp, Definition},
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The attempt that makes the requests.
pub struct Identity {
    pub saga: Arc<Definition>,
    pub branch_op: BranchOp,
    pub attempt: u32,
}

impl Identity {
    /// Adds both headers to request `n` of the attempt, counted from 1. Headers that the guest has set stay.
    pub fn sign(&self, n: u32, headers: &mut HeaderMap) {
        let branch = BranchId(self.branch_op.step);
        let key = format!("{}-{n}", idempotency_key(self.saga.gid(), branch, self.branch_op.op));
        for (name, value) in [(IDEMPOTENCY_KEY, key), (TRACEPARENT, self.traceparent(n))] {
            // A gid has no control characters, so this cannot fail.
            if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                headers.entry(name).or_insert(value);
            }
        }
    }

    /// The trace that the saga's headers name, or else one made of its gid. The span is new for every request of every
    /// attempt.
    fn traceparent(&self, n: u32) -> String {
        let gid = self.saga.gid().as_str();
        let given = self.saga.options().branch_headers.iter().find(|(name, _)| TRACEPARENT == **name);
        let parent = given.and_then(|(_, value)| parent(value));
        let trace = parent.map_or_else(|| hex::<16>(gid), |(trace, _)| trace.to_owned());
        let Self { branch_op, attempt, .. } = self;
        let span = hex::<8>(&format!("{gid}\0{}\0{}\0{attempt}\0{n}", BranchId(branch_op.step), branch_op.op.as_str()));
        format!("00-{trace}-{span}-{}", parent.map_or("01", |(_, flags)| flags))
    }
}

/// Trace and flags of a valid `traceparent`; later versions begin with the same fields.
fn parent(value: &str) -> Option<(&str, &str)> {
    let mut parts = value.trim().split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex =
        |part: &str, length| part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_id = |part: &str, length| is_hex(part, length) && part.bytes().any(|digit| digit != b'0');
    let ends = version != "00" || parts.next().is_none();
    let valid =
        is_hex(version, 2) && version != "ff" && is_id(trace, 32) && is_id(span, 16) && is_hex(flags, 2) && ends;
    valid.then_some((trace, flags))
}

/// An id of `BYTES` bytes made of the text, in hexadecimal. Never zero, which the specification forbids.
fn hex<const BYTES: usize>(text: &str) -> String {
    let digest = Sha256::digest(text);
    let mut id = String::with_capacity(BYTES * 2);
    for byte in digest.iter().take(BYTES) {
        // Writing to a string does not fail.
        let _ = write!(id, "{byte:02x}");
    }
    if id.bytes().all(|digit| digit == b'0') {
        id.pop();
        id.push('1');
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::saga::{Gid, Op, Options, Order, Timestamp};

    fn identity(branch_headers: Vec<(String, String)>, attempt: u32) -> Identity {
        let (gid, options) = (Gid::new("gid-1").unwrap(), Options { branch_headers, ..Options::default() });
        let saga = Definition::new(gid, Vec::new(), Order::default(), options, Timestamp(0)).unwrap();
        Identity { saga: Arc::new(saga), branch_op: BranchOp { step: 1, op: Op::Action }, attempt }
    }

    fn signed(identity: &Identity, n: u32) -> (String, String) {
        let mut headers = HeaderMap::new();
        identity.sign(n, &mut headers);
        let text = |name| headers[name].to_str().unwrap().to_owned();
        (text(IDEMPOTENCY_KEY), text(TRACEPARENT))
    }

    #[test]
    fn a_repetition_has_the_same_keys_and_the_same_trace_but_other_spans() {
        let (first, again) = (identity(Vec::new(), 1), identity(Vec::new(), 2));
        let spans: Vec<String> = [(&first, 1), (&first, 2), (&again, 1)]
            .map(|(identity, n)| {
                let (key, traceparent) = signed(identity, n);
                assert_eq!(key, format!("gid-1-02-action-{n}"));
                let parts: Vec<&str> = traceparent.split('-').collect();
                let [version, trace, span, flags] = parts[..] else { panic!("{traceparent}") };
                // The first 16 bytes of the SHA-256 of "gid-1".
                assert_eq!((version, trace, flags), ("00", &*hex::<16>("gid-1"), "01"));
                assert!(parent(&traceparent).is_some(), "{traceparent}");
                span.to_owned()
            })
            .into();
        assert!(spans[0] != spans[1] && spans[0] != spans[2] && spans[1] != spans[2], "{spans:?}");
        assert_eq!(signed(&first, 1), signed(&identity(Vec::new(), 1), 1));
    }

    #[test]
    fn the_trace_of_the_saga_is_continued() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let given = |value: String| signed(&identity(vec![("TraceParent".into(), value)], 1), 1).1;
        let going_on = given(format!("00-{trace}-00f067aa0ba902b7-00"));
        assert!(going_on.starts_with(&format!("00-{trace}-")) && going_on.ends_with("-00"), "{going_on}");
        assert!(!going_on.contains("00f067aa0ba902b7"), "the span is a new one");
        let none = signed(&identity(Vec::new(), 1), 1).1;
        for invalid in [
            String::new(),
            trace.to_owned(),
            format!("00-{trace}-00f067aa0ba902b7"),
            format!("00-{trace}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()),
            format!("ff-{trace}-00f067aa0ba902b7-01"),
            format!("00-{trace}-00f067aa0ba902b7-01-more"),
        ] {
            assert_eq!(given(invalid.clone()), none, "{invalid:?}");
        }
        assert!(given(format!("01-{trace}-00f067aa0ba902b7-01-more")).starts_with(&format!("00-{trace}-")));
    }

    #[test]
    fn headers_of_the_guest_stay() {
        let mut headers = HeaderMap::new();
        headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_static("mine"));
        identity(Vec::new(), 1).sign(1, &mut headers);
        assert_eq!(headers[IDEMPOTENCY_KEY], "mine");
        assert!(headers.contains_key(TRACEPARENT));
    }
}
