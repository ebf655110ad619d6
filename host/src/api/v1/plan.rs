//! Plans: what a saga would do, in JSON.

use std::{borrow::Cow, collections::BTreeMap};

use axum::{extract::State, http::StatusCode, response::Response};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Serialize;

use super::shown::{Component, Output};
use crate::{
    api::{
        answer,
        body::Body,
        client::Client,
        context::Context,
        dtm::{
            operations::{STATUS_COPIES, check_secrets},
            request,
        },
        error::Error,
        json,
    },
    engine::{Record, plan},
    hidden::{self, Secrets},
    saga::{BranchId, Definition, Op, Verdict},
};

/// `POST /api/v1/sagas/plan`: takes the body of a submission and returns what the saga would do, without doing it.
/// `host/docs/plan.md` describes every field of the response.
pub(super) async fn plan(
    State(context): State<Context>,
    Client(client): Client,
    Body(body): Body,
) -> Result<Response, Error> {
    let engine = context.engine();
    let now = engine.now();
    let definition = request::decode_or_name(&body, now, || context.gids().next(now))?;
    drop(body);
    check_secrets(&context, &definition)?;
    let plan = engine.plan(definition).await?;
    let room = context.memory().requests_of(client);
    let status = |record: Option<Record>, _| record.map(|record| record.saga.status().as_str());
    let existing = engine.show(plan.saga.gid().as_str(), STATUS_COPIES, room.clone(), status).await?;
    let secrets = Secrets::of(&plan.saga, engine.hidden_headers());
    let json = json::encode(&PlanView::new(&plan, &secrets, existing));
    Ok(json::response(StatusCode::OK, answer::hold(json, room.nothing())?))
}

#[derive(Serialize)]
struct PlanView<'a> {
    gid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    existing: Option<&'static str>,
    outcome: &'static str,
    steps: Vec<Act<'a>>,
    compensations: Vec<Act<'a>>,
    not_needed: Vec<NotNeeded>,
    changes: Vec<Change<'a>>,
    #[serde(skip_serializing_if = "is_zero")]
    changes_left_out: usize,
    unknown_changes_of: Vec<String>,
    failures: Vec<Failure<'a>>,
}

#[derive(Serialize)]
struct Failure<'a> {
    failing_branch: String,
    succeeded_before: Vec<String>,
    compensated: Vec<Act<'a>>,
    not_needed: Vec<NotNeeded>,
    data_is_restored: bool,
    left: Vec<Change<'a>>,
    #[serde(skip_serializing_if = "is_zero")]
    left_out: usize,
    unknown_changes_of: Vec<String>,
}

#[derive(Serialize)]
struct NotNeeded {
    branch_id: String,
    why: &'static str,
}

#[derive(Default, Serialize)]
struct Act<'a> {
    branch_id: String,
    target: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    component: Option<Component<'a>>,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Output<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    /// The text that belongs to the outcome, by its key: `reason`, `error`, `why` or `depends_on`.
    #[serde(flatten)]
    text: BTreeMap<&'static str, Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    assumed: Option<&'static str>,
    changes: Vec<Change<'a>>,
    #[serde(skip_serializing_if = "is_zero")]
    changes_left_out: usize,
    requests: Vec<Cow<'a, str>>,
}

#[derive(Serialize)]
struct Change<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    plugin: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shared: Option<bool>,
    bucket: Cow<'a, str>,
    key: Cow<'a, str>,
    before: Option<Value<'a>>,
    after: Option<Value<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Value<'a> {
    Text(Cow<'a, str>),
    Other {
        bytes: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<Cow<'a, str>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        base64: Option<String>,
        is_cut: bool,
    },
}

impl<'a> PlanView<'a> {
    fn new(plan: &'a plan::Plan, secrets: &Secrets<'_>, existing: Option<&'static str>) -> Self {
        let plan::Plan { saga, trace, failures } = plan;
        let acts = |op| acts(saga, secrets, trace.ops.iter().filter(move |act| act.branch_op.op == op));
        Self {
            gid: saga.gid().as_str(),
            existing,
            outcome: trace.status.as_str(),
            steps: acts(Op::Action),
            compensations: acts(Op::Compensate),
            not_needed: not_needed(trace),
            changes: changes(&trace.changes, secrets),
            changes_left_out: trace.changes.left_out,
            unknown_changes_of: ids(&trace.unknown),
            failures: failures.iter().map(|failure| Failure::new(saga, secrets, failure)).collect(),
        }
    }
}

impl<'a> Failure<'a> {
    fn new(saga: &'a Definition, secrets: &Secrets<'_>, failure: &'a plan::WhatIf) -> Self {
        let plan::WhatIf { branch, before, trace } = failure;
        Self {
            failing_branch: branch.to_string(),
            succeeded_before: ids(before),
            compensated: acts(saga, secrets, trace.ops.iter()),
            not_needed: not_needed(trace),
            data_is_restored: trace.changes.is_empty(),
            left: changes(&trace.changes, secrets),
            left_out: trace.changes.left_out,
            unknown_changes_of: ids(&trace.unknown),
        }
    }
}

