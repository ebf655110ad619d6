//! A saga and its branches, in JSON.

use std::{borrow::Cow, time::Duration};

use serde::Serialize;

use super::shown::{Component, Output};
use crate::{
    api::{json, rollback::rollback_reason, time::Time},
    engine::Engine,
    hidden::{self, Secrets},
    saga::{
        BranchId, BranchOp, Op, Saga,
        state::{OpState, Progress, StepState},
    },
};

/// The body of `GET /api/v1/sagas/{gid}`:
///
/// - `gid`, `status`, `created_at`, `updated_at`; `request_timeout_s`: how long one attempt may take, and
///   `request_timeout_asked_s`, if the saga has asked for more than the host allows; `reason`, if it is or was rolled back; `is_stuck`: it has failed so
///   often in a row that a person should look;
/// - `steps`, in the order of submission. Each has `branch_id`, `may_have_effect` (a rollback would have to compensate it)
///   and its two operations `action` and `compensation`.
///
/// Each operation has `target`; `component` (`plugin`, `sha256`), if the target is a plugin; `attempts`; `updated_at` and
/// `retry_at`, if any; and `state`:
///
/// - `pending`: not called yet, or to be called again; with the newest `error`, if there was one;
/// - `succeeded`, with `output`, if there is one;
/// - `rejected`, with the branch's `reason`;
/// - `not_needed`: there was nothing to compensate.
pub fn encode(saga: &Saga, engine: &Engine) -> Vec<u8> {
    let secrets = Secrets::of(saga.definition(), engine.hidden_headers());
    let (given, asked) = (engine.request_timeout(saga), saga.definition().options().request_timeout_s);
    json::encode(&SagaView {
        gid: saga.definition().gid().as_str(),
        status: saga.status().as_str(),
        created_at: Time(saga.definition().created_at()),
        updated_at: Time(saga.updated_at()),
        request_timeout_s: given.as_secs_f64(),
        request_timeout_asked_s: Some(asked).filter(|asked| Duration::from_secs(*asked) > given),
        reason: rollback_reason(saga, engine.hidden_headers()),
        is_stuck: saga.is_stuck(engine.policy()),
        steps: saga.steps().iter().enumerate().map(|(step, state)| Step::new(saga, &secrets, step, state)).collect(),
    })
}

#[derive(Serialize)]
struct SagaView<'a> {
    gid: &'a str,
    status: &'static str,
    created_at: Time,
    updated_at: Time,
    request_timeout_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_timeout_asked_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    is_stuck: bool,
    steps: Vec<Step<'a>>,
}

#[derive(Serialize)]
struct Step<'a> {
    branch_id: String,
    may_have_effect: bool,
    action: Operation<'a>,
    compensation: Operation<'a>,
}

impl<'a> Step<'a> {
    fn new(saga: &'a Saga, secrets: &Secrets<'_>, step: usize, state: &'a StepState) -> Self {
        let operation = |op| Operation::new(saga, secrets, BranchOp { step, op }, state.op(op));
        Self {
            branch_id: BranchId(step).to_string(),
            may_have_effect: state.may_have_effect() && !state.is_rolled_back(),
            action: operation(Op::Action),
            compensation: operation(Op::Compensate),
        }
    }
}

#[derive(Serialize)]
struct Operation<'a> {
    target: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    component: Option<Component<'a>>,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_at: Option<Time>,
    #[serde(flatten)]
    state: State<'a>,
}

impl<'a> Operation<'a> {
    fn new(saga: &'a Saga, secrets: &Secrets<'_>, branch_op: BranchOp, state: &'a OpState) -> Self {
        Self {
            target: hidden::address(saga.definition().target(branch_op)),
            component: saga.pins().get(branch_op).map(Component::new),
            attempts: state.attempts,
            updated_at: state.updated_at.map(Time),
            retry_at: state.retry_at.filter(|_| state.is_pending() && !saga.status().is_finished()).map(Time),
            state: State::new(state, secrets, branch_op.step),
        }
    }
}

#[derive(Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum State<'a> {
    Pending {
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<Cow<'a, str>>,
    },
    Succeeded {
        #[serde(skip_serializing_if = "Option::is_none")]
        output: Option<Output<'a>>,
    },
    Rejected {
        reason: Cow<'a, str>,
    },
    NotNeeded,
}

impl<'a> State<'a> {
    fn new(state: &'a OpState, secrets: &Secrets<'_>, step: usize) -> Self {
        let shown = |text: &'a str| secrets.text(Some(step), text);
        match &state.progress {
            Progress::Pending => Self::Pending { error: state.last_error.as_deref().map(shown) },
            Progress::Succeeded { output } => {
                let shown = |output: &'a str| Output(secrets.output(step, output));
                Self::Succeeded { output: output.as_deref().map(shown) }
            }
            Progress::Rejected { reason } => Self::Rejected { reason: shown(reason) },
            Progress::Skipped => Self::NotNeeded,
        }
    }
}
