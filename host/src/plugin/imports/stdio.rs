//! Standard output, standard error and `wasi:logging` of a guest, as lines of the host's log.
//!
//! A guest is not trusted with the log: the amount is bounded for each attempt and for each plugin (the rest is dropped with
//! a note, and the guest goes on), long lines are cut, characters that could forge a line are escaped, and secrets of the
//! plugin and of the saga are replaced. Lines of a dry run report nothing that really
//! happened: those of all levels are logged at debug level, and marked.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tracing::{debug, enabled, error, info, trace, warn};
use wasmtime::component::{HasSelf, Linker};
use wasmtime_wasi::{
    async_trait,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamError},
};

use super::{
    bindings::logging::{self, Level},
    guest_log::{Admission, GuestLog},
};
use crate::{
    hidden::Secrets,
    plugin::{contract, grants::entry::Grants, limits::Limits},
    redact::MARGIN_BYTES,
    saga::{BranchId, BranchOp, Definition, text::escape},
    store::sync::lock,
};

/// Log target of guests' lines: filters of the host's users name it, so it does not follow the path of this module.
pub const LOG_TARGET: &str = "wasaga::plugin::stdio";

/// How many of the last lines of standard error are kept for the error text of a failed attempt, besides the first line:
/// some languages print the cause first, others last, followed by up to three lines of their own.
const LAST_ERRORS_KEPT: usize = 4;

/// Cost of a line beside its text: bounds the number of lines.
const LINE_OVERHEAD_BYTES: usize = 64;

/// Bytes of the context of a `wasi:logging` line, which is usually a name.
const CONTEXT_BYTES_MAX: usize = 128;

/// The attempt that writes the lines.
pub struct Origin {
    pub plugin: Arc<str>,
    /// Its secrets are redacted in every line.
    pub grants: Arc<Grants>,
    /// How much the plugin may write.
    pub guest_log: Arc<GuestLog>,
    /// Its secrets are hidden in every line.
    pub saga: Arc<Definition>,
    pub branch_op: BranchOp,
    pub is_dry_run: bool,
}

impl Origin {
    /// Whether lines of this level are logged at all.
    fn logs(&self, level: Level) -> bool {
        match level {
            Level::Trace => enabled!(target: LOG_TARGET, tracing::Level::TRACE),
            _ if self.is_dry_run => enabled!(target: LOG_TARGET, tracing::Level::DEBUG),
            Level::Debug => enabled!(target: LOG_TARGET, tracing::Level::DEBUG),
            Level::Info => enabled!(target: LOG_TARGET, tracing::Level::INFO),
            Level::Warn => enabled!(target: LOG_TARGET, tracing::Level::WARN),
            Level::Error | Level::Critical => enabled!(target: LOG_TARGET, tracing::Level::ERROR),
        }
    }

    /// A text of the guest as people may see it. Every text passes here on its way to the log.
    fn shown(&self, text: &str, bytes_max: usize) -> String {
        // A text of megabytes must not make the host scan all of it.
        let start = text.get(..text.floor_char_boundary(bytes_max.saturating_add(MARGIN_BYTES))).unwrap_or(text);
        let secrets = Secrets::of(&self.saga, self.guest_log.hidden_headers());
        let shown = secrets.text(Some(self.branch_op.step), start);
        escape(&self.grants.shown(&shown, bytes_max)).into_owned()
    }

    /// Logs a line, unless the plugin has written too much.
    fn log(&self, level: Level, context: Option<&str>, text: &str) {
        if !self.logs(level) {
            return;
        }
        let cost = text.len() + context.map_or(0, str::len) + LINE_OVERHEAD_BYTES;
        match self.guest_log.admit(cost, Instant::now()) {
            Admission::Logged => {}
            Admission::LoggedAfter(dropped) => self.write(Level::Warn, None, &dropped.to_string()),
            Admission::FirstDropped => {
                let note = "lines of this plugin are dropped from now on: it has written too much for the settings \
                            log_burst_bytes and log_bytes_per_second";
                return self.write(Level::Warn, None, note);
            }
            Admission::Dropped => return,
        }
        self.write(level, context, text);
    }

    fn write(&self, level: Level, context: Option<&str>, text: &str) {
        let Self { plugin, saga, branch_op, is_dry_run, .. } = self;
        let (gid, branch, op) = (saga.gid(), BranchId(branch_op.step), contract::function(branch_op.op));
        match level {
            Level::Trace => {
                trace!(target: LOG_TARGET, plugin = &**plugin, gid = gid.as_str(), %branch, op, context, "{text}");
            }
            _ if *is_dry_run => {
                debug!(target: LOG_TARGET, plugin = &**plugin, gid = gid.as_str(), %branch, op, context, is_dry_run, "{text}");
            }
            Level::Debug => {
                debug!(target: LOG_TARGET, plugin = &**plugin, gid = gid.as_str(), %branch, op, context, "{text}");
            }
            Level::Info => {
                info!(target: LOG_TARGET, plugin = &**plugin, gid = gid.as_str(), %branch, op, context, "{text}");
            }
            Level::Warn => {
                warn!(target: LOG_TARGET, plugin = &**plugin, gid = gid.as_str(), %branch, op, context, "{text}");
            }
            Level::Error | Level::Critical => {
                error!(target: LOG_TARGET, plugin = &**plugin, gid = gid.as_str(), %branch, op, context, "{text}");
            }
        }
    }
}

/// The streams of one attempt. Clones share them; an unfinished line is logged when the last clone is dropped.
#[derive(Clone)]
pub struct Stdio(Arc<Shared>);

