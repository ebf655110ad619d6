//! Wasaga: a saga runtime whose branch services are sandboxed WebAssembly components.
//!
//! A client submits a saga; the host runs each step's action, and when one is rejected it runs the compensations in
//! reverse. What comes from where:
//!
//! ```text
//!   POST /api/dtmsvr/submit
//!            │
//!          [api]        reads DTM's request, answers in DTM's words
//!            │ Definition
//!         [engine]      one driver a saga: next -> commit -> call -> commit
//!        ╱   │    ╲
//!   [saga]   │   [branch]      decides, purely      does the work: one trait
//!            │     ╱   ╲
//!            │ [plugin] http   sandboxed Wasm        services as under DTM
//!         [store]       one ordered journal, one sync for all that gathers; state in sled behind it
//! ```
//!
//! # Invariants
//!
//! 1. **State is the fold of events.** [`saga::Saga::apply`] is the only thing that changes a saga, live and in
//!    recovery. There is no second recovery algorithm: recovery is replay, and then the ordinary loop.
//! 2. **One order.** All commits have one total order, and a crash takes back a suffix of it, never a middle.
//! 3. **The output rule.** Before anything leaves the host (an answer, a call of an external branch), everything it
//!    depends on is on disk. Nothing else waits for the disk.
//! 4. **A contained attempt has no effect until its outcome is committed**, together with what it wrote. So a trap, a
//!    time-out, a crash or a retry of one never needs compensation.
//! 5. **A compensation never races its action**, and no action starts once a compensation has.
//! 6. **One driver a saga.** Every other change of a saga is made under its lock in the table.
//!
//! Deliberately absent: leases and polling (one process owns its data), a cache of the store's rows, retries inside
//! branches (except a few runs of a contained guest whose reads were stale), and timers outside the engine and the
//! watcher of the plugin folder.
//!
//! # Modules, in reading order
//!
//! Dependencies point upwards only; a test enforces it.

// A request must never bring the host down. Tests may (clippy.toml).
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

/// Decides, purely: what was asked for, what has happened, what to do next.
pub use wasaga_saga as saga;

/// Keeps everything that is durable: one ordered journal, the state in sled behind it.
pub use wasaga_store as store;

// Errors with their causes.
pub mod causes;

// How many files and connections may be open, and what they are for.
pub mod descriptors;

// The layout of the data folder, and which versions may touch it.
pub mod data_folder;

// Files and folders that are on disk when the call returns.
mod files;

// How much memory what clients and guests can make large may use.
pub mod memory;

// The families of keys in the store.
pub mod keys;

// Finds secrets in texts, in every spelling that is likely there.
pub mod redact;

// Secrets of sagas, and what is shown in their place.
pub mod hidden;
// Where calls may go, and which servers are trusted.
pub mod egress;

// The seam between a saga and what does its work; services over HTTP and gRPC.
pub mod branch;

// Sandboxed components: the only module that names wasmtime.
pub mod plugin;

// Finds the branch behind an address: a plugin, or a service.
pub mod directory;

// Drives sagas: next, commit, call, commit.
pub mod engine;

// DTM's API and our own, over HTTP and gRPC.
pub mod api;

// All settings with their defaults.
pub mod config;

// The host's log.
pub mod log;

// The subcommands of the program, `wasaga plugin` among them.
pub mod commands;
