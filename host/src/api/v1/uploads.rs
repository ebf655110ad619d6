//! Which clients may upload plugins over HTTP.

use std::net::IpAddr;

use axum::http::{HeaderMap, header::HOST};
use serde::{Deserialize, Serialize};

/// Which clients may replace plugins. A client that may do so controls the data and the grants of every plugin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Uploads {
    /// None.
    Off,
    /// Clients on the same machine: the host must listen on a loopback address, the request must name one in `Host`,
    /// and no header may say that a proxy forwarded it. The check of `Host` keeps out web pages that are open in a
    /// browser on the machine. A local proxy that adds no such header cannot be told from a local client.
    #[default]
    Loopback,
    /// Every client that reaches the host.
    On,
}

/// Uploads that wait or compile at the same time. Each holds its body in memory; they compile one after the other.
pub const UPLOADS_MAX: usize = 4;

/// Headers by which proxies name the client that they forward for.
const PROXY_HEADERS: [&str; 5] = ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"];

impl Uploads {
    /// Whether a request with these headers may upload a plugin.
    pub fn allow(self, headers: &HeaderMap) -> bool {
        match self {
            Self::On => true,
            Self::Loopback => is_local(headers),
            Self::Off => false,
        }
    }
}

fn is_local(headers: &HeaderMap) -> bool {
    let names_loopback = headers.get(HOST).is_some_and(|host| host.to_str().is_ok_and(is_loopback));
    names_loopback && PROXY_HEADERS.iter().all(|name| !headers.contains_key(*name))
}

/// Whether a host, with or without a port, is a loopback address or `localhost`. Resolves no names.
fn is_loopback(host: &str) -> bool {
    let without_port = match host.rsplit_once(':') {
        Some((before, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => before,
        _ => host,
    };
    let address = without_port.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(without_port);
    let is_loopback_address = address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    is_loopback_address || address.eq_ignore_ascii_case("localhost")
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
