//! What the host and the process that compiles tell each other, and what comes of it.

use std::{io, time::Duration};

use serde::{Deserialize, Serialize};

use crate::plugin::limits::Limits;

/// What compiling a component has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Cost {
    /// Time of processors, all threads together.
    pub cpu: Duration,
    /// The most bytes of resident memory; 0 where the system does not tell.
    pub memory_bytes: u64,
}

/// Why there is no compiled component.
#[derive(Debug)]
pub enum Fault {
    /// The engine refuses the bytes.
    Invalid(String),
    /// Compiling exceeds a limit, or ends the process that compiles.
    Refused(Refusal),
    /// The system has failed, which says nothing of the component.
    System(io::Error),
}

/// Why a component must not be compiled again.
#[derive(Debug)]
pub struct Refusal {
    /// Completes "compiling it ...".
    pub reason: String,
    /// Whether the next host must not try it either.
    pub is_lasting: bool,
}

/// The name of the subcommand that compiles.
pub const COMMAND: &str = "compile-component";

/// What the process that compiles is told.
#[derive(Deserialize, Serialize)]
pub struct Request {
    /// Compiled code depends on some of them.
    pub limits: Limits,
    /// Time of processors.
    pub cpu: Duration,
}

/// What the process that compiles has to say at its end, in the last line of its standard error.
#[derive(Deserialize, Serialize)]
pub struct Report {
    pub outcome: Outcome,
    pub cost: Cost,
}

/// How compiling ended.
#[derive(Deserialize, Serialize)]
pub enum Outcome {
    /// The entry is written.
    Compiled,
    /// The engine refuses the bytes.
    Invalid(String),
    /// The entry could not be made or written.
    Failed(String),
}
