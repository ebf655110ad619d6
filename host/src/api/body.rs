//! The body of a request, as bytes, within limits of size, time and memory.
//!
//! A body is held as it comes, not as its header says: `Content-Length` costs a client nothing. What it holds is reserved
//! in the share of requests until its last byte is dropped; a saga that is made of it reserves its own.

use std::sync::Arc;

use axum::{
    body::{Body as HttpBody, HttpBody as _},
    extract::{FromRequest, Request},
    http::{HeaderMap, header::CONTENT_ENCODING},
};
use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::{client::Client, context::Context, error::Error};
use crate::memory::{Holder, Reserved};

/// How much of a body that is refused is still read, as a multiple of the limit: many clients that are still sending
/// when the connection closes do not read the response.
const DRAIN_FACTOR: usize = 8;

/// Longest body that is not reserved if it comes in one piece, in bytes: it is still in the buffer of its connection, whose
/// size has a limit (`[api.connections] buffer_bytes_max`), and is dropped when it has been decoded.
const BUFFERED_BYTES: usize = 64 << 10;

/// Extracts the whole body, whatever its content type.
pub(super) struct Body(pub Bytes);

impl FromRequest<Context> for Body {
    type Rejection = Error;

    async fn from_request(request: Request, context: &Context) -> Result<Self, Error> {
        Self::read(request, context.limits().body_bytes_max, context).await
    }
}

impl Body {
    /// The body of a request with another limit of size than that of the context.
    pub async fn read(request: Request, bytes_max: usize, context: &Context) -> Result<Self, Error> {
        if let Some(coding) = coding(request.headers()) {
            return Err(Error::BodyCoded { coding });
        }
        let Client(client) = Client::of(request.extensions());
        let room = || context.memory().requests_of(client);
        let limit = context.limits().body_timeout;
        match timeout(limit, read(request.into_body(), bytes_max, room)).await {
            Ok(whole) => whole.map(Self),
            Err(_) => Err(Error::BodySlow { limit }),
        }
    }
}

/// The content coding of a body that has one. No client needs one, and a body that grows when it is decoded would need limits
/// of its own.
fn coding(headers: &HeaderMap) -> Option<String> {
    let given = headers.get_all(CONTENT_ENCODING).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    given
        .flat_map(|list| list.split(',').map(|coding| coding.trim().to_owned()).collect::<Vec<_>>())
        .find(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"))
}

/// Reads the body. A body of one chunk, which is the usual case, is not copied.
async fn read(mut body: HttpBody, bytes_max: usize, room: impl Fn() -> Arc<Holder>) -> Result<Bytes, Error> {
    let declared = body.size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok());
    let Some(first) = next(&mut body).await? else { return Ok(Bytes::new()) };
    if first.len() <= BUFFERED_BYTES.min(bytes_max) && body.is_end_stream() {
        return Ok(first);
    }
    let mut bytes = 0_usize;
    let mut whole = Ok(Growing {
        bytes: Vec::new(),
        room: room().nothing(),
        bytes_max: declared.map_or(bytes_max, |declared| declared.min(bytes_max)),
    });
    let mut chunk = Some(first);
    while let Some(more) = chunk {
        bytes = bytes.saturating_add(more.len());
        if bytes > bytes_max {
            whole = Err(Error::BodyTooLarge { bytes_max });
        }
        if bytes > bytes_max.saturating_mul(DRAIN_FACTOR) {
            break;
        }
        // What is read of a refused body is dropped at once.
        if let Ok(growing) = &mut whole
            && !growing.push(&more)
        {
            whole = Err(Error::RequestMemory);
        }
        chunk = next(&mut body).await?;
    }
    whole.map(Bytes::from_owner)
}

/// The next chunk of data; trailers are skipped.
async fn next(body: &mut HttpBody) -> Result<Option<Bytes>, Error> {
    while let Some(frame) = body.frame().await.transpose().map_err(Error::BodyBroken)? {
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// A body while it grows. Its whole capacity is reserved.
struct Growing {
    bytes: Vec<u8>,
    room: Reserved,
    /// Where doubling ends: the length that the client has declared, or the limit.
    bytes_max: usize,
}

impl Growing {
    /// Adds a chunk. `false`: there is no room in memory.
    fn push(&mut self, chunk: &[u8]) -> bool {
        let needed = self.bytes.len() + chunk.len();
        let before = self.bytes.capacity();
        if needed > before {
            // The last step is exact, so that no more is held than was declared.
            let capacity = needed.saturating_mul(2).min(self.bytes_max).max(needed);
            // Both are there while one is copied to the other.
            if !self.room.try_grow(capacity) {
                return false;
            }
            let mut grown = Vec::with_capacity(capacity);
            grown.extend_from_slice(&self.bytes);
            self.bytes = grown;
            self.room.shrink_to(capacity);
        }
        self.bytes.extend_from_slice(chunk);
        true
    }
}

impl AsRef<[u8]> for Growing {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body as HttpBody;
    use futures_util::{StreamExt, stream};

    use super::*;
    use crate::memory::Share;

    fn in_chunks(chunks: usize, bytes: usize) -> HttpBody {
        let chunks = (0..chunks).map(move |_| Ok::<_, std::convert::Infallible>(Bytes::from(vec![b'x'; bytes])));
        HttpBody::from_stream(stream::iter(chunks))
    }

    #[tokio::test]
    async fn a_body_holds_what_it_has_reserved_until_its_last_byte_is_dropped() {
        let share = Share::new(10_000, usize::MAX);
        let holder = share.holder();
        let body = read(in_chunks(10, 300), 5_000, || holder.clone()).await.unwrap();
        assert_eq!(body.len(), 3_000);
        assert!((3_000..=6_000).contains(&share.used()), "{}", share.used());
        let part = body.slice(10..20);
        drop(body);
        assert!(share.used() >= 3_000);
        drop(part);
        assert_eq!(share.used(), 0);
    }

    #[tokio::test]
    async fn a_body_of_one_small_chunk_reserves_nothing() {
        let share = Share::new(10, usize::MAX);
        let holder = share.holder();
        assert_eq!(read(HttpBody::from("x".repeat(100)), 5_000, || holder.clone()).await.unwrap().len(), 100);
        assert!(matches!(
            read(HttpBody::from("x".repeat(100)), 99, || holder.clone()).await,
            Err(Error::BodyTooLarge { .. })
        ));
        assert!(read(HttpBody::empty(), 99, || holder.clone()).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_body_without_room_is_read_to_its_end_and_refused() {
        let share = Share::new(10_000, usize::MAX);
        let holder = share.holder();
        let mut held = share.holder().nothing();
        held.grow_over(9_500);
        assert!(matches!(read(in_chunks(10, 300), 5_000, || holder.clone()).await, Err(Error::RequestMemory)));
        assert_eq!(share.used(), 9_500);
        drop(held);
        assert!(read(in_chunks(10, 300), 5_000, || holder.clone()).await.is_ok());
    }

    #[tokio::test]
    async fn a_body_that_is_given_up_releases_what_it_holds() {
        let share = Share::new(10_000, usize::MAX);
        let holder = share.holder();
        let endless =
            stream::iter([Ok::<_, std::convert::Infallible>(Bytes::from(vec![b'x'; 3_000]))]).chain(stream::pending());
        let mut reading = Box::pin(read(HttpBody::from_stream(endless), 5_000, || holder.clone()));
        assert!(futures_util::poll!(&mut reading).is_pending());
        assert!(share.used() >= 3_000);
        drop(reading);
        assert_eq!(share.used(), 0);
    }
}
