//! The requests of one attempt: each is compared with the grants, signed, let out by the gate, and only then sent.

use std::{pin::pin, sync::Arc, time::Duration};

use futures_util::future::{self, Either};
use http::{
    HeaderMap, Request, Response,
    header::{CONTENT_LENGTH, HOST},
};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Body as _;
use hyper_util::client::legacy::connect::capture_connection;
use tokio::{sync::Semaphore, time::timeout};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::{
    address::is_public,
    body::{Inbound, Outbound},
    client::{self, Client},
    identity::Identity,
    rule::{self, Permit},
};
use crate::{
    branch::{EgressRequest, Reply},
    plugin::{
        Limits, Plugin,
        output_gate::OutputGate,
        stdio::{self, Stdio},
    },
};

/// What a guest asks for by `wasi:http`. Closes the gate when it is dropped, so it goes before the guest's resources.
pub struct Outgoing {
    plugin: Arc<Plugin>,
    identity: Identity,
    gate: OutputGate,
    /// Where refusals are told, at the expense of what the guest may write.
    stdio: Stdio,
    /// So many so far.
    requests: u32,
    /// For those that are under way at once; made for the first one.
    places: Option<Arc<Semaphore>>,
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.gate.close();
    }
}

/// Bytes that a guest writes to a body at a time. The host holds two such pieces for every body, sent or not.
const BODY_PIECE_BYTES: usize = 16 << 10;

impl WasiHttpHooks for Outgoing {
    /// The host header follows from the address that was compared with the rules.
    fn set_host_header(&mut self) -> bool {
        false
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_PIECE_BYTES
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Answered, Error>> + Send> {
        match self.prepare(request, options.unwrap_or_default()) {
            Ok(exchange) => Box::new(async move {
                let answer = exchange.run().await?;
                Ok((answer, Box::new(future::ready(Ok(()))) as Box<_>))
            }),
            Err(refusal) => Box::new(future::ready(Err(refusal))),
        }
    }
}

/// An answer, and nothing to wait for beside it.
type Answered = (Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>);

impl Outgoing {
    /// None so far.
    pub fn new(plugin: Arc<Plugin>, identity: Identity, gate: OutputGate, stdio: Stdio) -> Self {
        Self { plugin, identity, gate, stdio, requests: 0, places: None }
    }

    /// Checks all that can be checked before anything leaves.
    fn prepare(&mut self, request: Request<WasiBody>, options: RequestOptions) -> Result<Exchange, Error> {
        let limits = self.plugin.runtime.limits().clone();
        let what = self.name(&request);
        self.requests = self.requests.saturating_add(1);
        if self.requests > limits.http_requests {
            let why = format!("an attempt may make {} requests (http_requests)", limits.http_requests);
            // Once is enough: a guest that ignores the limit must not flood the log.
            let error = Error::InternalError(Some(why.clone()));
            return Err(if self.requests == limits.http_requests + 1 {
                self.refuse(&what, &why, error)
            } else {
                error
            });
        }
        let rules = self.plugin.grants.http_rules();
        let Permit { uri, private } = rule::permit(rules, request.method(), request.uri()).map_err(|denied| {
            let why = format!("{denied}; see [plugins.grants.{}]", self.plugin.name);
            self.refuse(&what, &why, Error::HttpRequestDenied)
        })?;
        // Names are checked when they are resolved.
        if !private && uri.host().and_then(rule::literal).is_some_and(|address| !is_public(address)) {
            return Err(self.refuse(&what, NOT_PUBLIC, Error::DestinationIpProhibited));
        }
        let limit = limits.http_request_bytes;
        if request.body().size_hint().lower() > limit || declared_length(request.headers()) > limit {
            let why = format!("its body has more than {limit} bytes (http_request_bytes)");
            return Err(self.refuse(&what, &why, Error::HttpRequestBodySize(Some(limit))));
        }
        let client = self.plugin.clients.as_ref().ok_or(Error::ConfigurationError)?.get(private).clone();
        let (mut parts, body) = request.into_parts();
        parts.uri = uri;
        parts.headers.remove(HOST);
        self.identity.sign(self.requests, &mut parts.headers);
        let request = Request::from_parts(parts, Outbound::new(body, limit, self.gate.clone(), what.clone()));
        let places = || Arc::new(Semaphore::new(limits.http_at_once.max(1) as usize));
        let places = self.places.get_or_insert_with(places).clone();
        let timeouts = Timeouts::new(&limits, options);
        Ok(Exchange { request, what, client, places, timeouts, limits, gate: self.gate.clone() })
    }

    /// As in `POST https://host/path`, for people. Queries and users may be secrets that the host does not know, so they
    /// are left out.
    fn name(&self, request: &Request<WasiBody>) -> String {
        let uri = request.uri();
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let host = authority.rsplit_once('@').map_or(authority, |(_user, host)| host);
        let scheme = uri.scheme_str().unwrap_or_default();
        self.shown(&format!("{} {scheme}://{host}{}", request.method(), uri.path()), NAME_BYTES_MAX)
    }

