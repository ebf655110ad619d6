//! Components on disk: [`component_store`] keeps the components that sagas are pinned to, [`cache`] their compiled code.

pub(super) mod cache;
pub(super) mod component_store;
