//! The seam between a saga and whatever does its work.
//!
//! The engine sees one trait, [`Branch`]. Behind it stand Wasm plugins (`plugin`), services over HTTP ([`http`]) and over
//! gRPC ([`grpc`]); tests put scripts there. A branch never decides about the saga: it is called once per attempt and
//! says what came of it.

pub mod grpc;
pub mod http;
mod json_rpc;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::{
    saga::{BranchId, Definition, Op, Slot},
    store::Batch,
};

/// Whether an attempt can have an effect that the host neither sees nor can take back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Nothing an attempt does can leave the host: its effects are the batch it returns, and nothing before that.
    Contained,
    /// An attempt may act on the world as soon as it has started.
    External,
}

/// One attempt of one operation.
#[derive(Clone, Debug)]
pub struct Call {
    /// The saga it belongs to; payload, headers and addresses are read from here.
    pub saga: Arc<Definition>,
    /// Which operation of which step.
    pub slot: Slot,
    /// Counts the attempts of this operation, from 1.
    pub attempt: u32,
    /// Outputs of the branches whose actions have succeeded, by branch id; empty for those that gave none.
    pub results: Vec<(BranchId, String)>,
    /// For a compensation: the recorded output of the action (`Some("")` if it gave none), `None` when it is unknown
    /// whether the action took effect. `None` for an action.
    pub tried: Option<String>,
    /// How long the attempt may take once it runs; waiting for a place in a full host is not counted.
    pub timeout: Duration,
}

impl Call {
    /// `01`, `02`, ...
    pub fn branch_id(&self) -> BranchId {
        BranchId(self.slot.step)
    }

    /// The step's payload.
    pub fn payload(&self) -> Bytes {
        self.saga.steps().get(self.slot.step).map_or_else(Bytes::new, |step| step.payload.clone())
    }

    /// The address that the client gave for this operation.
    pub fn target(&self) -> &str {
        self.saga.target(self.slot)
    }

    /// The same for every attempt of one operation, different for any other operation.
    pub fn idempotency_key(&self) -> String {
        format!("{}-{}-{}", self.saga.gid(), self.branch_id(), self.slot.op.as_str())
    }

    /// Whether this is the compensation.
    pub fn is_compensation(&self) -> bool {
        self.slot.op == Op::Compensate
    }
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
}

/// Something that can carry out one operation of a saga.
pub trait Branch: Send + Sync + 'static {
    /// Makes one attempt. Dropping the future gives the attempt up; a contained one has then had no effect.
    fn call<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Outcome>;

    /// Whether an attempt can have effects outside the host.
    fn reach(&self) -> Reach;
}

/// Finds the branch behind an address. The host's own directory knows plugins and HTTP services.
pub trait Directory: Send + Sync + 'static {
    /// The branch that carries out the operation `slot` of `saga`; the saga's other options may matter to it.
    ///
    /// Asked when a saga is submitted, to refuse what cannot work, and before each attempt, since plugins come and go.
    fn find(&self, saga: &Definition, slot: Slot) -> Result<Arc<dyn Branch>, Nowhere>;
}

/// An address that leads to no branch: what is wrong with it, and what would do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Nowhere(pub String);
