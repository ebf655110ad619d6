//! The saga machine: pure, synchronous, total.
//!
//! Nothing here waits, reads a clock, stores or calls anything. The runtime does; the machine decides.
//!
//! ```text
//!            runtime                                      machine
//!
//!  client ── Definition ─────────────────────────────>  Saga::new
//!  submit, verdict, timer ── Event ──────────────────>  Saga::apply     (checks the event, changes the state)
//!  InFlight, now ────────────────────────────────────>  Saga::next
//!                                                          │
//!  commit and apply this event  <── Next::Decide ──────────┤
//!  start an attempt             <── Next::Call ────────────┤
//!  cancel an attempt            <── Next::Drop ────────────┤
//!  sleep until then             <── Next::Wait ────────────┤
//!  release the saga             <── Next::Finished ────────┘
//!  attempt ended ── Verdict ─────────────────────────>  Saga::conclude  (gives the Event to commit and apply)
//!  restart ── log ───────────────────────────────────>  Saga::replay    (apply for each event of the log)
//! ```
//!
//! Live execution and recovery run the same functions: recovery is replay, followed by the ordinary loop.
//!
//! ```
//! use std::sync::Arc;
//! use wasaga_saga::{
//!     BranchOp, Definition, Event, Gid, InFlight, Next, Op, Options, Order, Policy, Saga, Status, Step, Timestamp,
//!     Verdict,
//! };
//!
//! // Define.
//! let step = Step {
//!     action: "http://bank/debit".into(),
//!     compensation: "http://bank/credit".into(),
//!     payload: "30".into(),
//! };
//! let now = Timestamp(0);
//! let gid = Gid::new("transfer-1")?;
//! let definition = Arc::new(Definition::new(gid, vec![step], Order::default(), Options::default(), now)?);
//!
//! // Submit: every change is an event, applied and appended to the log.
//! let mut saga = Saga::new(definition.clone());
//! let mut log = vec![Event::Submitted { at: now }];
//! saga.apply(&log[0])?;
//!
//! // The machine says what to do next: call the action.
//! let mut in_flight = InFlight::default();
//! let debit = BranchOp { step: 0, op: Op::Action };
//! assert_eq!(saga.next(&in_flight, now), Next::Call(debit));
//! in_flight.begin(debit, ());
//! assert_eq!(saga.next(&in_flight, now), Next::Wait(None));
//!
//! // The attempt has ended: its verdict becomes an event.
//! in_flight.end(debit);
//! let verdict = Verdict::Succeeded { output: None };
//! let event = saga.conclude(debit, verdict, now, &Policy::default(), 0.5);
//! saga.apply(&event)?;
//! log.push(event);
//! assert_eq!((saga.status(), saga.next(&in_flight, now)), (Status::Succeed, Next::Finished));
//!
//! // Recovery: the log gives the same state.
//! assert_eq!(Saga::replay(definition, &log)?, saga);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Reading order: [`definition`], [`event`], [`state`], [`in_flight`], [`machine`], [`clock_change`], [`compaction`],
//! [`text`], [`render`]; [`pins`] stands beside them.

// A request must never bring the host down. Tests may (clippy.toml).
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod clock_change;
pub mod compaction;
pub mod definition;
pub mod event;
pub mod in_flight;
pub mod machine;
pub mod pins;
pub mod render;
pub mod state;
pub mod text;

pub use definition::{BranchId, BranchOp, Definition, Gid, Invalid, Op, Options, Order, Results, Step, Timestamp};
pub use event::{AbortReason, Event, Failure};
pub use in_flight::InFlight;
pub use machine::{Next, Policy, Verdict};
pub use pins::{Digest, NoDigest, Pin, Pins};
pub use state::{IllegalEvent, Saga, Status};
