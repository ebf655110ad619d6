//! Drives one saga: decides, commits and acts in turn until the saga ends or waits. The steps of a round:
//!
//! 1. **advance**: asks the machine, and applies its decisions to the saga in memory.
//! 2. **`prepare_attempt`**: finds the branch of an operation that is due, and takes a place at its destination. An
//!    external attempt is committed here.
//! 3. **call**: the attempt runs outside the saga's lock. An external one first waits until its commit is on disk.
//! 4. **conclude**: the verdict becomes an event, which is committed together with the attempt's effects, if any.
//! 5. **leave**: when nothing runs and nothing is due, commits the saga, removes it from the table and answers waiters. A
//!    saga that has waited for its destination for a while leaves too, and its waiters go on waiting.
//!
//! The output rule is kept here. An event stays in memory until something depends on it: it is committed with the
//! effects of a contained attempt, and it is on disk before an external attempt starts, before a gated one gets egress
//! (see `output_commit`), and before any client is answered. So a saga of contained branches with a waiting client is
//! one commit, and one sync that it shares with others.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{
    FutureExt,
    future::{AbortHandle, AbortRegistration, BoxFuture},
};
use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::{
    attempts::{Attempts, Ended},
    bulkhead,
    destinations::{AttemptPlace, Places},
    error::{Error, SubmitError},
    inner::Inner,
    live::{Core, Live, Shard, Submitter, is_large},
    output_commit::OutputCommit,
};
use crate::{
    branch::{Call, Containment, Egress, Host, Outcome, Place},
    hidden::Secrets,
    saga::{BranchId, BranchOp, Event, Failure, Next, Op, Saga, Timestamp, Verdict, state::Progress},
    store::{Batch, CommitError, Ticket},
};

/// Most bytes of outputs of one saga, all steps together. They are stored with it and handed to every later attempt.
const OUTPUTS_BYTES_MAX: usize = 1 << 20;

/// What the driver does next, without the saga's lock.
enum Todo {
    Start(BranchOp, BoxFuture<'static, Outcome>, AbortRegistration),
    /// Wait for an attempt in flight, or until this time.
    Wait(Option<Timestamp>),
    /// As `Wait`, but so short that the saga stays in the table and waiters are not answered.
    Pause(Option<Timestamp>),
    /// Nothing is in flight: wait for a place, or until this time.
    Queue(Option<Timestamp>),
    /// Nothing is in flight: remove the saga from the table.
    Leave,
}

impl Inner {
    /// Puts a saga into the table and spawns its driver, or wakes the driver that it has.
    pub fn drive(
        self: &Arc<Self>,
        shard: &mut Shard,
        live: Arc<Live>,
        place: bulkhead::Place<Submitter>,
        attempt_place: Option<AttemptPlace>,
    ) {
        let gid: Arc<str> = live.core().saga().definition().gid().as_str().into();
        if shard.contains_key(&gid) {
            live.changed.notify_one();
            return;
        }
        shard.insert(gid, live.clone());
        let places = {
            let mut core = live.core();
            let waiters = self.parked_waiters.take(core.id);
            core.adopt_waiters(waiters);
            Places::new(core.saga().status(), attempt_place)
        };
        let engine = self.clone();
        self.drivers.spawn(async move {
            engine.run_to_end(&live, places).await;
            drop(place);
            engine.until_written(&live).await;
        });
    }

    /// Drives the saga until it leaves the table. An error concerns this saga only, unless the store has failed.
    ///
    /// A panic counts as an error: the saga continues from the store, which has no half-made change.
    async fn run_to_end(self: &Arc<Self>, live: &Arc<Live>, places: Places) {
        let ended = AssertUnwindSafe(self.run(live, places)).catch_unwind().await;
        if let Err(failure) = ended.unwrap_or(Err(Error::Panicked)) {
            self.set_aside(live, &failure);
        }
    }

    /// Keeps what a large saga has reserved until its last commit is on disk: up to then the store holds its batches.
    async fn until_written(&self, live: &Live) {
        let is_large = is_large(live.core().saga().definition());
        if is_large {
            // If the store has failed, the host is about to stop.
            let _ = self.store.barrier().durable().await;
        }
    }

