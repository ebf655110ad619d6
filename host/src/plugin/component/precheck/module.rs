//! The sections of a core module. What they hold is counted and, the code of functions apart, not read.

use super::{
    counts::{Counts, limits},
    reader::{Reader, Result},
    refused::Refused,
    types::core_value_type,
};

/// The first bytes of a module: magic number, version 1, layer 0.
const MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// Counts what a module has.
pub fn check(mut reader: Reader<'_>, counts: &mut Counts) -> Result<()> {
    let start = reader;
    if reader.take(MODULE.len())? != MODULE {
        return start.unreadable("a module within is of a version that the host does not know");
    }
    while !reader.is_empty() {
        let (kind, mut section) = reader.section()?;
        match kind {
            1 => counts.types.add(section.u32()?, limits::TYPES, "types")?,
            2 => counts.imports.add(section.u32()?, limits::IMPORTS, "imports")?,
            3 => counts.functions.add(section.u32()?, limits::FUNCTIONS, "functions")?,
            4 => counts.tables.add(section.u32()?, limits::OTHERS, "tables")?,
            5 => counts.memories.add(section.u32()?, limits::OTHERS, "memories")?,
            6 => counts.globals.add(section.u32()?, limits::OTHERS, "globals")?,
            7 => counts.exports.add(section.u32()?, limits::EXPORTS, "exports")?,
            9 => counts.element_segments.add(section.u32()?, limits::OTHERS, "segments of elements")?,
            10 => code(&mut section)?,
            11 => counts.data_segments.add(section.u32()?, limits::DATA_SEGMENTS, "segments of data")?,
            13 => counts.tags.add(section.u32()?, limits::OTHERS, "tags")?,
            // Names, a start function, a number of data segments.
            _ => {}
        }
    }
    Ok(())
}

/// Measures each function. Their number is that of the section of functions, or the engine refuses the module.
fn code(section: &mut Reader<'_>) -> Result<()> {
    for _ in 0..section.u32()? {
        let before = *section;
        let bytes = section.u32()?;
        if bytes > limits::FUNCTION_BYTES {
            let (found, limit) = (bytes.into(), limits::FUNCTION_BYTES.into());
            return Err(Refused::Function { what: "bytes of code", found, limit });
        }
        *section = before;
        let mut body = section.part()?;
        let mut locals: u64 = 0;
        for _ in 0..body.u32()? {
            locals = locals.saturating_add(body.u32()?.into());
            if locals > limits::LOCALS {
                return Err(Refused::Function { what: "local variables", found: locals, limit: limits::LOCALS });
            }
            core_value_type(&mut body)?;
        }
    }
    Ok(())
}
