//! The result of a command.

/// Whether a command has found a mistake. Decides the exit status of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Exit status 0.
    Good,
    /// The command has printed what is wrong. Exit status 1.
    Bad,
}
