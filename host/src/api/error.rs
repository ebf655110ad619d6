//! Everything that can be wrong with a request, and the one place that says how it is answered.
//!
//! Where DTM has words of its own for a mistake, they are given exactly, misspelling included. Where it only happens to
//! fail (a runtime error with status 500), the answer is 400 and says what is wrong, where, and what would do.

use std::{error, iter, time::Duration};

use axum::{
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use tracing::error;

use super::dtm::{request, response};
use crate::{
    engine::{self, PlanError, SubmitError},
    plugin::{ComponentError, PublishError},
    saga::Status,
};

/// Longest message, in bytes. Errors quote the client, and a quote can be as long as a body.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The body does not describe what it should.
    #[error(transparent)]
    Request(#[from] request::Error),
    /// No message of the method that was called.
    #[error("the message cannot be decoded")]
    Message(#[source] prost::DecodeError),
    /// A time or a number of a gRPC request.
    #[error("{field} is {given}: it must be 0 or more")]
    Negative {
        /// Its name in the message.
        field: &'static str,
        /// What was given.
        given: i64,
    },
    /// A limit.
    #[error("the body has more than {bytes_max} bytes, the limit: send less, or raise the limit")]
    BodyTooLarge {
        /// The limit.
        bytes_max: usize,
    },
    /// A limit.
    #[error("the body did not arrive within {} s: send it again, nothing was stored", limit.as_secs())]
    BodySlow {
        /// The limit.
        limit: Duration,
    },
    /// The connection broke, or its framing is wrong. Usually nobody is left to read the answer.
    #[error("the body broke off: send it again, nothing was stored")]
    BodyBroken(#[source] axum::Error),
    /// `query` without `gid`.
    #[error("no gid specified")]
    NoGid,
    /// A parameter that should be a number.
    #[error("convert to int error: {given}")]
    NotInteger {
        /// What was given.
        given: String,
    },
    /// A position that no page ended with.
    #[error("position is {given:?}: give the next_position of the page before, or nothing to begin anew")]
    Position {
        /// What was given.
        given: String,
    },
    /// No such saga, for DTM's clients.
    #[error("no TransGlobal with gid: {gid} found")]
    Unknown {
        /// What was asked for.
        gid: String,
    },
    /// No such saga, for clients of our own API.
    #[error("no saga has the gid {gid:?}")]
    NotFound {
        /// What was asked for.
        gid: String,
    },
    /// No such plugin.
    #[error("there is no plugin {name:?}")]
    NoPlugin {
        /// What was asked for.
        name: String,
    },
    /// It cannot become a version of a plugin.
    #[error(transparent)]
    Plugin(PublishError),
    /// A setting.
    #[error(
        "plugins cannot be replaced this way here: upload = \"loopback\" under [plugins] allows it on the machine itself, by \
         http://127.0.0.1 or http://localhost and without a proxy, if the host listens on such an address; upload = \"on\" \
         to everybody who reaches this host; a file in its plugin folder does the same"
    )]
    UploadForbidden,
    /// A limit.
    #[error("too many plugins are being uploaded: send it again later, nothing has changed")]
    UploadsBusy,
    /// A defect of the host.
    #[error("the host failed while it compiled the plugin: its log has more, `GET /api/v1/plugins` what is current")]
    UploadPanicked,
    /// Not submitted.
    #[error(transparent)]
    Submit(SubmitError),
    /// Not prepared.
    #[error(transparent)]
    Prepare(SubmitError),
    /// Not planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A client that waits for the result learns that the saga has not succeeded: rolled back, or unfinished.
    #[error("{message}")]
    Unsuccessful {
        /// In DTM's words.
        message: String,
        /// Where it stands, if it may still succeed.
        stands: Option<&'static str>,
    },
    /// An endpoint of DTM that a saga has no use for.
    #[error(
        "{endpoint} belongs to other transaction modes (msg, tcc, xa, workflow), but Wasaga runs sagas only: \
         send that to DTM, or write the transaction as a saga"
    )]
    OtherModes {
        /// Its name.
        endpoint: &'static str,
    },
    /// Sagas cannot be aborted.
    #[error("trans type: 'saga' current status '{}', cannot abort. FAILURE", .0.as_str())]
    Abort(Status),
    /// Only an unfinished saga can be stopped.
    #[error("global transaction force stop error. status: {}. error: FAILURE", .0.as_str())]
    ForceStop(Status),
    /// Not the client's mistake.
    #[error(transparent)]
    Engine(#[from] engine::Error),
}

