//! The time for sagas: the wall clock at the start of the host, plus the time elapsed on a monotonic clock.
//!
//! So a step of the system's clock does not change when a retry is due. What a step between two starts means for stored
//! sagas: see `engine/clock_change.rs`. When a test pauses tokio's time, this clock pauses too.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::saga::Timestamp;

/// The system's clock stands before 1970, by this much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system's clock stands before 1970, by {} seconds: set it, and start the host again", .0.as_secs())]
pub struct Before1970(Duration);

/// The time source of an engine.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall_at_start: Timestamp,
    start: Instant,
}

impl Clock {
    /// A clock that shows the system's time now. An error if that lies before 1970, which neither sagas nor sled can tell.
    pub fn start() -> Result<Self, Before1970> {
        timestamp(SystemTime::now()).map(Self::at)
    }

    /// A clock that shows this time now.
    pub fn at(wall: Timestamp) -> Self {
        Self { wall_at_start: wall, start: Instant::now() }
    }

    /// The time that it showed first.
    pub fn started_at(&self) -> Timestamp {
        self.wall_at_start
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.wall_at_start.after(self.start.elapsed())
    }
}

fn timestamp(wall: SystemTime) -> Result<Timestamp, Before1970> {
    let elapsed = wall.duration_since(UNIX_EPOCH).map_err(|error| Before1970(error.duration()))?;
    Ok(Timestamp(0).after(elapsed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_before_1970_is_named() {
        let second = Duration::from_secs(1);
        assert_eq!(timestamp(UNIX_EPOCH + second), Ok(Timestamp(1000)));
        let error = timestamp(UNIX_EPOCH - second).unwrap_err().to_string();
        assert_eq!(error, "the system's clock stands before 1970, by 1 seconds: set it, and start the host again");
    }
}