    async fn run(self: &Arc<Self>, live: &Arc<Live>, mut places: Places) -> Result<(), Error> {
        let (parallel, status) = {
            let core = live.core();
            (core.saga().definition().is_concurrent(), core.saga().status())
        };
        let mut attempts = Attempts::new(parallel);
        loop {
            self.check_store()?;
            let todo = self.advance(live, &mut places)?;
            let (is_pause, is_queue) = (matches!(todo, Todo::Pause(_)), matches!(todo, Todo::Queue(_)));
            match todo {
                Todo::Start(branch_op, attempt, handle) => attempts.start(branch_op, attempt, handle),
                Todo::Leave => {
                    if self.leave(live, &mut places)? {
                        let core = live.core();
                        let age = core.saga().definition().created_at().until(self.clock.now());
                        self.counters.round(status, core.saga().status(), age);
                        return Ok(());
                    }
                }
                Todo::Wait(until) | Todo::Pause(until) | Todo::Queue(until) => {
                    places.return_unused();
                    let patience = places.patience().filter(|_| is_queue);
                    tokio::select! {
                        ended = attempts.next() => self.conclude(live, ended)?,
                        branch_op = places.next() => live.core().unblock(branch_op),
                        () = expired(patience) => {
                            if self.leave(live, &mut places)? {
                                return Ok(());
                            }
                        }
                        () = self.sleep_until(until) => {}
                        () = live.changed.notified() => {}
                        // A host that stops does not wait for pauses and places.
                        () = self.stopping.cancelled(), if is_pause || is_queue => {}
                        () = self.attempts_cancelled.cancelled() => {
                            self.check_store()?;
                            return self.abandon(live);
                        }
                    }
                }
            }
        }
    }

    async fn sleep_until(&self, until: Option<Timestamp>) {
        match until {
            Some(until) => tokio::time::sleep(self.clock.now().until(until)).await,
            None => std::future::pending().await,
        }
    }

    /// Takes the machine's decisions until it wants something done outside the core.
    fn advance(self: &Arc<Self>, live: &Arc<Live>, places: &mut Places) -> Result<Todo, Error> {
        let core = &mut *live.core();
        loop {
            let now = self.clock.now();
            if places.follow(core.saga().status()) {
                core.unblock_all();
            }
            match core.saga().next(core.in_flight(), now) {
                Next::Decide(event) => core.apply(&event)?,
                Next::Call(_) if self.stopping.is_cancelled() => return Ok(wait(core, None)),
                Next::Call(branch_op) => {
                    if let Some((attempt, handle)) = self.prepare_attempt(live, core, places, branch_op, now)? {
                        return Ok(Todo::Start(branch_op, attempt, handle));
                    }
                }
                Next::Drop(branch_op) => {
                    core.end_attempt(branch_op);
                }
                Next::Wait(until) => {
                    let is_pause = until.is_some_and(|until| core.in_flight().is_paused_until(until));
                    let is_queue = places.is_waiting() && core.in_flight().is_empty();
                    return Ok(if !(is_pause || is_queue) || self.stopping.is_cancelled() {
                        wait(core, until)
                    } else if is_pause {
                        Todo::Pause(until)
                    } else {
                        Todo::Queue(until)
                    });
                }
                Next::Finished => return Ok(Todo::Leave),
            }
        }
    }

    /// Makes an attempt ready to run. An external one is committed now, and waits for the disk before it calls.
    /// `None` if its destination has no place, so that the operation is blocked, or if there is no branch at the address any
    /// more: that attempt has failed.
    fn prepare_attempt(
        self: &Arc<Self>,
        live: &Arc<Live>,
        core: &mut Core,
        places: &mut Places,
        branch_op: BranchOp,
        now: Timestamp,
    ) -> Result<Option<(BoxFuture<'static, Outcome>, AbortRegistration)>, Error> {
        if core.needs_compaction() {
            self.compact(core)?;
        }
        let definition = core.saga().definition().clone();
        if !core.is_pinned() {
            match self.pin_unpinned(core, now) {
                Ok(()) => {}
                Err(SubmitError::Engine(error)) => return Err(error),
                Err(refusal) => return self.not_called(core, branch_op, refusal.to_string(), now),
            }
        }
        let branch = match self.directory.find(&definition, branch_op, core.saga().pins().get(branch_op)) {
            Ok(branch) => branch,
            Err(not_found) => return self.not_called(core, branch_op, not_found.to_string(), now),
        };
        let mut place = None;
        if let Some(destination) = branch.destination() {
            let Some(taken) = places.take(&self.destinations, destination, branch_op, core.id) else {
                core.block(branch_op);
                return Ok(None);
            };
            place = Some(Place::new(taken));
        }
        let containment = branch.containment();
        // It is unknown how far the attempt before this one got, so this one may already be outside the host.
        let follows_open = core.saga().op(branch_op).is_some_and(|op| op.open);
        let ticket = match containment {
            Containment::External => Some(self.record_start(core, branch_op, now)?),
            Containment::Gated if follows_open => Some(self.record_start(core, branch_op, now)?),
            Containment::Contained | Containment::Gated => None,
        };
        let (handle, registration) = AbortHandle::new_pair();
        core.begin_attempt(branch_op, handle.clone());
        let egress = (containment == Containment::Gated)
            .then(|| OutputCommit::new(self, live, branch_op, handle) as Arc<dyn Egress>);
        let call = self.call_of(core.saga(), branch_op);
        let host = Host { state: self.store.clone(), egress, is_dry_run: false, place };
        let attempt = async move {
            if let Err(outcome) = wait_for_disk(ticket).await {
                return outcome;
            }
            branch.call(&call, &host).await
        };
        Ok(Some((attempt.boxed(), registration)))
    }

