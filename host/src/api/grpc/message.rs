//! The messages of `dtmgimp.Dtm`, with the numbers and types that DTM's clients use on the wire.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    api::{
        dtm::request::{self, Payload},
        error::Error,
    },
    saga::{Definition, Options, Timestamp},
};

/// The request of `Submit`, `Prepare` and `Abort`. Fields 8 (`ReqExtra`) and 9 (`RollbackReason`) belong to other modes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DtmRequest {
    #[prost(string, tag = "1")]
    pub gid: String,
    #[prost(string, tag = "2")]
    pub trans_type: String,
    #[prost(message, optional, tag = "3")]
    pub options: Option<TransOptions>,
    #[prost(string, tag = "4")]
    pub custom_data: String,
    /// One for each step; any bytes.
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub payloads: Vec<Bytes>,
    #[prost(string, tag = "6")]
    pub query_prepared: String,
    /// JSON, as in the body of an HTTP request.
    #[prost(string, tag = "7")]
    pub steps: String,
}

/// The options of a transaction. Times are in seconds; 0 means the default.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TransOptions {
    #[prost(bool, tag = "1")]
    pub wait_result: bool,
    #[prost(int64, tag = "2")]
    pub timeout_to_fail: i64,
    #[prost(int64, tag = "3")]
    pub retry_interval: i64,
    #[prost(btree_map = "string, string", tag = "5")]
    pub branch_headers: BTreeMap<String, String>,
    #[prost(int64, tag = "6")]
    pub request_timeout: i64,
    #[prost(int64, tag = "7")]
    pub retry_limit: i64,
}

/// The response of `NewGid`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GidReply {
    #[prost(string, tag = "1")]
    pub gid: String,
}

impl DtmRequest {
    /// The same definition that the HTTP API makes of this request. `now` becomes the saga's time of creation.
    pub fn into_definition(self, now: Timestamp) -> Result<Definition, Error> {
        let options = Options {
            protocol: "grpc".to_owned(),
            custom_data: self.custom_data,
            query_prepared: self.query_prepared,
            ..self.options.unwrap_or_default().into_options()?
        };
        let steps = request::decode_steps(&self.steps)?;
        // Copied, since each shares the memory of the whole message, which would stay as long as the saga is live.
        let payloads = self.payloads.iter().map(|payload| Payload(Bytes::copy_from_slice(payload))).collect();
        Ok(request::define(&self.gid, &self.trans_type, steps, payloads, options, now)?)
    }
}

impl TransOptions {
    fn into_options(self) -> Result<Options, Error> {
        let whole = |field, given| u64::try_from(given).map_err(|_| Error::Negative { field, given });
        Ok(Options {
            wait_result: self.wait_result,
            timeout_to_fail_s: whole("TimeoutToFail", self.timeout_to_fail)?,
            retry_interval_s: whole("RetryInterval", self.retry_interval)?,
            request_timeout_s: whole("RequestTimeout", self.request_timeout)?,
            retry_limit: whole("RetryLimit", self.retry_limit)?,
            branch_headers: self.branch_headers.into_iter().collect(),
            ..Options::default()
        })
    }
}
