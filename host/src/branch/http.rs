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

use super::{Branch, Call, Containment, EgressRequest, Host, Outcome, json_rpc};
use crate::saga::Verdict;

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
    /// Every status from 200 to 299 is a success, and of the body only `dtm_result` is read. DTM: false, only 200 is,
    /// and the words FAILURE and ONGOING count wherever they stand. A saga can say otherwise in its `custom_data`.
    pub any_2xx_succeeds: bool,
    /// The attempt of an action from which on a status from 500 to 599 is a rejection: 1 is at once, 0 never. DTM: 0,
    /// it is tried again, for nobody knows whether it took effect. A saga can say otherwise in its `custom_data`.
    pub rejects_5xx_after: u64,
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
            any_2xx_succeeds: false,
            rejects_5xx_after: 0,
        }
    }
}

/// The host's one HTTP client: a pool of connections that all HTTP branches share. Clones share it too.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    response_bytes_max: usize,
    rules: Rules,
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
        let Settings { response_bytes_max, any_2xx_succeeds, rejects_5xx_after, .. } = *settings;
        let rules = Rules { any_2xx_succeeds, rejects_5xx_after };
        Ok(Self { http: http.map_err(Error::Setup)?, response_bytes_max, rules })
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
    fn call<'a>(&'a self, call: &'a Call, _: &'a Host) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            match tokio::time::timeout(call.timeout, self.exchange(call)).await {
                Ok(Ok(answer)) => self.understand(&answer, call),
                Ok(Err(error)) => Outcome::unknown(error),
                Err(_) => Outcome::unknown(format!("no complete answer within {:?}", call.timeout)),
            }
        })
    }

    fn containment(&self) -> Containment {
        Containment::External
    }

    fn egress_request(&self, call: &Call) -> Option<EgressRequest> {
        let (method, mut url) = match self.json_rpc_method(call) {
            Some(_) => ("POST", self.url.clone()),
            None if call.payload().is_empty() => ("GET", self.url_of(call)),
            None => ("POST", self.url_of(call)),
        };
        // Cannot fail for an address with a host, and ours have one.
        let _ = url.set_username("").and_then(|()| url.set_password(None));
        Some(EgressRequest { what: format!("{method} {url}") })
    }
}

impl HttpBranch {
    /// Asks and reads the answer. The error is for people, on one line and without the address and its credentials.
    async fn exchange(&self, call: &Call) -> Result<Answer, String> {
        let payload = call.payload();
        let request = match self.json_rpc_method(call) {
            Some(method) => self.client.http.post(self.url.clone()).body(json_rpc::request(call, &method)?),
            None if payload.is_empty() => self.client.http.get(self.url_of(call)),
            None => self.client.http.post(self.url_of(call)).body(payload),
        };
        let given = headers(&call.saga.options().branch_headers).map_err(|error| error.to_string())?;
        let request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json")).headers(given);
        let response = request.send().await.map_err(|error| in_one_line(&error.without_url()))?;
        Answer::read(response, self.client.response_bytes_max).await.map_err(|error| in_one_line(&error.without_url()))
    }

    /// The method that is called by JSON-RPC, where saga and address ask for that.
    fn json_rpc_method(&self, call: &Call) -> Option<String> {
        if call.saga.options().protocol != "json-rpc" {
            return None;
        }
        self.url.query_pairs().find(|(name, _)| name == "method").map(|(_, method)| method.into_owned())
    }

    /// What the answer means, for a service that speaks JSON-RPC by its error too.
    fn understand(&self, answer: &Answer, call: &Call) -> Outcome {
        let outcome = understand(answer, self.client.rules.of(call), call);
        match outcome {
            Outcome::Ended { verdict: Verdict::Succeeded { .. }, .. } if self.json_rpc_method(call).is_some() => {
                json_rpc::understand(&answer.body).unwrap_or(outcome)
            }
            outcome => outcome,
        }
    }

