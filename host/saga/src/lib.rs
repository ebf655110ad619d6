//! The saga machine: pure, synchronous, total.
//!
//! Nothing here waits, reads a clock, stores or calls anything. A [`Definition`] says what was asked for, an [`Event`]
//! says what has happened, [`Saga::apply`] folds events into state and [`Saga::next`] says what to do now. Live
//! execution and recovery run the same two functions: recovery is replay plus the ordinary loop.
//!
//! Reading order: [`definition`], [`event`], [`state`], [`machine`], [`compaction`], [`render`];
//! [`pins`] stands beside them.

// A request must never bring the host down. Tests may (clippy.toml).
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod compaction;
pub mod definition;
pub mod event;
pub mod machine;
pub mod pins;
pub mod render;
pub mod state;

pub use definition::{BranchId, BranchOp, Definition, Gid, Invalid, Op, Options, Order, Results, Step, Timestamp};
pub use event::{AbortReason, Event, Failure};
pub use machine::{InFlight, Next, Policy, Verdict};
pub use pins::{Digest, NoDigest, Pin, Pins};
pub use state::{IllegalEvent, Saga, Status};
