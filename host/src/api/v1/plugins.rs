//! The host's plugins: list, show and upload.

use std::sync::Arc;

use axum::{
    extract::{Path, Request, State, rejection::PathRejection},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::destinations::Attempts;
use crate::{
    api::{body::Body, context::Context, error::Error, json},
    branch::{Containment, Destination},
    plugin::{ComponentError, InvalidName, Known, Plugin, Published, Refused},
    saga::text,
};

/// Longest reason of a refused component in a list, in bytes: some name all that a component exports.
const REASON_BYTES_MAX: usize = 1024;

/// The body of `GET /api/v1/plugins`:
///
/// - `plugins`, sorted by name, each as in the body of `GET /api/v1/plugins/{name}`;
/// - `refused`: the files of the plugin folder that are not plugins, with the `file` and the `error`.
pub async fn list(State(context): State<Context>) -> Response {
    #[derive(Serialize)]
    struct ListView {
        plugins: Vec<PluginView>,
        refused: Vec<RefusedView>,
    }
    #[derive(Serialize)]
    struct RefusedView {
        file: String,
        error: String,
    }
    let plugins = context.plugins();
    let refused = |refused: &Arc<Refused>| RefusedView {
        file: refused.file.file_name().unwrap_or(refused.file.as_os_str()).to_string_lossy().into_owned(),
        error: text::cut(&refused.error.to_string(), REASON_BYTES_MAX).into_owned(),
    };
    let refused = plugins.refused().iter().map(refused).collect();
    json::response(StatusCode::OK, json::encode(&ListView { plugins: views(&context), refused }))
}

/// The body of `GET /api/v1/plugins/{name}`:
///
/// - `name`; `attempts`, those of all versions, as in the body of `GET /api/v1/destinations`; `versions`, newest first, each with `sha256`, `is_current`, `open_sagas` (the number of sagas that are pinned
///   to it) and, if it cannot be called, its `fault`;
/// - of the current version, if there is one: `sha256`, `bytes`, `imports`, `reach` (`external` if an attempt can have an
///   effect outside the host, else `contained`) and the `reason` for that.
pub async fn show(State(context): State<Context>, name: Name) -> Result<Response, Error> {
    let Path(name) = name.map_err(|_| Error::NoPlugin { name: String::new() })?;
    let found = views(&context).into_iter().find(|view| view.name == name);
    let view = found.ok_or(Error::NoPlugin { name })?;
    Ok(json::response(StatusCode::OK, json::encode(&view)))
}

/// `PUT /api/v1/plugins/{name}`: makes the component in the body the current version, which sagas submitted from now on
/// use. Responds as [`show`], with 201 for a new plugin and 200 for a known one. 404 means that the plugin was removed
/// again meanwhile; any other status means that nothing has changed.
pub async fn upload(
    State(context): State<Context>,
    name: Name,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Error> {
    if !context.uploads().allow(&headers) {
        return Err(Error::UploadForbidden);
    }
    let Path(name) = name.map_err(|_| Error::Plugin(InvalidName::Malformed.into()))?;
    let permit = context.upload_permits().clone().try_acquire_owned().map_err(|_| Error::UploadsBusy)?;
    let plugins = context.plugins().clone();
    let limit = plugins.component_bytes_max();
    let bytes_max = usize::try_from(limit).unwrap_or(usize::MAX);
    let Body(bytes) = Body::read(request, bytes_max, &context).await.map_err(|error| match error {
        // The limit of components has a setting and an error text of its own.
        Error::BodyTooLarge { .. } => Error::Plugin(ComponentError::TooLarge { limit }.into()),
        other => other,
    })?;
    let of = name.clone();
    let published = spawn_blocking(move || {
        // A client that disconnects does not stop this task, so the task holds the permit.
        let _permit = permit;
        plugins.publish(&of, &bytes)
    });
    let published = published.await.map_err(|_| Error::UploadPanicked)?;
    let Published { is_new, .. } = published.map_err(Error::Plugin)?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let found = views(&context).into_iter().find(|view| view.name == name);
    // It may have been removed again meanwhile.
    let view = found.ok_or(Error::NoPlugin { name })?;
    Ok(json::response(status, json::encode(&view)))
}

/// The path segment that holds a plugin's name.
type Name = Result<Path<String>, PathRejection>;

#[derive(Serialize)]
struct PluginView {
    name: String,
    attempts: Attempts,
    #[serde(flatten)]
    current: Option<Current>,
    versions: Vec<VersionView>,
}

#[derive(Serialize)]
struct Current {
    sha256: String,
    bytes: u64,
    reach: &'static str,
    reason: String,
    imports: Vec<String>,
}

#[derive(Serialize)]
struct VersionView {
    sha256: String,
    is_current: bool,
    open_sagas: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
}

fn views(context: &Context) -> Vec<PluginView> {
    let plugins = context.plugins();
    let loads = context.engine().destinations();
    let attempts = |name: &str| {
        let at = loads.binary_search_by(|load| load.holder.cmp(&Destination::Plugin(name.into())));
        at.ok().and_then(|at| loads.get(at)).map(Attempts::new).unwrap_or_default()
    };
    let mut views: Vec<PluginView> = Vec::new();
    for Known { pin, is_current, sagas, fault } in plugins.versions() {
        let version = VersionView { sha256: pin.digest.to_string(), is_current, open_sagas: sagas, fault };
        if let Some(view) = views.last_mut().filter(|view| *view.name == *pin.plugin) {
            view.versions.push(version);
        } else {
            let current = plugins.plugin(&pin.plugin).map(|plugin| Current::new(&plugin));
            let attempts = attempts(&pin.plugin);
            views.push(PluginView { name: pin.plugin.into(), attempts, current, versions: vec![version] });
        }
    }
    views
}

impl Current {
    fn new(plugin: &Plugin) -> Self {
        let classification = plugin.classification();
        Self {
            sha256: plugin.digest().to_string(),
            bytes: plugin.size(),
            reach: reach(classification.containment),
            reason: classification.reason.clone(),
            imports: plugin.imports().map(ToOwned::to_owned).collect(),
        }
    }
}

fn reach(containment: Containment) -> &'static str {
    match containment {
        Containment::Contained => "contained",
        Containment::Gated | Containment::External => "external",
    }
}
