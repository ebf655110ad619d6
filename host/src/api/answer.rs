//! Large answers: their memory is reserved until their last byte has been sent.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::error::Error;
use crate::memory::Reserved;

/// An encoded answer with the reservation of its bytes, grown or shrunk to them.
pub fn hold(bytes: Vec<u8>, mut room: Reserved) -> Result<Bytes, Error> {
    let held = bytes.capacity();
    if !room.try_grow(held.saturating_sub(room.bytes())) {
        return Err(Error::AnswerMemory);
    }
    Ok(held_by(bytes, room))
}

/// As [`hold`], with a reservation that is large enough.
pub fn held_by(bytes: Vec<u8>, mut room: Reserved) -> Bytes {
    room.shrink_to(bytes.capacity());
    Bytes::from_owner(Held { bytes, _room: room })
}

struct Held {
    bytes: Vec<u8>,
    _room: Reserved,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A body that is sent piece by piece. Its length is known, and each piece is released when it has been sent.
pub struct Pieces(VecDeque<Bytes>);

impl Pieces {
    /// The body of these pieces.
    pub fn body(pieces: VecDeque<Bytes>) -> Body {
        Body::new(Self(pieces))
    }
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|piece| piece.len() as u64).sum())
    }
}
