//! What follows an attempt that has come to nothing, since others had changed what it had read: it is made again, and
//! has not failed.
//!
//! As a rule that is over in a moment, so the first few are made again at once. From then on there are pauses, longer
//! each time and drawn at random, so that those who want the same data come one after the other. An attempt that has let
//! something out lets it out again, which others have to bear: there is a pause before the first repetition already.

use std::{sync::atomic::Ordering, time::Duration};

use tracing::warn;

use super::{Inner, live::Core};
use crate::saga::{BranchId, BranchOp};

/// Attempts in a row that are made again at once, as long as nothing of them has left the host.
const AT_ONCE: u32 = 8;

/// The pause after them: some attempts of a fast plugin take as long.
const PAUSE: Duration = Duration::from_millis(2);

/// The longest such pause. Nobody is told that the saga waits, and it stays in memory, so it is short.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The first pause after something has left the host: about as long as a request takes.
const PAUSE_OUTSIDE: Duration = Duration::from_millis(100);

/// The longest of those.
const PAUSE_OUTSIDE_MAX: Duration = Duration::from_secs(10);

/// Conflicts in a row after which a person should know. Pauses have come to seconds by then.
const WARNED_AT: u32 = 20;

/// Lets the attempt be made again, now or after a pause.
pub(super) fn again(engine: &Inner, core: &mut Core, branch_op: BranchOp) {
    engine.stats.conflicts.fetch_add(1, Ordering::Relaxed);
    let conflicts = core.count_conflict(branch_op);
    let saga = core.saga();
    let has_left = saga.op(branch_op).is_some_and(|op| op.open);
    if conflicts == WARNED_AT {
        let (gid, branch, op) = (saga.definition().gid(), BranchId(branch_op.step), branch_op.op.as_str());
        warn!(%gid, %branch, op, conflicts, "attempts come to nothing: others change what they read before they end");
    }
    if let Some(pause) = pause(conflicts, has_left, fastrand::f64()) {
        core.pause(branch_op, engine.clock.now().after(pause));
    }
}

/// How long to wait after so many conflicts in a row: from half of what is due to half more.
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
