//! The store's promises, each with a test that tries to break it.

mod support;

mod commit;
mod faults;
mod formats;
mod journal;
mod kill;
mod limits;
mod lossy;
mod model;
mod rebuild;
mod refusals;
