//! The components that sagas run on, and how long the directory holds them.
//!
//! A saga runs on the components that were current when it was first stored, from its first attempt to its end. The
//! directory holds them by a count: **the holds of a component minus its releases are the number of open sagas that pin
//! it.** Open sagas are those with a row in the store, and live ones that are not stored yet. So components are held
//! when the saga is accepted or found at the start, and released once, when it ends: both beside the count of open sagas.

use super::{error::SubmitError, inner::Inner, live::Core};
use crate::{
    branch::{Directory, NotFound},
    saga::{BranchOp, Definition, Op, Pins, Timestamp, state::OpState},
};

/// Components that are held for a saga which is not open yet. Dropping it releases them.
pub(super) struct PinGuard<'a> {
    directory: &'a dyn Directory,
    pub pins: Pins,
}

impl PinGuard<'_> {
    /// The saga is open: its components are released when it ends.
    pub fn keep(mut self) {
        self.pins = Pins::default();
    }
}

impl Drop for PinGuard<'_> {
    fn drop(&mut self) {
        if !self.pins.is_empty() {
            self.directory.release(self.pins.components());
        }
    }
}

impl Inner {
    /// Pins the components of the operations that are `wanted`, and holds them. An error: one of the operations has no
    /// branch, and nothing is held.
    pub fn pin(&self, definition: &Definition, wanted: impl Fn(BranchOp) -> bool) -> Result<PinGuard<'_>, SubmitError> {
        let all =
            (0..definition.steps().len()).flat_map(|step| [Op::Action, Op::Compensate].map(|op| BranchOp { step, op }));
        let branch_ops: Vec<BranchOp> =
            all.filter(|branch_op| !definition.target(*branch_op).is_empty() && wanted(*branch_op)).collect();
        let directory = &*self.directory;
        let refused = |(BranchOp { step, op }, NotFound(reason))| SubmitError::Target { step, op, reason };
        Ok(PinGuard { directory, pins: directory.pin(definition, &branch_ops).map_err(refused)? })
    }

    /// Pins the components of a saga that is older than pinning: those of the operations that it can still call.
    pub fn pin_unpinned(&self, core: &mut Core, at: Timestamp) -> Result<(), SubmitError> {
        let saga = core.saga();
        let guard = self.pin(saga.definition(), |branch_op| saga.op(branch_op).is_some_and(OpState::is_pending))?;
        core.pin(&guard.pins, at)?;
        core.save(&*self.store, at)?;
        guard.keep();
        Ok(())
    }

    /// Releases the components of a saga that is not open any more: it has ended, or was never stored. Does nothing the
    /// second time.
    pub fn closed(&self, core: &mut Core) {
        if core.close() {
            self.stats.closed();
            let pins = core.saga().pins();
            if !pins.is_empty() {
                self.directory.release(pins.components());
            }
        }
    }
}
