//! Branches that are HTTP services, called as DTM calls them.
//!
//! Requests follow DTM's `getURLResult` (`dtmsvr/trans_status.go`), redirects and userinfo Go's `net/http`. Services
//! written for DTM depend on these rules, even on the odd ones. All rules for answers are in [`answer`].

use std::{path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, Version,
    header::{CONTENT_LENGTH, HOST, InvalidHeaderValue, TRAILER, TRANSFER_ENCODING},
};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as duration;
use serde::{Deserialize, Serialize};
use url::Url;

use super::{
    Branch, Call, Containment, Destination, EgressRequest, Host, Outcome,
    answer::{self, Answer},
    json_rpc,
    transport::{self, Outgoing, Transport},
};
use crate::{
    causes,
    egress::{
        rules::{self, Entry, Unlisted},
        tls::{self, Tls},
    },
    saga::Definition,
};

pub use super::transport::ANSWER_HEADERS_MAX;

/// Longest accepted address, in bytes: what RFC 9110 section 4.1 asks every server to support at least.
pub const URL_BYTES_MAX: usize = 8000;

/// Settings of the client for HTTP services.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Whether branches may be services over HTTP. If not, sagas with such an address are refused.
    pub http_branches: bool,
    /// Whether branches may be services over gRPC.
    pub grpc_branches: bool,
    /// Destinations that may be called although `unlisted` does not allow them. Link-local addresses and those of metadata
    /// services need an entry with their address or network; for all others the name will do.
    pub allow: Vec<Entry>,
    /// Destinations that must not be called. Wins over all else. A host may have several names, so deny networks too.
    pub deny: Vec<Entry>,
    /// Which destinations may be called that neither list names.
    pub unlisted: Unlisted,
    /// A file of certificates (PEM) of authorities that are trusted besides the system's, for branches and for requests of
    /// plugins. Empty: none.
    pub ca_file: PathBuf,
    /// Calls of services that run at once, those over gRPC included; further ones wait. Each needs a connection, and so a
    /// file descriptor: fewer run at once if the system allows the process fewer.
    pub calls_max: usize,
    /// How many of them may go to one host and port: a service that does not answer must not take all.
    pub calls_per_destination_max: usize,
    /// Longest time to connect, TLS included. The attempt's own timeout applies as well.
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    /// How long an unused connection is kept. Shorter than the 5 s after which common servers of Node and Python close
    /// one, so that a request is rarely sent on a connection that the server is closing.
    #[serde(with = "duration")]
    pub pool_idle_timeout: Duration,
    /// Unused connections kept for each host and port. Further concurrent calls open new connections.
    pub pool_idle_per_host_max: usize,
    /// How much of a response body is read, in bytes, before and after its content codings are decoded. The bodies that DTM
    /// defines have less than a hundred.
    pub response_bytes_max: usize,
    /// Most redirects that one attempt follows. A target on another host, port or scheme gets neither the saga's headers nor
    /// its credentials.
    pub redirects_max: usize,
    /// The header `User-Agent`, unless the saga's `branch_headers` have one.
    pub user_agent: String,
    /// If true, every status from 200 to 299 is a success, and of the body only `dtm_result` is read. If false, as in DTM,
    /// only 200 is, and the words FAILURE and ONGOING count anywhere in the body. A saga overrides it in `custom_data`.
    pub any_2xx_succeeds: bool,
    /// The first attempt of an action for which a status from 500 to 599 is a rejection; 0, as in DTM, means none: the
    /// action is retried, since it may have taken effect. A saga overrides it in `custom_data`.
    pub rejects_5xx_after: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            http_branches: true,
            grpc_branches: true,
            allow: Vec::new(),
            deny: Vec::new(),
            unlisted: Unlisted::default(),
            ca_file: PathBuf::new(),
            calls_max: 4096,
            calls_per_destination_max: 512,
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

impl Settings {
    /// The destinations that may be called.
    pub fn destinations(&self) -> rules::Rules {
        rules::Rules { deny: self.deny.clone(), allow: self.allow.clone(), unlisted: self.unlisted }
    }
}

/// The host's HTTP client: a pool of connections that all HTTP branches share. Clones share it.
#[derive(Clone)]
pub struct Client {
    transport: Transport,
    is_on: bool,
    response_bytes_max: usize,
    any_2xx_succeeds: bool,
    rejects_5xx_after: u64,
}