    /// Commits that an attempt starts which may have an effect at once.
    fn record_start(&self, core: &mut Core, branch_op: BranchOp, now: Timestamp) -> Result<Ticket, Error> {
        core.start(branch_op, now)?;
        core.save(&*self.store, now)
    }

    /// Records an attempt that failed before it called.
    fn not_called<T>(
        &self,
        core: &mut Core,
        branch_op: BranchOp,
        error: String,
        now: Timestamp,
    ) -> Result<Option<T>, Error> {
        self.apply_verdict(core, branch_op, Verdict::Unknown { error }, now)?;
        Ok(None)
    }

    /// The facts of the operation's next attempt.
    pub fn call_of(&self, saga: &Saga, branch_op: BranchOp) -> Call {
        let tried =
            match (branch_op.op, saga.op(BranchOp { op: Op::Action, ..branch_op }).map(|action| &action.progress)) {
                (Op::Compensate, Some(Progress::Succeeded { output })) => {
                    Some(output.as_deref().unwrap_or_default().into())
                }
                _ => None,
            };
        Call {
            saga: saga.definition().clone(),
            branch_op,
            attempt: saga.attempt(branch_op),
            results: saga.outputs().map(|(step, output)| (BranchId(step), output.to_owned())).collect(),
            tried,
            timeout: self.request_timeout(saga),
        }
    }

    /// The longest time of one attempt of this saga: what it asks for, within the host's limit.
    pub fn request_timeout(&self, saga: &Saga) -> Duration {
        let asked = match saga.definition().options().request_timeout_s {
            0 => self.settings.request_timeout,
            s => Duration::from_secs(s),
        };
        asked.min(self.settings.request_timeout_max)
    }

    /// Records the outcome of an attempt, unless the saga has ended meanwhile.
    fn conclude(&self, live: &Live, ended: Ended) -> Result<(), Error> {
        let Ended { branch_op, outcome } = ended;
        let mut core = live.core();
        if !core.in_flight().contains(branch_op) || core.saga().status().is_finished() {
            return Ok(());
        }
        core.end_attempt(branch_op);
        let (verdict, effects) = match outcome {
            Outcome::Ended { verdict: Verdict::Succeeded { output }, .. }
                if !has_room(core.saga(), output.as_deref()) =>
            {
                (Verdict::Unknown { error: too_much_output() }, Batch::new())
            }
            Outcome::Ended { verdict, effects } => (verdict, effects),
            Outcome::Stale => {
                self.retry_after_conflict(&mut core, branch_op);
                return Ok(());
            }
        };
        let now = self.clock.now();
        if effects.is_empty() || !matches!(verdict, Verdict::Succeeded { .. }) {
            return self.record(&mut core, branch_op, verdict, now);
        }
        let event = core.saga().conclude(branch_op, verdict, now, &self.settings.policy, fastrand::f64());
        match core.apply_with_effects(&event, effects, &*self.store) {
            Err(Error::Commit(conflict @ CommitError::Conflict { .. })) => {
                let gid = core.saga().definition().gid();
                debug!(gid = gid.as_str(), branch = %BranchId(branch_op.step), %conflict, "the attempt is made again");
                self.retry_after_conflict(&mut core, branch_op);
                Ok(())
            }
            Err(Error::Commit(too_large @ CommitError::TooLarge { .. })) => {
                let verdict = Verdict::Unknown { error: uncommittable(&too_large) };
                self.record(&mut core, branch_op, verdict, now)
            }
            applied => {
                self.counters.attempt(branch_op, applied.is_ok());
                core.forget_conflicts(branch_op);
                applied
            }
        }
    }

