//! Version 1 of the stored forms of sagas. Frozen: data folders hold these bytes.
//!
//! The types here are what postcard writes: enum variants by their number, fields by their position, integers as
//! varints. A change of any of them changes the disk, so nothing here changes, ever. What version 1 cannot say gets a
//! version 2 beside it, with a reader for both. The domain types of [`crate::saga`] are converted, and may change freely
//! as long as both conversions can still be written.
//!
//! Forms that are written borrow from the domain types, so that writing copies no text.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::saga;

/// One entry of a chunk of a saga's log.
#[derive(Debug, Serialize, Deserialize)]
pub enum Entry<'a> {
    #[serde(borrow)]
    Definition(Definition<'a>),
    #[serde(borrow)]
    Event(Event<'a>),
}

/// What the client has asked for.
#[derive(Debug, Serialize, Deserialize)]
pub struct Definition<'a> {
    #[serde(borrow)]
    gid: Cow<'a, str>,
    #[serde(borrow)]
    steps: Vec<Step<'a>>,
    order: Order<'a>,
    #[serde(borrow)]
    options: Options<'a>,
    created_at: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Step<'a> {
    #[serde(borrow)]
    action: Cow<'a, str>,
    #[serde(borrow)]
    compensation: Cow<'a, str>,
    payload: Bytes,
}

#[derive(Debug, Serialize, Deserialize)]
struct Order<'a> {
    concurrent: bool,
    after: Cow<'a, BTreeMap<usize, Vec<usize>>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Options<'a> {
    wait_result: bool,
    timeout_to_fail_s: u64,
    request_timeout_s: u64,
    retry_interval_s: u64,
    retry_limit: u64,
    branch_headers: Cow<'a, [(String, String)]>,
    concurrent: bool,
    #[serde(borrow)]
    protocol: Cow<'a, str>,
    #[serde(borrow)]
    custom_data: Cow<'a, str>,
    #[serde(borrow)]
    query_prepared: Cow<'a, str>,
    any_2xx_succeeds: Option<bool>,
    rejects_5xx_after: Option<u64>,
}

/// Numbers of events that later versions write, with their names. Version 1 ends at [`EVENTS`].
pub const RESERVED_EVENTS: [(u8, &str); 5] =
    [(11, "paused"), (12, "resumed"), (13, "resolved"), (14, "repinned"), (15, "completed from outside")];

/// How many kinds of events version 1 has: their numbers are below this one.
pub const EVENTS: u8 = 11;

/// What has happened to a saga. The order of the variants is their number on disk.
#[derive(Debug, Serialize, Deserialize)]
pub enum Event<'a> {
    Submitted {
        at: u64,
    },
    Started {
        step: usize,
        op: Op,
        at: u64,
    },
    Succeeded {
        step: usize,
        op: Op,
        #[serde(borrow)]
        output: Option<Cow<'a, str>>,
        at: u64,
    },
    Rejected {
        step: usize,
        #[serde(borrow)]
        reason: Cow<'a, str>,
        at: u64,
    },
    Failed {
        step: usize,
        op: Op,
        #[serde(borrow)]
        failure: Failure<'a>,
        retry_at: u64,
        at: u64,
    },
    Skipped {
        step: usize,
        at: u64,
    },
    Aborted {
        reason: AbortReason,
        at: u64,
    },
    ForceStopped {
        at: u64,
    },
    RetryRequested {
        at: u64,
    },
    Retried {
        step: usize,
        op: Op,
        attempts: u32,
        failures: u32,
        retries: u64,
        reached: bool,
        retry_at: Option<u64>,
        #[serde(borrow)]
        last_error: Option<Cow<'a, str>>,
        at: u64,
    },
    Pinned {
        pins: Pins<'a>,
        at: u64,
    },
}

/// One of the two operations of a step.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Op {
    Action,
    Compensate,
}

/// How an attempt without a result has ended.
#[derive(Debug, Serialize, Deserialize)]
pub enum Failure<'a> {
    Ongoing,
    Unknown {
        #[serde(borrow)]
        error: Cow<'a, str>,
    },
}

/// Why a saga was rolled back although no branch rejected it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum AbortReason {
    Timeout,
    RetryLimit,
}

/// The components of a saga, and by step, action before compensation, the number of the component from 1; 0: none.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pins<'a> {
    components: Vec<Pin<'a>>,
    numbers: Cow<'a, [u16]>,
}

/// A component under the name of its plugin, with its SHA-256.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pin<'a> {
    plugin: Cow<'a, str>,
    digest: [u8; 32],
}

