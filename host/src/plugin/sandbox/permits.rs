//! Permits: how many guests exist at once, in the host and of each plugin.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::store::sync::lock;

/// The permits of the host, and of each plugin.
pub struct Pool {
    all: Arc<Semaphore>,
    per_plugin: u32,
    /// The semaphores of loaded plugins, by name: all versions of a plugin share one.
    plugins: Mutex<HashMap<Box<str>, Weak<Semaphore>>>,
}

impl Pool {
    /// `permits` in all, of which a plugin gets at most `per_plugin`; both at least 1.
    pub fn new(permits: u32, per_plugin: u32) -> Self {
        let permits = permits.max(1);
        Self {
            all: Arc::new(Semaphore::new(permits as usize)),
            per_plugin: per_plugin.clamp(1, permits),
            plugins: Mutex::default(),
        }
    }

    /// The permits of one plugin.
    pub fn of(&self, plugin: &str) -> Permits {
        let mut plugins = lock(&self.plugins);
        let known = plugins.get(plugin).and_then(Weak::upgrade);
        let own = known.unwrap_or_else(|| {
            plugins.retain(|_, own| own.strong_count() > 0);
            let own = Arc::new(Semaphore::new(self.per_plugin as usize));
            plugins.insert(plugin.into(), Arc::downgrade(&own));
            own
        });
        Permits { own, all: self.all.clone() }
    }
}

/// The permits of one plugin.
pub struct Permits {
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

impl Permits {
    /// Waits for a permit, first behind the plugin's other attempts, then behind those of all plugins. `None` if a
    /// semaphore is closed, which does not happen.
    pub async fn take(&self) -> Option<Permit> {
        let own = self.own.clone().acquire_owned().await.ok()?;
        let all = self.all.clone().acquire_owned().await.ok()?;
        Some(Permit { _all: all, _own: own })
    }
}

/// The right of one guest to exist, until it is dropped.
pub struct Permit {
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
}
