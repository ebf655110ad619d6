//! Connections: accepts them, limits their number and idle time, makes room for new ones, and ends them gracefully.
//!
//! Invariants:
//!
//! 1. No more connections are open than [`Settings::connections_max`], over all listeners. If all places are taken, a
//!    new connection gets the place of one without a request under way ([`places`]). One with a request keeps its place,
//!    unless its client has stopped to read the answer.
//! 2. While the host stops, every request that arrives on a connection with a place is answered: the connection is closed
//!    once its client has been told so (`Connection: close`, GOAWAY), or has been silent for a second ([`connection`]).

mod connection;
mod places;
mod routes;
mod settings;

use std::{io, net::SocketAddr, time::Duration};

use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, warn};

pub use self::{
    connection::Peer,
    places::{Connections, Counts},
    routes::Routes,
    settings::{Network, NoNetwork, Settings},
};
use self::{
    connection::{Farewell, Watched},
    places::Place,
};

/// Pause after an accept that failed because the system is short of a resource, usually file descriptors.
const PAUSE: Duration = Duration::from_secs(1);

/// Most concurrent requests of one HTTP/2 connection; further ones wait, or open another connection.
const STREAMS_MAX: u32 = 1000;

/// The smallest buffer that hyper accepts, in bytes.
const BUFFER_BYTES_MIN: usize = 8 << 10;

/// Accepts HTTP/1.1 connections until `stop`, then takes those that have already been made, closes the listener and
/// returns. The connections stay: [`Connections::close`] ends them.
pub async fn serve(listener: TcpListener, routes: Routes, connections: Connections, stop: impl Future<Output = ()>) {
    let settings = connections.settings();
    let mut http = http1::Builder::new();
    let buffer_bytes_max = settings.buffer_bytes_max.max(BUFFER_BYTES_MIN);
    http.timer(TokioTimer::new())
        .header_read_timeout(settings.header_timeout)
        .max_header_size(buffer_bytes_max)
        .max_buf_size(buffer_bytes_max);
    let begin = |stream, place: Place| {
        let service = connection::service(&connections, place.entry(), routes.clone(), Farewell::Header);
        let stream = TokioIo::new(Watched::new(stream, place.entry().clone()));
        connection::spawn(&connections, http.serve_connection(stream, service), place, Farewell::Header);
    };
    accept_all(listener, &connections, begin, stop).await;
}

/// Accepts HTTP/2 connections without TLS in the same way, for gRPC. Its clients keep idle connections open, so
/// `header_timeout` is the interval of pings, and a connection without a pong is closed.
pub async fn serve_http2(
    listener: TcpListener,
    routes: Routes,
    connections: Connections,
    stop: impl Future<Output = ()>,
) {
    let settings = connections.settings();
    let mut http = http2::Builder::new(TokioExecutor::new());
    let buffer_bytes_max = settings.buffer_bytes_max.max(BUFFER_BYTES_MIN);
    http.timer(TokioTimer::new())
        .keep_alive_interval(settings.header_timeout)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(buffer_bytes_max).unwrap_or(u32::MAX));
    let begin = |stream, place: Place| {
        let service = connection::service(&connections, place.entry(), routes.clone(), Farewell::GoAway);
        let stream = TokioIo::new(Watched::new(stream, place.entry().clone()));
        connection::spawn(&connections, http.serve_connection(stream, service), place, Farewell::GoAway);
    };
    accept_all(listener, &connections, begin, stop).await;
}

async fn accept_all(
    listener: TcpListener,
    connections: &Connections,
    begin: impl Fn(TcpStream, Place),
    stop: impl Future<Output = ()>,
) {
    let accept = async {
        loop {
            let (stream, peer) = accept(&listener, connections).await;
            begin(stream, connections.place(peer.ip()).await);
        }
    };
    tokio::select! {
        () = accept => {}
        () = stop => {}
    }
    // A connection that the system has made and the host has not accepted is reset when the listener is closed.
    let made = listener.into_std().and_then(|listener| {
        while let Some((stream, peer)) = accept_made(&listener)? {
            let Some(place) = connections.try_place(peer.ip()) else { break };
            begin(TcpStream::from_std(stream)?, place);
        }
        Ok(())
    });
    if let Err(error) = made {
        debug!(%error, "connections that were not accepted are reset");
    }
}

/// A connection that waits in the system's queue, if there is one. The listener does not block.
fn accept_made(listener: &std::net::TcpListener) -> io::Result<Option<(std::net::TcpStream, SocketAddr)>> {
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                return Ok(Some((stream, peer)));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// The next usable connection.
async fn accept(listener: &TcpListener, connections: &Connections) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Responses are small and complete: do not delay them to fill a packet.
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%error, "connection without TCP_NODELAY");
                }
                return (stream, peer);
            }
            Err(error) if concerns_one_connection(&error) => debug!(%error, "connection lost before it was accepted"),
            Err(error) => {
                warn!(%error, "no connection can be accepted: if the limit of open files is reached, raise it (ulimit -n)");
                // Its descriptor serves the next one.
                connections.make_room();
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    [ConnectionAborted, ConnectionRefused, ConnectionReset].contains(&error.kind())
}
