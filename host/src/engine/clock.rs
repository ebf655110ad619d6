//! The time for sagas: the wall clock at the start of the host, plus the time elapsed on a monotonic clock.
//!
//! So a step of the system's clock does not change when a retry is due. When a test pauses tokio's time, this clock
//! pauses too.

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

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.wall_at_start.after(self.start.elapsed())
    }
}
