//! The requests of one run of a guest: each is compared with the grants, given its identity, passes the output gate, and is
//! sent.

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
    body::{Inbound, Outbound},
    client::{self, Client, Clients},
    failure::{self, Failures, NOT_PUBLIC},
    identity::Identity,
};
use crate::{
    branch::{EgressRequest, Reply},
    egress::public_address::is_public,
    plugin::{
        grants::{
            entry::{Grants, header},
            rule::{self, Permission},
        },
        imports::{guest_log::GuestLog, output_gate::OutputGate, stdio::Stdio},
        limits::Limits,
    },
    saga::text::escape,
};

/// The rules for a plugin's requests, and the clients that send them. One for all its attempts.
pub struct Policy {
    pub plugin: Arc<str>,
    pub grants: Arc<Grants>,
    pub limits: Arc<Limits>,
    /// What its attempts log together.
    pub guest_log: Arc<GuestLog>,
    /// `None`: the plugin may send nothing.
    pub clients: Option<Clients>,
}

/// Sends the guest's requests. Closes the gate when it is dropped, so it must be dropped before the guest's resources.
pub struct Outgoing {
    policy: Arc<Policy>,
    identity: Identity,
    gate: OutputGate,
    /// Refusals are logged here, from the guest's budget.
    stdio: Stdio,
    /// Requests so far.
    requests: u32,
    /// Permits for concurrent requests; made for the first one.
    permits: Option<Arc<Semaphore>>,
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.gate.close();
    }
}

/// Bytes that a guest writes to a body at a time. The host holds two such pieces for every body.
const BODY_PIECE_BYTES: usize = 16 << 10;

impl WasiHttpHooks for Outgoing {
    /// The client makes the host header of the address that was compared with the rules.
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

/// An answer, and a future that is ready: the connection needs no more work.
type Answered = (Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>);

impl Outgoing {
    /// For a run that has made no request yet.
    pub fn new(policy: Arc<Policy>, identity: Identity, gate: OutputGate, stdio: Stdio) -> Self {
        Self { policy, identity, gate, stdio, requests: 0, permits: None }
    }

    /// Makes all checks that are possible before output leaves.
    fn prepare(&mut self, request: Request<WasiBody>, options: RequestOptions) -> Result<Exchange, Error> {
        let limits = self.policy.limits.clone();
        let failures = self.failures(&request);
        let refuse = |why: &str, error| {
            failures.refused(why);
            Err(error)
        };
        self.requests = self.requests.saturating_add(1);
        if self.requests > limits.http_requests {
            let why = format!("an attempt may make {} requests (http_requests)", limits.http_requests);
            // Logged once: a guest that ignores the limit must not flood the log.
            if self.requests == limits.http_requests + 1 {
                failures.refused(&why);
            }
            return Err(Error::InternalError(Some(why)));
        }
        let rules = self.policy.grants.http_rules();
        let Permission { uri, private } = match rule::permit(rules, request.method(), request.uri()) {
            Ok(permission) => permission,
            Err(denied) => {
                let why = format!("{denied}; see {}", header(&self.policy.plugin));
                return refuse(&why, Error::HttpRequestDenied);
            }
        };
        // Addresses of a name are checked by the resolver.
        if !private && uri.host().and_then(rule::literal).is_some_and(|address| !is_public(address)) {
            return refuse(NOT_PUBLIC, Error::DestinationIpProhibited);
        }
        let limit = limits.http_request_bytes;
        if request.body().size_hint().lower() > limit || declared_length(request.headers()) > limit {
            let why = format!("its body has more than {limit} bytes (http_request_bytes)");
            return refuse(&why, Error::HttpRequestBodySize(Some(limit)));
        }
        let clients = self.policy.clients.as_ref().ok_or(Error::ConfigurationError)?;
        let (client, connections) = (clients.get(private).clone(), clients.requests().clone());
        let (mut parts, body) = request.into_parts();
        parts.uri = uri;
        parts.headers.remove(HOST);
        self.identity.sign(self.requests, &mut parts.headers);
        let request = Request::from_parts(parts, Outbound::new(body, limit, self.gate.clone(), failures.clone()));
        let permits = || Arc::new(Semaphore::new(limits.http_at_once.max(1) as usize));
        let permits = self.permits.get_or_insert_with(permits).clone();
        let timeouts = Timeouts::new(&limits, options);
        Ok(Exchange { request, failures, client, permits, connections, timeouts, limits, gate: self.gate.clone() })
    }

