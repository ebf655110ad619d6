//! The interface between a saga and the plugins and services that do its work.
//!
//! The engine sees one trait, [`Branch`]. Behind it stand Wasm plugins (`plugin`), services over HTTP ([`http`]) and over
//! gRPC ([`grpc`]); tests use scripts. A branch never decides about the saga: it is called once per attempt and returns
//! the attempt's outcome.

pub mod answer;
pub mod grpc;
pub mod http;
mod json_rpc;
mod transport;

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::{
    saga::{BranchId, BranchOp, Definition, Gid, Op, Pin, Pins, Verdict},
    store::{Batch, Read},
};

/// Whether an attempt can have an effect that the host neither sees nor can take back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Containment {
    /// An attempt has no effect outside the host. Its only effects are the batch that it returns.
    Contained,
    /// Contained until its first request to its [`Egress`], and external from then on.
    Gated,
    /// An attempt may have effects outside the host as soon as it has started.
    External,
}

/// Where the attempts of a branch run: what can be slow, or fail, for all of them together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// The plugin of this name, all its versions together.
    Plugin(Arc<str>),
    /// The services at this `host:port`.
    Service(Arc<str>),
}

impl Destination {
    /// The name of the plugin, or the `host:port`.
    pub fn name(&self) -> &str {
        match self {
            Self::Plugin(name) | Self::Service(name) => name,
        }
    }
}

/// An attempt's place at its destination. It is free again when the last clone is dropped.
#[derive(Clone)]
pub struct Place(Arc<dyn Send + Sync>);

impl Place {
    /// A place that `held` is dropped with.
    pub fn new(held: impl Send + Sync + 'static) -> Self {
        Self(Arc::new(held))
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Place").field(&Arc::strong_count(&self.0)).finish()
    }
}

/// A request that an attempt wants to send out of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressRequest {
    /// Text for people, such as `POST https://example.com/charges`.
    pub what: String,
}

/// Why the attempt may not send its request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EgressDenied(pub String);

/// Grants egress to an attempt of a branch that is [`Containment::Gated`], which sends nothing without it.
pub trait Egress: Send + Sync + 'static {
    /// Requests to send. Granted when the attempt's start and everything that the attempt can have read are on disk.
    /// Call it before each request that is sent.
    ///
    /// An attempt that is denied must not send, and must end.
    fn request(&self, egress_request: EgressRequest) -> BoxFuture<'_, Result<(), EgressDenied>>;

    /// A canned reply for `wasaga plugin test`: when set, requests are answered with it and not sent. `None` in a saga.
    fn reply(&self) -> Option<Reply> {
        None
    }
}

/// A canned reply to an HTTP request that is not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: ::http::StatusCode,
    pub body: Bytes,
}

/// One attempt of one operation. Cheap to clone.
#[derive(Clone)]
pub struct Call {
    /// The saga it belongs to; payload, headers and addresses are read from here.
    pub saga: Arc<Definition>,
    /// Which operation of which step.
    pub branch_op: BranchOp,
    /// Counts the attempts of this operation, from 1.
    pub attempt: u32,
    /// Outputs of the branches whose actions have succeeded, by branch id; empty for those that gave none.
    pub results: Arc<[(BranchId, String)]>,
    /// For a compensation: the recorded output of the action (`Some("")` if it gave none), `None` when it is unknown
    /// whether the action took effect. `None` for an action.
    pub tried: Option<Arc<str>>,
    /// How long the attempt may take once it runs. Waiting for a place at the destination does not count.
    pub timeout: Duration,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { saga, branch_op, attempt, .. } = self;
        write!(f, "Call({} {} {} attempt {attempt})", saga.gid(), self.branch_id(), branch_op.op.as_str())
    }
}

impl Call {
    /// `01`, `02`, ...
    pub fn branch_id(&self) -> BranchId {
        BranchId(self.branch_op.step)
    }

    /// The step's payload.
    pub fn payload(&self) -> Bytes {
        self.saga.steps().get(self.branch_op.step).map_or_else(Bytes::new, |step| step.payload.clone())
    }

    /// The address that the client gave for this operation.
    pub fn target(&self) -> &str {
        self.saga.target(self.branch_op)
    }

    /// The same for every attempt of one operation, different for any other operation.
    pub fn idempotency_key(&self) -> String {
        idempotency_key(self.saga.gid(), self.branch_id(), self.branch_op.op)
    }

    /// Whether this is the compensation.
    pub fn is_compensation(&self) -> bool {
        self.branch_op.op == Op::Compensate
    }
}

/// What the host gives to the guest of an attempt. Services need none of it. Cheap to clone.
#[derive(Clone)]
pub struct Host {
    /// The state that effects are added to. What an attempt reads here belongs into its effects as preconditions.
    pub state: Arc<dyn Read>,
    /// Grants egress to a branch that is [`Containment::Gated`]; `None` denies it.
    pub egress: Option<Arc<dyn Egress>>,
    /// The attempt is part of a dry run: none of its effects is kept.
    pub is_dry_run: bool,
    /// The attempt's place at its destination. A guest keeps it until it is gone, which may be later than the attempt's end.
    pub place: Option<Place>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { egress, is_dry_run, .. } = self;
        write!(f, "Host(has_egress {} is_dry_run {is_dry_run})", egress.is_some())
    }
}

