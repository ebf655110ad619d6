//! The HTTP API as clients see it: statuses, headers and bodies, byte for byte, in front of a real engine and store.

mod connections;
mod hidden;
mod host;
mod lists;
mod memory;
mod plan;
mod plugins;
mod real_plugins;
mod refusals;
mod sagas;
