//! What a saga would do, without doing it.
//!
//! A [`Rehearsal`] drives the saga with the machine that drives it live, on a [`Snapshot`] of the data. Contained
//! branches really run, and see what those before them have changed; nothing is called that is outside the host.
//! For every step that does not fail by itself it then goes back to before that step, lets it fail, and drives on.
//!
//! Invariants: nothing is stored, committed or sent; a plan that is given to somebody is true of one moment, at which
//! all that it is based on was so, and is on disk.

mod dry_run;
mod report;
mod state;

use std::{sync::Arc, time::Duration};

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as duration;
use serde::{Deserialize, Serialize};

pub use self::report::{Act, Change, Changes, Ending, Plan, Trace, Value, WhatIf};
use self::{
    dry_run::Rehearsal,
    state::{Snapshot, Trouble},
};
use super::{
    Engine, Inner,
    error::{Error, SubmitError},
};
use crate::saga::Definition;

/// How often a plan is made that turns out to be based on data that has changed meanwhile.
const TRIES: usize = 3;

/// When to ask again for a plan that could not be made now.
const RETRY_AFTER: Duration = Duration::from_secs(1);

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

/// Why no plan was made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A submission would be refused as well.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// A limit.
    #[error("the saga has {steps} steps, plans are made for at most {max} (saga.plan.steps_max)")]
    TooManySteps {
        /// How many it has.
        steps: usize,
        /// The limit.
        max: usize,
    },
    /// A limit.
    #[error("the plan reads and writes more than {max} bytes of data, the limit (saga.plan.data_bytes_max)")]
    TooMuchData {
        /// The limit.
        max: usize,
    },
    /// A limit.
    #[error("the plan took more than {max:?}, the limit (saga.plan.time_max)")]
    TooSlow {
        /// The limit.
        max: Duration,
    },
    /// A limit.
    #[error("{max} plans are being made already, the limit (saga.plan.at_once): try again in {} s", retry_after.as_secs())]
    Busy {
        /// The limit.
        max: usize,
        /// When a place may be free.
        retry_after: Duration,
    },
    /// Other sagas change what this one reads, faster than it can be planned.
    #[error("the data changed {TRIES} times while the plan was being made: try again in {} s", retry_after.as_secs())]
    Changing {
        /// When it may be quieter.
        retry_after: Duration,
    },
    /// The engine failed.
    #[error("the plan could not be made")]
    Engine(#[from] Error),
}

impl Engine {
    /// What this saga would do if it were submitted now, and what if a step failed. Whether its gid is taken makes no
    /// difference.
    pub async fn plan(&self, definition: Definition) -> Result<Plan, PlanError> {
        let engine = &*self.0;
        let Settings { at_once, steps_max, time_max, .. } = engine.settings.plan;
        if definition.steps().len() > steps_max {
            return Err(PlanError::TooManySteps { steps: definition.steps().len(), max: steps_max });
        }
        let busy = |_| PlanError::Busy { max: at_once, retry_after: RETRY_AFTER };
        let _place = engine.plans.try_acquire().map_err(busy)?;
        let plan = tokio::time::timeout(time_max, engine.plan(Arc::new(definition)));
        let plan = match engine.stopping.run_until_cancelled(plan).await {
            None => Err(SubmitError::Stopping.into()),
            Some(Err(_)) => Err(PlanError::TooSlow { max: time_max }),
            Some(Ok(plan)) => plan,
        };
        plan.inspect_err(|error| {
            if let PlanError::Engine(error) = error {
                engine.notice(error);
            }
        })
    }
}

impl Inner {
    async fn plan(&self, definition: Arc<Definition>) -> Result<Plan, PlanError> {
        // As a submission would find them.
        let components = self.pin(&definition, |_| true)?;
        for _ in 0..TRIES {
            let snapshot = Snapshot::new(self.store.clone(), self.settings.plan.data_bytes_max);
            let dry_run = Rehearsal::new(self, &components.pins, snapshot.clone());
            let plan = dry_run.plan(definition.clone()).await?;
            if self.store.is_current(&snapshot.reads()).map_err(Error::from)? {
                self.durable(&self.store.barrier()).await?;
                return Ok(plan);
            }
        }
        Err(PlanError::Changing { retry_after: RETRY_AFTER })
    }

    fn stopped_by(&self, trouble: Trouble) -> PlanError {
        match trouble {
            Trouble::Full => PlanError::TooMuchData { max: self.settings.plan.data_bytes_max },
            Trouble::Store(error) => Error::from(error).into(),
        }
    }
}
