//! Sends the requests of HTTP branches: connections to allowed destinations, and redirects as Go's `net/http` follows them.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, InvalidHeaderValue, LOCATION, USER_AGENT},
};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioTimer},
};
use percent_encoding::percent_decode_str;
use url::Url;

use crate::{
    causes,
    egress::{
        connector::{Connector, Timed, refusal},
        rules::Rules,
        tls::{self, Tls},
    },
};

/// Most headers of an answer: 1,000 of the service's own, and those that servers and proxies add.
pub const ANSWER_HEADERS_MAX: usize = 1024;

/// Longest headers of an answer over HTTP/2, in bytes as RFC 9113 counts them: enough for [`ANSWER_HEADERS_MAX`] of 256
/// bytes each. Over HTTP/1 `hyper` takes about 400 KiB.
const ANSWER_HEADER_LIST_BYTES_MAX: u32 = 256 << 10;

/// Silence after which a connection in use is sent a ping. All calls to a service share one connection: without pings,
/// every call to a machine that has vanished would fail until TCP closes the connection, about 15 minutes later.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Time that the response to a ping may take before the connection is closed.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// A pool of connections that all HTTP branches share. Clones share it.
#[derive(Clone)]
pub(super) struct Transport {
    client: legacy::Client<Timed<HttpsConnector<Connector>>, Full<Bytes>>,
    rules: Arc<Rules>,
    user_agent: HeaderValue,
    redirects_max: usize,
}

/// How connections are opened and kept, and how far redirects are followed.
pub(super) struct Settings<'a> {
    pub connect_timeout: Duration,
    pub pool_idle_timeout: Duration,
    pub pool_idle_per_host_max: usize,
    pub redirects_max: usize,
    pub user_agent: &'a str,
}

/// A request of a saga.
pub(super) struct Outgoing {
    pub method: Method,
    /// With `user:password@`, if the client gave them.
    pub url: Url,
    /// The headers of the saga. They override the host's own.
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What the clients of services over HTTP and over gRPC have in common.
pub(super) fn client_builder(pool_idle_timeout: Duration) -> legacy::Builder {
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(pool_idle_timeout)
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .http2_max_header_list_size(ANSWER_HEADER_LIST_BYTES_MAX);
    builder
}

impl Transport {
    /// Opens no connection. An error: the user agent cannot be sent.
    pub fn new(settings: &Settings<'_>, rules: Arc<Rules>, tls: &Tls) -> Result<Self, InvalidHeaderValue> {
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls.config())
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(Connector::new(rules.clone(), settings.connect_timeout));
        let client = client_builder(settings.pool_idle_timeout)
            .pool_max_idle_per_host(settings.pool_idle_per_host_max)
            .http1_max_headers(ANSWER_HEADERS_MAX)
            .build(Timed::new(connector, settings.connect_timeout));
        let user_agent = HeaderValue::from_str(settings.user_agent)?;
        Ok(Self { client, rules, user_agent, redirects_max: settings.redirects_max })
    }

    /// Sends a request and follows redirects, to allowed destinations only. The error is one line of text without the
    /// address and its credentials.
    ///
    /// A target on another host, port or scheme gets neither the saga's headers nor its credentials, nor does any target
    /// after it.
    pub async fn send(&self, outgoing: Outgoing) -> Result<Response<Incoming>, String> {
        let Outgoing { mut method, mut url, headers, mut body } = outgoing;
        let mut headers = self.headers(&url, headers);
        for _ in 0..=self.redirects_max {
            let response = self.exchange(&method, &url, headers.clone(), body.clone()).await?;
            let Some(next) = target(&url, &response) else { return Ok(response) };
            if !matches!(response.status(), StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT) {
                if method != Method::HEAD {
                    method = Method::GET;
                }
                body = Bytes::new();
            }
            if next.origin() != url.origin() {
                headers = self.headers(&next, HeaderMap::new());
            }
            url = next;
            self.check(&url).map_err(|why| format!("the redirect cannot be followed: {why}"))?;
        }
        Err(format!("too many redirects, the limit is {} (redirects_max)", self.redirects_max))
    }

    /// Whether an address that is not resolved yet may be called; see [`Rules::check`]. The error says why not.
    pub fn check(&self, url: &Url) -> Result<(), String> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("{}: addresses are not called", url.scheme()));
        }
        // Both have a host and a port that is known.
        let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
        self.rules.check(host, port).map_err(|refused| refused.to_string())
    }

    /// The host's headers, overridden by those that were given, with the credentials in the address.
    fn headers(&self, url: &Url, given: HeaderMap) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(given.len() + 4);
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, self.user_agent.clone());
        if let Some(credentials) = authorization(url) {
            headers.insert(AUTHORIZATION, credentials);
        }
        headers.extend(given);
        headers
    }

    async fn exchange(
        &self,
        method: &Method,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, String> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri(url)?;
        *request.headers_mut() = headers;
        self.client.request(request).await.map_err(|error| reason(&error))
    }
}

/// Why there is no answer, in one line.
fn reason(error: &legacy::Error) -> String {
    if causes::chain(error).any(|cause| cause.downcast_ref().is_some_and(hyper::Error::is_parse_too_large)) {
        return format!("the answer has more than {ANSWER_HEADERS_MAX} headers, or more than 400 KiB of them");
    }
    match refusal(error) {
        Some(refused) => refused.to_string(),
        None => tls::distrust(error).unwrap_or_else(|| causes::in_one_line(error)),
    }
}

/// Where a response redirects to, if it does. Credentials in the new address are left out.
fn target(url: &Url, response: &Response<Incoming>) -> Option<Url> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = str::from_utf8(response.headers().get(LOCATION)?.as_bytes()).ok()?;
    without_credentials(url.join(location).ok()?)
}

/// Without `user:password@`. `None`: the address has no host.
pub(super) fn without_credentials(mut url: Url) -> Option<Url> {
    if url.username().is_empty() && url.password().is_none() {
        return Some(url);
    }
    url.set_username("").and_then(|()| url.set_password(None)).ok().map(|()| url)
}

fn uri(url: &Url) -> Result<Uri, String> {
    let mut url = without_credentials(url.clone()).ok_or("the address names no host")?;
    url.set_fragment(None);
    url.as_str().parse().map_err(|_| "the address holds what cannot be sent: percent-encode it".to_owned())
}

/// `user:password@` of an address as basic authorization.
fn authorization(url: &Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let decoded = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
    let credentials = [decoded(url.username()), decoded(url.password().unwrap_or_default())].join(&b':');
    HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(credentials))).ok()
}
