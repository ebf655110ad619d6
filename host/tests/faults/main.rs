//! Faults of the surroundings, provoked on the real program: dead services, stuck plugins, floods, full disks, a store that
//! fails, ports that are taken.
//!
//! What must hold in each: the host does not end by itself unless its store has failed; the sagas of others are neither
//! refused nor stopped; whatever was accepted ends once the fault is over. The tests count answers and sagas, and measure
//! no time: that is what `make bench BENCH="--only faults"` does. `host/docs/faults.md` has the table.
//!
//! Those that are storms, or need a file system of their own, are ignored unless `make test-faults` runs them.

mod backlog;
mod bulkheads;
mod client;
mod descriptors;
mod disk;
mod failing;
mod memory;
mod participant;
mod ports;
mod probe;
mod stopping;
mod world;
