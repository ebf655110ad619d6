//! A host process, a participant, and a client of DTM's gRPC service.

use std::collections::HashMap;

use bytes::Bytes;
use http::{Uri, uri::PathAndQuery};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use prost::Message;
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::{Request, Status, body::Body, client::Grpc};
use wasaga::branch::grpc::Raw;
use wasaga_testkit::process::{self, poll};

use crate::participant::Participant;

/// Retries come soon, so that tests need not wait for them.
const SETTINGS: &str = "[saga.retry]\nretry_interval = \"20ms\"\nongoing_min = \"20ms\"\n";

/// The steps of most of DTM's tests.
pub const OUT_IN: [(&str, &str); 2] = [("TransOut", "TransOutRevert"), ("TransIn", "TransInRevert")];

/// No text, whatever the encoding.
pub const PAYLOAD: &[u8] = b"\x08\x1e\xff\x00\xfe";

/// What clients send, with DTM's numbers and types.
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
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub payloads: Vec<Vec<u8>>,
    #[prost(string, tag = "6")]
    pub query_prepared: String,
    #[prost(string, tag = "7")]
    pub steps: String,
    #[prost(map = "string, string", tag = "8")]
    pub req_extra: HashMap<String, String>,
    #[prost(string, tag = "9")]
    pub rollback_reason: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct TransOptions {
    #[prost(bool, tag = "1")]
    pub wait_result: bool,
    #[prost(int64, tag = "2")]
    pub timeout_to_fail: i64,
    #[prost(int64, tag = "3")]
    pub retry_interval: i64,
    #[prost(map = "string, string", tag = "5")]
    pub branch_headers: HashMap<String, String>,
    #[prost(int64, tag = "6")]
    pub request_timeout: i64,
    #[prost(int64, tag = "7")]
    pub retry_limit: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct GidReply {
    #[prost(string, tag = "1")]
    pub gid: String,
}

/// Options by which the client waits for the result.
pub fn waiting() -> TransOptions {
    TransOptions { wait_result: true, ..TransOptions::default() }
}

pub struct World {
    pub host: process::Host,
    pub participant: Participant,
    client: legacy::Client<HttpConnector, Body>,
    origin: Uri,
    _dir: TempDir,
}

impl World {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("wasaga.toml");
        std::fs::write(&config, SETTINGS).unwrap();
        let host = process::Host::start_with(&dir.path().join("data"), &["--config", config.to_str().unwrap()]);
        let line = host.wait_for_log(&["gRPC on"]).await;
        let (_, address) = line.split_once("gRPC on ").unwrap();
        let origin = format!("http://{}", address.trim()).parse().unwrap();
        let client = legacy::Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        Self { host, participant: Participant::start().await, client, origin, _dir: dir }
    }

    /// Calls a method of the service with these bytes.
    pub async fn call_raw(&self, method: &str, message: impl Into<Bytes>) -> Result<Bytes, Status> {
        let path: PathAndQuery = format!("/dtmgimp.Dtm/{method}").parse().unwrap();
        let mut grpc = Grpc::with_origin(self.client.clone(), self.origin.clone());
        Ok(grpc.unary(Request::new(message.into()), path, Raw).await?.into_inner())
    }

    /// Calls a method that answers nothing.
    pub async fn call(&self, method: &str, request: &DtmRequest) -> Result<(), Status> {
        assert!(self.call_raw(method, request.encode_to_vec()).await?.is_empty());
        Ok(())
    }

    pub async fn submit(&self, request: &DtmRequest) -> Result<(), Status> {
        self.call("Submit", request).await
    }

    pub async fn new_gid(&self) -> String {
        GidReply::decode(self.call_raw("NewGid", Bytes::new()).await.unwrap()).unwrap().gid
    }

    /// A saga of these steps, each with a payload that is no text.
    pub fn saga(&self, gid: &str, steps: &[(&str, &str)]) -> DtmRequest {
        let urls = |(action, compensate): &(&str, &str)| json!({ "action": self.participant.url(action), "compensate": self.participant.url(compensate) });
        DtmRequest {
            gid: gid.to_owned(),
            trans_type: "saga".to_owned(),
            payloads: vec![PAYLOAD.to_owned(); steps.len()],
            steps: Value::from(steps.iter().map(urls).collect::<Vec<_>>()).to_string(),
            ..DtmRequest::default()
        }
    }

    /// The saga of most of DTM's tests.
    pub fn transfer(&self, gid: &str) -> DtmRequest {
        self.saga(gid, &OUT_IN)
    }

    /// Status and rows must be these, sooner or later.
    pub async fn wait_for(&self, gid: &str, status: &str, rows: &str) {
        let wanted = (status.to_owned(), rows.to_owned());
        let found = || async { (self.statuses(gid).await == wanted).then_some(()) };
        poll(found, || format!("{gid} does not become {wanted:?}:\n{}", self.host.log().join("\n"))).await;
    }

    /// Status and rows must be these now.
    pub async fn assert_saga(&self, gid: &str, status: &str, rows: &str) {
        assert_eq!(self.statuses(gid).await, (status.to_owned(), rows.to_owned()));
    }

    async fn statuses(&self, gid: &str) -> (String, String) {
        let view = self.host.query(gid).await;
        (
            view["transaction"]["status"].as_str().unwrap_or("unknown").to_owned(),
            process::branch_statuses(&view).to_uppercase(),
        )
    }

    pub async fn rollback_reason(&self, gid: &str) -> String {
        let view = self.host.query(gid).await;
        view["transaction"]["rollback_reason"].as_str().unwrap_or_default().to_owned()
    }
}
