//! Compiles a component in a process of its own, since the bytes may be anybody's: reading them may overflow a stack, and
//! compiling them may take any amount of time and memory.
//!
//! The process runs the same program ([`child`]). It gets the bytes as its standard input and writes a cache entry to its
//! standard output, both files without a name that only the host's own user can open. The host watches its memory
//! ([`watch`]) and believes an entry only as far as one of the cache: its digest must fit, and the engine must be the same.
//!
//! - [`protocol`]: what the two processes tell each other
//! - [`watch`]: ends a process that exceeds a limit
//! - [`child`]: the process that compiles
//! - [`parent`]: the host's side

mod child;
mod parent;
mod protocol;
mod watch;

pub use child::run as compile_here;
pub use parent::{Compiler, in_child};
pub use protocol::{COMMAND, Cost, Fault, Refusal};
