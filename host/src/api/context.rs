//! The state that every handler shares: the engine, the plugins, the limits and the counters.

use std::{sync::Arc, time::Duration};

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as duration;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::{
    dtm::{gid, metrics},
    v1::uploads::{UPLOADS_MAX, Uploads},
};
use crate::{engine::Engine, memory::Budget, plugin};

/// Limits of one request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest body, in bytes. A thousand steps of ordinary payloads fit.
    pub body_bytes_max: usize,
    /// Longest time from the end of the header to the end of the body. Bounds how long a slow client holds a request.
    #[serde(with = "duration")]
    pub body_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { body_bytes_max: 4 << 20, body_timeout: Duration::from_secs(30) }
    }
}

/// The state that every handler shares. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct Context(Arc<Shared>);

struct Shared {
    engine: Engine,
    registry: Registry,
    limits: Limits,
    gids: gid::Source,
    requests: Arc<metrics::Requests>,
    plugins: Arc<plugin::Registry>,
    uploads: Uploads,
    upload_permits: Arc<Semaphore>,
}

impl Context {
    /// The context of an API for `engine` and its `plugins`. DTM's metrics are added to `registry`, which
    /// `/api/metrics` shows.
    pub fn new(
        engine: Engine,
        plugins: Arc<plugin::Registry>,
        uploads: Uploads,
        mut registry: Registry,
        limits: Limits,
    ) -> Self {
        let requests = Arc::new(metrics::Requests::default());
        metrics::register(&mut registry, engine.clone(), requests.clone());
        Self(Arc::new(Shared {
            engine,
            registry,
            limits,
            gids: gid::Source::default(),
            requests,
            plugins,
            uploads,
            upload_permits: Arc::new(Semaphore::new(UPLOADS_MAX)),
        }))
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// The budget of memory, which is the engine's.
    pub(super) fn memory(&self) -> &Budget {
        self.0.engine.memory()
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.0.registry
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    pub(super) fn requests(&self) -> &Arc<metrics::Requests> {
        &self.0.requests
    }

    pub(super) fn plugins(&self) -> &Arc<plugin::Registry> {
        &self.0.plugins
    }

    pub(super) fn uploads(&self) -> Uploads {
        self.0.uploads
    }

    pub(super) fn upload_permits(&self) -> &Arc<Semaphore> {
        &self.0.upload_permits
    }

    pub(super) fn gids(&self) -> &gid::Source {
        &self.0.gids
    }
}
