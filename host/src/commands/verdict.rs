//! The result of a command.

/// Decides the exit status of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Exit status 0.
    Good,
    /// The command has printed what is wrong. Exit status 1.
    Bad,
}
