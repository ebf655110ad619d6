//! Branches that are gRPC services, called as DTM calls them: over HTTP/2 without TLS.
//!
//! Calls follow DTM's `getURLResult` (`dtmsvr/trans_status.go`) and `TransInfo2Ctx` (`client/dtmgrpc/dtmgimp/types.go`),
//! outcomes its `GrpcError2DtmError` (`client/dtmgrpc/type.go`). The payload is the encoded message of the request, so the
//! definition of the service is not needed. A message is read to its end, gzip and deflate decoded, before its status counts.

use std::{error, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use bytes::{Buf, BufMut, Bytes};
use futures_util::future::BoxFuture;
use http::{
    HeaderMap, HeaderName, HeaderValue, Uri,
    uri::{Authority, PathAndQuery},
};
use hyper_util::client::legacy;
use tonic::{
    Code, Extensions, Request, Status,
    body::Body,
    client::Grpc,
    codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
};

use super::{
    Branch, Call, Containment, Destination, EgressRequest, Host, Outcome, answer,
    http::{self as http_branch, Settings, URL_BYTES_MAX, within_timeout},
    transport,
};
use crate::{
    causes,
    egress::{
        connector::{Connector, refusal},
        rules::{self, Refused, Rules},
    },
    hidden,
    saga::Gid,
};

/// The host's gRPC client: one connection for each service, which all its calls share. Clones share them.
#[derive(Clone)]
pub struct Client {
    http: legacy::Client<Connector, Body>,
    destinations: Arc<Rules>,
    is_on: bool,
    response_bytes_max: usize,
}

impl Client {
    /// A client with the limits of HTTP branches, as far as they apply. Opens no connection.
    pub fn new(settings: &Settings) -> Self {
        let destinations = Arc::new(settings.destinations());
        let connector = Connector::new(destinations.clone(), settings.connect_timeout);
        let http = transport::client_builder(settings.pool_idle_timeout).http2_only(true).build(connector);
        let Settings { response_bytes_max, grpc_branches: is_on, .. } = *settings;
        Self { http, destinations, is_on, response_bytes_max }
    }

    /// The branch at an address, `host:port/package.Service/Method`, which is checked but not yet connected to.
    pub fn branch(&self, address: &str) -> Result<GrpcBranch, Error> {
        if address.len() > URL_BYTES_MAX {
            return Err(Error::TooLong { bytes: address.len() });
        }
        let malformed = || Error::Malformed { address: hidden::address(address).into_owned() };
        let (server, method) = address.split_once('/').ok_or_else(malformed)?;
        let (service, name) = method.split_once('/').ok_or_else(malformed)?;
        // Names of hosts ignore case: one connection, and one destination, for all spellings.
        let server: Authority = server.to_ascii_lowercase().parse().map_err(|_| malformed())?;
        // The parser also takes a user, and brackets within a name, which it cuts off.
        let port = server.port_u16().filter(|port| server.as_str() == format!("{}:{port}", server.host()));
        let Some(port) = port else { return Err(malformed()) };
        // Only addresses have brackets.
        if server.host().starts_with('[') && rules::literal(server.host()).is_none() {
            return Err(malformed());
        }
        if service.is_empty() || name.is_empty() || name.contains(['/', '?', '#']) {
            return Err(malformed());
        }
        if !self.is_on {
            return Err(Error::Off);
        }
        self.destinations.check(server.host(), port)?;
        let path: PathAndQuery = format!("/{method}").parse().map_err(|_| malformed())?;
        let origin = Uri::builder().scheme("http").authority(server).path_and_query("/").build();
        Ok(GrpcBranch { client: self.clone(), origin: origin.map_err(|_| malformed())?, path })
    }
}

/// Whether an address of a saga with this `protocol` is that of a gRPC method. DTM decides in the same way.
pub fn is_grpc_address(protocol: &str, address: &str) -> bool {
    protocol == "grpc" && !address.starts_with("http://") && !address.starts_with("https://")
}

/// The metadata that all calls of a saga have in common: its `branch_headers`, and DTM's own.
///
/// Names that the protocol reserves (`grpc-*`) are left out, as Go's gRPC client does. Values of `-bin` names are sent in
/// base64, as the protocol requires.
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
    // Empty as under DTM, for services that read it.
    metadata.insert(HeaderName::from_static("dtm-dtm"), HeaderValue::from_static(""));
    Ok(metadata)
}

