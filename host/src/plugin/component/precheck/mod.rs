//! Looks through the bytes of a component before any library does.
//!
//! Libraries read declarations of types by recursion, and need time and memory for each thing that a component has. This
//! module counts: how deep components, declarations of types and types nest, how many things of each kind there are, how
//! large functions are. It has no recursion, looks at each byte at most once, and holds two bytes for each type.
//!
//! It decides nothing else. Whether a component is valid is for the engine, which reads it in a process of its own
//! ([`compile`](crate::plugin::sandbox::compile)): a type that is taken out of an instance counts here as one without
//! parts, so types may nest deeper than this module sees.
//!
//! The format: <https://github.com/WebAssembly/component-model/blob/main/design/mvp/Binary.md> and
//! <https://webassembly.github.io/spec/core/binary/index.html>.
//!
//! - [`reader`]: numbers, names and lengths
//! - [`module`]: the sections of a core module
//! - [`types`]: the declarations of types, and the types that a scope has

mod module;
mod reader;
mod types;

use self::{
    reader::{Reader, Result},
    types::Scopes,
};

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
    /// Local variables of one function.
    pub const LOCALS: u64 = 10_000;
}

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

/// How many things of each kind there are so far.
#[derive(Default)]
struct Counts {
    parts: Count,
    types: Count,
    functions: Count,
    imports: Count,
    exports: Count,
    instances: Count,
    aliases: Count,
    canonical_functions: Count,
    globals: Count,
    tables: Count,
    memories: Count,
    tags: Count,
    element_segments: Count,
    data_segments: Count,
}

/// How many things of one kind there are so far.
#[derive(Clone, Copy, Default)]
struct Count(u32);

impl Count {
    /// Counts `more`, and refuses a sum of more than `limit`.
    fn add(&mut self, more: u32, limit: u32, what: &'static str) -> Result<()> {
        self.0 = self.0.saturating_add(more);
        if self.0 > limit { Err(Refused::TooMany { what, limit }) } else { Ok(()) }
    }
}

/// The first bytes of a component: magic number, version 13, layer 1.
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

/// Refuses bytes that an engine might not survive. What passes need not be a valid component. Takes time in proportion to the
/// bytes, and never recurses.
pub fn check(bytes: &[u8]) -> std::result::Result<(), Refused> {
    let mut counts = Counts::default();
    let mut scopes = Scopes::default();
    // The rest of each component that is open, the outermost first.
    let mut open = vec![component(Reader::new(bytes))?];
    scopes.enter();
    while let Some(reader) = open.last_mut() {
        if reader.is_empty() {
            open.pop();
            scopes.leave();
            continue;
        }
        let (kind, mut section) = reader.section()?;
        match kind {
            1 => {
                counts.parts.add(1, limits::PARTS, "modules and components")?;
                module::check(section, &mut counts)?;
            }
            2 | 5 => counts.instances.add(section.u32()?, limits::OTHERS, "instances")?,
            3 => types::core_types(&mut section, &mut counts)?,
            4 => {
                counts.parts.add(1, limits::PARTS, "modules and components")?;
                if open.len() >= limits::COMPONENT_DEPTH {
                    return Err(Refused::TooDeep { what: "components", limit: limits::COMPONENT_DEPTH });
                }
                open.push(component(section)?);
                scopes.enter();
            }
            6 => types::aliases(&mut section, &mut scopes, &mut counts)?,
            7 => types::types(&mut section, &mut scopes, &mut counts)?,
            8 => counts.canonical_functions.add(section.u32()?, limits::OTHERS, "canonical functions")?,
            10 => types::imports(&mut section, &mut scopes, &mut counts)?,
            11 => types::exports(&mut section, &mut scopes, &mut counts)?,
            // Names, a start function, and what the engine does not know: it refuses that.
            _ => {}
        }
    }
    Ok(())
}

/// The sections of a component.
fn component(mut reader: Reader<'_>) -> Result<Reader<'_>> {
    let at = reader.at();
    if reader.take(COMPONENT.len())? == COMPONENT {
        return Ok(reader);
    }
    Err(Refused::Unreadable { what: "this is no component of the version that the host knows", at })
}

#[cfg(test)]
mod tests;
