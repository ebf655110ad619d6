//! Sagas in a few words.

use wasaga::{
    engine::Engine,
    saga::{Definition, Gid, Options, Order, Step, Timestamp},
};

/// A saga to be submitted.
#[derive(Clone)]
pub struct Plan {
    pub gid: String,
    pub steps: Vec<Step>,
    pub order: Order,
    pub options: Options,
}

impl Plan {
    /// One without steps.
    pub fn new(gid: impl Into<String>) -> Self {
        Self { gid: gid.into(), steps: Vec::new(), order: Order::default(), options: Options::default() }
    }

    /// Adds a step whose branches are contained.
    pub fn contained(self) -> Self {
        self.step("contained", "contained")
    }

    /// Adds a step whose branches are contained until they ask to be let out.
    pub fn gated(self) -> Self {
        self.step("gated", "gated")
    }

    /// Adds a step whose branches are external.
    pub fn external(self) -> Self {
        self.step("external", "external")
    }

    /// Adds a step; the addresses are `contained`, `gated`, `external`, or begin so, or empty.
    pub fn step(mut self, action: &str, compensation: &str) -> Self {
        let payload = format!("payload {}", self.steps.len()).into();
        self.steps.push(Step { action: action.into(), compensation: compensation.into(), payload });
        self
    }

    /// Lets the steps run side by side.
    pub fn concurrent(mut self) -> Self {
        self.order.concurrent = true;
        self
    }

    /// Lets a step wait for others.
    pub fn after(mut self, step: usize, befores: &[usize]) -> Self {
        self.order.after.insert(step, befores.to_vec());
        self
    }

    /// The client waits for the result.
    pub fn wait(self) -> Self {
        self.with(|options| options.wait_result = true)
    }

    /// Changes the options.
    pub fn with(mut self, change: impl FnOnce(&mut Options)) -> Self {
        change(&mut self.options);
        self
    }

    /// The definition, created now.
    pub fn now(&self, engine: &Engine) -> Definition {
        self.at(engine.now())
    }

    /// The definition, created then.
    pub fn at(&self, created_at: Timestamp) -> Definition {
        let gid = Gid::new(&self.gid).unwrap();
        Definition::new(gid, self.steps.clone(), self.order.clone(), self.options.clone(), created_at).unwrap()
    }
}
