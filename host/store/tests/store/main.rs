//! The store's promises, each with a test that breaks something to see it kept.

mod support;

mod commit;
mod faults;
mod formats;
mod journal;
mod kill;
mod limits;
mod model;
mod rebuild;
