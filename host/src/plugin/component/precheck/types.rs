//! The declarations of types in a component, and how deep the types that it has are nested.

use super::{
    counts::{Counts, limits},
    reader::{Reader, Result},
    refused::Refused,
};

/// The codes of the primitive value types.
macro_rules! primitive {
    () => {
        0x73..=0x7f | 0x64
    };
}

/// The depths of the types that can be named by their numbers: those of the innermost component or declaration last.
#[derive(Default)]
pub struct Scopes(Vec<Vec<u16>>);

impl Scopes {
    /// A component or the declaration of a type begins.
    pub fn enter(&mut self) {
        self.0.push(Vec::new());
    }

    /// The innermost one ends. Returns the depth of the deepest type in it; 0: there is none.
    pub fn leave(&mut self) -> u16 {
        self.0.pop().unwrap_or_default().into_iter().max().unwrap_or_default()
    }

    /// The depth of a type of the innermost one, or of the one that is so many further out. A number that no type has is
    /// refused by the engine.
    fn depth(&self, outwards: u32, number: u32) -> u16 {
        let scope = self.0.iter().rev().nth(outwards as usize);
        scope.and_then(|types| types.get(number as usize)).copied().unwrap_or_default()
    }

    fn add(&mut self, depth: u16, counts: &mut Counts) -> Result<()> {
        counts.types.add(1, limits::TYPES, "types")?;
        if depth > limits::TYPE_DEPTH {
            return Err(Refused::TooDeep { what: "types", limit: limits::TYPE_DEPTH.into() });
        }
        if let Some(types) = self.0.last_mut() {
            types.push(depth);
        }
        Ok(())
    }
}

/// The section of types.
pub fn types(section: &mut Reader<'_>, scopes: &mut Scopes, counts: &mut Counts) -> Result<()> {
    for _ in 0..section.u32()? {
        declared(section, scopes, counts)?;
    }
    Ok(())
}

/// The section of core types.
pub fn core_types(section: &mut Reader<'_>, counts: &mut Counts) -> Result<()> {
    for _ in 0..section.u32()? {
        core_type(section, counts)?;
    }
    Ok(())
}

/// The section of aliases.
pub fn aliases(section: &mut Reader<'_>, scopes: &mut Scopes, counts: &mut Counts) -> Result<()> {
    for _ in 0..section.u32()? {
        alias(section, scopes, counts)?;
    }
    Ok(())
}

/// The section of imports.
pub fn imports(section: &mut Reader<'_>, scopes: &mut Scopes, counts: &mut Counts) -> Result<()> {
    for _ in 0..section.u32()? {
        import(section, scopes, counts)?;
    }
    Ok(())
}

/// The section of exports.
pub fn exports(section: &mut Reader<'_>, scopes: &mut Scopes, counts: &mut Counts) -> Result<()> {
    for _ in 0..section.u32()? {
        counts.exports.add(1, limits::EXPORTS, "exports")?;
        name(section)?;
        let is_type = sort(section)? == Sort::Type;
        let number = section.u32()?;
        match section.byte()? {
            0 if is_type => {
                let depth = scopes.depth(0, number);
                scopes.add(depth, counts)?;
            }
            0 => {}
            1 => external(section, scopes, counts)?,
            _ => return section.unreadable("an export has a type that cannot be read"),
        }
    }
    Ok(())
}

/// One type, with all declarations within it: without recursion, as their nesting is chosen by the component.
fn declared(reader: &mut Reader<'_>, scopes: &mut Scopes, counts: &mut Counts) -> Result<()> {
    // How many declarations each open one still has.
    let mut open: Vec<u32> = Vec::new();
    begin(reader, &mut open, scopes, counts)?;
    while let Some(left) = open.last_mut() {
        let Some(fewer) = left.checked_sub(1) else {
            open.pop();
            let depth = scopes.leave().saturating_add(1);
            scopes.add(depth, counts)?;
            continue;
        };
        *left = fewer;
        match reader.byte()? {
            0 => core_type(reader, counts)?,
            1 => begin(reader, &mut open, scopes, counts)?,
            2 => alias(reader, scopes, counts)?,
            3 => import(reader, scopes, counts)?,
            4 => {
                counts.exports.add(1, limits::EXPORTS, "exports")?;
                name(reader)?;
                external(reader, scopes, counts)?;
            }
            _ => return reader.unreadable("a declaration of a type is of a kind that the host does not know"),
        }
    }
    Ok(())
}

