//! Components on disk: [`component_store`] keeps the components that sagas are pinned to, [`cache`] their compiled code,
//! and [`refusals`] which of them must not be compiled.

pub(super) mod cache;
pub(super) mod component_store;
pub(super) mod refusals;
