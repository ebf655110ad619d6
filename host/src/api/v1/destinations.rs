//! The destinations of attempts: what runs and waits at each plugin and service.

use axum::{extract::State, http::StatusCode, response::Response};
use serde::Serialize;

use crate::{
    api::{context::Context, json},
    branch::Destination,
    engine::Load,
};

/// The body of `GET /api/v1/destinations`: `destinations`, those that wait most first. Each has
///
/// - `kind`: `plugin` or `service`; `name`: that of the plugin, or the `host:port`;
/// - `running`: attempts that run; `waiting`: attempts that wait for one of these to end;
/// - `refused`: submissions that were refused because too many attempts waited. It is counted since the start, or since the
///   destination was last used a while ago.
pub async fn list(State(context): State<Context>) -> Response {
    #[derive(Serialize)]
    struct ListView {
        destinations: Vec<DestinationView>,
    }
    let mut loads = context.engine().destinations();
    loads.sort_by_key(|load| std::cmp::Reverse((load.waiting, load.running)));
    let destinations = loads.iter().map(DestinationView::new).collect();
    json::response(StatusCode::OK, json::encode(&ListView { destinations }))
}

#[derive(Serialize)]
struct DestinationView {
    kind: &'static str,
    name: String,
    #[serde(flatten)]
    attempts: Attempts,
}

impl DestinationView {
    fn new(load: &Load<Destination>) -> Self {
        let kind = match load.holder {
            Destination::Plugin(_) => "plugin",
            Destination::Service(_) => "service",
        };
        Self { kind, name: load.holder.name().to_owned(), attempts: Attempts::new(load) }
    }
}

/// The attempts at a destination, as the lists of plugins and destinations show them.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Attempts {
    running: usize,
    waiting: usize,
    refused: u64,
}

impl Attempts {
    /// Those of a load.
    pub fn new(load: &Load<Destination>) -> Self {
        Self { running: load.running, waiting: load.waiting, refused: load.refused }
    }
}
