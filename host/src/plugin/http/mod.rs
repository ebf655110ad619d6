//! Outgoing HTTP of plugins.

pub mod address;
pub mod rule;
