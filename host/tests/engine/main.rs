//! The engine under attack: through its public API, on the real store, with branches
//! that the tests play themselves. What each part checks stands at the top of its file.

mod bulkheads;
mod clock;
mod component_store;
mod control;
mod damage;
mod effects;
mod faults;
mod gate;
mod kills;
mod limits;
mod list;
mod long_logs;
mod memory;
mod output_rule;
mod pins;
mod plan;
mod races;
mod retries;
mod stage;
mod stopping;
mod store_condition;
mod submit;
mod waiting;
mod world;
