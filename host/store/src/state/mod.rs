//! The state: what readers see, sled below it, the thread that brings it up to date, and its copies.

pub(crate) mod apply;
pub(crate) mod base;
pub(crate) mod follower;
pub(crate) mod lag;
pub(crate) mod overlay;
pub(crate) mod sled;
pub(crate) mod view;
