//! The HTTP API as clients see it: statuses, headers and bodies, byte for byte, in front of a real engine and store.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "api/connections.rs"]
mod connections;
#[path = "api/host.rs"]
mod host;
#[path = "api/lists.rs"]
mod lists;
#[path = "support/no_plugins.rs"]
mod no_plugins;
#[path = "api/plan.rs"]
mod plan;
#[path = "api/plugins.rs"]
mod plugins;
#[path = "api/real_plugins.rs"]
mod real_plugins;
#[path = "api/refusals.rs"]
mod refusals;
#[path = "api/sagas.rs"]
mod sagas;
