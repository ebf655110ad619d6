//! Why a request is refused, and what would allow it.

use std::{
    collections::HashSet,
    fmt,
    sync::{Mutex, PoisonError},
};

use axum::{
    http::{HeaderValue, StatusCode},
    response::Response,
};
use http_body::Body;
use serde::Serialize;
use tracing::warn;

use super::settings::Origin;
use crate::api::{drain::drain, json};

/// Longest name and origin that is quoted, in bytes: names of DNS have at most 253.
const QUOTE_BYTES_MAX: usize = 300;

/// Most different refusals that are logged by one process: a page can make up any number of names.
const TOLD_MAX: usize = 100;

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::api) enum Refusal {
    /// More than one `Host`.
    Hosts,
    /// A malformed `Host` or address.
    Host,
    /// A name that is not the host's.
    Name(String),
    /// A page of another origin.
    Origin(String),
    /// A page of another origin, by `Sec-Fetch-Site` alone.
    Site,
}

impl Refusal {
    pub(super) fn name(name: &str) -> Self {
        Self::Name(name.chars().take(QUOTE_BYTES_MAX).collect::<String>().to_ascii_lowercase())
    }

    pub(super) fn origin(origin: &HeaderValue) -> Self {
        Self::Origin(String::from_utf8_lossy(origin.as_bytes()).chars().take(QUOTE_BYTES_MAX).collect())
    }

    /// The answer, once the request has been read to its end.
    pub async fn answer(self, body: impl Body + Unpin) -> Response {
        #[derive(Serialize)]
        struct Answer {
            message: String,
        }
        drain(body).await;
        let status = match self {
            Self::Hosts | Self::Host => StatusCode::BAD_REQUEST,
            Self::Name(_) | Self::Origin(_) | Self::Site => StatusCode::FORBIDDEN,
        };
        json::response(status, json::encode(&Answer { message: self.to_string() }))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hosts => write!(f, "the request has more than one Host header: send one"),
            Self::Host => {
                write!(f, "the host that the request names cannot be read: send Host: NAME or Host: NAME:PORT")
            }
            Self::Name(name) => write!(
                f,
                "{name:?} is not a known name of this host. If it is one, add this line under [api] in the settings file: \
                 host_names = [{name:?}] (with those that are there), or start the host with WASAGA_HOST_NAMES={name}. \
                 Addresses of IP and localhost need no entry"
            ),
            Self::Origin(origin) if origin.parse::<Origin>().is_ok() => write!(
                f,
                "a web page of {origin:?} has sent the request. If its pages may use this host, add this line under [api] in \
                 the settings file: origins = [{origin:?}] (with those that are there)"
            ),
            Self::Origin(origin) => write!(
                f,
                "a web page of the origin {origin:?} has sent the request, which no entry of origins under [api] can allow: \
                 serve the page over HTTP and list the origin that it has then"
            ),
            Self::Site => write!(
                f,
                "a web page of another origin has sent the request (Sec-Fetch-Site) without an Origin. The setting origins \
                 under [api] allows pages whose requests have one, as those of fetch() in its mode \"cors\" do"
            ),
        }
    }
}

/// What was logged.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<HashSet<String>>);

impl Told {
    /// Logs a refusal, unless it was logged before or too many were.
    pub fn tell(&self, refusal: &Refusal) {
        let text = refusal.to_string();
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() > TOLD_MAX || told.contains(&text) {
            return;
        }
        if told.len() == TOLD_MAX {
            warn!("a request is refused: {text}. Further reasons for which requests are refused are not logged");
        } else {
            warn!("a request is refused: {text}. It is not logged again");
        }
        told.insert(text);
    }

    /// How many were logged.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}
