//! The client that sent a request, as far as it is known.

use std::{convert::Infallible, net::IpAddr};

use axum::extract::FromRequestParts;
use http::{Extensions, request::Parts};

use super::serve::Peer;

/// The address of the client; `None` for a request that came over no connection of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Client(pub Option<IpAddr>);

impl Client {
    /// The client of the request that has these extensions.
    pub fn of(extensions: &Extensions) -> Self {
        Self(extensions.get().map(|Peer(address)| *address))
    }
}

impl<S: Sync> FromRequestParts<S> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.extensions))
    }
}
