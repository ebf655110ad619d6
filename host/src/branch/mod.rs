//! The seam between a saga and whatever does its work.
//!
//! The engine sees one trait, [`Branch`]. Behind it stand Wasm plugins (`plugin`), services over HTTP ([`http`]) and over
//! gRPC ([`grpc`]); tests put scripts there. A branch never decides about the saga: it is called once per attempt and
//! says what came of it.

pub mod grpc;
pub mod http;
mod json_rpc;

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::{
    saga::{BranchId, BranchOp, Definition, Gid, Op, Pin, Pins},
    store::{Batch, Read},
};

/// Whether an attempt can have an effect that the host neither sees nor can take back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Containment {
    /// Nothing an attempt does can leave the host: its effects are the batch it returns, and nothing before that.
    Contained,
    /// Contained until it asks its [`Egress`] to be let out, and external from then on.
    Gated,
    /// An attempt may act on the world as soon as it has started.
    External,
}

/// Something that an attempt wants to let out of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressRequest {
    /// For people, as in `POST https://example.com/charges`.
    pub what: String,
}

/// Why nothing may leave the host for this attempt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EgressDenied(pub String);

/// The only way out for an attempt of a branch that is [`Containment::Gated`].
pub trait Egress: Send + Sync + 'static {
    /// Asks to let something out. Resolves when it may go: it is on disk that the attempt may have had an effect, and
    /// so is everything that the attempt can have read. Asked again for everything that follows.
    ///
    /// Whoever is held back has done nothing, and must not go on.
    fn request(&self, egress_request: EgressRequest) -> BoxFuture<'_, Result<(), EgressDenied>>;

    /// What is answered to every request that may go, in place of whom it is for: then nothing is sent. For who tries a
    /// branch out; a saga's exits have none.
    fn reply(&self) -> Option<Reply> {
        None
    }
}

/// What an HTTP request is answered without being sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: ::http::StatusCode,
    /// The whole body.
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
    /// How long the attempt may take once it runs; waiting for a place in a full host is not counted.
    pub timeout: Duration,
    /// The state that effects are added to: what an attempt reads here belongs into its effects as preconditions.
    pub state: Arc<dyn Read>,
    /// The way out, for a branch that is [`Containment::Gated`]; without one nothing leaves.
    pub egress: Option<Arc<dyn Egress>>,
    /// Nothing of it will be kept: somebody only wants to know what would happen.
    pub is_dry_run: bool,
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

/// See [`Call::idempotency_key`].
pub fn idempotency_key(gid: &Gid, branch: BranchId, op: Op) -> String {
    format!("{gid}-{branch}-{}", op.as_str())
}

/// What came of an attempt.
#[derive(Debug)]
pub enum Outcome {
    /// It took effect.
    Succeeded {
        /// What later branches, its own compensation and people may read; JSON text for a Wasm branch.
        output: Option<String>,
        /// What it changed in the store and what it had read there: committed together with the outcome, or not at
        /// all. Empty for branches that keep their state elsewhere.
        effects: Batch,
    },
    /// It definitely did not take effect and never will: the saga is rolled back.
    Rejected {
        /// For people; the saga's rollback reason.
        reason: String,
    },
    /// Not finished yet: ask again, with no sign of trouble.
    Ongoing {
        /// When to ask again; the saga's retry interval if not given.
        retry_after: Option<Duration>,
    },
    /// Nobody can say (trap, timeout, crash, 5xx): try again with backoff.
    Unknown {
        /// For people; names the cause and, where known, the mend.
        error: String,
    },
    /// It rests on data that has changed since it was read, so it says nothing, and nothing of it is kept: make it
    /// again. What it has let out of the host is out.
    Stale,
}

/// Something that can carry out one operation of a saga.
pub trait Branch: Send + Sync + 'static {
    /// Makes one attempt. Dropping the future gives the attempt up; a contained one has then had no effect.
    fn call<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Outcome>;

    /// Whether an attempt can have effects outside the host.
    fn containment(&self) -> Containment;

    /// What an attempt would send, for people who want to know without sending it; `None` if that is not known before.
    fn egress_request(&self, _call: &Call) -> Option<EgressRequest> {
        None
    }
}

/// Finds the branch behind an address. The host's own directory knows plugins and HTTP services.
pub trait Directory: Send + Sync + 'static {
    /// The branch that carries out the operation `branch_op` of `saga`; the saga's other options may matter to it.
    ///
    /// Asked before each attempt, since plugins come and go. `pin` is what [`Directory::pin`] has said of it; without
    /// one it is a service, whatever plugins there are by now.
    fn find(&self, saga: &Definition, branch_op: BranchOp, pin: Option<&Pin>) -> Result<Arc<dyn Branch>, NotFound>;

    /// Which components are to carry out these operations, from now until the saga's end; none where a service is.
    /// All are chosen at one moment, or a saga could mix versions, and are held from that moment on: see
    /// [`Directory::hold`].
    ///
    /// Asked when a saga is first stored, to refuse what cannot work: the operation that leads nowhere, and why.
    fn pin(&self, saga: &Definition, branch_ops: &[BranchOp]) -> Result<Pins, (BranchOp, NotFound)> {
        branch_ops.iter().try_for_each(|branch_op| {
            self.find(saga, *branch_op, None).map(drop).map_err(|not_found| (*branch_op, not_found))
        })?;
        Ok(Pins::default())
    }

    /// Told of every saga that was stored by an earlier process, before anything runs, that it uses these components:
    /// they stay, and are found, until [`Directory::release`] has been told as often.
    fn hold(&self, _pins: &[Pin]) {}

    /// Told that a saga that these were pinned or held for has ended.
    fn release(&self, _pins: &[Pin]) {}

    /// A part of what branches keep in the store as people may see it: without the secrets that branches were given.
    fn shown<'a>(&self, data: &'a [u8]) -> Cow<'a, [u8]> {
        data.into()
    }
}

/// An address that leads to no branch: what is wrong with it, and what would do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotFound(pub String);