/// One method of a gRPC service.
#[derive(Clone)]
pub struct GrpcBranch {
    client: Client,
    origin: Uri,
    path: PathAndQuery,
}

impl Branch for GrpcBranch {
    fn call<'a>(&'a self, call: &'a Call, _: &'a Host) -> BoxFuture<'a, Outcome> {
        Box::pin(within_timeout(call, self.exchange(call)))
    }

    fn containment(&self) -> Containment {
        Containment::External
    }

    fn destination(&self) -> Option<Destination> {
        let authority = self.origin.authority()?;
        Some(http_branch::destination(authority.host(), authority.port_u16()))
    }

    fn egress_request(&self, _call: &Call) -> Option<EgressRequest> {
        let server = self.origin.authority().map_or("", Authority::as_str);
        Some(EgressRequest { what: format!("gRPC {server}{}", self.path) })
    }
}

impl GrpcBranch {
    /// Sends the message and reads the status. An error means that the call cannot be sent.
    async fn exchange(&self, call: &Call) -> Result<Outcome, String> {
        let options = call.saga.options();
        let mut headers = metadata(call.saga.gid(), &options.branch_headers).map_err(|error| error.to_string())?;
        if let Ok(id) = HeaderValue::try_from(call.branch_id().to_string()) {
            headers.insert(HeaderName::from_static("dtm-branch_id"), id);
        }
        headers.insert(HeaderName::from_static("dtm-op"), HeaderValue::from_static(call.branch_op.op.as_str()));
        let mut request = Request::from_parts(MetadataMap::from_headers(headers), Extensions::new(), call.payload());
        request.set_timeout(call.timeout);
        let http = self.client.http.clone();
        // The limit counts after decoding too.
        let mut grpc = Grpc::with_origin(http, self.origin.clone())
            .max_decoding_message_size(self.client.response_bytes_max)
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Deflate);
        Ok(match grpc.unary(request, self.path.clone(), Raw).await {
            Ok(response) => match Status::from_header_map(response.metadata().as_ref()) {
                Some(status) if status.code() == Code::Ok => Outcome::succeeded(None),
                // A status among the headers was followed by another one.
                Some(status) => outcome(&status),
                None => Outcome::unknown("the answer has no grpc-status: it is not known how the call ended"),
            },
            Err(status) => outcome(&status),
        })
    }
}

/// The outcome of a status that is not OK, by DTM's rules. `Aborted` and `FailedPrecondition` have a meaning. With any
/// other code, errors of the transport included, the outcome is unknown.
fn outcome(status: &Status) -> Outcome {
    let message = status.message();
    match status.code() {
        // The form of DTM before 1.10, which later versions still accept.
        Code::Aborted if message == "ONGOING" => Outcome::ongoing(None),
        Code::FailedPrecondition => Outcome::ongoing(None),
        Code::Aborted => {
            let reason = message.strip_suffix(" FAILURE").unwrap_or(message);
            Outcome::rejected(answer::excerpt(reason))
        }
        code => {
            // A status with a source was made by the client: the service was not reached, or the connection broke.
            let error = match error::Error::source(status) {
                Some(cause) => refusal(cause).map_or_else(|| causes::in_one_line(cause), ToString::to_string),
                None => format!("gRPC {code:?}: {}", answer::excerpt(message)),
            };
            Outcome::unknown(answer::cut(error))
        }
    }
}

/// A codec that leaves messages encoded, in both directions.
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

/// Why a gRPC branch cannot be called.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{address:?} is not the address of a gRPC method: write it as host:port/package.Service/Method")]
    Malformed { address: String },
    #[error("the address has {bytes} bytes, the limit is {URL_BYTES_MAX}")]
    TooLong { bytes: usize },
    #[error("branches over gRPC are turned off: use plugins, or set grpc_branches = true under [http] in the settings")]
    Off,
    #[error(transparent)]
    Destination(#[from] Refused),
    #[error("the gid holds a control character, which gRPC cannot send: choose another")]
    Gid,
    #[error(transparent)]
    Headers(http_branch::Error),
}
