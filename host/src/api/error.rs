//! Everything that can be wrong with a request, and the one place that chooses the response.
//!
//! Where DTM has a text for a mistake, it is sent exactly, misspelling included. Where DTM fails by accident (a runtime
//! error with status 500), the status is 400 and the message says what is wrong, where, and how to correct it.

use std::{error, time::Duration};

use axum::{
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tracing::error;

use super::{dtm::request, json};
use crate::{
    causes,
    engine::{self, PlanError, ShowError, SubmitError},
    plugin::{ComponentError, PublishError},
    saga::{Status, text},
};

/// Longest message, in bytes. Errors quote the request, and a quote can be as long as its body.
const MESSAGE_BYTES_MAX: usize = 1024;

/// When a client may try again while the host stops to be started again.
const RESTART: Duration = Duration::from_secs(1);

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Request(#[from] request::Error),
    /// The gRPC message of the method that was called.
    #[error("the message cannot be decoded")]
    Message(#[source] prost::DecodeError),
    /// A time or a number of a gRPC message.
    #[error("{field} is {given}: it must be 0 or more")]
    Negative { field: &'static str, given: i64 },
    #[error("the body has more than {bytes_max} bytes, the limit: send less, or raise the limit")]
    BodyTooLarge { bytes_max: usize },
    #[error("the body did not arrive within {} s: send it again, nothing was stored", limit.as_secs())]
    BodySlow { limit: Duration },
    /// The body has a content coding.
    #[error("the body has the content coding {coding:?}: send it without one, bodies must not be compressed")]
    BodyCoded { coding: String },
    /// The connection broke or its framing is wrong. Usually no client is left to read the response.
    #[error("the body broke off: send it again, nothing was stored")]
    BodyBroken(#[source] axum::Error),
    /// The share of requests in the budget of memory is used up.
    #[error(
        "the host has no memory left for large requests: try again in 1 s, nothing was stored; budget_bytes sets it"
    )]
    RequestMemory,
    /// The same, for a response.
    #[error("the host has no memory left for large answers: try again in 1 s; budget_bytes sets it")]
    AnswerMemory,
    /// `query` without `gid`.
    #[error("no gid specified")]
    NoGid,
    /// A query parameter.
    #[error("convert to int error: {given}")]
    NotInteger { given: String },
    /// A `position` of `all` that no page returned.
    #[error("position is {given:?}: send the next_position of the previous page, or none for the first page")]
    Position { given: String },
    /// No such saga, in DTM's words.
    #[error("no TransGlobal with gid: {gid} found")]
    Unknown { gid: String },
    /// No such saga, for Wasaga's own API.
    #[error("no saga has the gid {gid:?}")]
    NotFound { gid: String },
    #[error("there is no plugin {name:?}")]
    NoPlugin { name: String },
    #[error(transparent)]
    Plugin(PublishError),
    #[error(
        "uploading plugins is not allowed: upload = \"loopback\" under [plugins] allows it on the host's own machine, by \
         http://127.0.0.1 or http://localhost and without a proxy, if the host listens on such an address; upload = \"on\" \
         allows it to every client; a file in the plugin folder does the same"
    )]
    UploadForbidden,
    #[error("too many plugins are being uploaded: send it again later, nothing has changed")]
    UploadsBusy,
    /// The task that compiled the plugin panicked: a defect of the host.
    #[error("the host failed while it compiled the plugin: its log has more, `GET /api/v1/plugins` what is current")]
    UploadPanicked,
    #[error(transparent)]
    Submit(SubmitError),
    #[error(transparent)]
    Prepare(SubmitError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The client waited for the result and the saga has not succeeded.
    #[error("{message}")]
    Unsuccessful {
        /// In DTM's words.
        message: String,
        /// The status of a saga that may still succeed.
        unfinished: Option<&'static str>,
    },
    /// An endpoint of DTM that belongs to other transaction modes.
    #[error(
        "{endpoint} belongs to other transaction modes (msg, tcc, xa, workflow), but Wasaga runs sagas only: \
         send that to DTM, or write the transaction as a saga"
    )]
    OtherModes { endpoint: &'static str },
    /// DTM lets no client abort a saga.
    #[error("trans type: 'saga' current status '{}', cannot abort. FAILURE", .0.as_str())]
    Abort(Status),
    /// Only an unfinished saga can be stopped.
    #[error("global transaction force stop error. status: {}. error: FAILURE", .0.as_str())]
    ForceStop(Status),
    #[error(transparent)]
    Engine(#[from] engine::Error),
}

impl From<ShowError> for Error {
    fn from(error: ShowError) -> Self {
        match error {
            ShowError::Memory => Self::AnswerMemory,
            ShowError::Engine(error) => Self::Engine(error),
        }
    }
}

/// An error as clients see it, by its HTTP status, which other protocols map to their own codes.
pub struct Rendered {
    /// 409 is DTM's FAILURE; no other status says anything about the saga.
    pub status: StatusCode,
    /// Says what is wrong, where, and how to correct it.
    pub message: String,
    /// The status of the saga, where FAILURE alone would suggest that it is rolled back.
    unfinished: Option<&'static str>,
    retry_after: Option<Duration>,
}

impl Rendered {
    fn new(status: StatusCode, message: String) -> Self {
        Self { status, message, unfinished: None, retry_after: None }
    }

    fn failure(message: String) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    fn unavailable(error: &dyn error::Error, retry_after: Duration) -> Self {
        let retry_after = Some(retry_after);
        Self { retry_after, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message(error)) }
    }

    /// The message tells the client what it can do; the cause goes to the log.
    fn internal(error: &engine::Error) -> Self {
        error!(error = message(error), "request failed");
        let hint = "the host's log has the cause; whether it took effect is not known, sending it again is safe";
        if error.is_of_the_store() {
            // The host stops, and recovers when it is started again.
            let message = format!("{error}: {hint} when the host is back");
            return Self { retry_after: Some(RESTART), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) };
        }
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}: {hint}"))
    }

    /// A saga that was not accepted; `verb` is DTM's word for the operation.
    fn refusal(error: &SubmitError, verb: &str) -> Self {
        match error {
            SubmitError::Status(_) => Self::failure(format!("{error}, cannot {verb}. FAILURE")),
            SubmitError::Different => Self::failure(format!("{error}. FAILURE")),
            SubmitError::Target { .. } => Self::new(StatusCode::BAD_REQUEST, message(error)),
            SubmitError::Busy { retry_after }
            | SubmitError::Full { retry_after, .. }
            | SubmitError::Memory { retry_after } => Self::unavailable(error, *retry_after),
            // Its cause is in the log, and may name paths.
            SubmitError::StoreFailed(_) => {
                Self { retry_after: Some(RESTART), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()) }
            }
            SubmitError::Stopping => Self::unavailable(error, Duration::from_secs(1)),
            SubmitError::Engine(error) => Self::internal(error),
        }
    }

    fn no_plan(error: &PlanError) -> Self {
        let status = match error {
            PlanError::Submit(refused) => return Self::refusal(refused, "plan"),
            PlanError::Engine(error) => return Self::internal(error),
            PlanError::Busy { retry_after, .. } | PlanError::Changing { retry_after } => {
                return Self::unavailable(error, *retry_after);
            }
            PlanError::TooManySteps { .. } => StatusCode::BAD_REQUEST,
            PlanError::TooMuchData { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            PlanError::TooSlow { .. } => StatusCode::GATEWAY_TIMEOUT,
        };
        Self::new(status, message(error))
    }
}

