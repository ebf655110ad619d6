//! What the protocols of DTM's API (HTTP, JSON-RPC, gRPC) have in common: prepare, submit and abort.

use super::request;
use crate::{
    api::{client::Client, context::Context, error::Error, rollback::rollback_reason},
    engine::{Record, Submitted},
    hidden,
    saga::{Definition, Saga, Status},
};

/// What a look at a saga's status holds in memory, as a multiple of the saga's stored bytes: as stored, and decoded.
pub const STATUS_COPIES: usize = 2;

/// Stores the saga that a JSON body describes.
pub async fn prepare_json(context: &Context, client: Client, body: &[u8]) -> Result<(), Error> {
    let definition = request::decode(body, context.engine().now())?;
    prepare(context, client, definition).await
}

/// Stores a saga.
pub async fn prepare(context: &Context, Client(client): Client, definition: Definition) -> Result<(), Error> {
    check_secrets(context, &definition)?;
    context.engine().prepare_from(client, definition).await.map_err(Error::Prepare)
}

/// Runs the saga that a JSON body describes. Frees the body before it waits for the saga.
pub async fn submit_json(context: &Context, client: Client, body: impl AsRef<[u8]>) -> Result<(), Error> {
    let definition = request::decode(body.as_ref(), context.engine().now())?;
    drop(body);
    submit(context, client, definition).await
}

/// Runs a saga. Returns when it is stored or, with `wait_result`, when it has a result.
pub async fn submit(context: &Context, Client(client): Client, definition: Definition) -> Result<(), Error> {
    check_secrets(context, &definition)?;
    match context.engine().submit_from(client, definition).await.map_err(Error::Submit)? {
        Submitted::Accepted => Ok(()),
        Submitted::Waited(saga) => result_of(context, &saga),
    }
}

/// Refuses a saga that was copied from where its secrets are hidden.
pub fn check_secrets(context: &Context, definition: &Definition) -> Result<(), Error> {
    hidden::check(definition, context.engine().hidden_headers())
        .map_err(|placeholder| request::Error::from(placeholder).into())
}

/// The result for a client with `wait_result`. An error says only that the saga has not succeeded: if it is unfinished
/// the error carries its status.
fn result_of(context: &Context, saga: &Saga) -> Result<(), Error> {
    match saga.status() {
        Status::Succeed => Ok(()),
        Status::Aborting | Status::Failed => {
            let reason = rollback_reason(saga, context.engine().hidden_headers()).unwrap_or_default();
            Err(Error::Unsuccessful { message: with_failure_suffix(reason), unfinished: None })
        }
        status @ (Status::Prepared | Status::Submitted) => {
            let message = "wait result not return success: FAILURE".to_owned();
            Err(Error::Unsuccessful { message, unfinished: Some(status.as_str()) })
        }
    }
}

/// DTM's clients look for `FAILURE` at the end of the message.
fn with_failure_suffix(mut reason: String) -> String {
    if !reason.ends_with("FAILURE") {
        reason.push_str(" FAILURE");
    }
    reason
}

/// The refusal of `abort` for the saga that a JSON body names.
pub async fn refuse_abort_json(context: &Context, client: Client, body: &[u8]) -> Error {
    match request::decode_gid(body) {
        Ok(gid) => refuse_abort(context, client, &gid).await,
        Err(error) => error.into(),
    }
}

/// The refusal of `abort`, in DTM's words: as under DTM, clients cannot abort a saga.
pub async fn refuse_abort(context: &Context, Client(client): Client, gid: &str) -> Error {
    let status = |record: Option<Record>, _| record.map(|record| record.saga.status());
    let room = context.memory().requests_of(client);
    match context.engine().show(gid, STATUS_COPIES, room, status).await {
        Ok(Some(status)) => Error::Abort(status),
        Ok(None) => Error::Unknown { gid: gid.to_owned() },
        Err(error) => error.into(),
    }
}
