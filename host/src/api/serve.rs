//! Connections: accepts them, limits their number and idle time, and closes them gracefully.

use std::{io, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::{http1, http2};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
    service::TowerToHyperService,
};
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as duration;
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

/// Pause after an accept that failed because the system is short of a resource, usually file descriptors.
const PAUSE: Duration = Duration::from_secs(1);

/// Most concurrent requests of one HTTP/2 connection; further ones wait, or open another connection.
const STREAMS_MAX: u32 = 1000;

/// The smallest buffer that hyper accepts, in bytes.
const BUFFER_BYTES_MIN: usize = 8 << 10;

/// Limits of connections.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Most connections at once; further ones wait in the system's queue. Each costs a file descriptor and about 20 KiB.
    pub connections_max: usize,
    /// Longest time from the end of one request of a connection to the end of the next request's header. Longer than
    /// common clients keep unused connections (Go: 90 s), so that a request rarely meets a connection that is closing.
    #[serde(with = "duration")]
    pub header_timeout: Duration,
    /// Largest header of a request, and largest chunk of a body, in bytes.
    pub buffer_bytes_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { connections_max: 10_000, header_timeout: Duration::from_secs(100), buffer_bytes_max: 64 << 10 }
    }
}

/// Serves HTTP/1.1 until `shutdown`, then stops accepting, closes idle connections, and returns when all running requests
/// are finished. There is no limit of time: the caller sets one.
pub async fn serve(listener: TcpListener, router: Router, settings: Settings, shutdown: impl Future<Output = ()>) {
    let mut http = http1::Builder::new();
    let buffer_bytes_max = settings.buffer_bytes_max.max(BUFFER_BYTES_MIN);
    http.timer(TokioTimer::new())
        .header_read_timeout(settings.header_timeout)
        .max_header_size(buffer_bytes_max)
        .max_buf_size(buffer_bytes_max);
    let connect = |stream| http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
    serve_connections(listener, settings.connections_max, connect, shutdown).await;
}

/// Serves HTTP/2 without TLS in the same way, for gRPC. Its clients keep idle connections open, so `header_timeout` is the
/// interval of pings, and a connection without a pong is closed.
pub async fn serve_http2(
    listener: TcpListener,
    router: Router,
    settings: Settings,
    shutdown: impl Future<Output = ()>,
) {
    let mut http = http2::Builder::new(TokioExecutor::new());
    let buffer_bytes_max = settings.buffer_bytes_max.max(BUFFER_BYTES_MIN);
    http.timer(TokioTimer::new())
        .keep_alive_interval(settings.header_timeout)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(buffer_bytes_max).unwrap_or(u32::MAX));
    let connect = |stream| http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
    serve_connections(listener, settings.connections_max, connect, shutdown).await;
}

async fn serve_connections<C>(
    listener: TcpListener,
    connections_max: usize,
    connect: impl Fn(TcpStream) -> C,
    shutdown: impl Future<Output = ()>,
) where
    C: GracefulConnection<Error = hyper::Error> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS)));
    let connections = TaskTracker::new();
    let closing = CancellationToken::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let permit = tokio::select! {
            permit = permits.clone().acquire_owned() => permit,
            () = &mut shutdown => break,
        };
        // The semaphore is never closed.
        let Ok(permit) = permit else { break };
        let stream = tokio::select! {
            stream = accept(&listener) => stream,
            () = &mut shutdown => break,
        };
        let connection = connect(stream);
        let closing = closing.clone();
        connections.spawn(async move {
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = closing.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                debug!(%error, "connection ended");
            }
            drop(permit);
        });
    }
    drop(listener);
    closing.cancel();
    connections.close();
    connections.wait().await;
}

/// The next usable connection.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Responses are small and complete: do not delay them to fill a packet.
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%error, "connection without TCP_NODELAY");
                }
                return stream;
            }
            Err(error) if concerns_one_connection(&error) => debug!(%error, "connection lost before it was accepted"),
            Err(error) => {
                warn!(%error, "no connection can be accepted: if the limit of open files is reached, raise it (ulimit -n)");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    [ConnectionAborted, ConnectionRefused, ConnectionReset].contains(&error.kind())
}