    /// The address with DTM's parameters behind its own query.
    fn url_of(&self, call: &Call) -> Url {
        let mut url = self.url.clone();
        url.query_pairs_mut()
            .append_pair("branch_id", &call.branch_id().to_string())
            .append_pair("gid", call.saga.gid().as_str())
            .append_pair("op", call.branch_op.op.as_str())
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

/// What an answer means.
#[derive(Clone, Copy, Debug)]
struct Rules {
    any_2xx_succeeds: bool,
    rejects_5xx_after: u64,
}

impl Rules {
    /// Those of the call's saga, where it has its own.
    fn of(self, call: &Call) -> Self {
        let results = call.saga.options().results;
        Self {
            any_2xx_succeeds: results.any_2xx_succeeds.unwrap_or(self.any_2xx_succeeds),
            rejects_5xx_after: results.rejects_5xx_after.unwrap_or(self.rejects_5xx_after),
        }
    }

    fn is_success(self, status: StatusCode) -> bool {
        if self.any_2xx_succeeds { status.is_success() } else { status == StatusCode::OK }
    }

    /// Whether the body holds this word: anywhere, or as its `dtm_result`.
    fn says(self, body: &str, word: &str) -> bool {
        if self.any_2xx_succeeds { verdict_of(body) == Some(word) } else { body.contains(word) }
    }

    fn is_rejection(self, status: StatusCode, call: &Call) -> bool {
        self.rejects_5xx_after != 0
            && status.is_server_error()
            && !call.is_compensation()
            && u64::from(call.attempt) >= self.rejects_5xx_after
    }
}

/// The `dtm_result` of a body that is a JSON object, if it is one of DTM's words.
fn verdict_of(body: &str) -> Option<&'static str> {
    #[derive(Deserialize)]
    struct Verdict<'a> {
        #[serde(borrow)]
        dtm_result: Cow<'a, str>,
    }
    // An array of one string would do for the decoder.
    let object = body.trim_ascii_start().strip_prefix('{').map(|_| body)?;
    let Verdict { dtm_result } = serde_json::from_str(object).ok()?;
    ["FAILURE", "ONGOING"].into_iter().find(|word| *word == dtm_result)
}

/// DTM's rules, in DTM's order, unless host or saga have others: the words count in any body, and of the statuses only
/// 200 means success.
///
/// A success whose body was cut is none: the word that denies it may be in the rest.
fn understand(answer: &Answer, rules: Rules, call: &Call) -> Outcome {
    let body = String::from_utf8_lossy(&answer.body);
    let failed = || format!("HTTP {}: {}", answer.status.as_u16(), excerpt(&body));
    match answer.status {
        status if status == StatusCode::TOO_EARLY || rules.says(&body, "ONGOING") => Outcome::ongoing(None),
        status if status == StatusCode::CONFLICT || rules.says(&body, "FAILURE") => {
            Outcome::rejected(excerpt(&body).into_owned())
        }
        status if rules.is_success(status) && answer.whole => Outcome::succeeded(None),
        status if rules.is_success(status) => {
            let bytes = answer.body.len();
            Outcome::unknown(format!("the answer is longer than the limit of {bytes} bytes"))
        }
        status if rules.is_rejection(status, call) => Outcome::rejected(failed()),
        _ => Outcome::unknown(failed()),
    }
}

/// The text, or as much of its beginning as is kept, marked as cut.
pub(super) fn excerpt(text: &str) -> Cow<'_, str> {
    if text.len() <= EXCERPT_BYTES_MAX {
        return Cow::Borrowed(text);
    }
    let (kept, _) = text.split_at(text.floor_char_boundary(EXCERPT_BYTES_MAX));
    Cow::Owned(format!("{kept}…"))
}

/// An error and its causes.
pub(super) fn in_one_line(error: &dyn error::Error) -> String {
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

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let body = format!("x{}", "é".repeat(EXCERPT_BYTES_MAX));
        assert_eq!(excerpt(&body), format!("x{}…", "é".repeat((EXCERPT_BYTES_MAX - 1) / 2)));
    }

    #[test]
    fn a_verdict_is_the_whole_value_of_dtm_result() {
        for (body, verdict) in [
            (r#"{"dtm_result":"FAILURE"}"#, Some("FAILURE")),
            (r#" {"a":{"dtm_result":1},"dtm_result":"ONGOING"} "#, Some("ONGOING")),
            (r#"{"dtm_result":"\u0046AILURE"}"#, Some("FAILURE")),
            (r#"{"dtm_result":"SUCCESS"}"#, None),
            (r#"{"dtm_result":"a FAILURE"}"#, None),
            (r#"{"dtm_result":["FAILURE"]}"#, None),
            (r#"{"message":"FAILURE"}"#, None),
            (r#"[{"dtm_result":"FAILURE"}]"#, None),
            (r#"["FAILURE"]"#, None),
            ("FAILURE", None),
            ("", None),
        ] {
            assert_eq!(verdict_of(body), verdict, "{body}");
        }
    }
}