impl<'a> Act<'a> {
    fn new(saga: &'a Definition, secrets: &Secrets<'_>, act: &'a plan::TracedOp) -> Self {
        let shown = |text: &'a str| secrets.text(Some(act.branch_op.step), text);
        let common = Self {
            branch_id: BranchId(act.branch_op.step).to_string(),
            target: hidden::address(saga.target(act.branch_op)),
            component: act.component.as_ref().map(Component::new),
            assumed: act.is_assumed().then_some("succeeds"),
            changes: changes(&act.changes, secrets),
            changes_left_out: act.changes.left_out,
            requests: act.requests.iter().map(|request| shown(request)).collect(),
            ..Self::default()
        };
        let with_text =
            |outcome, key, text: &'a str| Self { outcome, text: [(key, shown(text))].into(), ..Self::default() };
        let Self { outcome, output, retry_after_ms, text, .. } = match &act.ending {
            plan::Ending::Verdict(Verdict::Succeeded { output }) => {
                let shown = |output: &'a str| Output(secrets.output(act.branch_op.step, output));
                Self { outcome: "succeeded", output: output.as_deref().map(shown), ..Self::default() }
            }
            plan::Ending::Verdict(Verdict::Ongoing { retry_after }) => {
                let retry_after_ms = retry_after.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
                Self { outcome: "ongoing", retry_after_ms, ..Self::default() }
            }
            plan::Ending::Verdict(Verdict::Rejected { reason }) => with_text("rejected", "reason", reason),
            plan::Ending::Verdict(Verdict::Unknown { error }) => with_text("unknown", "error", error),
            plan::Ending::NotCalled { why } => with_text("not_called", "why", why),
            plan::Ending::Depends { on } => with_text("depends", "depends_on", on),
        };
        Self { outcome, output, retry_after_ms, text, ..common }
    }
}

impl<'a> Change<'a> {
    fn new(change: &'a plan::Change, secrets: &Secrets<'_>) -> Self {
        let plan::Change { owner, bucket, key, before, after } = change;
        let plugin = (!owner.is_empty()).then_some(&**owner);
        let shared = owner.is_empty().then_some(true);
        let value = |value: &'a Option<plan::Value>| value.as_ref().map(|value| Value::new(value, secrets));
        let (before, after) = (value(before), value(after));
        let (bucket, key) = (secrets.text(None, bucket), secrets.text(None, key));
        Self { plugin, shared, bucket, key, before, after }
    }
}

impl<'a> Value<'a> {
    fn new(value: &'a plan::Value, secrets: &Secrets<'_>) -> Self {
        let plan::Value { start, bytes } = value;
        let is_cut = start.len() < *bytes;
        let text = match str::from_utf8(start) {
            Ok(text) => Some(text),
            // The cut is inside the last character, which is left out.
            Err(error) if is_cut && error.error_len().is_none() => {
                start.get(..error.valid_up_to()).and_then(|whole| str::from_utf8(whole).ok())
            }
            Err(_) => None,
        };
        match text.map(|text| secrets.text(None, text)) {
            Some(text) if !is_cut => Self::Text(text),
            text => {
                let base64 = text.is_none().then(|| BASE64_STANDARD.encode(start));
                Self::Other { bytes: *bytes, text, base64, is_cut }
            }
        }
    }
}

fn acts<'a>(
    saga: &'a Definition,
    secrets: &Secrets<'_>,
    acts: impl Iterator<Item = &'a plan::TracedOp>,
) -> Vec<Act<'a>> {
    acts.map(|act| Act::new(saga, secrets, act)).collect()
}

fn changes<'a>(changes: &'a plan::Changes, secrets: &Secrets<'_>) -> Vec<Change<'a>> {
    changes.shown.iter().map(|change| Change::new(change, secrets)).collect()
}

fn not_needed(trace: &plan::Trace) -> Vec<NotNeeded> {
    let why = "its action had no effect";
    trace.not_needed.iter().map(|branch| NotNeeded { branch_id: branch.to_string(), why }).collect()
}

fn ids(branches: &[BranchId]) -> Vec<String> {
    branches.iter().map(ToString::to_string).collect()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::{
        hidden::Headers,
        saga::{Gid, Options, Order, Timestamp},
    };

    fn shown(start: &'static [u8], bytes: usize) -> serde_json::Value {
        let gid = Gid::new("g").unwrap();
        let saga = Definition::new(gid, Vec::new(), Order::default(), Options::default(), Timestamp(0)).unwrap();
        let value = plan::Value { start: Bytes::from_static(start), bytes };
        serde_json::to_value(Value::new(&value, &Secrets::of(&saga, &Headers::default()))).unwrap()
    }

    #[test]
    fn values_are_text_where_they_can_be() {
        assert_eq!(shown("30 €".as_bytes(), 6), json!("30 €"));
        assert_eq!(shown(b"", 0), json!(""));
        assert_eq!(shown(b"\xff\0", 2), json!({"bytes": 2, "base64": "/wA=", "is_cut": false}));
        assert_eq!(shown("30 €".as_bytes(), 9), json!({"bytes": 9, "text": "30 €", "is_cut": true}));
        assert_eq!(shown(b"30 \xe2\x82", 9), json!({"bytes": 9, "text": "30 ", "is_cut": true}));
        assert_eq!(shown(b"\xff30", 9), json!({"bytes": 9, "base64": "/zMw", "is_cut": true}));
    }
}
