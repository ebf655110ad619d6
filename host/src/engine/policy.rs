//! The settings of retries as the settings file has them. The machine itself knows no files.

use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as duration;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::saga::Policy;

/// The file's form of [`Policy`].
#[derive(Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "these are the names of the settings")]
struct Retry {
    #[serde(with = "duration")]
    retry_interval: Duration,
    #[serde(with = "duration")]
    retry_interval_max: Duration,
    #[serde(with = "duration")]
    ongoing_min: Duration,
    #[serde(with = "duration")]
    ongoing_max: Duration,
    stuck_after: u32,
}

impl From<Policy> for Retry {
    fn from(policy: Policy) -> Self {
        let Policy { retry_interval, retry_interval_max, ongoing_min, ongoing_max, stuck_after } = policy;
        Self { retry_interval, retry_interval_max, ongoing_min, ongoing_max, stuck_after }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Policy::default().into()
    }
}

/// For serde's `with`.
pub(super) fn serialize<S: Serializer>(policy: &Policy, serializer: S) -> Result<S::Ok, S::Error> {
    Retry::from(*policy).serialize(serializer)
}

/// For serde's `with`.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Policy, D::Error> {
    let Retry { retry_interval, retry_interval_max, ongoing_min, ongoing_max, stuck_after } =
        Retry::deserialize(deserializer)?;
    Ok(Policy { retry_interval, retry_interval_max, ongoing_min, ongoing_max, stuck_after })
}
