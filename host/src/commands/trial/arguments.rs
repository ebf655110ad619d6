//! The arguments of `wasaga plugin test`.

use std::path::PathBuf;

use clap::Args;
use http::StatusCode;

use crate::branch::Reply;

/// Which plugin is tested, and how.
#[derive(Debug, Args)]
pub struct Trial {
    /// The component, NAME.wasm
    pub file: PathBuf,
    /// Name of the plugin, which selects its grants and settings [default: that of the file]
    #[arg(long)]
    pub name: Option<String>,
    /// Payload of the step: one that try accepts
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub payload: String,
    /// Response to every request that the plugin is granted; none is sent
    #[arg(long, value_name = "STATUS[:BODY]", value_parser = reply)]
    pub answer: Option<Reply>,
    /// Allow cancel to leave data behind
    #[arg(long)]
    pub allow_leftovers: bool,
}

/// Reads `404` or `200:{"id": 7}`.
fn reply(text: &str) -> Result<Reply, String> {
    let (status, body) = text.split_once(':').unwrap_or((text, ""));
    let status = status.parse().ok().filter(|status| (200..600).contains(status));
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.ok_or("a status from 200 to 599 is needed, and may be followed by a colon and a body")?;
    Ok(Reply { status, body: body.to_owned().into() })
}
