//! Why a file is no valid component.

use std::io;

use super::precheck;
use crate::plugin::{contract::INTERFACE, name::InvalidName};

/// Why a file cannot be a plugin, and its mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Name(#[from] InvalidName),
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    #[error("the file is empty: build or copy it again")]
    Empty,
    #[error("the file has more than {limit} bytes (limit component_bytes): strip debug sections, or raise the limit")]
    TooLarge { limit: u64 },
    #[error("this is not WebAssembly: a plugin is a component, built for example by `{BUILD}`")]
    NotWasm,
    /// A module, which is the core of a component only.
    #[error("this is a core module, not a component: {mend}")]
    CoreModule { mend: &'static str },
    /// No attempt could ever start.
    #[error(
        "it needs more than the limits allow ({detail}): raise memory_bytes, memories, table_elements, tables or instances"
    )]
    OverLimits { detail: String },
    /// Nothing that a compiler makes.
    #[error(
        "{0}, and no known compiler makes that: leave out what the plugin does not need, or divide it into several plugins"
    )]
    Precheck(precheck::Refused),
    /// Compiling it exceeds a limit, or ends the process that compiles.
    #[error(
        "compiling it {reason}. It is not compiled again until it changes: make it smaller, above all its largest functions, \
         or raise the setting if there is one; a host without its folder `compiled` tries again"
    )]
    NotCompiled { reason: String },
    #[error("the host cannot compile it now: {0}")]
    Compiler(io::Error),
    /// For the asynchronous component model.
    #[error(
        "it is built for WASI 0.3, the asynchronous component model, and this host runs WASI 0.2: build it for that, in Rust \
         with `--target wasm32-wasip2` instead of `wasm32-wasip3`, and without `async` in its wit ({detail})"
    )]
    Async { detail: String },
    #[error("this is no valid component ({detail}): if the file was cut short or damaged, build or copy it again")]
    Invalid { detail: String },
    #[error(
        "it exports {exports}, and not {INTERFACE}: build it for the world wasaga:saga/plugin (or \
         wasaga:saga/contained) in the wit of this host, which `wasaga plugin new NAME --lang LANGUAGE` writes"
    )]
    WrongWorld { exports: String },
    /// Built for an older or newer contract.
    #[error(
        "it exports {exports}, and this host speaks {INTERFACE}: replace the wit that it was built with by that of this \
         host, which `wasaga plugin new NAME --lang LANGUAGE` writes, and build it again"
    )]
    OtherVersion { exports: String },
    #[error(
        "its {INTERFACE} has no function `{function}`: add it, and build it for the world wasaga:saga/plugin of this host"
    )]
    MissingFunction { function: &'static str },
    #[error(
        "its function `{function}` has another type than in this host's wit: build it for that wit again ({detail})"
    )]
    WrongType { function: &'static str, detail: String },
    /// Every attempt would fail.
    #[error(
        "it traps while it starts, before the first call ({detail}): see to what it does outside of try and cancel, such as \
         initialisers of globals"
    )]
    DoesNotStart { detail: String },
    #[error(
        "it imports what this host does not offer ({detail}): plugins may import what the world wasaga:saga/plugin lists; \
         leave it out, or build it with the wit of this host, which `wasaga plugin new NAME --lang LANGUAGE` writes"
    )]
    UnknownImport { detail: String },
}

impl Error {
    /// Whether this says something of the system (no descriptors, no space) and nothing of the file, which may be loaded
    /// later as it is.
    pub fn is_of_system(&self) -> bool {
        match self {
            Self::Unreadable(error) => error.raw_os_error().is_some(),
            Self::Compiler(_) => true,
            _ => false,
        }
    }
}

/// The most common command that makes a component.
const BUILD: &str = "cargo build --release --target wasm32-wasip2";
