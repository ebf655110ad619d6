//! The store's promises, each with a test that breaks something to see it kept.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "store/support.rs"]
mod support;

#[path = "store/commit.rs"]
mod commit;
#[path = "store/faults.rs"]
mod faults;
#[path = "store/journal.rs"]
mod journal;
#[path = "store/kill.rs"]
mod kill;
#[path = "store/limits.rs"]
mod limits;
#[path = "store/model.rs"]
mod model;
#[path = "store/rebuild.rs"]
mod rebuild;
