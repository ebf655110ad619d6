//! Which clients may upload plugins over HTTP.

use axum::http::{HeaderMap, header::HOST};
use serde::{Deserialize, Serialize};

use crate::api::authority::Authority;

/// Which clients may replace plugins. A client that may do so controls the data and the grants of every plugin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Uploads {
    /// None.
    Off,
    /// Clients on the same machine: the host must listen on a loopback address, the request must name one in `Host`,
    /// and no header may say that a proxy forwarded it. A local proxy that adds no such header cannot be told from a
    /// local client.
    #[default]
    Loopback,
    /// Every client that reaches the host.
    On,
}

/// Uploads that wait or compile at the same time. Each holds its body in memory; they compile one after the other.
pub const UPLOADS_MAX: usize = 4;

/// Headers by which proxies, load balancers and networks for delivery name the client, the address or the scheme that
/// they forward for, or themselves. Clients of a host do not send them of their own.
const PROXY_HEADERS: [&str; 45] = [
    "ali-cdn-real-ip",
    "cdn-loop",
    "cdn-real-ip",
    "client-ip",
    "cluster-client-ip",
    "do-connecting-ip",
    "eagleid",
    "fastly-client-ip",
    "fly-client-ip",
    "forwarded",
    "forwarded-for",
    "forwarded-for-ip",
    "forwarded-proto",
    "front-end-https",
    "incap-client-ip",
    "max-forwards",
    "proxy-client-ip",
    "proxy-connection",
    "remote-addr",
    "true-client-ip",
    "via",
    "wl-proxy-client-ip",
    "x-amzn-trace-id",
    "x-appengine-remote-addr",
    "x-appengine-user-ip",
    "x-arr-ssl",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-client-ip",
    "x-cloud-trace-context",
    "x-cluster-client-ip",
    "x-coming-from",
    "x-forward-for",
    "x-host",
    "x-nf-client-connection-ip",
    "x-originating-ip",
    "x-proxyuser-ip",
    "x-real-ip",
    "x-real-port",
    "x-remote-addr",
    "x-remote-ip",
    "x-scheme",
    "x-sucuri-clientip",
    "x-url-scheme",
    "z-forwarded-for",
];

/// How other such headers begin: `X-Forwarded-For`, `-Host`, `-Proto`, `-Port`, `-Server`; `CF-Connecting-IP`, `CF-Ray`;
/// `X-Original-Forwarded-For`, `-Host`, `-URL`; `X-Vercel-Forwarded-For`.
const PROXY_HEADER_BEGINNINGS: [&str; 11] = [
    "cf-",
    "cloudfront-",
    "fly-forwarded-",
    "tailscale-",
    "x-amz-cf-",
    "x-arr-",
    "x-envoy-",
    "x-forwarded",
    "x-original-",
    "x-traefik-",
    "x-vercel-",
];

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
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).and_then(Authority::read);
    host.is_some_and(|authority| authority.host.is_loopback()) && !headers.keys().any(|name| names_proxy(name.as_str()))
}

/// Whether a header, in lower case, says that a proxy has passed the request on.
fn names_proxy(name: &str) -> bool {
    PROXY_HEADERS.contains(&name) || PROXY_HEADER_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn headers_of_proxies_are_recognised_and_those_of_clients_are_not() {
        let allow = |name: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static("127.0.0.1:36789"));
            headers.insert(name.parse::<HeaderName>().unwrap(), HeaderValue::from_static("203.0.113.9"));
            Uploads::Loopback.allow(&headers)
        };
        for name in [
            "CF-Connecting-IP",
            "CF-Connecting-IPv6",
            "CF-Ray",
            "Client-IP",
            "Fastly-Client-IP",
            "Forwarded",
            "Forwarded-For",
            "Front-End-Https",
            "True-Client-IP",
            "Via",
            "X-Amzn-Trace-Id",
            "X-Client-IP",
            "X-Cluster-Client-IP",
            "X-Envoy-External-Address",
            "X-Forwarded",
            "X-Forwarded-For",
            "X-Forwarded-Host",
            "X-Forwarded-Port",
            "X-Forwarded-Proto",
            "X-Forwarded-Server",
            "X-Original-Forwarded-For",
            "X-Original-Host",
            "X-ProxyUser-Ip",
            "X-Real-IP",
            "X-Scheme",
        ] {
            assert!(!allow(name), "{name}");
        }
        for name in ["Accept", "Authorization", "Content-Type", "Expect", "Traceparent", "User-Agent", "X-Request-Id"] {
            assert!(allow(name), "{name}");
        }
    }
}
