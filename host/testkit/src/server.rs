//! A server that tells what reaches it, and answers as the path asks.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use ::http::{HeaderMap, Request, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{Notify, mpsc},
    time::timeout,
};

/// How long anything may take that should happen at once.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Server {
    pub address: SocketAddr,
    counts: Arc<Counts>,
    events: mpsc::UnboundedReceiver<Event>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicU32,
    requests: AtomicU32,
    at_once: AtomicU32,
    at_once_max: AtomicU32,
    /// The answer to `/when`.
    told: Notify,
}

/// What happened at the server.
#[derive(Debug)]
pub enum Event {
    /// The head of a request arrived.
    Asked(Asked),
    /// The client went away before it was answered.
    GivenUp,
    /// The body of a request ended before its end.
    BrokenOff,
    /// A piece of a body arrived.
    Piece(String),
}

#[derive(Debug)]
pub struct Asked {
    pub method: String,
    pub uri: String,
    pub headers: HeaderMap,
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

impl Server {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, events) = mpsc::unbounded_channel();
        let counts = Arc::<Counts>::default();
        let shared = counts.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Relaxed);
                let (counts, sender) = (shared.clone(), sender.clone());
                let service = service_fn(move |request| answer(request, counts.clone(), sender.clone()));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, counts, events }
    }

    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn connections(&self) -> u32 {
        self.counts.connections.load(Relaxed)
    }

    pub fn requests(&self) -> u32 {
        self.counts.requests.load(Relaxed)
    }

    /// Most requests that were answered at the same time.
    pub fn at_once_max(&self) -> u32 {
        self.counts.at_once_max.load(Relaxed)
    }

    pub async fn next(&mut self) -> Event {
        timeout(PATIENCE, self.events.recv()).await.expect("something happens at the server").unwrap()
    }

    /// Lets one request for `/when` be answered.
    pub fn tell(&self) {
        self.counts.told.notify_one();
    }

    /// Whether nothing happens for a while.
    pub async fn is_quiet(&mut self) -> bool {
        timeout(Duration::from_millis(50), self.events.recv()).await.is_err()
    }

    pub async fn piece(&mut self) -> String {
        match self.next().await {
            Event::Piece(text) => text,
            other => panic!("{other:?}"),
        }
    }

    pub async fn asked(&mut self) -> Asked {
        match self.next().await {
            Event::Asked(asked) => asked,
            other => panic!("{other:?}"),
        }
    }
}

/// Answers what comes over one connection.
pub async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let (events, _) = mpsc::unbounded_channel();
    let service = service_fn(move |request| answer(request, Arc::default(), events.clone()));
    // It ends with the connection, however that ends.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    request: Request<Incoming>,
    counts: Arc<Counts>,
    events: mpsc::UnboundedSender<Event>,
) -> Result<Answer, Infallible> {
    counts.requests.fetch_add(1, Relaxed);
    let (parts, body) = request.into_parts();
    let (method, uri, headers) = (parts.method.to_string(), parts.uri.to_string(), parts.headers);
    let _ = events.send(Event::Asked(Asked { method, uri, headers }));
    let answer = match parts.uri.path() {
        "/hello" => whole("hello"),
        "/redirect" => {
            let redirect = Response::builder().status(302).header("location", "/hello");
            redirect.body(Full::default().boxed_unsync()).unwrap()
        }
        "/length" => {
            let body = body.collect().await.inspect_err(|_| drop(events.send(Event::BrokenOff)));
            whole(&body.map_or(0, |body| body.to_bytes().len()).to_string())
        }
        "/pieces" => {
            let mut body = body;
            while let Some(frame) = body.frame().await {
                let event = match frame.map(Frame::into_data) {
                    Ok(Ok(bytes)) => Event::Piece(String::from_utf8(bytes.into()).unwrap()),
                    Ok(Err(_)) => continue,
                    Err(_) => Event::BrokenOff,
                };
                let _ = events.send(event);
            }
            whole("")
        }
        "/when" => {
            counts.told.notified().await;
            whole("")
        }
        "/silence" => {
            let _guard = GivenUp(events);
            std::future::pending().await
        }
        "/stall" => flowing(stream::once(async { "first".into() }).chain(stream::pending())),
        "/endless" => flowing(stream::repeat_with(|| "x".repeat(1000))),
        "/large" => whole(&"x".repeat(20_000)),
        "/head" => Response::builder().header("x", "y".repeat(200_000)).body(Full::default().boxed_unsync()).unwrap(),
        "/crowd" => {
            let at_once = counts.at_once.fetch_add(1, Relaxed) + 1;
            counts.at_once_max.fetch_max(at_once, Relaxed);
            // Long enough for others to come meanwhile, if they can.
            tokio::time::sleep(Duration::from_millis(20)).await;
            counts.at_once.fetch_sub(1, Relaxed);
            whole("")
        }
        path => panic!("nobody should ask for {path}"),
    };
    Ok(answer)
}

struct GivenUp(mpsc::UnboundedSender<Event>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        let _ = self.0.send(Event::GivenUp);
    }
}

fn whole(text: &str) -> Answer {
    Response::new(Full::from(text.to_owned()).boxed_unsync())
}

fn flowing(pieces: impl stream::Stream<Item = String> + Send + 'static) -> Answer {
    let frames = pieces.map(|piece| Ok(Frame::data(piece.into())));
    Response::new(StreamBody::new(frames).boxed_unsync())
}
