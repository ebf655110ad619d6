//! Bodies of requests and answers, with their limits. The body of a request passes the output gate.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Sleep, sleep},
};
use wasmtime_wasi_http::{Error, WasiBody};

use super::failure::Failures;
use crate::{branch::EgressRequest, plugin::imports::output_gate::OutputGate};

/// Counts the bytes of a body.
struct ByteMeter {
    bytes: u64,
    bytes_max: u64,
}

impl ByteMeter {
    fn new(bytes_max: u64) -> Self {
        Self { bytes: 0, bytes_max }
    }

    fn admits(&mut self, frame: &Frame<Bytes>) -> bool {
        let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
        self.bytes = self.bytes.saturating_add(bytes);
        self.bytes <= self.bytes_max
    }
}

/// The body of a request. If a guest ends before it has finished its request, its body looks complete; so the body asks
/// the gate before each piece, and the server sees the request break off.
///
/// The guest may have read something since the head was let out, and each piece, the end included, may depend on that
/// read. So a piece passes the gate like the head, unless the guest has read nothing since.
pub struct Outbound {
    inner: WasiBody,
    meter: ByteMeter,
    gate: OutputGate,
    failures: Failures,
    waiting: Option<Waiting>,
}

/// A piece that waits at the gate.
struct Waiting {
    piece: Piece,
    is_let_out: BoxFuture<'static, bool>,
}

/// `None` is the end of the body.
type Piece = Option<Frame<Bytes>>;

impl Outbound {
    /// A body of at most `bytes_max` bytes; `failures` is of its request.
    pub fn new(inner: WasiBody, bytes_max: u64, gate: OutputGate, failures: Failures) -> Self {
        Self { inner, meter: ByteMeter::new(bytes_max), gate, failures, waiting: None }
    }

    /// The next piece, and whether it may leave.
    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Piece, bool), Error>> {
        if let Some(Waiting { is_let_out, .. }) = &mut self.waiting {
            let is_let_out = ready!(is_let_out.as_mut().poll(cx));
            return Poll::Ready(Ok((self.waiting.take().and_then(|waiting| waiting.piece), is_let_out)));
        }
        let piece = ready!(Pin::new(&mut self.inner).poll_frame(cx)).transpose()?;
        if self.gate.is_open() || self.gate.is_over() {
            return Poll::Ready(Ok((piece, !self.gate.is_over())));
        }
        let egress_request = EgressRequest { what: format!("the body of {}", self.failures.what()) };
        self.waiting = Some(Waiting { piece, is_let_out: Box::pin(self.gate.clone().follow(egress_request)) });
        self.next(cx)
    }
}

