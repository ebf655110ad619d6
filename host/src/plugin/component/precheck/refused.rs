//! Why a component is refused.

/// Why a component is refused before it is compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// An engine's stack might not suffice.
    #[error("its {what} are nested more than {limit} deep")]
    TooDeep { what: &'static str, limit: usize },
    /// Compiling would take too long or too much memory.
    #[error("it has more than {limit} {what}")]
    TooMany { what: &'static str, limit: u32 },
    /// Compiling one function takes memory by the square of its size.
    #[error("a function has {found} {what}, more than {limit}")]
    Function { what: &'static str, found: u64, limit: u64 },
    /// Cut short, damaged, or of a format that the engine does not know either.
    #[error("{what}, at byte {at}")]
    Unreadable { what: &'static str, at: usize },
}
