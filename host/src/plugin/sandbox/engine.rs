//! The settings of engines, of the one that compiles a component and the one that runs it.

use wasmtime::Config;

use crate::plugin::limits::Limits;

/// The settings on which compiled code depends, and the stacks of guests.
pub fn config(limits: &Limits) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        // No guest grows beyond it, so less address space is reserved for each slot, and a memory never moves.
        .memory_reservation(limits.memory_bytes as u64)
        .max_wasm_stack(limits.stack_bytes)
        // The guest's stack, and the size that wasmtime recommends for the host functions that it calls.
        .async_stack_size(limits.stack_bytes + (1 << 20));
    config
}
