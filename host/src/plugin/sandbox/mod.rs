//! The wasmtime engine of the host, and the guests that run in it.
//!
//! - [`niceness`]: priorities of threads
//! - [`compilers`]: low-priority threads that compile components
//! - [`scheduler`]: a multilevel feedback queue for guests that compute for long
//! - [`engine`]: the settings of engines
//! - [`compile`]: compiles a component in a process of its own
//! - [`guest`]: the state of one guest, and the linker that gives it its imports
//! - [`runtime`]: the engine, and what all guests share

pub(super) mod compile;
pub(super) mod compilers;
pub(super) mod engine;
pub(super) mod guest;
pub(super) mod niceness;
pub(super) mod runtime;
pub(super) mod scheduler;
