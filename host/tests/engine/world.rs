//! Branches with fates drawn from a seed, in a world that keeps score of what really happened.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use wasaga::{
    branch::{self, Branch, Call, Containment, Destination, Directory, NotFound, Outcome},
    engine::Record,
    saga::{BranchId, BranchOp, Definition, Op, Pin, Status, Verdict},
    store::{Batch, Read},
};
use wasaga_testkit::engine::{EFFECTS, Host, Setup, TestStore, until};

use crate::stage::{containment, leave};

/// How often attempts go wrong, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Troubles {
    /// Actions that are rejected.
    pub rejected: u8,
    /// Attempts whose result is unknown; half of the external ones had their effect.
    pub unknown: u8,
    /// Attempts that ask to be asked again.
    pub ongoing: u8,
    /// Attempts that panic.
    pub panicking: u8,
    /// Attempts that take a short time.
    pub slow: u8,
}

/// A directory and what happened behind it. Survives the hosts that call it, as the real world does.
///
/// Contained branches keep their effect in the host's store: a key for each, and one counter of all, read and written
/// anew each time. Those at `contained-pure` have no effect. External ones keep theirs here. Gated ones do both, but the
/// latter only if they ask to be let out, and are. An action whose address ends in `:rejects` is rejected.
pub struct World {
    state: Mutex<State>,
    store: Mutex<Option<Arc<TestStore>>>,
}

struct State {
    random: fastrand::Rng,
    troubles: Troubles,
    scores: HashMap<String, Score>,
    breaches: Vec<String>,
}

/// What the world knows of one saga.
#[derive(Default)]
struct Score {
    /// Steps whose external effect is there.
    effects: HashSet<usize>,
    /// The highest attempt of each operation that got out: an attempt that started so is never forgotten.
    attempts: HashMap<BranchOp, u32>,
    /// Those that are running outside the host.
    out: HashSet<BranchOp>,
    /// An external compensation has been called: no action may be called any more.
    turned_back: bool,
    /// A contained one has; a host that dies may take that back.
    turned_back_in_this_life: bool,
    /// What runs in this life of the host.
    running: HashSet<BranchOp>,
}

enum Fate {
    Succeeds,
    IsRejected,
    IsLost { after_effect: bool },
    IsOngoing,
    Panics,
}

impl World {
    pub fn new(seed: u64, troubles: Troubles) -> Arc<Self> {
        let random = fastrand::Rng::with_seed(seed);
        let state = State { random, troubles, scores: HashMap::new(), breaches: Vec::new() };
        Arc::new(Self { state: Mutex::new(state), store: Mutex::default() })
    }

    /// Starts a host whose store takes the effects of contained branches.
    pub fn begin_life(&self, setup: &Setup) -> Host {
        let (store, disk) = setup.open();
        *self.store.lock().unwrap_or_else(PoisonError::into_inner) = Some(store.clone());
        setup.start_on(store, disk)
    }

    /// The power of the host is cut, and everything of it ends.
    pub async fn end_life(&self, host: Host) {
        host.disk.cut();
        host.engine.stop(Duration::ZERO).await;
        // Attempts that run on other threads end shortly after they are cancelled.
        until(async || self.state().scores.values().all(|score| score.running.is_empty()).then_some(())).await;
        for score in self.state().scores.values_mut() {
            score.turned_back_in_this_life = false;
        }
        *self.store.lock().unwrap_or_else(PoisonError::into_inner) = None;
        host.stop(Duration::ZERO).await;
    }

    /// The directory that leads to it.
    pub fn map(self: &Arc<Self>) -> Arc<impl Directory + use<>> {
        Arc::new(Map(self.clone()))
    }

    /// Changes how often attempts go wrong.
    pub fn trouble(&self, troubles: Troubles) {
        self.state().troubles = troubles;
    }