/// See [`Call::idempotency_key`].
pub fn idempotency_key(gid: &Gid, branch: BranchId, op: Op) -> String {
    format!("{gid}-{branch}-{}", op.as_str())
}

/// The result of an attempt.
#[derive(Debug)]
pub enum Outcome {
    /// The attempt ended, and its verdict counts.
    Ended {
        /// The attempt's result.
        verdict: Verdict,
        /// What the attempt changed in the store and what it had read there. Committed together with the verdict, or
        /// not at all; empty unless it succeeded, and for branches that keep their state elsewhere.
        effects: Batch,
    },
    /// The attempt read data that has changed since. It has no verdict and no effects, and is made again. What it has
    /// sent stays sent.
    Stale,
}

impl From<Verdict> for Outcome {
    /// Without effects.
    fn from(verdict: Verdict) -> Self {
        Self::Ended { verdict, effects: Batch::new() }
    }
}

impl Outcome {
    /// [`Verdict::Succeeded`] without effects.
    pub fn succeeded(output: Option<String>) -> Self {
        Verdict::Succeeded { output }.into()
    }

    /// [`Verdict::Rejected`].
    pub fn rejected(reason: impl Into<String>) -> Self {
        Verdict::Rejected { reason: reason.into() }.into()
    }

    /// [`Verdict::Ongoing`].
    pub fn ongoing(retry_after: Option<Duration>) -> Self {
        Verdict::Ongoing { retry_after }.into()
    }

    /// [`Verdict::Unknown`].
    pub fn unknown(error: impl Into<String>) -> Self {
        Verdict::Unknown { error: error.into() }.into()
    }

    /// Whether the verdict is [`Verdict::Succeeded`].
    pub fn has_succeeded(&self) -> bool {
        matches!(self, Self::Ended { verdict: Verdict::Succeeded { .. }, .. })
    }
}

/// Something that can carry out one operation of a saga.
pub trait Branch: Send + Sync + 'static {
    /// Makes one attempt. Dropping the future gives the attempt up; a contained one has then had no effect.
    fn call<'a>(&'a self, call: &'a Call, host: &'a Host) -> BoxFuture<'a, Outcome>;

    /// Whether an attempt can have effects outside the host.
    fn containment(&self) -> Containment;

    /// Where its attempts run. `None`: nowhere that has a limit.
    fn destination(&self) -> Option<Destination> {
        None
    }

    /// The request that an attempt would send, as text for people; `None` if it is not known before the attempt.
    fn egress_request(&self, _call: &Call) -> Option<EgressRequest> {
        None
    }
}

/// A row of a branch's data, by its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataKey {
    /// The plugin that owns the bucket; empty for a shared bucket.
    pub owner: String,
    pub bucket: String,
    /// The key in the bucket.
    pub key: String,
}

/// Finds the branch behind an address. The host's own directory knows plugins and HTTP services.
pub trait Directory: Send + Sync + 'static {
    /// The branch that carries out this operation of `saga`. An error: it was not found.
    ///
    /// Called before each attempt, since plugins are published and removed at any time. `pin` is what
    /// [`Directory::pin`] returned for the operation; without one it is a service, even if a plugin has the name now.
    fn find(&self, saga: &Definition, branch_op: BranchOp, pin: Option<&Pin>) -> Result<Arc<dyn Branch>, NotFound>;

    /// Chooses the components that carry out these operations until the saga's end; none for services. All are chosen
    /// at once, so that a saga does not mix versions, and are held from then on: see [`Directory::hold`].
    ///
    /// Called when a saga is first stored. An error: the operation whose address was not found, and why.
    fn pin(&self, saga: &Definition, branch_ops: &[BranchOp]) -> Result<Pins, (BranchOp, NotFound)> {
        branch_ops.iter().try_for_each(|branch_op| {
            self.find(saga, *branch_op, None).map(drop).map_err(|not_found| (*branch_op, not_found))
        })?;
        Ok(Pins::default())
    }

    /// Holds the components of a saga that an earlier process stored. Called at the start, before any attempt. The
    /// components stay and are found until they have been released as often as they were held.
    fn hold(&self, _pins: &[Pin]) {}

    /// Releases the components that were pinned or held for a saga which has ended.
    fn release(&self, _pins: &[Pin]) {}

    /// The names of the row of a branch's data that has this key in the store, without secrets. `None`: the key is not
    /// that of a branch's data.
    fn describe(&self, _key: &[u8]) -> Option<DataKey> {
        None
    }

    /// A branch's data without the secrets that were granted to branches.
    fn shown<'a>(&self, data: &'a [u8]) -> Cow<'a, [u8]> {
        data.into()
    }
}

/// The branch of an address was not found: the cause and the mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotFound(pub String);
