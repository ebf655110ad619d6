//! What the tests of the engine share: a disk that can be held and cut, a store that can be made to refuse, branches
//! that a test plays itself, a world that keeps score, and a host put together from them.

// Each test binary uses a part of it.
#![allow(dead_code, unused_imports)]

mod component_store;
mod disk;
mod host;
mod no_plugins;
mod plan;
mod stage;
mod store;
mod world;

pub use self::{
    component_store::ComponentStore,
    disk::TestDisk,
    host::{Host, Setup, settled, until},
    no_plugins::no_plugins,
    plan::Plan,
    stage::{Attempt, Stage, leave, settle},
    store::TestStore,
    world::{Troubles, World},
};
