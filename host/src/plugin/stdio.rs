//! Standard output and error of a guest, as lines of the host's log.
//!
//! A guest is not trusted with the log: what it may write is bounded (the rest is dropped with a note, so that a chatty
//! guest is not disturbed), long lines are cut, and characters that could forge a line are escaped.

use std::{
    borrow::Cow,
    collections::VecDeque,
    fmt::Write as _,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tracing::{info, warn};
use wasmtime_wasi::{
    async_trait,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamError},
};

use super::{contract, grants::Grants, limits::Limits};
use crate::saga::{BranchId, Definition, Slot};

/// How many lines of standard error are kept for the error text of a failed attempt: a panic message has three.
const ERROR_LINES_KEPT: usize = 3;

/// What a line takes from the budget beside its text: bounds the number of lines.
const LINE_OVERHEAD_BYTES: usize = 64;

/// Whose lines they are.
pub struct Origin {
    /// The plugin's name.
    pub plugin: Arc<str>,
    /// Its secrets, which no line shows.
    pub grants: Arc<Grants>,
    /// The saga it was called for.
    pub saga: Arc<Definition>,
    /// The operation.
    pub slot: Slot,
}

/// Both streams of one attempt. Clones share them; what is left is logged when the last one is dropped.
#[derive(Clone)]
pub struct Stdio(Arc<Mutex<Streams>>);

impl Stdio {
    /// Two empty streams.
    pub fn new(origin: Origin, limits: &Limits) -> Self {
        Self(Arc::new(Mutex::new(Streams {
            origin,
            bytes_left: limits.log_bytes,
            bytes_dropped: 0,
            line_bytes_max: limits.log_line_bytes,
            output: Vec::new(),
            error: Vec::new(),
            last_errors: VecDeque::new(),
        })))
    }

    /// What the guest writes to, one of its two streams.
    pub fn stream(&self, kind: Kind) -> Stream {
        Stream { stdio: self.clone(), kind }
    }

    /// The last lines of standard error, for the error text of a failed attempt.
    pub fn last_errors(&self) -> String {
        let mut streams = self.streams();
        streams.end_line(Kind::Error);
        streams.last_errors.make_contiguous().join(" | ")
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Standard output, logged as information.
    Output,
    /// Standard error, logged as a warning.
    Error,
}

struct Streams {
    origin: Origin,
    bytes_left: usize,
    bytes_dropped: usize,
    line_bytes_max: usize,
    /// The current line of each stream.
    output: Vec<u8>,
    error: Vec<u8>,
    last_errors: VecDeque<String>,
}

impl Streams {
    fn write(&mut self, kind: Kind, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (accepted, dropped) = piece.split_at(piece.len().min(self.bytes_left));
            self.bytes_left -= accepted.len();
            self.bytes_dropped += dropped.len();
            let ended = accepted.ends_with(b"\n");
            let text = accepted.strip_suffix(b"\n").unwrap_or(accepted);
            // One byte over the limit is enough to know that the line must be cut.
            let room = (self.line_bytes_max + 1).saturating_sub(self.line(kind).len());
            self.line(kind).extend(text.iter().take(room));
            if ended {
                self.end_line(kind);
            }
        }
    }

    fn line(&mut self, kind: Kind) -> &mut Vec<u8> {
        match kind {
            Kind::Output => &mut self.output,
            Kind::Error => &mut self.error,
        }
    }

    /// Logs the current line, if there is one.
    fn end_line(&mut self, kind: Kind) {
        let mut bytes = mem::take(self.line(kind));
        if bytes.is_empty() {
            return;
        }
        self.bytes_left = self.bytes_left.saturating_sub(LINE_OVERHEAD_BYTES);
        let cut = bytes.len() > self.line_bytes_max;
        bytes.truncate(self.line_bytes_max);
        let text = String::from_utf8_lossy(&bytes);
        let text = self.origin.grants.redact(&text);
        let mut text = escape(&text);
        if cut {
            text.to_mut().push('…');
        }
        let Origin { plugin, saga, slot, .. } = &self.origin;
        let (gid, branch, op) = (saga.gid(), BranchId(slot.step), contract::function(slot.op));
        match kind {
            Kind::Output => info!(%plugin, %gid, %branch, op, "{text}"),
            Kind::Error => warn!(%plugin, %gid, %branch, op, "{text}"),
        }
        if kind == Kind::Error {
            self.last_errors.push_back(text.into_owned());
            if self.last_errors.len() > ERROR_LINES_KEPT {
                self.last_errors.pop_front();
            }
        }
        // The next line uses the same buffer.
        bytes.clear();
        *self.line(kind) = bytes;
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.end_line(Kind::Output);
        self.end_line(Kind::Error);
        let dropped = self.bytes_dropped;
        if dropped > 0 {
            let Origin { plugin, saga, slot, .. } = &self.origin;
            let (gid, branch, op) = (saga.gid(), BranchId(slot.step), contract::function(slot.op));
            warn!(%plugin, %gid, %branch, op, "{dropped} more bytes of output were dropped (limit log_bytes)");
        }
    }
}

/// Escapes what would end the line, steer a terminal, or make text read in another order than it is written.
pub fn escape(text: &str) -> Cow<'_, str> {
    let dangerous =
        |c: char| c.is_control() && c != '\t' || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.contains(dangerous) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if dangerous(c) {
            // Writing to a string does not fail.
            let _ = write!(escaped, "{}", c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped.into()
}

/// One stream, as the guest sees it: always ready, never full.
#[derive(Clone)]
pub struct Stream {
    stdio: Stdio,
    kind: Kind,
}

/// The most that a guest writes at a time; bounds what is copied for one write.
const WRITE_BYTES_MAX: usize = 64 << 10;

impl OutputStream for Stream {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.stdio.streams().write(self.kind, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(WRITE_BYTES_MAX)
    }
}

#[async_trait]
impl Pollable for Stream {
    async fn ready(&mut self) {}
}

impl IsTerminal for Stream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stream {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    /// Only WASI 0.3 asks for this one, which the host does not offer.
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }
}
