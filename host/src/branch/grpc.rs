//! Branches that are gRPC services, called and understood as DTM calls and understands them.
//!
//! The call follows DTM's `getURLResult` (`dtmsvr/trans_status.go`) and `TransInfo2Ctx`
//! (`client/dtmgrpc/dtmgimp/types.go`), the reading of the answer its `GrpcError2DtmError` (`client/dtmgrpc/type.go`).
//! The payload is the request's message as it is on the wire, so no service's definition is needed here. HTTP/2 without
//! TLS, as DTM's own.

use std::{error, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use bytes::{Buf, BufMut, Bytes};
use futures_util::future::BoxFuture;
use http::{
    HeaderMap, HeaderName, HeaderValue, Uri,
    uri::{Authority, PathAndQuery},
};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tonic::{
    Code, Extensions, Request, Status,
    body::Body,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
};

use super::{
    Branch, Call, Containment, EgressRequest, Host, Outcome,
    http::{self as http_branch, Settings, URL_BYTES_MAX},
};
use crate::saga::Gid;

/// After how much silence a connection in use is asked for a sign of life. All calls of a service share one: without
/// this, a machine that vanished would swallow every further call until TCP gives up, a quarter of an hour later.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// How long that sign of life may take.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// The host's one gRPC client: a connection for each service, which all calls of it share. Clones share them too.
#[derive(Clone, Debug)]
pub struct Client {
    http: legacy::Client<HttpConnector, Body>,
    response_bytes_max: usize,
}

impl Client {
    /// With the limits of HTTP branches, as far as they apply. Opens no connection.
    pub fn new(settings: &Settings) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(settings.connect_timeout));
        connector.set_nodelay(true);
        let http = legacy::Client::builder(TokioExecutor::new())
            .http2_only(true)
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(settings.pool_idle_timeout)
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .build(connector);
        Self { http, response_bytes_max: settings.response_bytes_max }
    }

    /// Checks an address, `host:port/package.Service/Method`, and makes it callable. Connects nothing yet.
    pub fn branch(&self, address: &str) -> Result<GrpcBranch, Error> {
        if address.len() > URL_BYTES_MAX {
            return Err(Error::TooLong { bytes: address.len() });
        }
        let malformed = || Error::Malformed { address: address.to_owned() };
        let (server, method) = address.split_once('/').ok_or_else(malformed)?;
        let (service, name) = method.split_once('/').ok_or_else(malformed)?;
        let server: Authority = server.parse().map_err(|_| malformed())?;
        if server.port().is_none() || server.as_str().contains('@') {
            return Err(malformed());
        }
        if service.is_empty() || name.is_empty() || name.contains(['/', '?', '#']) {
            return Err(malformed());
        }
        let path: PathAndQuery = format!("/{method}").parse().map_err(|_| malformed())?;
        let origin = Uri::builder().scheme("http").authority(server).path_and_query("/").build();
        Ok(GrpcBranch { client: self.clone(), origin: origin.map_err(|_| malformed())?, path })
    }
}

/// Whether an address is one of gRPC in a saga with this `protocol`: DTM goes by both.
pub fn is_meant(protocol: &str, address: &str) -> bool {
    protocol == "grpc" && !address.starts_with("http://") && !address.starts_with("https://")
}

/// What is sent besides the message: the saga's `branch_headers`, and DTM's names for the call.
///
/// Left out is what Go's gRPC client leaves out: names of the protocol itself. Values of `-bin` names are sent in
/// base64, as the protocol wants it.
pub fn metadata(gid: &Gid, given: &[(String, String)]) -> Result<HeaderMap, Error> {
    let mut metadata = HeaderMap::new();
    for (name, value) in &http_branch::headers(given).map_err(Error::Headers)? {
        if name.as_str().starts_with("grpc-") {
            continue;
        }
        let value = if name.as_str().ends_with("-bin") {
            HeaderValue::from_str(&BASE64_STANDARD_NO_PAD.encode(value)).unwrap_or_else(|_| value.clone())
        } else {
            value.clone()
        };
        metadata.append(name.clone(), value);
    }
    let gid = HeaderValue::from_bytes(gid.as_str().as_bytes()).map_err(|_| Error::Gid)?;
    metadata.insert(HeaderName::from_static("dtm-gid"), gid);
    metadata.insert(HeaderName::from_static("dtm-trans_type"), HeaderValue::from_static("saga"));
    // Participants that look for it find, as under DTM, nothing in it.
    metadata.insert(HeaderName::from_static("dtm-dtm"), HeaderValue::from_static(""));
    Ok(metadata)
}