struct Shared {
    streams: Mutex<Streams>,
    /// From the end of the attempt on, its guest's output is discarded.
    cancelled: CancellationToken,
}

impl Stdio {
    /// Empty streams of an attempt that ends when `cancelled` is.
    pub fn new(origin: Origin, limits: &Limits, cancelled: CancellationToken) -> Self {
        let streams = Mutex::new(Streams {
            origin,
            bytes_left: limits.log_bytes,
            bytes_dropped: 0,
            line_bytes_max: limits.log_line_bytes,
            output: Vec::new(),
            error: Vec::new(),
            first_error: None,
            last_errors: VecDeque::new(),
            has_other_errors: false,
        });
        Self(Arc::new(Shared { streams, cancelled }))
    }

    /// One of the guest's two streams.
    pub fn stream(&self, kind: Kind) -> Stream {
        Stream { stdio: self.clone(), kind }
    }

    /// Forgets the error lines, for another run of the guest. The budget of the log is not renewed.
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

    /// Logs a warning of the host about the guest, from the guest's budget.
    pub fn warn(&self, text: &str) {
        if let Some(mut streams) = self.open() {
            streams.warn(text);
        }
    }

    /// Logs unfinished lines. Called after `cancelled` was cancelled, so that nothing is written afterwards.
    pub fn end_lines(&self) {
        self.streams().end_lines();
    }

    /// The streams, unless the attempt has ended. Checked under the lock: a write either comes before the last
    /// [`Stdio::end_lines`], or is discarded.
    fn open(&self) -> Option<MutexGuard<'_, Streams>> {
        Some(self.streams()).filter(|_| !self.0.cancelled.is_cancelled())
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        lock(&self.0.streams)
    }
}

/// One of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Standard output, logged at info level.
    Output,
    /// Standard error, logged at warn level.
    Error,
}

struct Streams {
    origin: Origin,
    bytes_left: usize,
    bytes_dropped: usize,
    line_bytes_max: usize,
    /// The unfinished line of each stream.
    output: Vec<u8>,
    error: Vec<u8>,
    first_error: Option<String>,
    last_errors: VecDeque<String>,
    /// Whether there were more lines between the first and the last ones.
    has_other_errors: bool,
}

impl Streams {
    fn write(&mut self, kind: Kind, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (accepted, dropped) = piece.split_at(piece.len().min(self.bytes_left));
            self.bytes_left -= accepted.len();
            self.bytes_dropped += dropped.len();
            let ended = accepted.ends_with(b"\n");
            let text = accepted.strip_suffix(b"\n").unwrap_or(accepted);
            // A margin beyond the cut: a secret that begins before it must still be recognised.
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
        // The next line reuses the buffer.
        bytes.clear();
        *self.line(kind) = bytes;
    }

    /// Logs a line of `wasi:logging`. A line of a disabled level costs nothing.
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
            self.origin.log(Level::Warn, None, &self.origin.shown(text, usize::MAX));
        }
    }

    /// Takes the cost of a line from the budget. If the budget is too small, the line is dropped.
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
        if let Some(dropped) = self.origin.guest_log.take_dropped(Instant::now()) {
            self.origin.write(Level::Warn, None, &dropped.to_string());
        }
    }
}

/// The bytes without an incomplete character at the end: its replacement character would hide from redaction that a secret
/// is cut there.
fn whole_characters(bytes: &[u8]) -> &[u8] {
    let is_incomplete = |end: &[u8]| str::from_utf8(end).is_err_and(|error| error.error_len().is_none());
    let last = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    if is_incomplete(last) { bytes.strip_suffix(last).unwrap_or(bytes) } else { bytes }
}

/// A guest with streams.
pub trait View: Send {
    /// Its streams.
    fn stdio(&mut self) -> &mut Stdio;
}

/// Adds `wasi:logging` to the linker.
pub fn add_to_linker<T: View + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    logging::add_to_linker::<_, HasSelf<Stdio>>(linker, T::stdio)
}

impl logging::Host for Stdio {
    fn log(&mut self, level: Level, context: String, message: String) -> wasmtime::Result<()> {
        if let Some(mut streams) = self.open() {
            streams.log(level, &context, &message);
        }
        Ok(())
    }
}

/// One stream of a guest: always ready, never full.
#[derive(Clone)]
pub struct Stream {
    stdio: Stdio,
    kind: Kind,
}

/// Bytes that a guest writes at a time; bounds the copy for one write.
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

    /// Used by WASI 0.3 only, which the host does not offer.
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::saga::{Gid, Op, Options, Order, Timestamp};

    fn stdio(cancelled: &CancellationToken) -> Stdio {
        let gid = Gid::new("g").unwrap();
        let saga = Definition::new(gid, Vec::new(), Order::default(), Options::default(), Timestamp(0)).unwrap();
        let branch_op = BranchOp { step: 0, op: Op::Action };
        let (saga, grants, guest_log) = (Arc::new(saga), Arc::default(), Arc::default());
        let origin = Origin { plugin: "p".into(), grants, guest_log, saga, branch_op, is_dry_run: false };
        Stdio::new(origin, &Limits::default(), cancelled.clone())
    }

    #[test]
    fn output_after_the_end_of_the_attempt_is_discarded() {
        let cancelled = CancellationToken::new();
        let stdio = stdio(&cancelled);
        let mut stream = stdio.stream(Kind::Error);
        stream.write("in time\nand cut".into()).unwrap();
        cancelled.cancel();
        stdio.end_lines();
        stream.write(" off\ntoo late\n".into()).unwrap();
        stdio.warn("too late");
        assert_eq!(stdio.last_errors(), "in time | and cut");
        assert_eq!(stdio.streams().bytes_dropped, 0);
    }
}
