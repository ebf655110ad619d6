//! Why no plan was made.

use std::time::Duration;

use crate::engine::error::{Error, SubmitError};

/// How often a plan is made that turns out to be based on data that has changed meanwhile.
pub(super) const TRIES: usize = 3;

/// Why no plan was made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A submission would be refused as well.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    #[error("the saga has {steps} steps, plans are made for at most {max} (saga.plan.steps_max)")]
    TooManySteps { steps: usize, max: usize },
    #[error("the plan reads and writes more than {max} bytes of data, the limit (saga.plan.data_bytes_max)")]
    TooMuchData { max: usize },
    #[error("the plan took more than {max:?}, the limit (saga.plan.time_max)")]
    TooSlow { max: Duration },
    #[error("{max} plans are being made already, the limit (saga.plan.at_once): try again in {} s", retry_after.as_secs())]
    Busy { max: usize, retry_after: Duration },
    /// Other sagas change what this one reads, faster than it can be planned.
    #[error("the data changed {TRIES} times while the plan was being made: try again in {} s", retry_after.as_secs())]
    Changing { retry_after: Duration },
    /// The engine failed.
    #[error("the plan could not be made")]
    Engine(#[from] Error),
}
