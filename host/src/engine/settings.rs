//! The engine's settings.

use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as duration;
use serde::{Deserialize, Serialize};

use super::{destinations, plan::settings as plan, policy};
use crate::{hidden, saga::Policy};

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
    /// Longest time of one attempt that a saga may ask for by `request_timeout`; a longer one is cut to it. Bounds how long a
    /// service that does not answer keeps its places.
    #[serde(with = "duration")]
    pub request_timeout_max: Duration,
    /// Most sagas driven at once; more are answered "busy". An eighth is kept for sagas that are due, and a quarter of the others
    /// is a reserve for clients that have few: no client takes the places of all others. What they hold has a limit in the
    /// budget of memory.
    pub live_max: usize,
    /// Most unfinished sagas, those that wait for a retry included; more are answered "busy". A quarter of it may wait for
    /// one and the same plugin or service.
    pub open_max: u64,
    /// Longest time that a submission with `wait_result` is held.
    #[serde(with = "duration")]
    pub wait_max: Duration,
    /// Headers of `branch_headers` whose values are sent and never shown, besides `Authorization`, `Cookie` and
    /// `Proxy-Authorization`: a token that every reader of a saga sees is none.
    pub hidden_headers: hidden::Headers,
    /// What plans may cost.
    pub plan: plan::Settings,
    /// How many attempts run at once. Set under `[plugins]` and `[http]`.
    #[serde(skip)]
    pub attempts: destinations::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            request_timeout: Duration::from_secs(3),
            request_timeout_max: Duration::from_mins(5),
            live_max: 4096,
            open_max: 10_000_000,
            wait_max: Duration::from_secs(30),
            hidden_headers: hidden::Headers::default(),
            plan: plan::Settings::default(),
            attempts: destinations::Settings::default(),
        }
    }
}
