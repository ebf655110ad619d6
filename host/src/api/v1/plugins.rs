//! The plugins of the host: which there are, and a new version of one.

use std::sync::Arc;

use axum::{
    extract::{Path, Request, State, rejection::PathRejection},
    http::{HeaderMap, StatusCode, header::HOST},
    response::Response,
};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::super::{
    Context,
    body::Body,
    dtm::response::{json, to_json},
    error::Error,
};
use crate::{
    branch::Containment,
    plugin::{ComponentError, InvalidName, Known, Plugin, Published, Refused, Registry},
};

/// Who may replace plugins. Whoever may do that decides what is done with a plugin's data and grants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Uploads {
    /// Nobody.
    Off,
    /// Whoever is on the same machine: only if the host listens on a loopback address, and is called by one, by nobody
    /// who says that he passes on what another has sent. The address keeps out web pages that somebody there looks at;
    /// a proxy on the machine that says nothing cannot be told from its users.
    #[default]
    Loopback,
    /// Everybody who reaches the host.
    On,
}

/// Uploads that wait or compile at once. Each holds its body in memory; they compile one after the other.
pub const UPLOADS_MAX: usize = 4;

/// The body of `GET /api/v1/plugins`:
///
/// - `plugins`, by name; of each what `GET /api/v1/plugins/{name}` answers;
/// - `refused`: files of the plugin folder that are no plugins, each with its `file` and the `error` that says why.
pub async fn list(State(context): State<Context>) -> Response {
    #[derive(Serialize)]
    struct View {
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
        error: refused.error.to_string(),
    };
    let refused = plugins.refused().iter().map(refused).collect();
    json(StatusCode::OK, to_json(&View { plugins: views(plugins), refused }))
}

/// The body of `GET /api/v1/plugins/{name}`:
///
/// - `name`; `versions` that there are, the newest first, each with its `sha256`, whether it `is_current`, the number of
///   `open_sagas` that run on it, and the `fault` for which it cannot be called, if there is one;
/// - of the version that is current, if there is one: `sha256`, `bytes`, `imports`; whether its attempts are
///   `contained` or `external` (`reach`): whether anything that they do can leave the host, and the `reason`.
pub async fn show(State(context): State<Context>, name: Name) -> Result<Response, Error> {
    let Path(name) = name.map_err(|_| Error::NoPlugin { name: String::new() })?;
    let found = views(context.plugins()).into_iter().find(|view| view.name == name);
    let view = found.ok_or(Error::NoPlugin { name })?;
    Ok(json(StatusCode::OK, to_json(&view)))
}

/// Takes a component, and answers as [`show`] when sagas that are submitted from now on use it: 201 if there was no
/// such plugin, 200 otherwise. 404 means that it was taken away again at once, any other answer that nothing has
/// changed.
pub async fn upload(
    State(context): State<Context>,
    name: Name,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Error> {
    check_permission(context.uploads(), &headers)?;
    let Path(name) = name.map_err(|_| Error::Plugin(InvalidName.into()))?;
    let place = context.upload_places().clone().try_acquire_owned().map_err(|_| Error::UploadsBusy)?;
    let plugins = context.plugins().clone();
    let limit = plugins.component_bytes_max();
    let bytes_max = usize::try_from(limit).unwrap_or(usize::MAX);
    let Body(bytes) =
        Body::read(request, bytes_max, context.limits().body_timeout).await.map_err(|error| match error {
            // The limit has a name of its own.
            Error::BodyTooLarge { .. } => Error::Plugin(ComponentError::TooLarge { limit }.into()),
            other => other,
        })?;
    let of = name.clone();
    let published = spawn_blocking(move || {
        // A client that goes away does not stop this, so the place is this one's.
        let _place = place;
        plugins.publish(&of, &bytes)
    });
    let published = published.await.map_err(|_| Error::UploadPanicked)?;
    let Published { is_new, .. } = published.map_err(Error::Plugin)?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let found = views(context.plugins()).into_iter().find(|view| view.name == name);
    // It may have been taken away again by now.
    let view = found.ok_or(Error::NoPlugin { name })?;
    Ok(json(status, to_json(&view)))
}

/// The part of a path that names a plugin.
type Name = Result<Path<String>, PathRejection>;

fn check_permission(uploads: Uploads, headers: &HeaderMap) -> Result<(), Error> {
    match uploads {
        Uploads::On => Ok(()),
        Uploads::Loopback if is_from_here(headers) => Ok(()),
        Uploads::Off | Uploads::Loopback => Err(Error::UploadForbidden),
    }
}

/// Headers by which proxies say for whom they ask.
const PASSED_ON: [&str; 5] = ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"];

fn is_from_here(headers: &HeaderMap) -> bool {
    let is_called_by_loopback = headers.get(HOST).is_some_and(|host| host.to_str().is_ok_and(is_loopback));
    is_called_by_loopback && PASSED_ON.iter().all(|name| !headers.contains_key(*name))
}

/// Whether a host, with or without a port, is this machine, whoever says what names mean.
pub fn is_loopback(host: &str) -> bool {
    let without_port = match host.rsplit_once(':') {
        Some((before, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => before,
        _ => host,
    };
    let address = without_port.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(without_port);
    let is_loopback_address = address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    is_loopback_address || address.eq_ignore_ascii_case("localhost")
}

#[derive(Serialize)]
struct PluginView {
    name: String,
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

fn views(plugins: &Registry) -> Vec<PluginView> {
    let mut views: Vec<PluginView> = Vec::new();
    for Known { pin, is_current, sagas, fault } in plugins.versions() {
        let version = VersionView { sha256: pin.digest.to_string(), is_current, open_sagas: sagas, fault };
        if let Some(view) = views.last_mut().filter(|view| *view.name == *pin.plugin) {
            view.versions.push(version);
        } else {
            let current = plugins.plugin(&pin.plugin).map(|plugin| Current::new(&plugin));
            views.push(PluginView { name: pin.plugin.into(), current, versions: vec![version] });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for host in ["127.0.0.1", "127.0.0.1:36789", "127.8.8.8:1", "[::1]:36789", "[::1]", "localhost", "LOCALHOST:80"]
        {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["", "example.com", "example.com:36789", "localhost.example.com", "10.0.0.1:1", "127.0.0.1.nip.io"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
