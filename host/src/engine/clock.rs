//! What time it is, for sagas: the wall clock as it was at the start, carried on by a clock that only goes forward.
//!
//! Steps of the system's clock therefore never make retries come early, twice or never. Tests pause tokio's time, and
//! this clock with it.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::saga::Timestamp;

/// The time source of an engine.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall_at_start: Timestamp,
    start: Instant,
}

impl Clock {
    /// A clock that shows the system's time now.
    pub fn start() -> Self {
        // A machine whose clock stands before 1970 gets 1970: only differences matter to sagas.
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { wall_at_start: Timestamp(0).after(wall), start: Instant::now() }
    }

    /// This moment.
    pub fn now(&self) -> Timestamp {
        self.wall_at_start.after(self.start.elapsed())
    }
}
