//! Connections of plugins.
//!
//! [`Resolver`] resolves a name once for each connection and drops every address that the rule does not allow; the client
//! connects to one of the others, so a second, different answer of the name server has no effect. Each plugin has two
//! pools, one for public addresses only and one for rules with `private`. So no request uses another plugin's connection,
//! and no request of a rule without `private` uses a connection to an address that is not public, even if both rules name
//! the same host. HTTP/1.1 only: cancelling a request closes its connection, which is all that the server needs to know.

use std::{
    error::Error as StdError,
    io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
    vec,
};

use futures_util::future::BoxFuture;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        self,
        connect::{HttpConnector, dns::Name},
    },
    rt::{TokioExecutor, TokioTimer},
};
use tokio::sync::Semaphore;
use tower_service::Service;
use wasmtime_wasi_http::Error;

use super::{body::Outbound, failure::READ_BYTES_MAX};
use crate::{
    branch::http::ANSWER_HEADERS_MAX,
    causes,
    egress::{
        lookup::{self, Lookup},
        public_address::is_public,
        tls::Tls,
    },
};

/// How long an unused connection is kept. Shorter than the 5 s after which common servers close one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// The client that sends a request.
pub type Client = legacy::Client<HttpsConnector<HttpConnector<Resolver>>, Outbound>;

/// The two connection pools of one plugin.
#[derive(Clone)]
pub struct Clients {
    public: Client,
    private: Client,
    requests: Arc<Semaphore>,
}

impl Clients {
    /// Two empty pools. Each keeps up to `idle_per_host_max` unused connections for each host and port. `requests` has a
    /// permit for each request that may have a connection, of all plugins together.
    pub fn new(tls: &Tls, idle_per_host_max: usize, requests: Arc<Semaphore>) -> Self {
        let client = |private| client(tls, Resolver::new(private), idle_per_host_max);
        Self { public: client(false), private: client(true), requests }
    }

    /// The permits of requests that have a connection.
    pub fn requests(&self) -> &Arc<Semaphore> {
        &self.requests
    }

    /// `private`: the pool whose connections may go to addresses that are not public.
    pub fn get(&self, private: bool) -> &Client {
        if private { &self.private } else { &self.public }
    }
}

fn client(tls: &Tls, resolver: Resolver, idle_per_host_max: usize) -> Client {
    let mut connector = HttpConnector::new_with_resolver(resolver);
    connector.enforce_http(false);
    connector.set_nodelay(true);
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls.config())
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector);
    legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(idle_per_host_max)
        .http1_max_buf_size(READ_BYTES_MAX)
        .http1_max_headers(ANSWER_HEADERS_MAX)
        .build(connector)
}

/// Resolves a name, and keeps the addresses that are allowed.
#[derive(Clone)]
pub struct Resolver {
    private: bool,
    lookup: Lookup,
}

impl Resolver {
    /// Uses the system's resolver. `private`: all addresses are allowed.
    fn new(private: bool) -> Self {
        Self { private, lookup: lookup::system() }
    }
}

/// No address of a name is public, and the rule does not say `private = true`.
#[derive(Debug, thiserror::Error)]
#[error("its addresses are not public")]
struct Prohibited;

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (private, found) = (self.private, (self.lookup)(name.as_str().to_owned()));
        Box::pin(async move {
            let found = found.await?;
            let any = !found.is_empty();
            let allowed: Vec<_> = found.into_iter().filter(|address| private || is_public(address.ip())).collect();
            if any && allowed.is_empty() {
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, Prohibited));
            }
            Ok(allowed.into_iter())
        })
    }
}

/// The error code of `wasi:http` for a failed request.
pub fn code(error: &legacy::Error) -> Error {
    let causes = || error.source().into_iter().flat_map(causes::chain);
    for cause in causes() {
        if let Some(error) = cause.downcast_ref::<Error>() {
            return of_body(error);
        }
        if let Some(error) = cause.downcast_ref::<rustls::Error>() {
            return of_tls(error);
        }
        if let Some(code) = cause.downcast_ref::<io::Error>().and_then(of_io) {
            return code;
        }
        if let Some(error) = cause.downcast_ref::<hyper::Error>()
            && error.is_parse()
        {
            return Error::HttpProtocolError;
        }
    }
    if error.is_connect() {
        let is_about_names = causes().any(|cause| cause.to_string().contains("dns error"));
        let unresolved = Error::DnsError { rcode: None, info_code: None };
        return if is_about_names { unresolved } else { Error::DestinationUnavailable };
    }
    Error::ConnectionTerminated
}

/// The error with which [`Outbound`] aborted a request.
fn of_body(error: &Error) -> Error {
    match error {
        Error::HttpRequestBodySize(limit) => Error::HttpRequestBodySize(*limit),
        Error::HttpProtocolError => Error::HttpProtocolError,
        _ => Error::ConnectionTerminated,
    }
}

/// The code of an error of a connection. Looks at its inner error, which `source` skips.
fn of_io(error: &io::Error) -> Option<Error> {
    let inner = error.get_ref().map(|inner| inner as &(dyn StdError + 'static));
    let Some(inner) = inner else {
        return (error.kind() == io::ErrorKind::ConnectionRefused).then_some(Error::ConnectionRefused);
    };
    if inner.is::<Prohibited>() {
        return Some(Error::DestinationIpProhibited);
    }
    inner.downcast_ref().map(of_tls).or_else(|| inner.downcast_ref().and_then(of_io))
}

fn of_tls(error: &rustls::Error) -> Error {
    match error {
        rustls::Error::InvalidCertificate(_) => Error::TlsCertificateError,
        _ => Error::TlsProtocolError,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    /// A resolver that gives these answers one after another, and then none.
    fn fickle(private: bool, answers: &'static [&'static [&'static str]]) -> (Resolver, Arc<AtomicUsize>) {
        let (lookup, asked) = lookup::fickle(answers);
        (Resolver { private, lookup }, asked)
    }

    /// The checked address is the one that is connected to: there is no second lookup.
    #[tokio::test]
    async fn a_name_is_resolved_once_for_a_connection() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connect = async |private, answers| {
            let (resolver, asked) = fickle(private, answers);
            let mut connector = HttpConnector::new_with_resolver(resolver);
            let connected = connector.call(format!("http://a.example:{port}/").parse().unwrap()).await;
            let refusal = connected
                .err()
                .map(|error| causes::chain(&error).find_map(|cause| cause.downcast_ref::<io::Error>().and_then(of_io)));
            (refusal.map(|code| matches!(code, Some(Error::DestinationIpProhibited))), asked.load(Relaxed))
        };
        assert_eq!(connect(true, &[&["127.0.0.1"], &["10.0.0.1"]]).await, (None, 1));
        // The first answer is refused, then partly refused.
        assert_eq!(connect(false, &[&["127.0.0.1"], &["1.1.1.1"]]).await, (Some(true), 1));
        let (mut resolver, asked) = fickle(false, &[&["10.0.0.1", "1.1.1.1", "::1"], &["127.0.0.1"]]);
        let allowed: Vec<_> = resolver.call("a.example".parse().unwrap()).await.unwrap().collect();
        assert_eq!((allowed, asked.load(Relaxed)), (vec!["1.1.1.1:0".parse().unwrap()], 1));
    }
}
