//! Drives one saga: asks the machine, commits, calls, commits, until the saga ends or has nothing to do for a while.
//!
//! The output rule is kept here. An event stays in memory until something depends on it being known: it is committed
//! with the effects of a contained attempt, and it is on disk before an external attempt starts, before a gated one
//! leaves the host (see `gate`), and before anybody is told. A saga of contained branches that somebody waits for is
//! therefore one commit, and one sync that it shares.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use tracing::{debug, error, info, warn};

use super::{
    Inner,
    attempts::{Attempts, Ended},
    conflict,
    error::{Error, SubmitError},
    live::{Core, Live},
    output_commit::OutputCommit,
};
use crate::{
    branch::{Call, Containment, Egress, Host, Outcome},
    saga::{BranchId, BranchOp, Event, Failure, Next, Op, Saga, Status, Timestamp, Verdict, state::Progress},
    store::{Batch, CommitError, Ticket},
};

/// Longest time that one attempt may take, whatever the client asks for.
const REQUEST_TIMEOUT_MAX: Duration = Duration::from_hours(24);

/// Most bytes of outputs of one saga, all steps together. They are stored with it and handed to every later attempt.
const OUTPUTS_BYTES_MAX: usize = 1 << 20;

/// What the driver, not the core, has to do next.
enum Todo {
    Start(BranchOp, BoxFuture<'static, Outcome>),
    Stop(BranchOp),
    Wait(Option<Timestamp>),
    /// As `Wait`, but for so short that the saga stays in the table, and nobody is told that it waits.
    Pause(Option<Timestamp>),
}

/// Drives the saga until it leaves the table. An error concerns this saga only, unless the store has failed.
///
/// A panic counts as one: the saga goes on from the store, where no half-made change can be.
pub(super) async fn drive(engine: Arc<Inner>, live: Arc<Live>) {
    let ended = AssertUnwindSafe(run(&engine, &live)).catch_unwind().await;
    if let Err(failure) = ended.unwrap_or(Err(Error::Panicked)) {
        engine.set_aside(&live, &failure);
    }
}

async fn run(engine: &Arc<Inner>, live: &Arc<Live>) -> Result<(), Error> {
    let (parallel, status) = {
        let core = live.core();
        (core.saga().definition().is_concurrent(), core.saga().status())
    };
    let mut attempts = Attempts::new(parallel);
    loop {
        let todo = advance(engine, live)?;
        let is_pause = matches!(todo, Todo::Pause(_));
        match todo {
            Todo::Start(branch_op, attempt) => attempts.start(branch_op, attempt),
            Todo::Stop(branch_op) => attempts.stop(branch_op),
            Todo::Wait(_) if attempts.is_empty() => {
                if leave(engine, live)? {
                    let core = live.core();
                    let age = core.saga().definition().created_at().until(engine.clock.now());
                    engine.counters.round(status, core.saga().status(), age);
                    return Ok(());
                }
            }
            Todo::Wait(until) | Todo::Pause(until) => {
                tokio::select! {
                    ended = attempts.next() => conclude(engine, live, ended)?,
                    () = sleep_until(engine, until) => {}
                    () = live.changed.notified() => {}
                    // A host that stops does not wait for pauses.
                    () = engine.stopping.cancelled(), if is_pause => {}
                    () = engine.given_up.cancelled() => return give_up(engine, live),
                }
            }
        }
    }
}

async fn sleep_until(engine: &Inner, until: Option<Timestamp>) {
    match until {
        Some(until) => tokio::time::sleep(engine.clock.now().until(until)).await,
        None => std::future::pending().await,
    }
}

/// Takes the machine's decisions until it wants something done outside the core.
fn advance(engine: &Arc<Inner>, live: &Arc<Live>) -> Result<Todo, Error> {
    let core = &mut *live.core();
    loop {
        let now = engine.clock.now();
        match core.saga().next(core.in_flight(), now) {
            Next::Decide(event) => core.apply(&event)?,
            Next::Call(_) if engine.stopping.is_cancelled() => return Ok(Todo::Wait(None)),
            Next::Call(branch_op) => {
                if let Some(attempt) = prepare(engine, live, core, branch_op, now)? {
                    return Ok(Todo::Start(branch_op, attempt));
                }
            }
            Next::Drop(branch_op) => {
                core.end_attempt(branch_op);
                return Ok(Todo::Stop(branch_op));
            }
            Next::Wait(until) => {
                let is_pause = until.is_some_and(|until| core.in_flight().is_paused_until(until));
                let is_pause = is_pause && !engine.stopping.is_cancelled();
                return Ok(if is_pause { Todo::Pause(until) } else { Todo::Wait(until) });
            }
            Next::Finished => return Ok(Todo::Wait(None)),
        }
    }
}

/// Makes an attempt ready to run: an external one is committed now, and waits for the disk before it calls anybody.
/// `None` if there is no branch at the address any more; that attempt has failed.
fn prepare(
    engine: &Arc<Inner>,
    live: &Arc<Live>,
    core: &mut Core,
    branch_op: BranchOp,
    now: Timestamp,
) -> Result<Option<BoxFuture<'static, Outcome>>, Error> {
    if core.needs_compaction() {
        engine.compact(core)?;
    }
    let definition = core.saga().definition().clone();
    if !core.is_pinned() {
        match engine.pin_unpinned(core, now) {
            Ok(()) => {}
            Err(SubmitError::Engine(error)) => return Err(error),
            Err(refusal) => return not_called(engine, core, branch_op, refusal.to_string(), now),
        }
    }
    let branch = match engine.directory.find(&definition, branch_op, core.saga().pins().get(branch_op)) {
        Ok(branch) => branch,
        Err(not_found) => return not_called(engine, core, branch_op, not_found.to_string(), now),
    };
    let containment = branch.containment();
    // Of an attempt before this one nobody knows how far it got: this one begins where that one may have left.
    let follows_open = core.saga().op(branch_op).is_some_and(|op| op.open);
    let ticket = match containment {
        Containment::External => Some(start(engine, core, branch_op, now)?),
        Containment::Gated if follows_open => Some(start(engine, core, branch_op, now)?),
        Containment::Contained | Containment::Gated => None,
    };
    let attempt_id = core.begin_attempt(branch_op);
    let egress = (containment == Containment::Gated)
        .then(|| OutputCommit::new(engine, live, branch_op, attempt_id) as Arc<dyn Egress>);
    let call = call(engine, core.saga(), branch_op);
    let host = Host { state: engine.store.clone(), egress, is_dry_run: false };
    Ok(Some(
        async move {
            if let Err(outcome) = wait_for_disk(ticket).await {
                return outcome;
            }
            branch.call(&call, &host).await
        }
        .boxed(),
    ))
}