/// The status of an unfinished saga.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum OpenStatus {
    Prepared,
    Submitted,
    Aborting,
}

impl<'a> From<&'a saga::Definition> for Definition<'a> {
    fn from(definition: &'a saga::Definition) -> Self {
        let saga::Order { concurrent, after } = definition.order();
        Self {
            gid: definition.gid().as_str().into(),
            steps: definition.steps().iter().map(Step::from).collect(),
            order: Order { concurrent: *concurrent, after: Cow::Borrowed(after) },
            options: definition.options().into(),
            created_at: definition.created_at().0,
        }
    }
}

impl From<Definition<'_>> for saga::Definition {
    fn from(stored: Definition<'_>) -> Self {
        let Definition { gid, steps, order, options, created_at } = stored;
        Self::from_stored(
            saga::Gid::from_stored(&gid),
            steps.into_iter().map(saga::Step::from).collect(),
            saga::Order { concurrent: order.concurrent, after: order.after.into_owned() },
            options.into(),
            saga::Timestamp(created_at),
        )
    }
}

impl<'a> From<&'a saga::Step> for Step<'a> {
    fn from(step: &'a saga::Step) -> Self {
        let saga::Step { action, compensation, payload } = step;
        Self { action: action.into(), compensation: compensation.into(), payload: payload.clone() }
    }
}

impl From<Step<'_>> for saga::Step {
    fn from(stored: Step<'_>) -> Self {
        let Step { action, compensation, payload } = stored;
        Self { action: action.into_owned(), compensation: compensation.into_owned(), payload }
    }
}

impl<'a> From<&'a saga::Options> for Options<'a> {
    fn from(options: &'a saga::Options) -> Self {
        let saga::Options {
            wait_result,
            timeout_to_fail_s,
            request_timeout_s,
            retry_interval_s,
            retry_limit,
            branch_headers,
            concurrent,
            protocol,
            custom_data,
            query_prepared,
            results: saga::Results { any_2xx_succeeds, rejects_5xx_after },
        } = options;
        Self {
            wait_result: *wait_result,
            timeout_to_fail_s: *timeout_to_fail_s,
            request_timeout_s: *request_timeout_s,
            retry_interval_s: *retry_interval_s,
            retry_limit: *retry_limit,
            branch_headers: branch_headers.into(),
            concurrent: *concurrent,
            protocol: protocol.into(),
            custom_data: custom_data.into(),
            query_prepared: query_prepared.into(),
            any_2xx_succeeds: *any_2xx_succeeds,
            rejects_5xx_after: *rejects_5xx_after,
        }
    }
}

impl From<Options<'_>> for saga::Options {
    fn from(stored: Options<'_>) -> Self {
        Self {
            wait_result: stored.wait_result,
            timeout_to_fail_s: stored.timeout_to_fail_s,
            request_timeout_s: stored.request_timeout_s,
            retry_interval_s: stored.retry_interval_s,
            retry_limit: stored.retry_limit,
            branch_headers: stored.branch_headers.into_owned(),
            concurrent: stored.concurrent,
            protocol: stored.protocol.into_owned(),
            custom_data: stored.custom_data.into_owned(),
            query_prepared: stored.query_prepared.into_owned(),
            results: saga::Results {
                any_2xx_succeeds: stored.any_2xx_succeeds,
                rejects_5xx_after: stored.rejects_5xx_after,
            },
        }
    }
}

impl<'a> From<&'a saga::Event> for Event<'a> {
    fn from(event: &'a saga::Event) -> Self {
        use saga::Event as E;
        match *event {
            E::Submitted { at } => Self::Submitted { at: at.0 },
            E::Started { step, op, at } => Self::Started { step, op: op.into(), at: at.0 },
            E::Succeeded { step, op, ref output, at } => {
                Self::Succeeded { step, op: op.into(), output: output.as_deref().map(Cow::from), at: at.0 }
            }
            E::Rejected { step, ref reason, at } => Self::Rejected { step, reason: reason.into(), at: at.0 },
            E::Failed { step, op, ref failure, retry_at, at } => {
                Self::Failed { step, op: op.into(), failure: failure.into(), retry_at: retry_at.0, at: at.0 }
            }
            E::Skipped { step, at } => Self::Skipped { step, at: at.0 },
            E::Aborted { reason, at } => Self::Aborted { reason: reason.into(), at: at.0 },
            E::ForceStopped { at } => Self::ForceStopped { at: at.0 },
            E::RetryRequested { at } => Self::RetryRequested { at: at.0 },
            E::Retried { step, op, attempts, failures, retries, reached, retry_at, ref last_error, at } => {
                Self::Retried {
                    step,
                    op: op.into(),
                    attempts,
                    failures,
                    retries,
                    reached,
                    retry_at: retry_at.map(|at| at.0),
                    last_error: last_error.as_deref().map(Cow::from),
                    at: at.0,
                }
            }
            E::Pinned { ref pins, at } => Self::Pinned { pins: pins.into(), at: at.0 },
        }
    }
}