fn refused_plugin(error: &PublishError) -> StatusCode {
    match error {
        PublishError::Component(ComponentError::Name(_)) => StatusCode::BAD_REQUEST,
        PublishError::Component(ComponentError::TooLarge { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
        PublishError::NotKept(_)
        | PublishError::NotPlaced(_)
        | PublishError::Component(ComponentError::Compiler(_)) => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

impl From<Error> for Rendered {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Submit(refused) => return Self::refusal(refused, "sumbmit"),
            Error::Prepare(refused) => return Self::refusal(refused, "prepare"),
            Error::Plan(error) => return Self::no_plan(error),
            Error::Engine(error) => return Self::internal(error),
            Error::Unsuccessful { unfinished, .. } => {
                return Self { unfinished: *unfinished, ..Self::failure(error.to_string()) };
            }
            Error::Abort(_) | Error::ForceStop(_) => return Self::failure(error.to_string()),
            Error::Request(_)
            | Error::Message(_)
            | Error::Negative { .. }
            | Error::BodyBroken(_)
            | Error::Position { .. } => StatusCode::BAD_REQUEST,
            Error::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Error::BodySlow { .. } => StatusCode::REQUEST_TIMEOUT,
            Error::BodyCoded { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Error::NotFound { .. } | Error::NoPlugin { .. } => StatusCode::NOT_FOUND,
            Error::Plugin(fault) => refused_plugin(fault),
            Error::UploadForbidden => StatusCode::FORBIDDEN,
            Error::UploadsBusy | Error::RequestMemory | Error::AnswerMemory => {
                return Self::unavailable(&error, Duration::from_secs(1));
            }
            Error::OtherModes { .. } => StatusCode::NOT_IMPLEMENTED,
            Error::NoGid | Error::NotInteger { .. } | Error::Unknown { .. } | Error::UploadPanicked => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Self::new(status, message(&error))
    }
}

/// The body of a response to a request that failed, for DTM's clients and those of `/api/v1`.
#[derive(Serialize)]
struct Body<'a> {
    /// DTM's clients take this for the result of their transaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    dtm_result: Option<&'static str>,
    message: &'a str,
    /// Not part of DTM's API.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let Rendered { status, message, unfinished, retry_after } = self.into();
        let dtm_result = (status == StatusCode::CONFLICT).then_some("FAILURE");
        let body = json::encode(&Body { dtm_result, message: &message, status: unfinished });
        let mut response = json::response(status, body);
        // Whole seconds, and never 0: clients would retry without a pause.
        let seconds = retry_after.map(|wait| wait.as_millis().div_ceil(1000).max(1).to_string());
        if let Some(Ok(seconds)) = seconds.map(HeaderValue::try_from) {
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        response
    }
}

/// The error and its causes, cut to [`MESSAGE_BYTES_MAX`].
fn message(error: &dyn error::Error) -> String {
    text::cut_owned(causes::in_one_line(error), MESSAGE_BYTES_MAX)
}
