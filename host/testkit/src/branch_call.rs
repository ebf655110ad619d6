//! A call of a branch that belongs to no stored saga.

use std::{sync::Arc, time::Duration};

use wasaga::{
    branch::{Call, Host},
    saga::{BranchOp, Definition, Gid, Op, Options, Order, Step, Timestamp},
    store::Memory,
};

/// The action of the last step of a saga with these payloads. Its timeout is far longer than any call on the loopback
/// interface takes.
pub fn branch_call(gid: &str, payloads: &[&str], options: Options) -> Call {
    let step = |payload: &&str| {
        let payload = (*payload).to_owned().into();
        Step { action: String::new(), compensation: String::new(), payload }
    };
    let steps: Vec<Step> = payloads.iter().map(step).collect();
    let last = steps.len() - 1;
    let saga = Definition::new(Gid::new(gid).unwrap(), steps, Order::default(), options, Timestamp(0)).unwrap();
    Call {
        saga: Arc::new(saga),
        branch_op: BranchOp { step: last, op: Op::Action },
        attempt: 1,
        results: Arc::default(),
        tried: None,
        timeout: Duration::from_mins(1),
    }
}

/// What a host gives to a service.
pub fn branch_host() -> Host {
    Host { state: Arc::new(Memory::default()), egress: None, is_dry_run: false, place: None }
}
