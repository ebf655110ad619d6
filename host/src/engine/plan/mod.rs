//! Plans: what a saga would do, without doing it.
//!
//! A [`DryRun`] drives the saga with the same machine that drives it live, on a [`Snapshot`] of the data. Contained
//! branches really run, and see the effects of those before them; no branch outside the host is called. For every step
//! that does not fail by itself, a second trace goes back to the state before it, rejects it, and continues.
//!
//! Invariants: nothing is stored, committed or sent. All data that a plan is based on was current at one time, and is on
//! disk.

mod dry_run;
mod error;
mod report;
pub(super) mod settings;
mod snapshot;

use std::{sync::Arc, time::Duration};

use self::{dry_run::DryRun, error::TRIES, snapshot::Snapshot};
pub use self::{
    error::PlanError,
    report::{Change, Changes, Ending, Plan, Trace, TracedOp, Value, WhatIf},
    settings::Settings,
};
use super::{
    error::{Error, SubmitError},
    inner::Inner,
};
use crate::saga::Definition;

/// When to ask again for a plan that could not be made now.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Inner {
    /// See `Engine::plan`.
    pub async fn plan(&self, definition: Definition) -> Result<Plan, PlanError> {
        let Settings { at_once, steps_max, time_max, .. } = self.settings.plan;
        if definition.steps().len() > steps_max {
            return Err(PlanError::TooManySteps { steps: definition.steps().len(), max: steps_max });
        }
        let busy = |_| PlanError::Busy { max: at_once, retry_after: RETRY_AFTER };
        let _place = self.plans.try_acquire().map_err(busy)?;
        let plan = tokio::time::timeout(time_max, self.plan_current(Arc::new(definition)));
        let plan = match self.stopping.run_until_cancelled(plan).await {
            None => Err(SubmitError::Stopping.into()),
            Some(Err(_)) => Err(PlanError::TooSlow { max: time_max }),
            Some(Ok(plan)) => plan,
        };
        plan.inspect_err(|error| {
            if let PlanError::Engine(error) = error {
                self.notice(error);
            }
        })
    }

    /// A plan whose data has not changed since it was read.
    async fn plan_current(&self, definition: Arc<Definition>) -> Result<Plan, PlanError> {
        // The components that a submission would pin.
        let components = self.pin(&definition, |_| true)?;
        for _ in 0..TRIES {
            let snapshot = Snapshot::new(self.store.clone(), self.settings.plan.data_bytes_max);
            let dry_run = DryRun::new(self, &components.pins, snapshot.clone());
            let plan = dry_run.plan(definition.clone()).await?;
            if self.store.is_current(&snapshot.reads()).map_err(Error::from)? {
                self.durable(&self.store.barrier()).await?;
                return Ok(plan);
            }
        }
        Err(PlanError::Changing { retry_after: RETRY_AFTER })
    }
}
