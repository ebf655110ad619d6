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
    engine::{self, SubmitError},
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
    /// Not submitted.
    #[error(transparent)]
    Submit(SubmitError),
    /// Not prepared.
    #[error(transparent)]
    Prepare(SubmitError),
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

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Submit(error) => return refusal(error, "sumbmit"),
            Self::Prepare(error) => return refusal(error, "prepare"),
            Self::Engine(error) => return internal(&error),
            Self::Abort(_) | Self::ForceStop(_) => return response::failure(&self.to_string(), None),
            Self::Request(_) | Self::BodyBroken(_) | Self::Position { .. } => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodySlow { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::NotFound { .. } => StatusCode::NOT_FOUND,
            Self::NoGid | Self::NotInteger { .. } | Self::Unknown { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        response::error(status, &message(&self))
    }
}

/// Why a saga was not taken on; `verb` is what DTM calls that.
fn refusal(error: SubmitError, verb: &str) -> Response {
    match error {
        SubmitError::Status(_) => response::failure(&format!("{error}, cannot {verb}. FAILURE"), None),
        SubmitError::Different => response::failure(&format!("{error}. FAILURE"), None),
        SubmitError::Target { .. } => response::error(StatusCode::BAD_REQUEST, &message(&error)),
        SubmitError::Busy { retry_after } => unavailable(&error, retry_after),
        SubmitError::Stopping => unavailable(&error, Duration::from_secs(1)),
        SubmitError::Engine(error) => internal(&error),
    }
}

fn unavailable(error: &SubmitError, retry_after: Duration) -> Response {
    let mut response = response::error(StatusCode::SERVICE_UNAVAILABLE, &message(error));
    // Whole seconds; never 0, which would invite an endless loop.
    let seconds = retry_after.as_millis().div_ceil(1000).max(1);
    if let Ok(seconds) = HeaderValue::try_from(seconds.to_string()) {
        response.headers_mut().insert(RETRY_AFTER, seconds);
    }
    response
}

/// The client is told what it can do, the log why.
fn internal(error: &engine::Error) -> Response {
    error!(error = message(error), "request failed");
    let hint = "the host's log has the cause; whether it took effect is not known, sending it again is safe";
    response::error(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}: {hint}"))
}

/// An error with its causes, not longer than a message may be.
fn message(error: &dyn error::Error) -> String {
    let causes = iter::successors(Some(error), |error| error.source());
    let mut text = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    if text.len() > MESSAGE_BYTES_MAX {
        text.truncate(text.floor_char_boundary(MESSAGE_BYTES_MAX));
        text.push('…');
    }
    text
}
