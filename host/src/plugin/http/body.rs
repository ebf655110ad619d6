//! Bodies of requests and of answers: counted, timed, and not finished by accident.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep},
};
use wasmtime_wasi_http::{Error, WasiBody};

use crate::plugin::gate::Gate;

/// Counts what passes.
struct Meter {
    bytes: u64,
    bytes_max: u64,
}

impl Meter {
    fn new(bytes_max: u64) -> Self {
        Self { bytes: 0, bytes_max }
    }

    fn admits(&mut self, frame: &Frame<Bytes>) -> bool {
        let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
        self.bytes = self.bytes.saturating_add(bytes);
        self.bytes <= self.bytes_max
    }
}

/// What a guest sends. A guest that ends before it has finished its request leaves a body that looks complete, so this
/// one asks the gate first: the server must see such a request break off.
pub struct Outbound {
    inner: WasiBody,
    meter: Meter,
    gate: Gate,
}

impl Outbound {
    /// At most `bytes_max` bytes.
    pub fn new(inner: WasiBody, bytes_max: u64, gate: Gate) -> Self {
        Self { inner, meter: Meter::new(bytes_max), gate }
    }
}

impl Body for Outbound {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if self.gate.is_over() {
            return Poll::Ready(Some(Err(Error::ConnectionTerminated)));
        }
        Poll::Ready(match frame {
            Some(Ok(frame)) if !self.meter.admits(&frame) => {
                let limit = self.meter.bytes_max;
                self.gate.refused(format!("the body of a request of more than {limit} bytes (http_request_bytes)"));
                Some(Err(Error::HttpRequestBodySize(Some(limit))))
            }
            other => other,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What a server answers. Keeps its place among the requests of the attempt until it is read or dropped.
pub struct Inbound {
    inner: Incoming,
    meter: Meter,
    /// Ends the longest wait for the next piece.
    patience: Pin<Box<Sleep>>,
    between_bytes: Duration,
    place: Option<OwnedSemaphorePermit>,
    gate: Gate,
}

impl Inbound {
    /// At most `bytes_max` bytes, none of them later than `between_bytes` after the one before.
    pub fn new(
        inner: Incoming,
        bytes_max: u64,
        between_bytes: Duration,
        place: OwnedSemaphorePermit,
        gate: Gate,
    ) -> Self {
        let (meter, patience) = (Meter::new(bytes_max), Box::pin(sleep(between_bytes)));
        Self { inner, meter, patience, between_bytes, place: Some(place), gate }
    }

    fn piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) else {
            ready!(self.patience.as_mut().poll(cx));
            let limit = self.between_bytes;
            self.gate
                .refused(format!("to wait longer than {limit:?} for more of an answer (http_between_bytes_timeout)"));
            return Poll::Ready(Some(Err(Error::ConnectionReadTimeout)));
        };
        self.patience.as_mut().reset(Instant::now() + self.between_bytes);
        Poll::Ready(match frame {
            Some(Ok(frame)) if self.meter.admits(&frame) => Some(Ok(frame)),
            Some(Ok(_)) => {
                let limit = self.meter.bytes_max;
                self.gate.refused(format!("an answer of more than {limit} bytes (http_response_bytes)"));
                Some(Err(Error::HttpResponseBodySize(Some(limit))))
            }
            Some(Err(error)) if error.is_timeout() => Some(Err(Error::HttpResponseTimeout)),
            Some(Err(_)) => Some(Err(Error::HttpResponseIncomplete)),
            None => None,
        })
    }
}

impl Body for Inbound {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let piece = ready!(self.piece(cx));
        if matches!(piece, None | Some(Err(_))) || self.inner.is_end_stream() {
            self.place = None;
        }
        Poll::Ready(piece)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