/// One method of a gRPC service.
#[derive(Clone, Debug)]
pub struct GrpcBranch {
    client: Client,
    origin: Uri,
    path: PathAndQuery,
}

impl Branch for GrpcBranch {
    fn call<'a>(&'a self, call: &'a Call, _: &'a Host) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            match tokio::time::timeout(call.timeout, self.exchange(call)).await {
                Ok(Ok(())) => Outcome::succeeded(None),
                Ok(Err(Failure::Unsendable(error))) => Outcome::unknown(error.to_string()),
                Ok(Err(Failure::Status(status))) => understand(&status),
                Err(_) => Outcome::unknown(format!("no complete answer within {:?}", call.timeout)),
            }
        })
    }

    fn containment(&self) -> Containment {
        Containment::External
    }

    fn egress_request(&self, _call: &Call) -> Option<EgressRequest> {
        let server = self.origin.authority().map_or("", Authority::as_str);
        Some(EgressRequest { what: format!("gRPC {server}{}", self.path) })
    }
}

/// Why a call gave no answer that means success.
enum Failure {
    Unsendable(Error),
    Status(Status),
}

impl GrpcBranch {
    async fn exchange(&self, call: &Call) -> Result<(), Failure> {
        let mut headers =
            metadata(call.saga.gid(), &call.saga.options().branch_headers).map_err(Failure::Unsendable)?;
        if let Ok(id) = HeaderValue::try_from(call.branch_id().to_string()) {
            headers.insert(HeaderName::from_static("dtm-branch_id"), id);
        }
        headers.insert(HeaderName::from_static("dtm-op"), HeaderValue::from_static(call.branch_op.op.as_str()));
        let mut request = Request::from_parts(MetadataMap::from_headers(headers), Extensions::new(), call.payload());
        request.set_timeout(call.timeout);
        let http = self.client.http.clone();
        let mut grpc =
            Grpc::with_origin(http, self.origin.clone()).max_decoding_message_size(self.client.response_bytes_max);
        grpc.unary(request, self.path.clone(), Raw).await.map(drop).map_err(Failure::Status)
    }
}

/// DTM's rules: two codes are verdicts, all others, those of the transport among them, say nothing.
fn understand(status: &Status) -> Outcome {
    let words = status.message();
    match status.code() {
        // Of DTM before 1.10, and still understood by it.
        Code::Aborted if words == "ONGOING" => Outcome::ongoing(None),
        Code::FailedPrecondition => Outcome::ongoing(None),
        Code::Aborted => {
            let reason = words.strip_suffix(" FAILURE").unwrap_or(words);
            Outcome::rejected(http_branch::excerpt(reason).into_owned())
        }
        code => {
            // What has a source comes from this side: the service was not reached, or broke off.
            let error = match error::Error::source(status) {
                Some(cause) => http_branch::in_one_line(cause),
                None => format!("gRPC {code:?}: {}", http_branch::excerpt(words)),
            };
            Outcome::unknown(error)
        }
    }
}

/// Messages as they are on the wire, in both directions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Why a gRPC branch cannot be called as asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not `host:port/package.Service/Method`.
    #[error("{address:?} is no address of a gRPC method: write it as host:port/package.Service/Method")]
    Malformed {
        /// As given.
        address: String,
    },
    /// Longer than any method's.
    #[error("the address has {bytes} bytes, the limit is {URL_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Metadata can hold no control characters.
    #[error("the gid holds a control character, which gRPC cannot send: choose another")]
    Gid,
    /// `branch_headers` that cannot be sent.
    #[error(transparent)]
    Headers(http_branch::Error),
}
