//! The scope of an attempt: the state that all its parts share, and its end.

use std::sync::{Arc, atomic::Ordering};

use tokio_util::sync::CancellationToken;

use crate::{
    branch::{Call, Host},
    memory::Reserved,
    plugin::{
        component::plugin::Plugin,
        imports::{
            output_gate::Refusal,
            stdio::{Origin, Stdio},
        },
        limits::Room,
        sandbox::scheduler::CpuMeter,
    },
};

/// Handles to the state that all runs of an attempt share. Clones are the same; the guest owns one, since it may be on another
/// thread and be dropped there a little later than the attempt ends.
#[derive(Clone)]
pub struct AttemptHandles {
    /// Cancelled at the end of the attempt: from then on the guest's output is discarded, nothing leaves the host, and a
    /// guest that still computes ends with the next tick.
    pub cancelled: CancellationToken,
    pub stdio: Stdio,
    pub cpu_meter: CpuMeter,
    pub refusal: Refusal,
    pub room: Arc<Room>,
}

/// An attempt. Dropping it ends the attempt, whether its outcome was awaited or not.
pub struct AttemptScope<'a> {
    pub handles: AttemptHandles,
    /// Whether the guest came to its end; set before this is dropped.
    pub has_ended: bool,
    plugin: &'a Plugin,
}

impl<'a> AttemptScope<'a> {
    /// Begins an attempt of a plugin, with what is reserved for its memory.
    pub fn new(plugin: &'a Plugin, call: &Call, host: &Host, room: Reserved) -> Self {
        let cancelled = CancellationToken::new();
        let origin = Origin {
            plugin: plugin.policy.plugin.clone(),
            grants: plugin.policy.grants.clone(),
            guest_log: plugin.policy.guest_log.clone(),
            saga: call.saga.clone(),
            branch_op: call.branch_op,
            is_dry_run: host.is_dry_run,
        };
        let handles = AttemptHandles {
            stdio: Stdio::new(origin, &plugin.policy.limits, cancelled.clone()),
            cpu_meter: CpuMeter::new(cancelled.clone()),
            refusal: Refusal::default(),
            room: Room::new(room),
            cancelled,
        };
        Self { handles, has_ended: false, plugin }
    }
}

impl Drop for AttemptScope<'_> {
    fn drop(&mut self) {
        let AttemptHandles { cancelled, stdio, cpu_meter, room, .. } = &self.handles;
        cancelled.cancel();
        stdio.end_lines();
        self.plugin.cpu_estimate.learn(cpu_meter.spent(), self.has_ended);
        self.plugin.memory_estimate.store(room.peak(), Ordering::Relaxed);
    }
}