impl Body for Outbound {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let (piece, is_let_out) = match ready!(self.next(cx)) {
            Ok(next) => next,
            Err(error) => return Poll::Ready(Some(Err(error))),
        };
        if !is_let_out {
            return Poll::Ready(Some(Err(Error::ConnectionTerminated)));
        }
        Poll::Ready(match piece {
            Some(frame) if !self.meter.admits(&frame) => {
                let limit = self.meter.bytes_max;
                self.failures.refused(&format!("its body has more than {limit} bytes (http_request_bytes)"));
                Some(Err(Error::HttpRequestBodySize(Some(limit))))
            }
            piece => piece.map(Ok),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The body of an answer. Keeps its permits, among the concurrent requests of the attempt and of all plugins, until it is
/// read or dropped.
pub struct Inbound<B = Incoming> {
    inner: B,
    meter: ByteMeter,
    /// Ends the wait for the next piece; `None` while the guest does not wait for one.
    timer: Option<Pin<Box<Sleep>>>,
    between_bytes: Duration,
    permits: Option<[OwnedSemaphorePermit; 2]>,
    failures: Failures,
}

impl<B: Body<Data = Bytes, Error = hyper::Error> + Unpin> Inbound<B> {
    /// A body of at most `bytes_max` bytes. Waiting for a piece longer than `between_bytes` is an error.
    pub fn new(
        inner: B,
        bytes_max: u64,
        between_bytes: Duration,
        permits: [OwnedSemaphorePermit; 2],
        failures: Failures,
    ) -> Self {
        Self { inner, meter: ByteMeter::new(bytes_max), timer: None, between_bytes, permits: Some(permits), failures }
    }

    fn piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) else {
            let limit = self.between_bytes;
            ready!(self.timer.get_or_insert_with(|| Box::pin(sleep(limit))).as_mut().poll(cx));
            self.failures.failed(&format!("no more of its answer within {limit:?} (http_between_bytes_timeout)"));
            return Poll::Ready(Some(Err(Error::ConnectionReadTimeout)));
        };
        self.timer = None;
        Poll::Ready(match frame {
            Some(Ok(frame)) if self.meter.admits(&frame) => Some(Ok(frame)),
            Some(Ok(_)) => {
                let limit = self.meter.bytes_max;
                self.failures.refused(&format!("the answer has more than {limit} bytes (http_response_bytes)"));
                Some(Err(Error::HttpResponseBodySize(Some(limit))))
            }
            Some(Err(_)) => {
                self.failures.failed("the connection was closed before its answer was complete");
                Some(Err(Error::HttpResponseIncomplete))
            }
            None => None,
        })
    }
}

impl<B: Body<Data = Bytes, Error = hyper::Error> + Unpin> Body for Inbound<B> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let piece = ready!(self.piece(cx));
        if matches!(piece, None | Some(Err(_))) || self.inner.is_end_stream() {
            self.permits = None;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::{FutureExt as _, stream};
    use http_body_util::{BodyExt as _, StreamBody};
    use tokio::{
        sync::{Semaphore, mpsc},
        time::advance,
    };
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        plugin::{
            imports::{
                output_gate::{Reads, Refusal},
                stdio::{Origin, Stdio},
            },
            limits::Limits,
        },
        saga::{BranchOp, Definition, Gid, Op, Options, Order, Timestamp},
        store,
    };

    struct NoReads;

    impl Reads for NoReads {
        fn count(&self) -> u64 {
            0
        }

        fn are_current(&self) -> Result<bool, store::Error> {
            Ok(true)
        }
    }

    fn failures() -> Failures {
        let cancelled = CancellationToken::new();
        let gate = OutputGate::new(None, Arc::new(NoReads), Refusal::default(), cancelled.clone());
        let gid = Gid::new("gid").unwrap();
        let saga = Definition::new(gid, Vec::new(), Order::default(), Options::default(), Timestamp(0)).unwrap();
        let origin = Origin {
            plugin: "p".into(),
            grants: Arc::default(),
            guest_log: Arc::default(),
            saga: Arc::new(saga),
            branch_op: BranchOp { step: 0, op: Op::Action },
            is_dry_run: true,
        };
        Failures::new("GET http://a.example/", Arc::default(), gate, Stdio::new(origin, &Limits::default(), cancelled))
    }

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn the_time_limit_counts_while_the_guest_waits_and_not_while_it_does_not_read() {
        let (server, mut pieces) = mpsc::unbounded_channel::<&'static str>();
        let frames =
            stream::poll_fn(move |cx| pieces.poll_recv(cx).map(|piece| piece.map(|text| Ok(Frame::data(text.into())))));
        let permit = async || Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let mut body = Inbound::new(StreamBody::new(frames), 100, LIMIT, [permit().await, permit().await], failures());
        // Longer than the limit after the head, and after each piece, before the guest reads on.
        for text in ["one", "two"] {
            advance(LIMIT * 2).await;
            assert!(body.frame().now_or_never().is_none());
            advance(LIMIT / 2).await;
            assert!(body.frame().now_or_never().is_none(), "half of the limit");
            server.send(text).unwrap();
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), text);
        }
        assert!(body.frame().now_or_never().is_none());
        advance(LIMIT).await;
        assert!(matches!(body.frame().await, Some(Err(Error::ConnectionReadTimeout))));
    }
}
