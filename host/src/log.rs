//! The host's log, on standard error: one event a line, which nothing from outside can break, forge or push out.
//!
//! - [`line`]: an event as text or JSON
//! - [`queue`]: lines that wait to be written; guests have a part of it

mod line;
mod queue;

use std::{
    io::{self, IsTerminal},
    panic::{self, PanicHookInfo},
};

use tracing_subscriber::EnvFilter;

pub use self::{
    line::{FIELD_BYTES_MAX, Format},
    queue::{Guard, Queue},
};
use crate::config::Log;

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the log filter {given:?} is wrong")]
    Filter { given: String, source: tracing_subscriber::filter::ParseError },
    #[error("cannot start the thread that writes the log")]
    Thread(#[source] io::Error),
    #[error("this process has a log already")]
    Started(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Starts to log what the filter lets through, until the process ends. Dropping the guard waits until all is written.
pub fn start(settings: &Log) -> Result<Guard, Error> {
    let given = &settings.filter;
    let filter = EnvFilter::try_new(given).map_err(|source| Error::Filter { given: given.clone(), source })?;
    let format = if settings.json { Format::Json } else { Format::Text { is_coloured: io::stderr().is_terminal() } };
    let (queue, guard) = Queue::start(io::stderr(), format).map_err(Error::Thread)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .event_format(format)
        .with_writer(queue)
        .try_init()
        .map_err(Error::Started)?;
    panic::set_hook(Box::new(log_panic));
    Ok(guard)
}

/// Panics are lines as all others: by default they are written past the queue, raw.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let (message, place) = (panic.payload_as_str().unwrap_or_default(), panic.location().map(ToString::to_string));
    tracing::error!(message_of_panic = message, place, "a task of the host has panicked: this is a fault of Wasaga");
}
