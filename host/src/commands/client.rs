//! `wasaga plugin push` and `list`: the commands that talk to a running host.

use std::{error::Error, path::Path};

use reqwest::{Method, StatusCode};
use serde::Deserialize;

use super::{
    name::name_of,
    print::say,
    report::{Side, size, table},
    verdict::Verdict,
};
use crate::causes;

/// The address that `make run` listens on.
pub const DEFAULT_HOST: &str = "http://127.0.0.1:36789";

/// A plugin in a response of the host; only the fields that are printed.
#[derive(Deserialize)]
struct PluginInfo {
    name: String,
    #[serde(default)]
    sha256: String,
    #[serde(default)]
    bytes: u64,
    #[serde(default)]
    reach: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    versions: Vec<Version>,
}

#[derive(Deserialize)]
struct Version {
    open_sagas: u64,
}

/// Uploads a component.
pub async fn push(host: &str, file: &Path, name: Option<&str>) -> Result<Verdict, Box<dyn Error>> {
    let name = name_of(file, name)?;
    let bytes = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let (status, body) = send(Method::PUT, host, &["api", "v1", "plugins", name], bytes).await?;
    if !status.is_success() {
        say(format_args!("the host refuses {}: {}", file.display(), message(status, &body)));
        return Ok(Verdict::Bad);
    }
    let plugin: PluginInfo = serde_json::from_str(&body)?;
    let what = if status == StatusCode::CREATED { "new" } else { "replaced" };
    say(format_args!("{name} is {what}: sha256:{}, {}: it {}", plugin.sha256, plugin.reach, plugin.reason));
    say(format_args!("New sagas use it from now on, as wasm://{name}/try and wasm://{name}/cancel."));
    Ok(Verdict::Good)
}

/// Lists the plugins of a host.
pub async fn list(host: &str) -> Result<Verdict, Box<dyn Error>> {
    #[derive(Deserialize)]
    struct List {
        plugins: Vec<PluginInfo>,
        refused: Vec<Refused>,
    }
    #[derive(Deserialize)]
    struct Refused {
        file: String,
        error: String,
    }
    let (status, body) = send(Method::GET, host, &["api", "v1", "plugins"], Vec::new()).await?;
    if !status.is_success() {
        say(format_args!("the host does not list its plugins: {}", message(status, &body)));
        return Ok(Verdict::Bad);
    }
    let List { plugins, refused } = serde_json::from_str(&body)?;
    let head = ["plugin", "reach", "size", "versions", "open sagas", "sha256"].map(ToOwned::to_owned);
    let mut rows = vec![head];
    for PluginInfo { name, sha256, bytes, reach, versions, .. } in plugins {
        let open: u64 = versions.iter().map(|version| version.open_sagas).sum();
        // A plugin that was removed and is kept for its open sagas has no current version.
        let (reach, size) = if sha256.is_empty() { ("gone".to_owned(), String::new()) } else { (reach, size(bytes)) };
        let digest = sha256.get(..12).unwrap_or_default().to_owned();
        rows.push([name, reach, size, versions.len().to_string(), open.to_string(), digest]);
    }
    say(table(&rows, [Side::Left, Side::Left, Side::Right, Side::Right, Side::Right, Side::Left]).trim_end());
    for Refused { file, error } in &refused {
        say(format_args!("{file} is not a plugin: {error}"));
    }
    Ok(Verdict::Good)
}

async fn send(
    method: Method,
    host: &str,
    path: &[&str],
    body: Vec<u8>,
) -> Result<(StatusCode, String), Box<dyn Error>> {
    // `localhost:36789` would be parsed as a URL with the scheme `localhost`.
    if !host.contains("://") {
        return Err(format!("--host {host}: http:// is missing, as in {DEFAULT_HOST}: take http://{host}").into());
    }
    let mut url = reqwest::Url::parse(host).map_err(|error| format!("--host {host}: {error}, as in {DEFAULT_HOST}"))?;
    url.path_segments_mut().map_err(|()| format!("--host {host}: as in {DEFAULT_HOST}"))?.pop_if_empty().extend(path);
    // An error says that a provider is installed already: that one is used.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build()?;
    let request = client.request(method, url).body(body).send().await;
    let response = request.map_err(|error| {
        let cause = causes::chain(&error).last();
        let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
        format!("no host answers at {host}{cause}: start one with `make run`, or say where it is with --host")
    })?;
    Ok((response.status(), response.text().await?))
}

/// The message of a host's response; if the body holds none, the response is not a host's.
fn message(status: StatusCode, body: &str) -> String {
    #[derive(Deserialize)]
    struct Failure {
        message: String,
    }
    serde_json::from_str::<Failure>(body).map_or_else(
        |_| format!("the response is {status}: does a Wasaga host listen there?"),
        |failure| failure.message,
    )
}
