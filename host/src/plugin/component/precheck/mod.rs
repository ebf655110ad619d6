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
//! - [`refused`]: why a component is refused
//! - [`reader`]: numbers, names and lengths
//! - [`counts`]: the limits, and what has been counted
//! - [`types`]: the declarations of types, and the types that a scope has
//! - [`module`]: the sections of a core module
//! - [`sections`]: the sections of a component

mod counts;
#[cfg(test)]
mod fuzz;
mod module;
mod reader;
mod refused;
mod sections;
mod types;

pub use counts::limits;
pub use refused::Refused;
pub use sections::check;

#[cfg(test)]
mod tests;
