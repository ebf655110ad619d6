//! The body of a request, as bytes, within limits of size and time.

use std::time::Duration;

use axum::{
    body::BodyDataStream,
    extract::{FromRequest, Request},
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::time::timeout;

use super::{context::Context, error::Error};

/// How much of a body that is too large is still read, as a multiple of the limit: many clients that are still sending
/// when the connection closes do not read the response.
const DRAIN_FACTOR: usize = 8;

/// Extracts the whole body, whatever its content type.
pub(super) struct Body(pub Bytes);

impl FromRequest<Context> for Body {
    type Rejection = Error;

    async fn from_request(request: Request, context: &Context) -> Result<Self, Error> {
        let limits = context.limits();
        Self::read(request, limits.body_bytes_max, limits.body_timeout).await
    }
}

impl Body {
    /// The body of a request with other limits than those of the context.
    pub async fn read(request: Request, bytes_max: usize, limit: Duration) -> Result<Self, Error> {
        let chunks = request.into_body().into_data_stream();
        match timeout(limit, read(chunks, bytes_max)).await {
            Ok(whole) => whole.map(Self),
            Err(_) => Err(Error::BodySlow { limit }),
        }
    }
}

/// Reads the body. A body of one chunk, which is the usual case, is not copied.
async fn read(mut chunks: BodyDataStream, bytes_max: usize) -> Result<Bytes, Error> {
    let mut next = async || chunks.next().await.transpose().map_err(Error::BodyBroken);
    let Some(first) = next().await? else { return Ok(Bytes::new()) };
    let mut bytes = first.len();
    let mut joined: Option<BytesMut> = None;
    while let Some(chunk) = next().await? {
        bytes = bytes.saturating_add(chunk.len());
        if bytes <= bytes_max {
            joined.get_or_insert_with(|| BytesMut::from(&*first)).extend_from_slice(&chunk);
        } else if bytes > bytes_max.saturating_mul(DRAIN_FACTOR) {
            break;
        }
    }
    if bytes > bytes_max {
        return Err(Error::BodyTooLarge { bytes_max });
    }
    Ok(joined.map_or(first, BytesMut::freeze))
}
