//! The limits, and what has been counted.

use super::{reader::Result, refused::Refused};

/// The limits, each more than twice of what the largest branches of five languages have. They are no settings: what exceeds
/// them was made by no compiler that is known.
pub mod limits {
    /// Components within components. One is usual; each composition adds one.
    pub const COMPONENT_DEPTH: usize = 16;
    /// Declarations of component and instance types within such declarations.
    pub const DECLARATION_DEPTH: usize = 32;
    /// Types within types, as in `list<list<u8>>`. The engine has the same limit.
    pub const TYPE_DEPTH: u16 = 100;
    /// Components and modules, nested ones included.
    pub const PARTS: u32 = 500;
    /// Types, those of all modules and within declarations included.
    pub const TYPES: u32 = 20_000;
    /// Functions of all modules.
    pub const FUNCTIONS: u32 = 50_000;
    /// Imports of all modules and components.
    pub const IMPORTS: u32 = 20_000;
    /// Exports of all modules and components.
    pub const EXPORTS: u32 = 20_000;
    /// Instances, aliases, canonical functions, globals, tables, memories, tags and segments of elements, each.
    pub const OTHERS: u32 = 20_000;
    /// Segments of data: Go's compiler makes one for each stretch that is not zero.
    pub const DATA_SEGMENTS: u32 = 100_000;
    /// Bytes of the code of one function.
    pub const FUNCTION_BYTES: u32 = 1 << 20;
    /// Local variables of one function: as many as engines take, for compilers without optimisation make many.
    pub const LOCALS: u64 = 50_000;
}

/// How many things of each kind there are so far.
#[derive(Default)]
pub struct Counts {
    pub parts: Count,
    pub types: Count,
    pub functions: Count,
    pub imports: Count,
    pub exports: Count,
    pub instances: Count,
    pub aliases: Count,
    pub canonical_functions: Count,
    pub globals: Count,
    pub tables: Count,
    pub memories: Count,
    pub tags: Count,
    pub element_segments: Count,
    pub data_segments: Count,
}

/// How many things of one kind there are so far.
#[derive(Clone, Copy, Default)]
pub struct Count(u32);

impl Count {
    /// Counts `more`, and refuses a sum of more than `limit`.
    pub fn add(&mut self, more: u32, limit: u32, what: &'static str) -> Result<()> {
        self.0 = self.0.saturating_add(more);
        if self.0 > limit { Err(Refused::TooMany { what, limit }) } else { Ok(()) }
    }
}