    /// What must hold of a saga that has ended, unless by force.
    pub fn check_end(&self, record: &Record) {
        let saga = &record.saga;
        let definition = saga.definition();
        let wanted = match saga.status() {
            Status::Succeed => true,
            Status::Failed => false,
            other => panic!("{} is {}\n{:#?}", definition.gid(), other.as_str(), record.log),
        };
        for step in 0..definition.steps().len() {
            let is_there = self.has_effect(definition, step);
            assert!(
                is_there.is_none_or(|is_there| is_there == wanted),
                "{} ended as {}, effect of step {step}: {is_there:?}\n{:#?}",
                definition.gid(),
                saga.status().as_str(),
                record.log,
            );
            if wanted && keeps_in_store(definition, step) {
                assert!(self.is_in_store(definition, step), "{} lacks what step {step} wrote", definition.gid());
            }
        }
    }

    /// What must hold when every saga has ended: no breach was seen, and the counter counts the effects.
    pub fn check(&self) {
        let breaches = std::mem::take(&mut self.state().breaches);
        assert!(breaches.is_empty(), "{breaches:#?}");
        let rows = self.store().rows(EFFECTS);
        let count = rows.iter().find(|(key, _)| key == COUNTER).map_or(0, |(_, value)| number(value));
        let effects = rows.len() - usize::from(rows.iter().any(|(key, _)| key == COUNTER));
        assert_eq!(count, effects as u64, "effects that were counted twice, or not");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self) -> Arc<TestStore> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner).clone().expect("a life has begun")
    }

    /// Whether the effect of a step's action is there; `None` for one that has none.
    fn has_effect(&self, definition: &Definition, step: usize) -> Option<bool> {
        let gets_out = definition.target(BranchOp { step, op: Op::Action }).starts_with(['g', 'e']);
        let is_outside = || {
            let state = self.state();
            state.scores.get(definition.gid().as_str()).is_some_and(|score| score.effects.contains(&step))
        };
        match (keeps_in_store(definition, step), gets_out) {
            (false, false) => None,
            (in_store, gets_out) => {
                Some((in_store && self.is_in_store(definition, step)) || (gets_out && is_outside()))
            }
        }
    }

    fn is_in_store(&self, definition: &Definition, step: usize) -> bool {
        self.store().get(&effect_key(definition, step)).unwrap().is_some()
    }

    fn breach(&self, call: &Call, what: &str) {
        let line = format!(
            "{} {} {:?} attempt {}: {what}",
            call.saga.gid(),
            call.branch_id(),
            call.branch_op.op,
            call.attempt
        );
        self.state().breaches.push(line);
    }

    /// What must hold whenever an operation is called.
    fn check_call(&self, call: &Call, containment: Containment, had_turned_back: bool) {
        let (saga, BranchOp { step, op }) = (&call.saga, call.branch_op);
        let followers =
            || (0..saga.steps().len()).filter(|later| saga.predecessors(*later).any(|before| before == step));
        match op {
            Op::Action => {
                for before in saga.predecessors(step) {
                    if self.has_effect(saga, before) == Some(false) {
                        self.breach(call, "called before the effect of its predecessor is there");
                    }
                    let output = (BranchId(before), output(saga, before));
                    if has_output(saga, before) && !call.results.contains(&output) {
                        self.breach(call, "not given the output of its predecessor");
                    }
                }
            }
            Op::Compensate => {
                if followers().any(|later| self.has_effect(saga, later) == Some(true)) {
                    self.breach(call, "called before the effect of its follower is taken back");
                }
                let output = if has_output(saga, step) { output(saga, step) } else { String::new() };
                let tried_well =
                    call.tried.as_ref().map_or(containment != Containment::Contained, |tried| **tried == *output);
                if !tried_well {
                    self.breach(call, "not given what the action gave");
                }
            }
        }
        let mut state = self.state();
        let score = state.scores.entry(saga.gid().to_string()).or_default();
        let is_repeated = !score.running.insert(call.branch_op);
        // An attempt that was dropped inside the host may still be ending on another thread; it has no effect.
        let races = op == Op::Compensate
            && followers().chain([step]).any(|step| score.out.contains(&BranchOp { step, op: Op::Action }));
        let goes_forward_again = op == Op::Action && had_turned_back;
        let is_forgotten = containment == Containment::External && !score.get_out(call);
        score.turned_back_in_this_life |= op == Op::Compensate;
        drop(state);
        for (breached, what) in [
            (is_repeated, "runs already"),
            (races, "races an action"),
            (goes_forward_again, "an action after the first compensation"),
            (is_forgotten, "an earlier attempt was forgotten"),
        ] {
            if breached {
                self.breach(call, what);
            }
        }
    }

    fn has_turned_back(&self, saga: &Definition) -> bool {
        let state = self.state();
        let score = state.scores.get(saga.gid().as_str());
        score.is_some_and(|score| score.turned_back || score.turned_back_in_this_life)
    }

    fn draw(&self, call: &Call, containment: Containment) -> (Fate, Duration) {
        let may_reject = !call.is_compensation() && self.has_effect(&call.saga, call.branch_op.step) != Some(true);
        let is_sure_to_reject = !call.is_compensation() && call.target().ends_with(":rejects");
        let State { random, troubles, .. } = &mut *self.state();
        let pause =
            if random.u8(0..100) < troubles.slow { Duration::from_micros(random.u64(0..3000)) } else { Duration::ZERO };
        let roll = random.u8(0..100);
        let mut threshold = 0;
        let mut falls = |percent: u8| {
            threshold += percent;
            roll < threshold
        };
        let fate = if falls(troubles.unknown) {
            Fate::IsLost { after_effect: containment != Containment::Contained && random.bool() }
        } else if falls(troubles.ongoing) {
            Fate::IsOngoing
        } else if falls(troubles.panicking) {
            Fate::Panics
        } else if (falls(troubles.rejected) && may_reject) || is_sure_to_reject {
            Fate::IsRejected
        } else {
            Fate::Succeeds
        };
        (fate, pause)
    }

    async fn act(&self, call: &Call, host: &branch::Host, containment: Containment, had_turned_back: bool) -> Outcome {
        self.check_call(call, containment, had_turned_back);
        let mut running = Running { world: self, call, is_loose: containment == Containment::External };
        let (fate, pause) = self.draw(call, containment);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        if containment == Containment::Gated && self.wants_out(call) {
            if let Err(held) = leave(call, host).await {
                return Outcome::unknown(held.0);
            }
            self.get_out(call);
            running.is_loose = true;
            tokio::time::sleep(pause / 2).await;
        }
        let is_out = std::mem::take(&mut running.is_loose);
        let takes_effect = matches!(fate, Fate::Succeeds | Fate::IsLost { after_effect: true });
        if takes_effect && is_out {
            let mut state = self.state();
            state.scores.entry(call.saga.gid().to_string()).or_default().take_effect(call.branch_op);
        }
        match fate {
            Fate::Succeeds => {
                let BranchOp { step, op } = call.branch_op;
                let output = (op == Op::Action && has_output(&call.saga, step)).then(|| output(&call.saga, step));
                let has_effects = keeps_in_store(&call.saga, step);
                Outcome::Ended {
                    verdict: Verdict::Succeeded { output },
                    effects: if has_effects { self.effects(call) } else { Batch::new() },
                }
            }
            Fate::IsRejected => Outcome::rejected("no"),
            Fate::IsLost { .. } => Outcome::unknown("lost"),
            Fate::IsOngoing => Outcome::ongoing(None),
            Fate::Panics => panic!("drawn"),
        }
    }

    /// Some attempts leave the host; those that have to undo something out there must.
    fn wants_out(&self, call: &Call) -> bool {
        let State { random, scores, .. } = &mut *self.state();
        let is_outside =
            scores.get(call.saga.gid().as_str()).is_some_and(|score| score.effects.contains(&call.branch_op.step));
        random.bool() || (call.is_compensation() && is_outside)
    }

    /// A gated attempt has been let out.
    fn get_out(&self, call: &Call) {
        let mut state = self.state();
        let score = state.scores.entry(call.saga.gid().to_string()).or_default();
        // In a concurrent saga, another step may be rolled back just after this one got egress.
        let is_late = !call.is_compensation()
            && !call.saga.is_concurrent()
            && (score.turned_back || score.turned_back_in_this_life);
        let is_forgotten = !score.get_out(call);
        drop(state);
        if is_late {
            self.breach(call, "an action is let out after the first compensation");
        }
        if is_forgotten {
            self.breach(call, "an earlier attempt that got out was forgotten");
        }
    }

    /// The local transaction of a contained attempt.
    fn effects(&self, call: &Call) -> Batch {
        let store = self.store();
        let key = effect_key(&call.saga, call.branch_op.step);
        let (had, counted) = (store.get(&key).unwrap(), store.get(COUNTER).unwrap());
        let count = counted.as_ref().map_or(0, number);
        let mut batch = Batch::new();
        batch.expect(&key, had.clone());
        batch.expect(COUNTER, counted);
        if call.is_compensation() && had.is_none() {
            // That the action got out does not say that it came to its end.
            if call.tried.is_some() || !call.target().starts_with("gated") {
                self.breach(call, "takes back an effect that is not there");
            }
        } else if call.is_compensation() {
            batch.delete(&key);
            batch.put(COUNTER, count.saturating_sub(1).to_be_bytes());
        } else {
            if had.is_some() {
                self.breach(call, "takes effect twice");
            }
            batch.put(&key, []);
            batch.put(COUNTER, (count + 1).to_be_bytes());
        }
        batch
    }
}