    /// The request for people, as in `POST https://host/path`. Query and user are left out: they may be secrets that the
    /// host does not know.
    fn name(&self, request: &Request<WasiBody>) -> String {
        let uri = request.uri();
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let host = authority.rsplit_once('@').map_or(authority, |(_user, host)| host);
        let scheme = uri.scheme_str().unwrap_or_default();
        self.shown(&format!("{} {scheme}://{host}{}", request.method(), uri.path()), NAME_BYTES_MAX)
    }

    /// A text of the guest as people may see it.
    fn shown(&self, text: &str, bytes_max: usize) -> String {
        escape(&self.policy.grants.shown_with_host(text, bytes_max)).into_owned()
    }

    /// Says why the request is refused or has failed, since the error codes of `wasi:http` cannot.
    fn failures(&self, request: &Request<WasiBody>) -> Failures {
        Failures::new(&self.name(request), self.policy.grants.clone(), self.gate.clone(), self.stdio.clone())
    }
}

/// Bytes of a request's name, of which the guest chooses the length.
const NAME_BYTES_MAX: usize = 512;

/// The length that the guest's headers declare; 0 if they declare none.
fn declared_length(headers: &HeaderMap) -> u64 {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    length.unwrap_or_default()
}

/// Time limits of a request: those of the host, or shorter ones of the guest.
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

/// A request that was checked, with everything to send it.
struct Exchange {
    request: Request<Outbound>,
    failures: Failures,
    client: Client,
    permits: Arc<Semaphore>,
    /// Permits of the host, for all its plugins.
    connections: Arc<Semaphore>,
    timeouts: Timeouts,
    limits: Arc<Limits>,
    gate: OutputGate,
}

impl Exchange {
    /// Waits for a permit, passes the gate, sends, and reads the head of the answer. Dropping it closes the connection.
    async fn run(self) -> Result<Response<WasiBody>, Error> {
        let Self { request, failures, client, permits, connections, timeouts, limits, gate } = self;
        // The semaphore is never closed, so this does not fail.
        let permit = permits.acquire_owned().await.map_err(|_| Error::ConnectionLimitReached)?;
        let connection = timeout(timeouts.connect, connections.acquire_owned()).await;
        let Ok(Ok(connection)) = connection else {
            let waited = timeouts.connect;
            failures.failed(&format!(
                "plugins use all connections that the host has for them, and none was free within {waited:?} \
                 (http_connect_timeout); raise the limit of open files"
            ));
            return Err(Error::ConnectionLimitReached);
        };
        gate.request(EgressRequest { what: failures.what().to_owned() }).await;
        if let Some(reply) = gate.reply() {
            return replied(request, reply).await;
        }
        // The guest, with its requests, may be dropped a little later than its attempt ends.
        let sent = tokio::select! {
            biased;
            () = gate.finished() => return Err(Error::ConnectionTerminated),
            sent = send(&client, request, &timeouts, &failures) => sent,
        };
        let response = sent?;
        let limit = limits.http_response_bytes;
        if response.body().size_hint().lower() > limit {
            failures.refused(&format!("the answer has more than {limit} bytes (http_response_bytes)"));
            return Err(Error::HttpResponseBodySize(Some(limit)));
        }
        Ok(response.map(|body| {
            Inbound::new(body, limit, timeouts.between_bytes, [permit, connection], failures).boxed_unsync()
        }))
    }
}

/// Reads the whole request, as a server would, and answers it without sending it.
async fn replied(request: Request<Outbound>, Reply { status, body }: Reply) -> Result<Response<WasiBody>, Error> {
    request.into_body().collect().await?;
    let length = body.len();
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    Ok(response)
}

/// Sends a request. The connection, TLS included, and the answer have a time limit each. A failure is told.
async fn send(
    client: &Client,
    mut request: Request<Outbound>,
    timeouts: &Timeouts,
    failures: &Failures,
) -> Result<Response<hyper::body::Incoming>, Error> {
    let mut connection = capture_connection(&mut request);
    let mut exchange = pin!(client.request(request));
    let connected = pin!(async {
        let _ = connection.wait_for_connection_metadata().await;
    });
    let answer = match timeout(timeouts.connect, future::select(exchange.as_mut(), connected)).await {
        Err(_) => {
            failures.failed(&format!("no connection within {:?} (http_connect_timeout)", timeouts.connect));
            return Err(Error::ConnectionTimeout);
        }
        Ok(Either::Left((answer, _))) => answer,
        Ok(Either::Right(_)) => {
            let Ok(answer) = timeout(timeouts.first_byte, exchange).await else {
                failures.failed(&format!("no answer within {:?} (http_first_byte_timeout)", timeouts.first_byte));
                return Err(Error::HttpResponseTimeout);
            };
            answer
        }
    };
    answer.map_err(|error| {
        let code = client::code(&error);
        if let Some(why) = failure::why(&error, &code) {
            failures.failed(&why);
        }
        code
    })
}