impl Client {
    /// Sets up the pool and TLS. Opens no connection. Proxies named by the environment are not used.
    ///
    /// Servers are checked as [`Tls::new`] says.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let tls = Tls::new(&settings.ca_file).map_err(Error::Tls)?;
        let connections = transport::Settings {
            connect_timeout: settings.connect_timeout,
            pool_idle_timeout: settings.pool_idle_timeout,
            pool_idle_per_host_max: settings.pool_idle_per_host_max,
            redirects_max: settings.redirects_max,
            user_agent: &settings.user_agent,
        };
        let transport =
            Transport::new(&connections, Arc::new(settings.destinations()), &tls).map_err(Error::UserAgent)?;
        let Settings { response_bytes_max, any_2xx_succeeds, rejects_5xx_after, http_branches: is_on, .. } = *settings;
        Ok(Self { transport, is_on, response_bytes_max, any_2xx_succeeds, rejects_5xx_after })
    }

    /// The branch at an address, which is checked but not yet resolved.
    ///
    /// As in DTM, `user:password@` is sent as basic authorization. Errors do not contain it.
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
        // Without this check the parser takes the first segment of the path for the host, as browsers do.
        if rest.is_empty() || rest.starts_with(['/', '\\', '?', '#']) {
            return Err(Error::NoHost);
        }
        let url = Url::parse(url).map_err(Error::Malformed)?;
        if !self.is_on {
            return Err(Error::Off);
        }
        self.transport.check(&url).map_err(Error::Destination)?;
        Ok(HttpBranch { client: self.clone(), url })
    }

    /// What counts in the answer to a call: the rules of its saga, where it has any.
    fn rules(&self, call: &Call, is_json_rpc: bool) -> answer::Rules {
        let results = call.saga.options().results;
        let rejects_5xx_after = results.rejects_5xx_after.unwrap_or(self.rejects_5xx_after);
        let rejects_5xx =
            rejects_5xx_after != 0 && !call.is_compensation() && u64::from(call.attempt) >= rejects_5xx_after;
        answer::Rules {
            any_2xx_succeeds: results.any_2xx_succeeds.unwrap_or(self.any_2xx_succeeds),
            rejects_5xx,
            is_json_rpc,
            bytes_max: self.response_bytes_max,
        }
    }
}

/// The HTTP headers of a saga's `branch_headers`.
///
/// `Host`, `Content-Length`, `Transfer-Encoding` and `Trailer` are left out, as Go's client leaves them out: they
/// describe the connection, and a wrong one would break the request's framing.
pub fn headers(given: &[(String, String)]) -> Result<HeaderMap, Error> {
    if given.len() > Definition::BRANCH_HEADERS_MAX {
        return Err(Error::TooManyHeaders { headers: given.len() });
    }
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let key = HeaderName::from_str(name).map_err(|_| Error::HeaderName { name: name.clone() })?;
        // From bytes, since `from_str` refuses text outside ASCII, which may be sent.
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| Error::HeaderValue { name: name.clone() })?;
        if ![HOST, CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER].contains(&key) {
            headers.insert(key, value);
        }
    }
    Ok(headers)
}

/// One operation of an HTTP service.
#[derive(Clone)]
pub struct HttpBranch {
    client: Client,
    url: Url,
}

/// The destination of a service, from the authority of its address.
pub(super) fn destination(host: &str, port: Option<u16>) -> Destination {
    let name: Arc<str> = match port {
        Some(port) => format!("{host}:{port}").into(),
        None => host.into(),
    };
    Destination::Service(name)
}

impl Branch for HttpBranch {
    fn call<'a>(&'a self, call: &'a Call, _: &'a Host) -> BoxFuture<'a, Outcome> {
        Box::pin(within_timeout(call, self.exchange(call)))
    }

    fn containment(&self) -> Containment {
        Containment::External
    }

    fn destination(&self) -> Option<Destination> {
        // Every address has a host.
        Some(destination(self.url.host_str().unwrap_or_default(), self.url.port_or_known_default()))
    }

    fn egress_request(&self, call: &Call) -> Option<EgressRequest> {
        let (method, url) = self.method_and_url(call, self.json_rpc_method(call).is_some());
        // All have a host.
        let url = transport::without_credentials(url)?;
        Some(EgressRequest { what: format!("{method} {url}") })
    }
}

