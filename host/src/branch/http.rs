//! Branches that are HTTP services, called and understood as DTM calls and understands them.
//!
//! The request follows DTM's `getURLResult` (`dtmsvr/trans_status.go`), the reading of the answer its
//! `HTTPResp2DtmError` (`client/dtmcli/utils.go`), redirects and userinfo Go's `net/http`. Participants written for DTM
//! depend on these rules, odd ones included, so [`understand`] is the only place that knows them.

use std::{borrow::Cow, error, str::FromStr, time::Duration};

use futures_util::future::BoxFuture;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, TRAILER, TRANSFER_ENCODING},
};
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as duration;
use reqwest::{Url, redirect};
use serde::{Deserialize, Serialize};

use super::{Branch, Call, Outcome, Reach};
use crate::store::Batch;

/// Longest accepted address, in bytes: what RFC 9110 section 4.1 asks every server to support at least.
pub const URL_BYTES_MAX: usize = 8000;

/// Most branch headers of one saga. Common servers refuse requests with more than 100 headers; some are ours.
pub const HEADERS_MAX: usize = 64;

/// How much of an answer is kept for people, in bytes: what DTM's column for the rollback reason holds.
const EXCERPT_BYTES_MAX: usize = 1024;

/// How HTTP services are reached.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How long to wait for a connection, TLS included. The attempt's own timeout ends it earlier if shorter.
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    /// How long an unused connection is kept. Shorter than the 5 s after which Node's and Python's usual servers close
    /// one, so that a call seldom meets a connection that is just being closed.
    #[serde(with = "duration")]
    pub pool_idle_timeout: Duration,
    /// Unused connections kept for each host and port. More calls than this at once open new connections.
    pub pool_idle_per_host_max: usize,
    /// How much of an answer is read, in bytes. DTM's verdicts have less than a hundred.
    pub response_bytes_max: usize,
    /// How many redirects one attempt follows.
    pub redirects_max: usize,
    /// Sent as `User-Agent`, unless a branch header says otherwise.
    pub user_agent: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            pool_idle_timeout: Duration::from_secs(4),
            pool_idle_per_host_max: 256,
            response_bytes_max: 1 << 20,
            redirects_max: 10,
            user_agent: concat!("wasaga/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// The host's one HTTP client: a pool of connections that all HTTP branches share. Clones share it too.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    response_bytes_max: usize,
}

impl Client {
    /// Sets up the pool and TLS. Opens no connection.
    ///
    /// Servers are checked against the system's root certificates (or `SSL_CERT_FILE`, `SSL_CERT_DIR`). A machine
    /// without any can still call `http://` addresses, so that is a warning: every `https://` call then fails.
    /// Proxies named by the environment are not used: an address means the service that it names.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        // An error says that a provider is installed already: that one is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = builder(settings).build().or_else(|error| {
            let client = builder(settings).tls_certs_only([]).build()?;
            tracing::warn!(
                error = in_one_line(&error),
                "no trusted root certificates, https branches will fail: \
                 install the system's (Debian: ca-certificates) or set SSL_CERT_FILE, then restart"
            );
            Ok(client)
        });
        Ok(Self { http: http.map_err(Error::Setup)?, response_bytes_max: settings.response_bytes_max })
    }

    /// Checks an address and makes it callable. Resolves and connects nothing yet.
    ///
    /// `user:password@` is accepted, as DTM accepts it, and sent as basic authorization, never repeated in errors.
    pub fn branch(&self, url: &str) -> Result<HttpBranch, Error> {
        if url.len() > URL_BYTES_MAX {
            return Err(Error::TooLong { bytes: url.len() });
        }
        if url.contains(|c: char| c.is_ascii_control()) {
            return Err(Error::ControlCharacter);
        }
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return Err(Error::Scheme);
        }
        // The parser would take the first word of the path for the host here, as browsers do.
        if rest.is_empty() || rest.starts_with(['/', '\\', '?', '#']) {
            return Err(Error::NoHost);
        }
        let url = Url::parse(url).map_err(Error::Malformed)?;
        Ok(HttpBranch { client: self.clone(), url })
    }
}

fn builder(settings: &Settings) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .connect_timeout(settings.connect_timeout)
        .pool_idle_timeout(settings.pool_idle_timeout)
        .pool_max_idle_per_host(settings.pool_idle_per_host_max)
        .redirect(redirect::Policy::limited(settings.redirects_max))
        // The address of a branch carries the gid and perhaps a token of its own: none of a redirect's target's business.
        .referer(false)
        .user_agent(&settings.user_agent)
        .no_proxy()
}

/// Checks `branch_headers` and turns them into what is sent.
///
/// `Host`, `Content-Length`, `Transfer-Encoding` and `Trailer` are left out, as Go's client leaves them out: they
/// describe the connection, and a wrong one would break the request's framing.
pub fn headers(given: &[(String, String)]) -> Result<HeaderMap, Error> {
    if given.len() > HEADERS_MAX {
        return Err(Error::TooManyHeaders { headers: given.len() });
    }
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let key = HeaderName::from_str(name).map_err(|_| Error::HeaderName { name: name.clone() })?;
        // From bytes, as text outside ASCII may be sent but is refused by `from_str`.
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| Error::HeaderValue { name: name.clone() })?;
        if ![HOST, CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER].contains(&key) {
            headers.insert(key, value);
        }
    }
    Ok(headers)
}

/// One operation of an HTTP service.
#[derive(Clone, Debug)]
pub struct HttpBranch {
    client: Client,
    url: Url,
}