    /// Records a verdict without effects, and counts it.
    fn record(&self, core: &mut Core, branch_op: BranchOp, verdict: Verdict, now: Timestamp) -> Result<(), Error> {
        self.counters.attempt(branch_op, matches!(verdict, Verdict::Succeeded { .. }));
        core.forget_conflicts(branch_op);
        self.apply_verdict(core, branch_op, verdict, now)
    }

    fn apply_verdict(
        &self,
        core: &mut Core,
        branch_op: BranchOp,
        verdict: Verdict,
        now: Timestamp,
    ) -> Result<(), Error> {
        let was_stuck = core.saga().is_stuck(&self.settings.policy);
        let attempt = core.saga().attempt(branch_op);
        let event = core.saga().conclude(branch_op, verdict, now, &self.settings.policy, fastrand::f64());
        core.apply(&event)?;
        if let Event::Failed { failure: Failure::Unknown { error }, retry_at, .. } = &event {
            let (gid, branch, op) = (core.saga().definition().gid(), BranchId(branch_op.step), branch_op.op.as_str());
            let retry_in_ms = now.until(*retry_at).as_millis();
            let error =
                Secrets::of(core.saga().definition(), &self.settings.hidden_headers).text(Some(branch_op.step), error);
            warn!(gid = gid.as_str(), %branch, op, attempt, retry_in_ms, error = &*error, "attempt failed");
            if !was_stuck && core.saga().is_stuck(&self.settings.policy) {
                error!(gid = gid.as_str(), %branch, op, attempt, "saga is stuck: it goes on, but a person should look");
            }
        }
        Ok(())
    }

    /// Removes the saga from the table, if nothing is due now that its shard is locked. Whether it has left.
    fn leave(&self, live: &Live, places: &mut Places) -> Result<bool, Error> {
        let gid = live.core().saga().definition().gid().clone();
        let Some(mut shard) = self.table.shard(gid.as_str()) else { return Ok(false) };
        let mut core = live.core();
        if places.is_waiting() && self.stopping.is_cancelled() {
            // What waits for a place is due at the next start.
            core.unblock_all();
        }
        let is_idle = match core.saga().next(core.in_flight(), self.clock.now()) {
            Next::Wait(until) if places.is_waiting() && !self.stopping.is_cancelled() => {
                self.park_in_queue(&mut core, places, until)?;
                shard.remove(gid.as_str());
                return Ok(true);
            }
            Next::Finished | Next::Wait(_) => true,
            Next::Call(_) => self.stopping.is_cancelled(),
            Next::Decide(_) | Next::Drop(_) => false,
        };
        if is_idle {
            let ticket = self.park(&mut core)?;
            shard.remove(gid.as_str());
            core.answer_waiters(&ticket);
        }
        Ok(is_idle)
    }

    /// Stops driving without waiting for running attempts; their outcomes are ignored. The next start continues the saga
    /// from the disk.
    fn abandon(&self, live: &Live) -> Result<(), Error> {
        let gid = live.core().saga().definition().gid().clone();
        let mut shard = self.table.shard(gid.as_str());
        let mut core = live.core();
        core.cancel_all();
        let ticket = if core.saga().status().is_finished() {
            self.park(&mut core)?
        } else {
            core.save(&*self.store, self.clock.now())?
        };
        if let Some(shard) = &mut shard {
            shard.remove(gid.as_str());
        }
        core.answer_waiters(&ticket);
        Ok(())
    }
}

/// Resolves at this time; never, if there is none.
async fn expired(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Waits for the attempts in flight; without any, the saga leaves the table.
fn wait(core: &Core, until: Option<Timestamp>) -> Todo {
    if core.in_flight().is_empty() { Todo::Leave } else { Todo::Wait(until) }
}

async fn wait_for_disk(ticket: Option<Ticket>) -> Result<(), Outcome> {
    match ticket {
        None => Ok(()),
        Some(ticket) => ticket.durable().await.map_err(|error| Outcome::unknown(format!("not called: {error}"))),
    }
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
