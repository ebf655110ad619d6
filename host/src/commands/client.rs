//! `wasaga plugin push` and `list`: the two commands that talk to a running host.

use std::{error::Error, path::Path};

use reqwest::{Method, StatusCode};
use serde::Deserialize;

use super::{
    Verdict, name_of,
    print::say,
    report::{Side, size, table},
};
use crate::causes;

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
    let name = name_of(file, name)?;
    let bytes = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let (status, body) = send(Method::PUT, host, &["api", "v1", "plugins", name], bytes).await?;
    if !status.is_success() {
        say(format_args!("{} is not taken: {}", file.display(), message(status, &body)));
        return Ok(Verdict::Bad);
    }
    let shown: Shown = serde_json::from_str(&body)?;
    let what = if status == StatusCode::CREATED { "new" } else { "replaced" };
    say(format_args!("{name} is {what}: sha256:{}, {}: it {}", shown.sha256, shown.reach, shown.reason));
    say(format_args!("New sagas use it from now on, as wasm://{name}/try and wasm://{name}/cancel."));
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
        say(format_args!("the host does not list its plugins: {}", message(status, &body)));
        return Ok(Verdict::Bad);
    }
    let List { plugins, refused } = serde_json::from_str(&body)?;
    let head = ["plugin", "reach", "size", "versions", "open sagas", "sha256"].map(ToOwned::to_owned);
    let mut rows = vec![head];
    for Shown { name, sha256, bytes, reach, versions, .. } in plugins {
        let open: u64 = versions.iter().map(|version| version.open_sagas).sum();
        // One that has been taken away and is kept for its sagas has no current version.
        let (reach, size) = if sha256.is_empty() { ("gone".to_owned(), String::new()) } else { (reach, size(bytes)) };
        let digest = sha256.get(..12).unwrap_or_default().to_owned();
        rows.push([name, reach, size, versions.len().to_string(), open.to_string(), digest]);
    }
    say(table(&rows, [Side::Left, Side::Left, Side::Right, Side::Right, Side::Right, Side::Left]).trim_end());
    for Refused { file, error } in &refused {
        say(format_args!("{file} is no plugin: {error}"));
    }
    Ok(Verdict::Good)
}

async fn send(
    method: Method,
    host: &str,
    path: &[&str],
    body: Vec<u8>,
) -> Result<(StatusCode, String), Box<dyn Error>> {
    // `localhost:36789` would be taken for an address of the scheme `localhost`.
    if !host.contains("://") {
        return Err(format!("--host {host}: http:// is missing, as in {DEFAULT_HOST}: take http://{host}").into());
    }
    let mut url = reqwest::Url::parse(host).map_err(|error| format!("--host {host}: {error}, as in {DEFAULT_HOST}"))?;
    url.path_segments_mut().map_err(|()| format!("--host {host}: as in {DEFAULT_HOST}"))?.pop_if_empty().extend(path);
    // Only who is asked for more than one answer may have set it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build()?;
    let request = client.request(method, url).body(body).send().await;
    let answer = request.map_err(|error| {
        let cause = causes::chain(&error).last();
        let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
        format!("no host answers at {host}{cause}: start one with `make run`, or say where it is with --host")
    })?;
    Ok((answer.status(), answer.text().await?))
}

/// The host's own words, if these are a host's; if not, something else answers there.
fn message(status: StatusCode, body: &str) -> String {
    #[derive(Deserialize)]
    struct Answer {
        message: String,
    }
    serde_json::from_str::<Answer>(body)
        .map_or_else(|_| format!("it answers {status}: is a host of Wasaga there?"), |answer| answer.message)
}