/// An error as it is answered, whatever the protocol: over HTTP with this status and these words.
pub struct Answer {
    /// 409 is DTM's FAILURE, anything else no verdict.
    pub status: StatusCode,
    /// Says what is wrong, where, and what would do.
    pub message: String,
    /// Where the saga stands, when a FAILURE alone would mislead.
    stands: Option<&'static str>,
    retry_after: Option<Duration>,
}

impl Answer {
    fn new(status: StatusCode, message: String) -> Self {
        Self { status, message, stands: None, retry_after: None }
    }

    fn failure(message: String) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    fn unavailable(error: &dyn error::Error, retry_after: Duration) -> Self {
        let retry_after = Some(retry_after);
        Self { retry_after, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message(error)) }
    }

    /// The client is told what it can do, the log why.
    fn internal(error: &engine::Error) -> Self {
        error!(error = message(error), "request failed");
        let hint = "the host's log has the cause; whether it took effect is not known, sending it again is safe";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}: {hint}"))
    }

    /// Why a saga was not taken on; `verb` is what DTM calls that.
    fn refusal(error: &SubmitError, verb: &str) -> Self {
        match error {
            SubmitError::Status(_) => Self::failure(format!("{error}, cannot {verb}. FAILURE")),
            SubmitError::Different => Self::failure(format!("{error}. FAILURE")),
            SubmitError::Target { .. } => Self::new(StatusCode::BAD_REQUEST, message(error)),
            SubmitError::Busy { retry_after } => Self::unavailable(error, *retry_after),
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
        PublishError::NotKept(_) | PublishError::NotPlaced(_) => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

impl From<Error> for Answer {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Submit(refused) => return Self::refusal(refused, "sumbmit"),
            Error::Prepare(refused) => return Self::refusal(refused, "prepare"),
            Error::Plan(error) => return Self::no_plan(error),
            Error::Engine(error) => return Self::internal(error),
            Error::Unsuccessful { stands, .. } => return Self { stands: *stands, ..Self::failure(error.to_string()) },
            Error::Abort(_) | Error::ForceStop(_) => return Self::failure(error.to_string()),
            Error::Request(_)
            | Error::Message(_)
            | Error::Negative { .. }
            | Error::BodyBroken(_)
            | Error::Position { .. } => StatusCode::BAD_REQUEST,
            Error::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Error::BodySlow { .. } => StatusCode::REQUEST_TIMEOUT,
            Error::NotFound { .. } | Error::NoPlugin { .. } => StatusCode::NOT_FOUND,
            Error::Plugin(fault) => refused_plugin(fault),
            Error::UploadForbidden => StatusCode::FORBIDDEN,
            Error::UploadsBusy => return Self::unavailable(&error, Duration::from_secs(1)),
            Error::OtherModes { .. } => StatusCode::NOT_IMPLEMENTED,
            Error::NoGid | Error::NotInteger { .. } | Error::Unknown { .. } | Error::UploadPanicked => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Self::new(status, message(&error))
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let Answer { status, message, stands, retry_after } = self.into();
        let mut response = match status {
            StatusCode::CONFLICT => response::failure(&message, stands),
            status => response::error(status, &message),
        };
        // Whole seconds; never 0, which would invite an endless loop.
        let seconds = retry_after.map(|wait| wait.as_millis().div_ceil(1000).max(1).to_string());
        if let Some(Ok(seconds)) = seconds.map(HeaderValue::try_from) {
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        response
    }
}

/// An error with its causes, not longer than a message may be.
fn message(error: &dyn error::Error) -> String {
    let causes = iter::successors(Some(error), |error| error.source());
    let mut texts: Vec<_> = causes.map(ToString::to_string).collect();
    // Some errors of libraries are wrappers that say what their cause says.
    texts.dedup();
    let mut text = texts.join(": ");
    if text.len() > MESSAGE_BYTES_MAX {
        text.truncate(text.floor_char_boundary(MESSAGE_BYTES_MAX));
        text.push('…');
    }
    text
}