/// A type, or the beginning of one that has declarations.
fn begin(reader: &mut Reader<'_>, open: &mut Vec<u32>, scopes: &mut Scopes, counts: &mut Counts) -> Result<()> {
    let depth = match reader.byte()? {
        // A component, an instance.
        0x41 | 0x42 => {
            if open.len() >= limits::DECLARATION_DEPTH {
                let what = "declarations of component and instance types";
                return Err(Refused::TooDeep { what, limit: limits::DECLARATION_DEPTH });
            }
            open.push(reader.u32()?);
            scopes.enter();
            return Ok(());
        }
        // A resource: its representation, perhaps a destructor.
        0x3f => {
            core_value_type(reader)?;
            optional(reader, |reader| reader.u32().map(drop))?;
            0
        }
        // A function, an asynchronous one.
        0x40 | 0x43 => {
            let parameters = named_values(reader, scopes)?;
            let result = match reader.byte()? {
                0 => value(reader, scopes)?,
                1 if reader.byte()? == 0 => 0,
                _ => return reader.unreadable("a function has results that cannot be read"),
            };
            parameters.max(result)
        }
        kind => defined(kind, reader, scopes)?,
    };
    scopes.add(depth.saturating_add(1), counts)
}

/// The depth of what a defined type consists of.
fn defined(kind: u8, reader: &mut Reader<'_>, scopes: &Scopes) -> Result<u16> {
    Ok(match kind {
        primitive!() => 0,
        // A record.
        0x72 => named_values(reader, scopes)?,
        // A variant.
        0x71 => {
            let mut depth = 0;
            for _ in 0..reader.u32()? {
                reader.pass_name()?;
                depth = depth.max(optional_value(reader, scopes)?);
                reader.byte()?;
            }
            depth
        }
        // A list, an option.
        0x70 | 0x6b => value(reader, scopes)?,
        // A map.
        0x63 => value(reader, scopes)?.max(value(reader, scopes)?),
        // A list of a fixed length.
        0x67 => {
            let depth = value(reader, scopes)?;
            reader.u32()?;
            depth
        }
        // A tuple.
        0x6f => {
            let mut depth = 0;
            for _ in 0..reader.u32()? {
                depth = depth.max(value(reader, scopes)?);
            }
            depth
        }
        // Flags, an enum.
        0x6e | 0x6d => {
            for _ in 0..reader.u32()? {
                reader.pass_name()?;
            }
            0
        }
        // A result.
        0x6a => optional_value(reader, scopes)?.max(optional_value(reader, scopes)?),
        // A handle of a resource, owned or borrowed.
        0x69 | 0x68 => {
            let number = reader.u32()?;
            scopes.depth(0, number)
        }
        // A stream, a future.
        0x66 | 0x65 => optional_value(reader, scopes)?,
        _ => return reader.unreadable("a type is of a kind that the host does not know"),
    })
}

/// The depth of a value type: a primitive one, or the number of another.
fn value(reader: &mut Reader<'_>, scopes: &Scopes) -> Result<u16> {
    if matches!(reader.peek()?, primitive!()) {
        reader.byte()?;
        return Ok(0);
    }
    let number = reader.index()?;
    Ok(scopes.depth(0, number))
}

fn optional_value(reader: &mut Reader<'_>, scopes: &Scopes) -> Result<u16> {
    let mut depth = 0;
    optional(reader, |reader| {
        depth = value(reader, scopes)?;
        Ok(())
    })?;
    Ok(depth)
}

fn named_values(reader: &mut Reader<'_>, scopes: &Scopes) -> Result<u16> {
    let mut depth = 0;
    for _ in 0..reader.u32()? {
        reader.pass_name()?;
        depth = depth.max(value(reader, scopes)?);
    }
    Ok(depth)
}

fn optional<'a>(reader: &mut Reader<'a>, read: impl FnOnce(&mut Reader<'a>) -> Result<()>) -> Result<()> {
    match reader.byte()? {
        0 => Ok(()),
        1 => read(reader),
        _ => reader.unreadable("what may be left out is neither there nor left out"),
    }
}

fn import(reader: &mut Reader<'_>, scopes: &mut Scopes, counts: &mut Counts) -> Result<()> {
    counts.imports.add(1, limits::IMPORTS, "imports")?;
    name(reader)?;
    external(reader, scopes, counts)
}

/// The name of an import or export of a component, with what may belong to it.
fn name(reader: &mut Reader<'_>) -> Result<()> {
    let kind = reader.byte()?;
    reader.pass_name()?;
    if kind == 2 {
        for _ in 0..reader.u32()? {
            reader.byte()?;
            reader.pass_name()?;
        }
    }
    Ok(())
}

