//! Components in versions, of which a directory keeps only those that a saga needs.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use wasaga::{
    branch::{Branch, Directory, NotFound},
    engine::{Engine, Filter},
    saga::{BranchOp, Definition, Digest, Op, Pin, Pins, Status},
};

/// A directory of plugins, the strictest that the engine may meet: a component that is neither current nor held is gone
/// at once. Addresses that begin with `external` are services; of all others, the part before a colon is the plugin.
///
/// What the branches do is up to another directory. A breach of the rules between engine and directory is noted.
pub struct ComponentStore {
    branches: Arc<dyn Directory>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Versions by plugin; 0 is one that has been taken away.
    current: HashMap<String, u8>,
    stock: HashSet<Pin>,
    held: HashMap<Pin, u64>,
    /// With which component each operation was looked for.
    used: HashMap<(String, usize, bool), Option<Pin>>,
    is_replaced_when_chosen: bool,
    breaches: Vec<String>,
}

impl ComponentStore {
    pub fn new(branches: Arc<dyn Directory>) -> Arc<Self> {
        Arc::new(Self { branches, state: Mutex::default() })
    }

    /// The component that this version of a plugin is.
    pub fn pin_of(plugin: &str, version: u8) -> Pin {
        Pin { plugin: plugin.into(), digest: Digest([version; 32]) }
    }

    /// From now on this version is current.
    pub fn publish(&self, plugin: &str, version: u8) {
        self.state().publish(plugin, version);
    }

    /// From now on new sagas do not find the plugin.
    pub fn take_away(&self, plugin: &str) {
        self.state().publish(plugin, 0);
    }

    /// From now on a plugin is replaced as soon as it has been chosen.
    pub fn replace_when_chosen(&self) {
        self.state().is_replaced_when_chosen = true;
    }

    /// The file of a component is lost, though it is held, or found again.
    pub fn lose(&self, pin: &Pin, is_lost: bool) {
        let mut state = self.state();
        if is_lost {
            state.stock.remove(pin);
        } else {
            state.stock.insert(pin.clone());
        }
    }

    /// Whether the component is there.
    pub fn has(&self, pin: &Pin) -> bool {
        self.state().stock.contains(pin)
    }

    /// For how many open sagas the component is held.
    pub fn held(&self, pin: &Pin) -> u64 {
        self.state().held.get(pin).copied().unwrap_or(0)
    }

    /// With which component the action of a saga's step was last looked for.
    pub fn used(&self, gid: &str, step: usize) -> Option<Pin> {
        self.state().used.get(&(gid.to_owned(), step, false)).cloned().flatten()
    }

    /// A new process: nothing is held yet.
    pub fn restart(&self) {
        self.state().held.clear();
    }

    /// No rule was broken.
    pub fn check(&self) {
        let breaches = std::mem::take(&mut self.state().breaches);
        assert!(breaches.is_empty(), "{breaches:#?}");
    }

    /// What is held is what the open sagas have pinned. To be asked when nothing runs.
    pub async fn check_holds(&self, engine: &Engine) {
        let mut wanted: HashMap<Pin, u64> = HashMap::new();
        for status in [Status::Prepared, Status::Submitted, Status::Aborting] {
            let filter = Filter { status: Some(status), limit: 4096, ..Filter::default() };
            for record in engine.list(&filter).await.unwrap().sagas {
                for pin in record.saga.pins().components() {
                    *wanted.entry(pin.clone()).or_default() += 1;
                }
            }
        }
        let mut held = self.state().held.clone();
        held.retain(|_, count| *count != 0);
        assert_eq!(held, wanted, "held, and pinned by open sagas");
        self.check();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn publish(&mut self, plugin: &str, version: u8) {
        if version > 0 {
            self.stock.insert(ComponentStore::pin_of(plugin, version));
        }
        self.current.insert(plugin.to_owned(), version);
        self.collect();
    }

    fn collect(&mut self) {
        let Self { current, stock, held, .. } = self;
        stock.retain(|pin| {
            let is_current = current.get(&*pin.plugin).is_some_and(|version| pin.digest == Digest([*version; 32]));
            is_current || held.get(pin).is_some_and(|count| *count > 0)
        });
    }
}

fn plugin(address: &str) -> Option<&str> {
    (!address.starts_with("external")).then(|| address.split(':').next().unwrap_or(address))
}

impl Directory for ComponentStore {
    fn find(&self, saga: &Definition, branch_op: BranchOp, pin: Option<&Pin>) -> Result<Arc<dyn Branch>, NotFound> {
        {
            let mut state = self.state();
            match (plugin(saga.target(branch_op)), pin) {
                (Some(_), Some(pin)) => {
                    if state.held.get(pin).is_none_or(|count| *count < 1) {
                        state.breaches.push(format!("{} relies on {pin:?}, which it does not hold", saga.gid()));
                    }
                    if !state.stock.contains(pin) {
                        return Err(NotFound(format!("version {} of {} is lost", pin.digest.0[0], pin.plugin)));
                    }
                }
                (Some(plugin), None) => return Err(NotFound(format!("{plugin} is no service"))),
                (None, Some(_)) => state.breaches.push(format!("{} has a pin for a service", saga.gid())),
                (None, None) => {}
            }
            let key = (saga.gid().to_string(), branch_op.step, branch_op.op == Op::Compensate);
            if let Some(before) = state.used.insert(key, pin.cloned())
                && before.as_ref() != pin
            {
                state.breaches.push(format!("{} {branch_op:?} ran on {before:?}, and now on {pin:?}", saga.gid()));
            }
        }
        self.branches.find(saga, branch_op, pin)
    }

    fn pin(&self, saga: &Definition, branch_ops: &[BranchOp]) -> Result<Pins, (BranchOp, NotFound)> {
        let mut state = self.state();
        let mut pins = Pins::default();
        for branch_op in branch_ops {
            self.branches.find(saga, *branch_op, None).map_err(|not_found| (*branch_op, not_found))?;
            let Some(plugin) = plugin(saga.target(*branch_op)) else { continue };
            let version = state.current.get(plugin).copied().filter(|version| *version > 0);
            let version = version.ok_or_else(|| (*branch_op, NotFound(format!("there is no plugin {plugin}"))))?;
            pins.set(*branch_op, Self::pin_of(plugin, version));
        }
        for pin in pins.components() {
            *state.held.entry(pin.clone()).or_default() += 1;
            if state.is_replaced_when_chosen {
                state.publish(&pin.plugin, pin.digest.0[0] + 1);
            }
        }
        Ok(pins)
    }

    fn hold(&self, pins: &[Pin]) {
        let mut state = self.state();
        for pin in pins {
            *state.held.entry(pin.clone()).or_default() += 1;
        }
    }

    fn release(&self, pins: &[Pin]) {
        let mut state = self.state();
        for pin in pins {
            let count = state.held.entry(pin.clone()).or_default();
            match count.checked_sub(1) {
                Some(less) => *count = less,
                None => state.breaches.push(format!("{pin:?} is released more often than held")),
            }
        }
        state.collect();
    }
}
