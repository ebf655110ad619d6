//! For hosts whose branches are no plugins.

use std::{
    path::Path,
    sync::{Arc, LazyLock},
};

use wasaga::plugin::{Registry, Runtime, Settings};

/// Shared, as nothing changes it.
static NONE: LazyLock<Arc<Registry>> = LazyLock::new(|| {
    let runtime = Runtime::new(&Settings { slots: 1, ..Settings::default() }).unwrap();
    Arc::new(Registry::load(&runtime, Path::new("/nonexistent"), Vec::new()))
});

/// The plugins of a host that has none.
pub fn no_plugins() -> Arc<Registry> {
    NONE.clone()
}
