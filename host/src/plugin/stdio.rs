//! What a guest writes to standard output, to standard error and by `wasi:logging`, as lines of the host's log.
//!
//! A guest is not trusted with the log: what it may write is bounded (the rest is dropped with a note, so that a chatty
//! guest is not disturbed), long lines are cut, and characters that could forge a line are escaped. Lines of a rehearsal
//! tell of nothing that happens: whatever their level, they are logged for debugging only, and marked.

use std::{
    borrow::Cow,
    collections::VecDeque,
    fmt::Write as _,
    mem,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use tracing::{debug, enabled, error, info, trace, warn};
use wasmtime::component::{HasSelf, Linker};
use wasmtime_wasi::{
    async_trait,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamError},
};

use super::{
    contract,
    grants::Grants,
    imports::logging::{self, Level},
    limits::Limits,
    redact::MARGIN_BYTES,
    runtime::Guest,
};
use crate::saga::{BranchId, BranchOp, Definition};
use crate::store::sync::lock;

/// How many of the last lines of standard error are kept for the error text of a failed attempt, besides the first one:
/// some languages say what happened first, some last, with up to three lines of their own behind it.
const LAST_ERRORS_KEPT: usize = 4;

/// What a line takes from the budget beside its text: bounds the number of lines.
const LINE_OVERHEAD_BYTES: usize = 64;

/// Bytes of the context that `wasi:logging` gives with a line: a name, as a rule.
const CONTEXT_BYTES_MAX: usize = 128;

/// Whose lines they are.
pub struct Origin {
    /// The plugin's name.
    pub plugin: Arc<str>,
    /// Its secrets, which no line shows.
    pub grants: Arc<Grants>,
    /// The saga it was called for.
    pub saga: Arc<Definition>,
    /// The operation.
    pub branch_op: BranchOp,
    /// Whether nothing of it will be kept.
    pub is_dry_run: bool,
}

impl Origin {
    /// Whether anybody reads such lines.
    fn logs(&self, level: Level) -> bool {
        match level {
            Level::Trace => enabled!(tracing::Level::TRACE),
            _ if self.is_dry_run => enabled!(tracing::Level::DEBUG),
            Level::Debug => enabled!(tracing::Level::DEBUG),
            Level::Info => enabled!(tracing::Level::INFO),
            Level::Warn => enabled!(tracing::Level::WARN),
            Level::Error | Level::Critical => enabled!(tracing::Level::ERROR),
        }
    }

    /// A text of the guest as it may be shown. All of them go through here on their way to the log.
    fn shown(&self, text: &str, bytes_max: usize) -> String {
        escape(&self.grants.shown(text, bytes_max)).into_owned()
    }

    fn log(&self, level: Level, context: Option<&str>, text: &str) {
        let Self { plugin, saga, branch_op, is_dry_run, .. } = self;
        let (gid, branch, op) = (saga.gid(), BranchId(branch_op.step), contract::function(branch_op.op));
        match level {
            Level::Trace => trace!(%plugin, %gid, %branch, op, context, "{text}"),
            _ if *is_dry_run => debug!(%plugin, %gid, %branch, op, context, is_dry_run, "{text}"),
            Level::Debug => debug!(%plugin, %gid, %branch, op, context, "{text}"),
            Level::Info => info!(%plugin, %gid, %branch, op, context, "{text}"),
            Level::Warn => warn!(%plugin, %gid, %branch, op, context, "{text}"),
            Level::Error | Level::Critical => error!(%plugin, %gid, %branch, op, context, "{text}"),
        }
    }
}

/// All that one attempt writes. Clones share it; what is left is logged when the last one is dropped.
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
            first_error: None,
            last_errors: VecDeque::new(),
            has_other_errors: false,
            is_closed: false,
        })))
    }

    /// What the guest writes to, one of its two streams.
    pub fn stream(&self, kind: Kind) -> Stream {
        Stream { stdio: self.clone(), kind }
    }

    /// Forgets what led to an earlier end, since the attempt is made again. What may be written is not renewed.
    pub fn begin_again(&self) {
        let mut streams = self.streams();
        streams.end_lines();
        streams.first_error = None;
        streams.last_errors.clear();
        streams.has_other_errors = false;
    }

    /// The first and the last lines of standard error, for the error text of a failed attempt.
    pub fn last_errors(&self) -> String {
        let mut streams = self.streams();
        streams.end_line(Kind::Error);
        let Streams { first_error, last_errors, has_other_errors, .. } = &*streams;
        let gap = has_other_errors.then_some("...");
        let lines = first_error.as_deref().into_iter().chain(gap).chain(last_errors.iter().map(String::as_str));
        lines.collect::<Vec<_>>().join(" | ")
    }

    /// Logs a warning of the host about what the guest does, at the guest's expense. Its text is fit to be shown.
    pub fn warn(&self, text: &str) {
        if let Some(mut streams) = self.open() {
            streams.warn(text);
        }
    }

    /// Logs what is left. What a guest that was given up writes from now on, in its last moment, is not of the attempt.
    pub fn close(&self) {
        let mut streams = self.streams();
        streams.end_lines();
        streams.is_closed = true;
    }

    fn open(&self) -> Option<MutexGuard<'_, Streams>> {
        Some(self.streams()).filter(|streams| !streams.is_closed)
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        lock(&self.0)
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
    first_error: Option<String>,
    last_errors: VecDeque<String>,
    /// Whether there were more between the first and the last ones.
    has_other_errors: bool,
    /// Whether what is written is neither logged nor counted.
    is_closed: bool,
}

