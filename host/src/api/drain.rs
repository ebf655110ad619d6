//! Reading the rest of a request that is refused.

use std::time::Duration;

use bytes::Buf;
use http_body::Body;
use http_body_util::BodyExt as _;
use tokio::time::timeout;

/// Bytes of the body that are read before the answer, and how long. A client that still sends when the connection closes
/// may not read the answer.
const BYTES_MAX: usize = 32 << 20;
const TIME_MAX: Duration = Duration::from_secs(5);

/// Reads a body to its end and forgets it, within limits.
pub(super) async fn drain(body: impl Body + Unpin) {
    // An error says that it takes too long: the answer follows all the same.
    let _ = timeout(TIME_MAX, read(body)).await;
}

async fn read(mut body: impl Body + Unpin) {
    let mut bytes = 0_usize;
    while let Some(Ok(frame)) = body.frame().await
        && bytes <= BYTES_MAX
    {
        bytes = bytes.saturating_add(frame.data_ref().map_or(0, Buf::remaining));
    }
}
