//! DTM's behaviour towards saga clients and participants, case by case: what DTM's own tests assert, and what its code
//! does besides. README.md in this folder lists the cases and where Wasaga deviates on purpose; [`table`] checks that
//! it lists them all, and that each has its test.
//!
//! Everything is real but the clock: the router, the engine, the store, the HTTP client, and a participant that behaves
//! as the one of DTM's tests. [`world`] says how paused time and real connections go together.

mod participant;
mod world;

mod api;
mod bad_input;
mod barrier;
mod beyond;
mod concurrent;
mod json_rpc;
mod mixed;
mod options;
mod results;
mod saga;
mod store;
mod table;
