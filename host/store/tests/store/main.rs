//! The store's promises, each with a test that breaks something to see it kept.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

mod commit;
mod faults;
mod formats;
mod journal;
mod kill;
mod limits;
mod model;
mod rebuild;