/// Writes down that an attempt starts which may have an effect at once.
fn start(engine: &Inner, core: &mut Core, branch_op: BranchOp, now: Timestamp) -> Result<Ticket, Error> {
    core.start(branch_op, now)?;
    core.save(&*engine.store, now)
}

/// An attempt that has failed before it began.
fn not_called<T>(
    engine: &Inner,
    core: &mut Core,
    branch_op: BranchOp,
    error: String,
    now: Timestamp,
) -> Result<Option<T>, Error> {
    fail_or_settle(engine, core, branch_op, Verdict::Unknown { error }, now)?;
    Ok(None)
}

async fn wait_for_disk(ticket: Option<Ticket>) -> Result<(), Outcome> {
    match ticket {
        None => Ok(()),
        Some(ticket) => ticket.durable().await.map_err(|error| Outcome::unknown(format!("not called: {error}"))),
    }
}

pub(super) fn call(engine: &Inner, saga: &Saga, branch_op: BranchOp) -> Call {
    let tried = match (branch_op.op, saga.op(BranchOp { op: Op::Action, ..branch_op }).map(|action| &action.progress)) {
        (Op::Compensate, Some(Progress::Succeeded { output })) => Some(output.as_deref().unwrap_or_default().into()),
        _ => None,
    };
    let timeout = match saga.definition().options().request_timeout_s {
        0 => engine.settings.request_timeout,
        s => Duration::from_secs(s),
    };
    Call {
        saga: saga.definition().clone(),
        branch_op,
        attempt: saga.attempt(branch_op),
        results: saga.outputs().map(|(step, output)| (BranchId(step), output.to_owned())).collect(),
        tried,
        timeout: timeout.min(REQUEST_TIMEOUT_MAX),
    }
}

/// Takes in the end of an attempt, if the saga still wants it.
fn conclude(engine: &Inner, live: &Live, ended: Ended) -> Result<(), Error> {
    let Ended { branch_op, outcome } = ended;
    let mut core = live.core();
    if !core.in_flight().contains(branch_op) || core.saga().status().is_finished() {
        return Ok(());
    }
    core.end_attempt(branch_op);
    let (verdict, effects) = match outcome {
        Outcome::Ended { verdict: Verdict::Succeeded { output }, .. } if !has_room(core.saga(), output.as_deref()) => {
            (Verdict::Unknown { error: too_much_output() }, Batch::new())
        }
        Outcome::Ended { verdict, effects } => (verdict, effects),
        Outcome::Stale => {
            conflict::again(engine, &mut core, branch_op);
            return Ok(());
        }
    };
    let now = engine.clock.now();
    if effects.is_empty() || !matches!(verdict, Verdict::Succeeded { .. }) {
        return take_in(engine, &mut core, branch_op, verdict, now);
    }
    let event = core.saga().conclude(branch_op, verdict, now, &engine.settings.policy, fastrand::f64());
    match core.apply_with_effects(&event, effects, &*engine.store) {
        Err(Error::Commit(conflict @ CommitError::Conflict { .. })) => {
            let gid = core.saga().definition().gid();
            debug!(%gid, branch = %BranchId(branch_op.step), %conflict, "the attempt is made again");
            conflict::again(engine, &mut core, branch_op);
            Ok(())
        }
        Err(Error::Commit(too_large @ CommitError::TooLarge { .. })) => {
            let verdict = Verdict::Unknown { error: uncommittable(&too_large) };
            take_in(engine, &mut core, branch_op, verdict, now)
        }
        applied => {
            engine.counters.attempt(branch_op, applied.is_ok());
            core.forget_conflicts(branch_op);
            applied
        }
    }
}

