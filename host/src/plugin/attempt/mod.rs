//! One attempt: a fresh instance of a component, one call, and its outcome.
//!
//! - [`scope`]: the state that the parts of an attempt share, and its end
//! - [`answer`]: outcomes and error texts
//! - [`operation`]: runs an attempt
//! - [`start_check`]: starts a new component once, before it is used

mod answer;
pub(super) mod operation;
mod scope;
pub(super) mod start_check;
