//! The API: DTM's over HTTP and over gRPC ([`grpc`]), ours, and metrics.
//!
//! ```text
//!  connection ──> router ──> body ──> dtm::request ──> engine ──> dtm::view, dtm::response ──> answer
//!    (serve)        │                      │             │                                       ^
//!                   └── 404                └──── error ──┴───────────────────────────────────────┘
//! ```
//!
//! Invariants: wire types live here and nowhere else; a request that is refused has changed nothing; every refusal is
//! one [`Error`], which decides about status and words in one place.

mod body;
pub mod dtm;
mod error;
pub mod grpc;
pub mod metrics;
pub mod serve;
mod time;
mod v1;

use std::{sync::Arc, time::Duration};

use axum::{Router, middleware::from_fn_with_state};
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as duration;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

pub use self::error::Error;
pub use self::serve::{serve, serve_http2};
pub use self::v1::plugins::{Uploads, is_loopback};
use crate::{engine::Engine, plugin};

/// Limits of one request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest body, in bytes. A thousand steps of ordinary payloads fit.
    pub body_bytes_max: usize,
    /// Longest time from the header to the end of the body: what a client that trickles can hold.
    #[serde(with = "duration")]
    pub body_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { body_bytes_max: 4 << 20, body_timeout: Duration::from_secs(30) }
    }
}

/// What handlers work with. Clones are the same context.
#[derive(Clone)]
pub struct Context(Arc<Parts>);

struct Parts {
    engine: Engine,
    registry: Registry,
    limits: Limits,
    gids: dtm::gid::Source,
    requests: Arc<dtm::metrics::Requests>,
    plugins: Arc<plugin::Registry>,
    uploads: Uploads,
    upload_places: Arc<Semaphore>,
}

impl Context {
    /// An API in front of `engine`, and of the plugins that it uses. What `registry` holds is shown by `/api/metrics`.
    pub fn new(
        engine: Engine,
        plugins: Arc<plugin::Registry>,
        uploads: Uploads,
        mut registry: Registry,
        limits: Limits,
    ) -> Self {
        let requests = Arc::new(dtm::metrics::Requests::default());
        dtm::metrics::register(&mut registry, engine.clone(), requests.clone());
        Self(Arc::new(Parts {
            engine,
            registry,
            limits,
            gids: dtm::gid::Source::default(),
            requests,
            plugins,
            uploads,
            upload_places: Arc::new(Semaphore::new(v1::plugins::UPLOADS_MAX)),
        }))
    }

    fn engine(&self) -> &Engine {
        &self.0.engine
    }

    fn registry(&self) -> &Registry {
        &self.0.registry
    }

    fn limits(&self) -> &Limits {
        &self.0.limits
    }

    fn requests(&self) -> &dtm::metrics::Requests {
        &self.0.requests
    }

    fn plugins(&self) -> &Arc<plugin::Registry> {
        &self.0.plugins
    }

    fn uploads(&self) -> Uploads {
        self.0.uploads
    }

    fn upload_places(&self) -> &Arc<Semaphore> {
        &self.0.upload_places
    }

    fn gids(&self) -> &dtm::gid::Source {
        &self.0.gids
    }
}

/// All routes of HTTP. Whatever is none of them is answered as DTM does, a known path with the wrong method too.
pub fn router(context: Context) -> Router {
    Router::new()
        .merge(dtm::routes().route_layer(from_fn_with_state(context.clone(), dtm::metrics::count_http)))
        .merge(v1::routes())
        .merge(metrics::routes())
        .fallback(async || dtm::response::not_found())
        .method_not_allowed_fallback(async || dtm::response::not_found())
        .with_state(context)
}