const COUNTER: &[u8] = b"k#";

fn number(value: &Bytes) -> u64 {
    u64::from_be_bytes((&**value).try_into().unwrap())
}

fn effect_key(definition: &Definition, step: usize) -> Vec<u8> {
    [EFFECTS, definition.gid().as_str().as_bytes(), &[0, u8::try_from(step).unwrap()]].concat()
}

/// Every other step gives an output.
fn has_output(definition: &Definition, step: usize) -> bool {
    step.is_multiple_of(2) && !definition.target(BranchOp { step, op: Op::Action }).is_empty()
}

fn output(definition: &Definition, step: usize) -> String {
    format!("\"{} {step}\"", definition.gid())
}

/// Whether the step's effect, or a part of it, is in the host's store.
fn keeps_in_store(definition: &Definition, step: usize) -> bool {
    let address = definition.target(BranchOp { step, op: Op::Action });
    address == "contained" || address.starts_with("gated")
}

impl Score {
    /// An attempt acts outside the host. Whether it is a later one than all before it.
    fn get_out(&mut self, call: &Call) -> bool {
        self.out.insert(call.branch_op);
        self.turned_back |= call.is_compensation();
        let newest = self.attempts.insert(call.branch_op, call.attempt).unwrap_or(0);
        call.attempt > newest
    }

