//! The settings of engines, of the one that compiles a component and the one that runs it.

use wasmtime::Config;

use crate::plugin::limits::Limits;

/// Longest image of a memory's beginning that is made of data segments with gaps between them, in bytes.
const IMAGE_BYTES: u64 = 1 << 20;

/// The settings on which compiled code depends, and the stacks of guests.
pub fn config(limits: &Limits) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        // No guest grows beyond it, so less address space is reserved for each slot, and a memory never moves.
        .memory_reservation(limits.memory_bytes as u64)
        // Two bytes far apart would else make an image of 16 MiB, for each of hundreds of modules.
        .memory_guaranteed_dense_image_size(IMAGE_BYTES)
        .max_wasm_stack(limits.stack_bytes)
        // The guest's stack, and the size that wasmtime recommends for the host functions that it calls.
        .async_stack_size(limits.stack_bytes + (1 << 20));
    config
}
