//! `wasaga plugin push` and `list`: the two commands that talk to a running host.

use std::{error::Error, path::Path};

use reqwest::{Method, StatusCode};
use serde::Deserialize;

use super::{Verdict, report::size};
use crate::plugin;

/// Where `make run` serves.
pub const DEFAULT_HOST: &str = "http://127.0.0.1:36789";

/// What the host says of a plugin, as far as it is shown here.
#[derive(Deserialize)]
struct Shown {
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
    let name = match name {
        Some(name) => name,
        None => plugin::name(file).map_err(|fault| format!("{}: {fault}; or give a name: --name", file.display()))?,
    };
    let bytes = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let (status, body) = send(Method::PUT, host, &["api", "v1", "plugins", name], bytes).await?;
    if !status.is_success() {
        println!("{} is not taken: {}", file.display(), message(status, &body));
        return Ok(Verdict::Bad);
    }
    let shown: Shown = serde_json::from_str(&body)?;
    let what = if status == StatusCode::CREATED { "new" } else { "replaced" };
    println!("{name} is {what}: sha256:{}, {}: it {}", shown.sha256, shown.reach, shown.reason);
    println!("New sagas use it from now on, as wasm://{name}/try and wasm://{name}/cancel.");
    Ok(Verdict::Good)
}

/// Lists the plugins of a host.
pub async fn list(host: &str) -> Result<Verdict, Box<dyn Error>> {
    #[derive(Deserialize)]
    struct List {
        plugins: Vec<Shown>,
        refused: Vec<Refused>,
    }
    #[derive(Deserialize)]
    struct Refused {
        file: String,
        error: String,
    }
    let (status, body) = send(Method::GET, host, &["api", "v1", "plugins"], Vec::new()).await?;
    if !status.is_success() {
        println!("the host does not list its plugins: {}", message(status, &body));
        return Ok(Verdict::Bad);
    }
    let List { plugins, refused } = serde_json::from_str(&body)?;
    println!("{:24}{:12}{:>12}{:>9}{:>12}  sha256", "plugin", "reach", "size", "versions", "open sagas");
    for Shown { name, sha256, bytes, reach, versions, .. } in &plugins {
        let open: u64 = versions.iter().map(|version| version.open_sagas).sum();
        // One that has been taken away and is kept for its sagas has no current version.
        let (reach, size) = if sha256.is_empty() { ("gone", String::new()) } else { (reach.as_str(), size(*bytes)) };
        let digest = sha256.get(..12).unwrap_or_default();
        println!("{name:24}{reach:12}{size:>12}{:>9}{open:>12}  {digest}", versions.len());
    }
    for Refused { file, error } in &refused {
        println!("{file} is no plugin: {error}");
    }
    Ok(Verdict::Good)
}

async fn send(
    method: Method,
    host: &str,
    path: &[&str],
    body: Vec<u8>,
) -> Result<(StatusCode, String), Box<dyn Error>> {
    let mut url = reqwest::Url::parse(host).map_err(|error| format!("--host {host}: {error}, as in {DEFAULT_HOST}"))?;
    url.path_segments_mut().map_err(|()| format!("--host {host}: as in {DEFAULT_HOST}"))?.pop_if_empty().extend(path);
    // Only who is asked for more than one answer may have set it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build()?;
    let request = client.request(method, url).body(body).send().await;
    let answer = request.map_err(|error| {
        let cause = std::iter::successors(Some(&error as &dyn Error), |&error| error.source()).last();
        let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
        format!("no host answers at {host}{cause}: start one with `make run`, or say where it is with --host")
    })?;
    Ok((answer.status(), answer.text().await?))
}

/// The host's own words, if these are a host's.
fn message(status: StatusCode, body: &str) -> String {
    #[derive(Deserialize)]
    struct Answer {
        message: String,
    }
    serde_json::from_str::<Answer>(body).map_or_else(|_| format!("it answers {status}"), |answer| answer.message)
}