/// Takes in an end that changes nothing but the saga, and counts it.
fn take_in(
    engine: &Inner,
    core: &mut Core,
    branch_op: BranchOp,
    verdict: Verdict,
    now: Timestamp,
) -> Result<(), Error> {
    engine.counters.attempt(branch_op, matches!(verdict, Verdict::Succeeded { .. }));
    core.forget_conflicts(branch_op);
    fail_or_settle(engine, core, branch_op, verdict, now)
}

/// Whether one more output is within the limit of a saga.
pub(super) fn has_room(saga: &Saga, output: Option<&str>) -> bool {
    let given: usize = saga.outputs().map(|(_, output)| output.len()).sum();
    given + output.map_or(0, str::len) <= OUTPUTS_BYTES_MAX
}

pub(super) fn too_much_output() -> String {
    format!("the outputs of the saga would have more than {OUTPUTS_BYTES_MAX} bytes, the limit")
}

pub(super) fn uncommittable(error: &CommitError) -> String {
    format!("its effects cannot be committed: {error}")
}

fn fail_or_settle(
    engine: &Inner,
    core: &mut Core,
    branch_op: BranchOp,
    verdict: Verdict,
    now: Timestamp,
) -> Result<(), Error> {
    let was_stuck = core.saga().is_stuck(&engine.settings.policy);
    let attempt = core.saga().attempt(branch_op);
    let event = core.saga().conclude(branch_op, verdict, now, &engine.settings.policy, fastrand::f64());
    core.apply(&event)?;
    if let Event::Failed { failure: Failure::Unknown { error }, retry_at, .. } = &event {
        let (gid, branch, op) = (core.saga().definition().gid(), BranchId(branch_op.step), branch_op.op.as_str());
        let retry_in_ms = now.until(*retry_at).as_millis();
        warn!(%gid, %branch, op, attempt, retry_in_ms, error, "attempt failed");
        if !was_stuck && core.saga().is_stuck(&engine.settings.policy) {
            error!(%gid, %branch, op, attempt, "saga is stuck: it goes on, but a person should look");
        }
    }
    Ok(())
}

/// Lets the saga leave the table, if it still has nothing to do now that nobody else can reach it.
fn leave(engine: &Inner, live: &Live) -> Result<bool, Error> {
    let gid = live.core().saga().definition().gid().clone();
    let Some(mut shard) = engine.table.shard(gid.as_str()) else { return Ok(false) };
    let mut core = live.core();
    let is_idle = match core.saga().next(core.in_flight(), engine.clock.now()) {
        Next::Finished | Next::Wait(_) => true,
        Next::Call(_) => engine.stopping.is_cancelled(),
        Next::Decide(_) | Next::Drop(_) => false,
    };
    if is_idle {
        let ticket = park(engine, &mut core)?;
        shard.remove(gid.as_str());
        core.settle(&ticket);
    }
    Ok(is_idle)
}

/// Commits a saga that nobody drives: it has ended, or waits until it is due, which may be now.
pub(super) fn park(engine: &Inner, core: &mut Core) -> Result<Ticket, Error> {
    let now = engine.clock.now();
    let next = core.saga().next(core.in_flight(), now);
    let due = match next {
        Next::Finished => None,
        Next::Wait(due) => due,
        Next::Call(_) | Next::Decide(_) | Next::Drop(_) => Some(now),
    };
    let ticket = core.save_until(&*engine.store, due)?;
    if let Some(due) = due {
        engine.timer.push(due, core.id);
    }
    if next == Next::Finished {
        engine.stats.finished(core.saga().status());
        engine.closed(core);
        log_end(core, now);
    }
    Ok(ticket)
}

/// Leaves with attempts still running, which end unheard: what they did before is on disk, and the next start goes on.
fn give_up(engine: &Inner, live: &Live) -> Result<(), Error> {
    let gid = live.core().saga().definition().gid().clone();
    let mut shard = engine.table.shard(gid.as_str());
    let mut core = live.core();
    core.cancel_all();
    let ticket = if core.saga().status().is_finished() {
        park(engine, &mut core)?
    } else {
        core.save(&*engine.store, engine.clock.now())?
    };
    if let Some(shard) = &mut shard {
        shard.remove(gid.as_str());
    }
    core.settle(&ticket);
    Ok(())
}

fn log_end(core: &Core, now: Timestamp) {
    let saga = core.saga();
    let (gid, status) = (saga.definition().gid(), saga.status().as_str());
    let duration_ms = saga.definition().created_at().until(now).as_millis();
    if saga.status() == Status::Succeed {
        info!(%gid, status, duration_ms, "saga finished");
    } else {
        info!(%gid, status, duration_ms, reason = ?saga.reason(), "saga finished");
    }
}
