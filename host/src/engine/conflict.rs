//! Write conflicts: other commits have changed what an attempt had read. The attempt is retried, and has not failed.
//!
//! Most conflicts are short, so the first few retries are immediate. Later ones wait, longer each time and by a random
//! time, so that sagas that use the same data run one after the other. An attempt with egress sends its requests again,
//! which costs the services, so even its first retry waits.

use std::{sync::atomic::Ordering, time::Duration};

use tracing::warn;

use super::{inner::Inner, live::Core};
use crate::saga::{BranchId, BranchOp};

/// Immediate retries in a row of an attempt without egress.
const AT_ONCE: u32 = 8;

/// The first pause after those: as long as some attempts of a fast plugin.
const PAUSE: Duration = Duration::from_millis(2);

/// The longest such pause. Short, since the saga stays in memory and its waiters are not answered.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The first pause of an attempt with egress: about as long as a request.
const PAUSE_OUTSIDE: Duration = Duration::from_millis(100);

/// The longest pause of an attempt with egress.
const PAUSE_OUTSIDE_MAX: Duration = Duration::from_secs(10);

/// Conflicts in a row after which the log has a warning. The pauses are seconds by then.
const WARNED_AT: u32 = 20;

impl Inner {
    /// Retries an attempt after a write conflict, now or after a pause.
    pub fn retry_after_conflict(&self, core: &mut Core, branch_op: BranchOp) {
        self.stats.conflicts.fetch_add(1, Ordering::Relaxed);
        let conflicts = core.count_conflict(branch_op);
        let saga = core.saga();
        let has_left = saga.op(branch_op).is_some_and(|op| op.open);
        if conflicts == WARNED_AT {
            let (gid, branch, op) = (saga.definition().gid(), BranchId(branch_op.step), branch_op.op.as_str());
            warn!(gid = gid.as_str(), %branch, op, conflicts, "attempts keep conflicting: other sagas change what they read");
        }
        if let Some(pause) = pause(conflicts, has_left, fastrand::f64()) {
            core.pause(branch_op, self.clock.now().after(pause));
        }
    }
}

/// The pause after this many conflicts in a row: the due time, from half of it to half more by `jitter`.
fn pause(conflicts: u32, has_left: bool, jitter: f64) -> Option<Duration> {
    let (first, most, doublings) = if has_left {
        (PAUSE_OUTSIDE, PAUSE_OUTSIDE_MAX, conflicts.saturating_sub(1))
    } else {
        (PAUSE, PAUSE_MAX, conflicts.checked_sub(AT_ONCE + 1)?)
    };
    let due = first.saturating_mul(1 << doublings.min(31)).min(most);
    Some(due.mul_f64(0.5 + jitter.clamp(0.0, 1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit() {
        let ms = |conflicts, has_left| pause(conflicts, has_left, 0.5).map(|pause| pause.as_millis());
        assert_eq!((ms(1, false), ms(AT_ONCE, false)), (None, None));
        assert_eq!((ms(AT_ONCE + 1, false), ms(AT_ONCE + 4, false)), (Some(2), Some(16)));
        assert_eq!((ms(1, true), ms(2, true), ms(5, true)), (Some(100), Some(200), Some(1600)));
        assert_eq!((ms(u32::MAX, false), ms(u32::MAX, true)), (Some(1_000), Some(10_000)));
    }

    #[test]
    fn pauses_are_spread() {
        assert_eq!(pause(1, true, 0.0), Some(PAUSE_OUTSIDE / 2));
        assert_eq!(pause(1, true, 1.0), Some(PAUSE_OUTSIDE * 3 / 2));
    }
}
