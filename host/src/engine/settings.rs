//! The engine's settings.

use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as duration;
use serde::{Deserialize, Serialize};

use super::{plan::settings as plan, policy};
use crate::saga::Policy;

/// The engine's limits.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How sagas are retried.
    #[serde(rename = "retry", with = "policy")]
    pub policy: Policy,
    /// Longest time of one attempt, when the saga does not say. DTM: 3 s.
    #[serde(with = "duration")]
    pub request_timeout: Duration,
    /// Most sagas driven at once; more are answered "busy". What they hold has a limit in the budget of
    /// memory.
    pub live_max: usize,
    /// Most unfinished sagas, those that wait for a retry included; more are answered "busy".
    pub open_max: u64,
    /// Longest time that a submission with `wait_result` is held.
    #[serde(with = "duration")]
    pub wait_max: Duration,
    /// What plans may cost.
    pub plan: plan::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            request_timeout: Duration::from_secs(3),
            live_max: 4096,
            open_max: 10_000_000,
            wait_max: Duration::from_secs(30),
            plan: plan::Settings::default(),
        }
    }
}
