//! Connections to destinations that the rules allow.
//!
//! Invariant: every address that is connected to has passed [`Rules::check_address`] for the host and the port of the
//! request. A name is resolved once for a connection, and the addresses that are refused are dropped from the answer.

use std::{
    error::Error,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
    vec,
};

use futures_util::future::BoxFuture;
use http::Uri;
use hyper_util::{
    client::legacy::connect::{HttpConnector, dns::Name},
    rt::TokioIo,
};
use tokio::{net::TcpStream, time::timeout};
use tower_service::Service;

use super::{
    lookup::{self, Lookup},
    rules::{Refused, Rules},
};
use crate::causes;

/// The error of a connection. [`refusal`] finds the refusal in it.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Opens TCP connections.
#[derive(Clone)]
pub struct Connector {
    rules: Arc<Rules>,
    connect_timeout: Duration,
    lookup: Lookup,
}

/// Silence after which the system asks whether the other machine is still there, and between two such questions.
const SILENCE: Duration = Duration::from_secs(10);
/// Questions without an answer after which a connection is closed.
const PROBES: u32 = 3;

impl Connector {
    /// Names are looked up by the system's resolver. `connect_timeout` is for all addresses of a host together.
    pub fn new(rules: Arc<Rules>, connect_timeout: Duration) -> Self {
        Self { rules, connect_timeout, lookup: lookup::system() }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { rules, connect_timeout, lookup } = self.clone();
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().to_owned();
            let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
            // The resolver is not asked about addresses.
            rules.check(&host, port)?;
            let mut tcp = HttpConnector::new_with_resolver(Resolver { rules, host, port, lookup });
            tcp.enforce_http(false);
            tcp.set_nodelay(true);
            // A machine that has vanished is noticed, and not only after a quarter of an hour.
            tcp.set_keepalive(Some(SILENCE));
            tcp.set_keepalive_interval(Some(SILENCE));
            tcp.set_keepalive_retries(Some(PROBES));
            #[cfg(target_os = "linux")]
            tcp.set_tcp_user_timeout(Some(SILENCE * PROBES));
            tcp.set_connect_timeout(Some(connect_timeout));
            Ok(tcp.call(uri).await?)
        })
    }
}

/// Resolves the name of one destination, and keeps the addresses that are allowed.
#[derive(Clone)]
struct Resolver {
    rules: Arc<Rules>,
    host: String,
    port: u16,
    lookup: Lookup,
}

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let Self { rules, host, port, lookup } = self.clone();
        Box::pin(async move {
            let (mut allowed, mut refused) = (Vec::new(), None);
            for address in lookup(name.as_str().to_owned()).await? {
                match rules.check_address(&host, port, address.ip()) {
                    Ok(()) => allowed.push(address),
                    Err(refusal) => refused = refused.or(Some(refusal)),
                }
            }
            match refused {
                Some(refused) if allowed.is_empty() => Err(refused.into()),
                _ => Ok(allowed.into_iter()),
            }
        })
    }
}

/// The refusal that an error of a connection is about, if it is about one.
pub fn refusal<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Refused> {
    causes::chain(error).find_map(|cause| cause.downcast_ref())
}

/// A connector with a time limit for all that it does, TLS included.
#[derive(Clone)]
pub struct Timed<C> {
    connector: C,
    connect_timeout: Duration,
}

impl<C> Timed<C> {
    /// Limits `connector`.
    pub fn new(connector: C, connect_timeout: Duration) -> Self {
        Self { connector, connect_timeout }
    }
}

impl<C> Service<Uri> for Timed<C>
where
    C: Service<Uri, Error = BoxError, Future: Send + 'static>,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<C::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connector.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, connect_timeout) = (self.connector.call(uri), self.connect_timeout);
        Box::pin(async move {
            match timeout(connect_timeout, connecting).await {
                Ok(connected) => connected,
                Err(_) => Err(format!("no connection within {connect_timeout:?} (connect_timeout)").into()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;
    use crate::egress::rules::Unlisted;

    /// A connector whose lookups give these answers one after another, and then none; and how many were asked for.
    fn connector(rules: Rules, answers: &'static [&'static [&'static str]]) -> (Connector, Arc<AtomicUsize>) {
        let (lookup, asked) = lookup::fickle(answers);
        (Connector { rules: Arc::new(rules), connect_timeout: Duration::from_mins(1), lookup }, asked)
    }

    fn rules(deny: &[String], unlisted: Unlisted) -> Rules {
        Rules { deny: deny.iter().map(|entry| entry.parse().unwrap()).collect(), allow: Vec::new(), unlisted }
    }

    /// The checked address is the one that is connected to: there is no second lookup, and a second answer has no effect.
    #[tokio::test]
    async fn what_a_name_means_is_checked_for_each_connection() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connect = async |rules, host: &str, answers| {
            let (mut connector, asked) = connector(rules, answers);
            let connected = connector.call(format!("http://{host}:{port}/").parse().unwrap()).await;
            let refused = connected.err().map(|error| refusal(&*error).expect("it is refused").to_string());
            (refused.is_none(), asked.load(Relaxed), refused.unwrap_or_default())
        };
        let (connected, asked, _) =
            connect(rules(&[], Unlisted::All), "a.example", &[&["127.0.0.1"], &["10.0.0.1"]]).await;
        assert!(connected && asked == 1);
        let (connected, asked, why) =
            connect(rules(&[], Unlisted::Public), "a.example", &[&["127.0.0.1"], &["1.1.1.1"]]).await;
        assert!(!connected && asked == 1 && why.contains(&format!("{:?}", format!("a.example:{port}"))), "{why}");
        let (connected, asked, why) = connect(rules(&[], Unlisted::All), "a.example", &[&["169.254.169.254"]]).await;
        assert!(!connected && asked == 1 && why.contains(&format!("\"169.254.169.254:{port}\"")), "{why}");
        // Of several addresses those are left that are allowed.
        assert!(
            connect(rules(&[], Unlisted::All), "a.example", &[&["169.254.169.254", "fe80::1", "127.0.0.1"]]).await.0
        );
        // The port counts for addresses and for names.
        for (host, lookups) in [("127.0.0.1", 0), ("a.example", 1)] {
            let denied = rules(&[format!("127.0.0.0/8:{port}")], Unlisted::All);
            let (connected, asked, _) = connect(denied, host, &[&["127.0.0.1"]]).await;
            assert!(!connected && asked == lookups, "{host}");
            let others = rules(&[format!("127.0.0.0/8:1-{}", port - 1)], Unlisted::All);
            assert!(connect(others, host, &[&["127.0.0.1"]]).await.0, "{host}");
        }
        assert!(!connect(rules(&[], Unlisted::Public), "127.0.0.1", &[]).await.0);
    }
}