impl Branch for HttpBranch {
    fn call<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            match tokio::time::timeout(call.timeout, self.exchange(call)).await {
                Ok(Ok(answer)) => understand(&answer),
                Ok(Err(error)) => Outcome::Unknown { error },
                Err(_) => Outcome::Unknown { error: format!("no complete answer within {:?}", call.timeout) },
            }
        })
    }

    fn reach(&self) -> Reach {
        Reach::External
    }
}

impl HttpBranch {
    /// Asks and reads the answer. The error is for people, on one line and without the address and its credentials.
    async fn exchange(&self, call: &Call) -> Result<Answer, String> {
        let payload = call.payload();
        let url = self.url_of(call);
        let request = if payload.is_empty() {
            self.client.http.get(url)
        } else {
            self.client.http.post(url).body(payload.to_owned())
        };
        let given = headers(&call.saga.options().branch_headers).map_err(|error| error.to_string())?;
        let request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json")).headers(given);
        let response = request.send().await.map_err(|error| in_one_line(&error.without_url()))?;
        Answer::read(response, self.client.response_bytes_max).await.map_err(|error| in_one_line(&error.without_url()))
    }

    /// The address with DTM's parameters behind its own query.
    fn url_of(&self, call: &Call) -> Url {
        let mut url = self.url.clone();
        url.query_pairs_mut()
            .append_pair("branch_id", &call.branch_id().to_string())
            .append_pair("gid", call.saga.gid().as_str())
            .append_pair("op", call.slot.op.as_str())
            .append_pair("trans_type", "saga");
        url
    }
}

/// What a service answered.
struct Answer {
    status: StatusCode,
    /// The beginning of the body, if it is not `whole`.
    body: Vec<u8>,
    whole: bool,
}

impl Answer {
    /// Reads to the end or to `bytes_max`, whichever comes first; memory stays near that even if the body never ends.
    async fn read(mut response: reqwest::Response, bytes_max: usize) -> Result<Self, reqwest::Error> {
        let mut answer = Self { status: response.status(), body: Vec::new(), whole: true };
        while let Some(chunk) = response.chunk().await? {
            answer.body.extend_from_slice(&chunk);
            if answer.body.len() > bytes_max {
                answer.body.truncate(bytes_max);
                answer.whole = false;
                break;
            }
        }
        Ok(answer)
    }
}

/// DTM's rules, in DTM's order: the words count in any body, and of the statuses only 200 means success.
///
/// A 200 whose body was cut is not a success: the word that denies it may be in the rest.
fn understand(answer: &Answer) -> Outcome {
    let body = String::from_utf8_lossy(&answer.body);
    match answer.status {
        status if status == StatusCode::TOO_EARLY || body.contains("ONGOING") => Outcome::Ongoing { retry_after: None },
        status if status == StatusCode::CONFLICT || body.contains("FAILURE") => {
            Outcome::Rejected { reason: excerpt(&body).into_owned() }
        }
        StatusCode::OK if answer.whole => Outcome::Succeeded { output: None, effects: Batch::new() },
        StatusCode::OK => {
            let bytes = answer.body.len();
            Outcome::Unknown { error: format!("the answer is longer than the limit of {bytes} bytes") }
        }
        status => Outcome::Unknown { error: format!("HTTP {}: {}", status.as_u16(), excerpt(&body)) },
    }
}

/// The text, or as much of its beginning as is kept, marked as cut.
fn excerpt(text: &str) -> Cow<'_, str> {
    if text.len() <= EXCERPT_BYTES_MAX {
        return Cow::Borrowed(text);
    }
    let (kept, _) = text.split_at(text.floor_char_boundary(EXCERPT_BYTES_MAX));
    Cow::Owned(format!("{kept}…"))
}

/// An error and its causes.
fn in_one_line(error: &dyn error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Why an HTTP branch cannot be called as asked for, or none at all. Addresses may hold passwords and are not repeated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither `http` nor `https`.
    #[error("the address does not start with http:// or https://")]
    Scheme,
    /// Nothing between `://` and the path.
    #[error("the address names no host: write it as http://host:port/path")]
    NoHost,
    /// For example a line break, which the parser would drop.
    #[error("the address holds a control character: remove or percent-encode it")]
    ControlCharacter,
    /// Longer than servers must accept.
    #[error("the address has {bytes} bytes, the limit is {URL_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Anything else that an address must not be, for example a port above 65535.
    #[error("the address is malformed: write it as http://host:port/path")]
    Malformed(#[source] <Url as FromStr>::Err),
    /// More headers than servers accept.
    #[error("branch_headers has {headers} entries, the limit is {HEADERS_MAX}")]
    TooManyHeaders {
        /// How many there are.
        headers: usize,
    },
    /// Not a header name.
    #[error("branch_headers: {name:?} cannot be the name of a header")]
    HeaderName {
        /// As given.
        name: String,
    },
    /// Not a header value. The value may be a secret and is not repeated.
    #[error("branch_headers: the value of {name} holds a line break or another control character")]
    HeaderValue {
        /// Of which header.
        name: String,
    },
    /// The client cannot be set up, for example because the user agent cannot be sent.
    #[error("the HTTP client cannot be set up: check its settings, the user agent first")]
    Setup(#[source] reqwest::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: u16, body: &[u8]) -> Outcome {
        understand(&Answer { status: StatusCode::from_u16(status).unwrap(), body: body.to_vec(), whole: true })
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let body = "é".repeat(EXCERPT_BYTES_MAX);
        let Outcome::Rejected { reason } = outcome(409, format!("x{body}").as_bytes()) else { panic!() };
        assert_eq!(reason, format!("x{}…", "é".repeat((EXCERPT_BYTES_MAX - 1) / 2)));
    }
}