    /// What comes from the guest as it may be shown.
    fn shown(&self, text: &str, bytes_max: usize) -> String {
        stdio::escape(&self.plugin.grants.shown_with_host(text, bytes_max)).into_owned()
    }

    /// Says in the log and in the attempt's error what `wasi:http` has no words for.
    fn refuse(&self, what: &str, why: &str, error: Error) -> Error {
        let why = self.shown(why, WHY_BYTES_MAX);
        self.stdio.warn(&format!("{what} is refused: {why}"));
        self.gate.refused(format!("{what}: {why}"));
        error
    }
}

/// Bytes of a request's name, which the guest makes as long as it likes.
const NAME_BYTES_MAX: usize = 512;

/// Bytes of why a request is refused: room for a rule that would allow it.
const WHY_BYTES_MAX: usize = 1024;

const NOT_PUBLIC: &str = "its address is not public, and the entry of http does not say private = true";

/// What the guest says that the body has, if it says.
fn declared_length(headers: &HeaderMap) -> u64 {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    length.unwrap_or_default()
}

/// How long to wait for what; a guest may only wait less than the host does.
struct Timeouts {
    connect: Duration,
    first_byte: Duration,
    between_bytes: Duration,
}

impl Timeouts {
    fn new(limits: &Limits, asked: RequestOptions) -> Self {
        let least = |limit: Duration, asked: Option<Duration>| asked.map_or(limit, |asked| asked.min(limit));
        Self {
            connect: least(limits.http_connect_timeout, asked.connect_timeout),
            first_byte: least(limits.http_first_byte_timeout, asked.first_byte_timeout),
            between_bytes: least(limits.http_between_bytes_timeout, asked.between_bytes_timeout),
        }
    }
}

/// A request that may be made, and all that making it needs.
struct Exchange {
    request: Request<Outbound>,
    what: String,
    client: Client,
    places: Arc<Semaphore>,
    timeouts: Timeouts,
    limits: Limits,
    gate: OutputGate,
}

impl Exchange {
    /// Waits for a place, leaves the host, and reads the head of the answer. Dropping it closes the connection.
    async fn run(self) -> Result<Response<WasiBody>, Error> {
        let Self { request, what, client, places, timeouts, limits, gate } = self;
        // Only ever closed by being dropped.
        let place = places.acquire_owned().await.map_err(|_| Error::ConnectionLimitReached)?;
        gate.request(EgressRequest { what: what.clone() }).await;
        if let Some(reply) = gate.reply() {
            return replied(request, reply).await;
        }
        // The guest, with all that it has begun, may go a moment later than its attempt ends.
        let sent = tokio::select! {
            biased;
            () = gate.is_finished() => return Err(Error::ConnectionTerminated),
            sent = send(&client, request, &timeouts) => sent,
        };
        let response = sent.inspect_err(|error| {
            let why = match error {
                Error::DestinationIpProhibited => NOT_PUBLIC.to_owned(),
                Error::ConnectionTimeout => {
                    format!("no connection within {:?} (http_connect_timeout)", timeouts.connect)
                }
                Error::HttpResponseTimeout => {
                    format!("no answer within {:?} (http_first_byte_timeout)", timeouts.first_byte)
                }
                _ => return,
            };
            gate.refused(format!("{what}: {why}"));
        })?;
        let limit = limits.http_response_bytes;
        if response.body().size_hint().lower() > limit {
            gate.refused(format!("{what}: the answer has more than {limit} bytes (http_response_bytes)"));
            return Err(Error::HttpResponseBodySize(Some(limit)));
        }
        Ok(response.map(|body| Inbound::new(body, limit, timeouts.between_bytes, place, gate).boxed_unsync()))
    }
}

/// Takes the whole request, as a server would, and sends it nowhere.
async fn replied(request: Request<Outbound>, Reply { status, body }: Reply) -> Result<Response<WasiBody>, Error> {
    request.into_body().collect().await?;
    let length = body.len();
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    Ok(response)
}

/// A connection, TLS included, has its own time limit; then the answer has.
async fn send(
    client: &Client,
    mut request: Request<Outbound>,
    timeouts: &Timeouts,
) -> Result<Response<hyper::body::Incoming>, Error> {
    let mut connection = capture_connection(&mut request);
    let mut exchange = pin!(client.request(request));
    let connected = pin!(async {
        let _ = connection.wait_for_connection_metadata().await;
    });
    let answer = match timeout(timeouts.connect, future::select(exchange.as_mut(), connected)).await {
        Err(_) => return Err(Error::ConnectionTimeout),
        Ok(Either::Left((answer, _))) => answer,
        Ok(Either::Right(_)) => timeout(timeouts.first_byte, exchange).await.map_err(|_| Error::HttpResponseTimeout)?,
    };
    answer.map_err(|error| client::code(&error))
}