impl From<Event<'_>> for saga::Event {
    fn from(stored: Event<'_>) -> Self {
        use saga::Timestamp as T;
        match stored {
            Event::Submitted { at } => Self::Submitted { at: T(at) },
            Event::Started { step, op, at } => Self::Started { step, op: op.into(), at: T(at) },
            Event::Succeeded { step, op, output, at } => {
                Self::Succeeded { step, op: op.into(), output: output.map(Cow::into_owned), at: T(at) }
            }
            Event::Rejected { step, reason, at } => Self::Rejected { step, reason: reason.into_owned(), at: T(at) },
            Event::Failed { step, op, failure, retry_at, at } => {
                Self::Failed { step, op: op.into(), failure: failure.into(), retry_at: T(retry_at), at: T(at) }
            }
            Event::Skipped { step, at } => Self::Skipped { step, at: T(at) },
            Event::Aborted { reason, at } => Self::Aborted { reason: reason.into(), at: T(at) },
            Event::ForceStopped { at } => Self::ForceStopped { at: T(at) },
            Event::RetryRequested { at } => Self::RetryRequested { at: T(at) },
            Event::Retried { step, op, attempts, failures, retries, reached, retry_at, last_error, at } => {
                Self::Retried {
                    step,
                    op: op.into(),
                    attempts,
                    failures,
                    retries,
                    reached,
                    retry_at: retry_at.map(T),
                    last_error: last_error.map(Cow::into_owned),
                    at: T(at),
                }
            }
            Event::Pinned { pins, at } => Self::Pinned { pins: pins.into(), at: T(at) },
        }
    }
}

impl From<saga::Op> for Op {
    fn from(op: saga::Op) -> Self {
        match op {
            saga::Op::Action => Self::Action,
            saga::Op::Compensate => Self::Compensate,
        }
    }
}

impl From<Op> for saga::Op {
    fn from(stored: Op) -> Self {
        match stored {
            Op::Action => Self::Action,
            Op::Compensate => Self::Compensate,
        }
    }
}

impl<'a> From<&'a saga::Failure> for Failure<'a> {
    fn from(failure: &'a saga::Failure) -> Self {
        match failure {
            saga::Failure::Ongoing => Self::Ongoing,
            saga::Failure::Unknown { error } => Self::Unknown { error: error.into() },
        }
    }
}

impl From<Failure<'_>> for saga::Failure {
    fn from(stored: Failure<'_>) -> Self {
        match stored {
            Failure::Ongoing => Self::Ongoing,
            Failure::Unknown { error } => Self::Unknown { error: error.into_owned() },
        }
    }
}

impl From<saga::AbortReason> for AbortReason {
    fn from(reason: saga::AbortReason) -> Self {
        match reason {
            saga::AbortReason::Timeout => Self::Timeout,
            saga::AbortReason::RetryLimit => Self::RetryLimit,
        }
    }
}

impl From<AbortReason> for saga::AbortReason {
    fn from(stored: AbortReason) -> Self {
        match stored {
            AbortReason::Timeout => Self::Timeout,
            AbortReason::RetryLimit => Self::RetryLimit,
        }
    }
}

impl<'a> From<&'a saga::Pins> for Pins<'a> {
    fn from(pins: &'a saga::Pins) -> Self {
        Self { components: pins.components().iter().map(Pin::from).collect(), numbers: pins.numbers().into() }
    }
}

impl From<Pins<'_>> for saga::Pins {
    fn from(stored: Pins<'_>) -> Self {
        let components = stored.components.into_iter().map(saga::Pin::from).collect();
        Self::from_stored(components, stored.numbers.into_owned())
    }
}

impl<'a> From<&'a saga::Pin> for Pin<'a> {
    fn from(pin: &'a saga::Pin) -> Self {
        Self { plugin: (&*pin.plugin).into(), digest: pin.digest.0 }
    }
}

impl From<Pin<'_>> for saga::Pin {
    fn from(stored: Pin<'_>) -> Self {
        Self { plugin: (&*stored.plugin).into(), digest: saga::Digest(stored.digest) }
    }
}