impl Streams {
    fn write(&mut self, kind: Kind, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (accepted, dropped) = piece.split_at(piece.len().min(self.bytes_left));
            self.bytes_left -= accepted.len();
            self.bytes_dropped += dropped.len();
            let ended = accepted.ends_with(b"\n");
            let text = accepted.strip_suffix(b"\n").unwrap_or(accepted);
            // A secret that begins before the line is cut is to be recognised.
            let room = (self.line_bytes_max + MARGIN_BYTES).saturating_sub(self.line(kind).len());
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

    fn end_lines(&mut self) {
        self.end_line(Kind::Output);
        self.end_line(Kind::Error);
    }

    /// Logs the current line, if there is one.
    fn end_line(&mut self, kind: Kind) {
        let mut bytes = mem::take(self.line(kind));
        if bytes.is_empty() {
            return;
        }
        self.bytes_left = self.bytes_left.saturating_sub(LINE_OVERHEAD_BYTES);
        let text = self.origin.shown(&String::from_utf8_lossy(whole_characters(&bytes)), self.line_bytes_max);
        self.origin.log(if kind == Kind::Output { Level::Info } else { Level::Warn }, None, &text);
        match kind {
            Kind::Output => {}
            Kind::Error if self.first_error.is_none() => self.first_error = Some(text),
            Kind::Error => {
                self.last_errors.push_back(text);
                if self.last_errors.len() > LAST_ERRORS_KEPT {
                    self.last_errors.pop_front();
                    self.has_other_errors = true;
                }
            }
        }
        // The next line uses the same buffer.
        bytes.clear();
        *self.line(kind) = bytes;
    }

    /// Logs a line of `wasi:logging`. One that nobody reads costs nothing.
    fn log(&mut self, level: Level, context: &str, message: &str) {
        if !self.origin.logs(level) {
            return;
        }
        let cost = context.len().min(CONTEXT_BYTES_MAX) + message.len().min(self.line_bytes_max);
        if self.takes(cost + LINE_OVERHEAD_BYTES, message) {
            let context = (!context.is_empty()).then(|| self.origin.shown(context, CONTEXT_BYTES_MAX));
            self.origin.log(level, context.as_deref(), &self.origin.shown(message, self.line_bytes_max));
        }
    }

    fn warn(&mut self, text: &str) {
        if self.takes(text.len() + LINE_OVERHEAD_BYTES, text) {
            self.origin.log(Level::Warn, None, text);
        }
    }

    /// Takes from the budget what a line costs; if that is not there, its text is dropped.
    fn takes(&mut self, cost: usize, text: &str) -> bool {
        let left = self.bytes_left.checked_sub(cost);
        match left {
            Some(left) => self.bytes_left = left,
            None => self.bytes_dropped += text.len(),
        }
        left.is_some()
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.end_lines();
        let dropped = self.bytes_dropped;
        if dropped > 0 {
            let note = format!("{dropped} more bytes of output were dropped (limit log_bytes)");
            self.origin.log(Level::Warn, None, &note);
        }
    }
}

/// Without a character at the end of which only the beginning is there: what would be shown in its place would hide from
/// the search for secrets that one has been cut there.
fn whole_characters(bytes: &[u8]) -> &[u8] {
    let is_begun = |end: &[u8]| str::from_utf8(end).is_err_and(|error| error.error_len().is_none());
    let last = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    if is_begun(last) { bytes.strip_suffix(last).unwrap_or(bytes) } else { bytes }
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

/// Offers `wasi:logging`.
pub fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    logging::add_to_linker::<_, HasSelf<Stdio>>(linker, |guest| &mut guest.stdio)
}

impl logging::Host for Stdio {
    fn log(&mut self, level: Level, context: String, message: String) -> wasmtime::Result<()> {
        if let Some(mut streams) = self.open() {
            streams.log(level, &context, &message);
        }
        Ok(())
    }
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
        if let Some(mut streams) = self.stdio.open() {
            streams.write(self.kind, &bytes);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::saga::{Gid, Op, Options, Order, Timestamp};

    fn stdio() -> Stdio {
        let gid = Gid::new("g").unwrap();
        let saga = Definition::new(gid, Vec::new(), Order::default(), Options::default(), Timestamp(0)).unwrap();
        let branch_op = BranchOp { step: 0, op: Op::Action };
        let (saga, grants) = (Arc::new(saga), Arc::default());
        Stdio::new(Origin { plugin: "p".into(), grants, saga, branch_op, is_dry_run: false }, &Limits::default())
    }

    #[test]
    fn what_is_written_after_the_end_is_not_of_the_attempt() {
        let stdio = stdio();
        let mut stream = stdio.stream(Kind::Error);
        stream.write("in time\nand cut".into()).unwrap();
        stdio.close();
        stream.write(" off\ntoo late\n".into()).unwrap();
        stdio.warn("too late");
        assert_eq!(stdio.last_errors(), "in time | and cut");
        assert_eq!(stdio.streams().bytes_dropped, 0);
    }
}
