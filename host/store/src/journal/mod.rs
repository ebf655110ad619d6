//! The journal: its files, the order of commits, and the thread that makes them durable.

#[cfg(test)]
mod fuzz;
pub(crate) mod salvage;
pub(crate) mod segment;
pub(crate) mod segments;
pub(crate) mod sequencer;
pub(crate) mod survey;
pub(crate) mod writer;
