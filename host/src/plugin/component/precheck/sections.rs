//! The sections of a component, and of the components in it.

use super::{
    counts::{Counts, limits},
    module,
    reader::{Reader, Result},
    refused::Refused,
    types::{self, Scopes},
};

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