    fn take_effect(&mut self, branch_op: BranchOp) {
        match branch_op.op {
            Op::Action => self.effects.insert(branch_op.step),
            Op::Compensate => self.effects.remove(&branch_op.step),
        };
    }
}

/// Ends an attempt, however it ends.
struct Running<'a> {
    world: &'a World,
    call: &'a Call,
    /// It cannot be called back: when the host cancels it, it has its effect or it has not.
    is_loose: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let State { random, scores, .. } = &mut *self.world.state();
        if let Some(score) = scores.get_mut(self.call.saga.gid().as_str()) {
            score.running.remove(&self.call.branch_op);
            score.out.remove(&self.call.branch_op);
            if self.is_loose && random.bool() {
                score.take_effect(self.call.branch_op);
            }
        }
    }
}

/// The directory of a world.
struct Map(Arc<World>);

impl Directory for Map {
    fn find(&self, saga: &Definition, branch_op: BranchOp, _: Option<&Pin>) -> Result<Arc<dyn Branch>, NotFound> {
        let had_turned_back = self.0.has_turned_back(saga);
        Ok(Arc::new(Fated {
            world: self.0.clone(),
            containment: containment(saga.target(branch_op))?,
            had_turned_back,
        }))
    }
}

struct Fated {
    world: Arc<World>,
    containment: Containment,
    /// A compensation had been called when the host decided to make this call. (The call itself may come later: an
    /// external one waits for the disk, and the steps of a concurrent saga do not wait for each other.)
    had_turned_back: bool,
}

impl Branch for Fated {
    fn call<'a>(&'a self, call: &'a Call, host: &'a branch::Host) -> BoxFuture<'a, Outcome> {
        self.world.act(call, host, self.containment, self.had_turned_back).boxed()
    }

    fn containment(&self) -> Containment {
        self.containment
    }

    fn destination(&self) -> Option<Destination> {
        Some(match self.containment {
            Containment::External => Destination::Service("world".into()),
            Containment::Contained | Containment::Gated => Destination::Plugin("world".into()),
        })
    }
}
