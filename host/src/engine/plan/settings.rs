//! The settings of plans.

use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as duration;
use serde::{Deserialize, Serialize};

/// What plans may cost. They compete with sagas for the places of guests.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Plans that are made at once; more are answered "busy". 0: none are made.
    pub at_once: usize,
    /// Most steps of a saga: the work grows with their square, as each step is also let fail.
    pub steps_max: usize,
    /// Longest time that making a plan may take.
    #[serde(with = "duration")]
    pub time_max: Duration,
    /// Bytes of data that all attempts of one plan may read and write together: it is held in memory.
    pub data_bytes_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { at_once: 2, steps_max: 50, time_max: Duration::from_secs(30), data_bytes_max: 32 << 20 }
    }
}