impl HttpBranch {
    /// Sends the request and reads the response. The error is one line of text without the address and its credentials.
    async fn exchange(&self, call: &Call) -> Result<Outcome, String> {
        let json_rpc_method = self.json_rpc_method(call);
        let (method, url) = self.method_and_url(call, json_rpc_method.is_some());
        let body = match &json_rpc_method {
            Some(method) => Bytes::from(json_rpc::request(call, method)?),
            None => call.payload(),
        };
        let headers = headers(&call.saga.options().branch_headers).map_err(|error| error.to_string())?;
        let response = self.client.transport.send(Outgoing { method, url, headers, body }).await?;
        let answer = read(response, self.client.response_bytes_max).await?;
        let rules = self.client.rules(call, json_rpc_method.is_some());
        if !answer.is_coded() {
            return Ok(answer::verdict(&answer, rules).into());
        }
        // Little in a coding can be much work, which must not keep others waiting.
        let verdict = tokio::task::spawn_blocking(move || answer::verdict(&answer, rules)).await;
        verdict.map(Into::into).map_err(|_| "the answer could not be decoded: see the log".to_owned())
    }

    /// The method, if the call is JSON-RPC: the saga's protocol is `json-rpc` and the address has a parameter `method`.
    fn json_rpc_method(&self, call: &Call) -> Option<String> {
        if call.saga.options().protocol != "json-rpc" {
            return None;
        }
        self.url.query_pairs().find(|(name, _)| name == "method").map(|(_, method)| method.into_owned())
    }

    /// As in DTM, a call without a payload is a GET, and one of JSON-RPC has no parameters of DTM.
    fn method_and_url(&self, call: &Call, is_json_rpc: bool) -> (Method, Url) {
        if is_json_rpc {
            return (Method::POST, self.url.clone());
        }
        let method = if call.payload().is_empty() { Method::GET } else { Method::POST };
        (method, self.url_of(call))
    }

    /// The address with DTM's parameters added to its query.
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

/// The outcome of an exchange with a service. With an error, and after the call's timeout, it is unknown.
pub(super) async fn within_timeout(call: &Call, exchange: impl Future<Output = Result<Outcome, String>>) -> Outcome {
    let in_time = tokio::time::timeout(call.timeout, exchange).await;
    let result = in_time.unwrap_or_else(|_| Err(format!("no complete answer within {:?}", call.timeout)));
    result.unwrap_or_else(|error| Outcome::unknown(answer::cut(error)))
}

/// Reads at most `bytes_max` of the body, which bounds the memory for a body without end.
async fn read(response: Response<Incoming>, bytes_max: usize) -> Result<Answer, String> {
    let (head, mut body) = response.into_parts();
    let mut answer = Answer { status: head.status, headers: head.headers, body: Vec::new(), is_cut: false };
    while let Some(frame) = body.frame().await {
        let Ok(chunk) = frame.map_err(|error| causes::in_one_line(&error))?.into_data() else { continue };
        answer.body.extend_from_slice(&chunk);
        if answer.body.len() > bytes_max {
            answer.body.truncate(bytes_max);
            answer.is_cut = true;
            return Ok(answer);
        }
    }
    // A stream that the service resets without an error ends here too, and not by its own end.
    if head.version == Version::HTTP_2 && !body.is_end_stream() {
        return Err("the answer was cut off: the service has reset the stream before its end".to_owned());
    }
    Ok(answer)
}

/// Why an HTTP branch cannot be called. Addresses may hold passwords, so errors do not contain them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the address does not start with http:// or https://")]
    Scheme,
    #[error("the address names no host: write it as http://host:port/path")]
    NoHost,
    /// For example a line break, which a URL parser drops.
    #[error("the address holds a control character: remove or percent-encode it")]
    ControlCharacter,
    #[error("the address has {bytes} bytes, the limit is {URL_BYTES_MAX}")]
    TooLong { bytes: usize },
    /// For example a port above 65535.
    #[error("the address is malformed: write it as http://host:port/path")]
    Malformed(#[source] <Url as FromStr>::Err),
    #[error("branch_headers has {headers} entries, the limit is {}", Definition::BRANCH_HEADERS_MAX)]
    TooManyHeaders { headers: usize },
    #[error("branch_headers: {name:?} cannot be the name of a header")]
    HeaderName { name: String },
    /// The value may be a secret, so the error does not contain it.
    #[error("branch_headers: the value of {name} holds a line break or another control character")]
    HeaderValue { name: String },
    #[error("branches over HTTP are turned off: use plugins, or set http_branches = true under [http] in the settings")]
    Off,
    /// It is refused for certain; see [`rules::Rules::check`].
    #[error("{0}")]
    Destination(String),
    #[error("user_agent under [http] holds a line break or another control character: remove it")]
    UserAgent(#[source] InvalidHeaderValue),
    #[error(transparent)]
    Tls(tls::Error),
}