/// The type of an import or export. One that is a type gets a number.
fn external(reader: &mut Reader<'_>, scopes: &mut Scopes, counts: &mut Counts) -> Result<()> {
    match sort(reader)? {
        Sort::Type => {
            let depth = match reader.byte()? {
                // Equal to another.
                0 => {
                    let number = reader.u32()?;
                    scopes.depth(0, number)
                }
                // A resource.
                1 => 1,
                _ => return reader.unreadable("a type has a bound that the host does not know"),
            };
            scopes.add(depth, counts)
        }
        Sort::Value => value(reader, scopes).map(drop),
        Sort::Other => reader.u32().map(drop),
    }
}

fn alias(reader: &mut Reader<'_>, scopes: &mut Scopes, counts: &mut Counts) -> Result<()> {
    counts.aliases.add(1, limits::OTHERS, "aliases")?;
    let is_type = sort(reader)? == Sort::Type;
    let depth = match reader.byte()? {
        // An export of an instance, of a core instance.
        0 | 1 => {
            reader.u32()?;
            reader.pass_name()?;
            1
        }
        // Of a component or declaration further out.
        2 => {
            let (outwards, number) = (reader.u32()?, reader.u32()?);
            scopes.depth(outwards, number)
        }
        _ => return reader.unreadable("an alias is of a kind that the host does not know"),
    };
    if is_type { scopes.add(depth, counts) } else { Ok(()) }
}

/// What a number or a name stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Type,
    Value,
    Other,
}

fn sort(reader: &mut Reader<'_>) -> Result<Sort> {
    Ok(match reader.byte()? {
        // A core item, whose kind follows.
        0 => {
            reader.byte()?;
            Sort::Other
        }
        2 => Sort::Value,
        3 => Sort::Type,
        _ => Sort::Other,
    })
}

/// A core type of a component: of a function, or of a module. Modules do not nest.
fn core_type(reader: &mut Reader<'_>, counts: &mut Counts) -> Result<()> {
    if reader.peek()? != 0x50 {
        return core_function(reader, counts);
    }
    reader.byte()?;
    counts.types.add(1, limits::TYPES, "types")?;
    for _ in 0..reader.u32()? {
        match reader.byte()? {
            // An import.
            0 => {
                counts.imports.add(1, limits::IMPORTS, "imports")?;
                reader.pass_name()?;
                reader.pass_name()?;
                core_external(reader)?;
            }
            1 => core_function(reader, counts)?,
            // An alias of a type further out.
            2 => {
                counts.aliases.add(1, limits::OTHERS, "aliases")?;
                reader.take(2)?;
                reader.u32()?;
                reader.u32()?;
            }
            // An export.
            3 => {
                counts.exports.add(1, limits::EXPORTS, "exports")?;
                reader.pass_name()?;
                core_external(reader)?;
            }
            _ => return reader.unreadable("a declaration of a module is of a kind that the host does not know"),
        }
    }
    Ok(())
}

fn core_function(reader: &mut Reader<'_>, counts: &mut Counts) -> Result<()> {
    counts.types.add(1, limits::TYPES, "types")?;
    if reader.byte()? != 0x60 {
        return reader.unreadable("a core type is none of a function or a module");
    }
    // Parameters, then results.
    for _ in 0..2 {
        for _ in 0..reader.u32()? {
            core_value_type(reader)?;
        }
    }
    Ok(())
}

/// Passes the type of an import or export of a module.
fn core_external(reader: &mut Reader<'_>) -> Result<()> {
    match reader.byte()? {
        // A function.
        0 => reader.u32().map(drop),
        // A table.
        1 => {
            core_value_type(reader)?;
            core_limits(reader)
        }
        // A memory.
        2 => core_limits(reader),
        // A global, and whether it changes.
        3 => {
            core_value_type(reader)?;
            reader.byte().map(drop)
        }
        // A tag.
        4 => {
            reader.byte()?;
            reader.u32().map(drop)
        }
        _ => reader.unreadable("an import or export of a module is of a kind that the host does not know"),
    }
}

/// Passes the least and perhaps the greatest size of a table or a memory, and perhaps the size of its pages.
fn core_limits(reader: &mut Reader<'_>) -> Result<()> {
    let flags = reader.byte()?;
    reader.pass_u64()?;
    for flag in [1, 8] {
        if flags & flag != 0 {
            reader.pass_u64()?;
        }
    }
    Ok(())
}

/// Passes a value type of core WebAssembly: one byte, and for a reference to a type the number of that.
pub fn core_value_type(reader: &mut Reader<'_>) -> Result<()> {
    if matches!(reader.byte()?, 0x63 | 0x64) {
        reader.pass_u64()?;
    }
    Ok(())
}
