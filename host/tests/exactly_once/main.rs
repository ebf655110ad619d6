//! Real plugins, driven by the real engine over the real store: what a branch does counts exactly once, and what it lets
//! out of the host follows what is on disk.
//!
//! Elsewhere each part is tried by itself: the engine with branches that a test plays, the plugins with an exit and a
//! store that a test plays. Here they are put together, with a disk that can be held and cut, and a server outside.

mod compensation;
mod crashes;
mod late;
mod outputs;
mod outside;
mod time;
mod world;

use std::time::Duration;

/// How long anything may take that should happen at once.
const PATIENCE: Duration = Duration::from_secs(30);
