//! One connection, from its first byte to its end.

use std::{
    convert::Infallible,
    io,
    net::IpAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderValue, Request, Response, header::CONNECTION};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::{
    body::Incoming,
    service::{Service, service_fn},
};
use hyper_util::server::graceful::GracefulConnection;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tower_service::Service as _;
use tracing::debug;

use super::{
    places::{Connections, Entry, Place, UnderWay},
    routes::Routes,
};

/// Silence of a client after which its connection is closed while the host stops.
const SILENCE: Duration = Duration::from_secs(1);

/// How often a stopping host looks whether a client is silent.
const GLANCE: Duration = Duration::from_millis(250);

/// The address of the client that sent a request: an extension of every request. Without its port; an address of IPv4
/// is one, also if the listener is one of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer(pub IpAddr);

/// How a client is told that its connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    /// HTTP/1.1: `Connection: close` in the next answer.
    Header,
    /// HTTP/2: GOAWAY at once.
    GoAway,
}

/// Answers the requests of one connection.
pub(super) fn service(
    connections: &Connections,
    entry: &Arc<Entry>,
    routes: Routes,
    farewell: Farewell,
) -> impl Service<
    Request<Incoming>,
    Response = Response<Counted>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<Counted>, Infallible>> + Send + 'static,
> + Send
+ 'static {
    let (connections, entry) = (connections.clone(), entry.clone());
    service_fn(move |mut request: Request<Incoming>| {
        let under_way = entry.request();
        request.extensions_mut().insert(Peer(entry.peer()));
        let answer = match routes.refuse(&request) {
            // A router is always ready.
            None => Ok(routes.current().call(request)),
            Some(refusal) => Err(refusal.answer(request.into_body()).boxed()),
        };
        let connections = connections.clone();
        async move {
            let mut answer = match answer {
                Ok(answer) => answer.await?,
                Err(refused) => refused.await,
            };
            if farewell == Farewell::Header && connections.is_closing() {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(answer.map(|body| Counted { body, _under_way: under_way }))
        }
    })
}

/// The body of an answer, which is under way until it is written or dropped.
#[derive(Debug)]
pub(super) struct Counted {
    body: Body,
    _under_way: UnderWay,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Drives a connection until it ends, its place is needed, or the host stops.
pub(super) fn spawn<C>(connections: &Connections, connection: C, place: Place, farewell: Farewell)
where
    C: GracefulConnection<Error = hyper::Error> + Send + 'static,
{
    let closing = connections.closing();
    connections.tasks().spawn(async move {
        let mut connection = pin!(connection);
        let mut closing = pin!(closing.cancelled_owned());
        let ended = loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => break ended,
                () = place.entry().displaced() => if place.is_displaced() {
                    // Tells the client if its system takes that at once; whether it does makes no difference.
                    connection.as_mut().graceful_shutdown();
                    break connection.as_mut().now_or_never().unwrap_or(Ok(()));
                },
                () = &mut closing => break end(connection.as_mut(), place.entry(), farewell).await,
            }
        };
        if let Err(error) = ended {
            debug!(%error, "connection ended");
        }
    });
}

/// Drives a connection of a stopping host until it has ended or its client is silent.
async fn end<C>(mut connection: Pin<&mut C>, entry: &Entry, farewell: Farewell) -> Result<(), hyper::Error>
where
    C: GracefulConnection<Error = hyper::Error>,
{
    if farewell == Farewell::GoAway {
        connection.as_mut().graceful_shutdown();
    }
    let mut heard = (entry.heard(), tokio::time::Instant::now());
    loop {
        if let Ok(ended) = tokio::time::timeout(GLANCE, connection.as_mut()).await {
            return ended;
        }
        if entry.heard() != heard.0 {
            heard = (entry.heard(), tokio::time::Instant::now());
        }
        if entry.is_idle_for(SILENCE) && heard.1.elapsed() >= SILENCE {
            connection.as_mut().graceful_shutdown();
            return connection.now_or_never().unwrap_or(Ok(()));
        }
    }
}

/// A stream that notes in the connection's entry what is received, and whether the client reads.
#[derive(Debug)]
pub(super) struct Watched {
    stream: TcpStream,
    entry: Arc<Entry>,
}

impl Watched {
    /// A stream that writes to this entry.
    pub fn new(stream: TcpStream, entry: Arc<Entry>) -> Self {
        Self { stream, entry }
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready() {
            self.entry.hear(buf.filled().len().saturating_sub(before));
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.entry.stall(written.is_pending());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.entry.stall(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
