//! Generated bindings of the standard interfaces in `wit/` that this host implements itself.

#![allow(missing_docs, clippy::pedantic)]

wasmtime::component::bindgen!({
    inline: "
        package wasaga:host;

        world imports {
            import wasi:keyvalue/store@0.2.0-draft2;
            import wasi:keyvalue/atomics@0.2.0-draft2;
            import wasi:keyvalue/batch@0.2.0-draft2;
            import wasi:logging/logging@0.1.0-draft;
        }
    ",
    path: "../wit",
    // A misused handle or a failed store traps the guest.
    imports: { default: trappable },
    with: {
        "wasi:keyvalue/store.bucket": super::transaction::Bucket,
        "wasi:keyvalue/atomics.cas": super::transaction::Mark,
    },
});

pub use wasi::{
    keyvalue::{atomics, batch, store},
    logging::logging,
};
