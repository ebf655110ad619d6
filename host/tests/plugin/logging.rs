//! What guests write becomes lines of the host's log, within bounds.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Mutex, PoisonError},
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context, prelude::*, registry};
use wasaga::plugin::Limits;

use super::*;

#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub level: Level,
    pub fields: BTreeMap<&'static str, String>,
}

impl Line {
    pub fn message(&self) -> &str {
        &self.fields["message"]
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }
}

/// The lines of guests, up to a level.
#[derive(Clone)]
struct Lines {
    lines: Arc<Mutex<Vec<Line>>>,
    level: Level,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &Metadata<'_>, _context: Context<'_, S>) -> bool {
        metadata.target().starts_with("wasaga::plugin") && *metadata.level() <= self.level
    }

    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut line = Line { level: *event.metadata().level(), fields: BTreeMap::new() };
        event.record(&mut line);
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

/// The log lines of one `try` of chaos.
pub async fn lines(payload: Value) -> Vec<Line> {
    info_lines(&CHAOS, payload).await
}

async fn info_lines(plugins: &Registry, payload: Value) -> Vec<Line> {
    lines_of(Level::INFO, try_(plugins, "chaos", &payload)).await
}

/// The log lines of an attempt.
pub async fn lines_of(level: Level, attempt: impl Future<Output = Outcome>) -> Vec<Line> {
    let lines = Lines { lines: Arc::default(), level };
    let _guard = registry().with(lines.clone()).set_default();
    attempt.await;
    let lines = lines.lines.lock().unwrap_or_else(PoisonError::into_inner);
    lines.clone()
}

async fn messages(payload: Value) -> Vec<String> {
    messages_of(&CHAOS, payload).await
}

pub async fn messages_of(plugins: &Registry, payload: Value) -> Vec<String> {
    info_lines(plugins, payload).await.iter().map(|line| line.message().to_owned()).collect()
}

#[tokio::test]
async fn a_line_says_whose_it_is() {
    let lines = lines(json!({"try": "print", "text": "hello\n"})).await;
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0].level, Level::INFO);
    let fields = [("branch", "02"), ("gid", "gid-1"), ("message", "hello"), ("op", "try"), ("plugin", "chaos")];
    assert_eq!(lines[0].fields, fields.map(|(name, value)| (name, value.to_owned())).into());
}

#[tokio::test]
async fn standard_error_is_a_warning() {
    let lines = lines(json!({"try": "print", "stream": "error", "text": "careful\n"})).await;
    assert_eq!((lines[0].level, lines[0].message()), (Level::WARN, "careful"));
}

#[tokio::test]
async fn lines_are_whole_however_they_are_written() {
    assert_eq!(messages(json!({"try": "print", "stream": "error", "text": "a", "times": 3})).await, ["aaa"]);
    assert_eq!(messages(json!({"try": "print", "text": "a\n\nb\nc"})).await, ["a", "b", "c"]);
    let long_writes = messages(json!({"try": "print", "text": format!("{}\nend", "y".repeat(3000)), "times": 2})).await;
    assert_eq!(long_writes, ["y".repeat(3000), format!("end{}", "y".repeat(3000)), "end".to_owned()]);
}

#[tokio::test]
async fn lines_survive_a_trap() {
    let messages = messages(json!({"try": "print", "stream": "error", "text": "last words", "then": "trap"})).await;
    assert_eq!(messages, ["last words"]);
}

#[tokio::test]
async fn no_line_can_be_forged() {
    let forged = "fine\r2026-01-01 ERROR \u{1b}[31mforged\u{202e}\u{2028}\u{85}\tü\n";
    let escaped = "fine\\r2026-01-01 ERROR \\u{1b}[31mforged\\u{202e}\\u{2028}\\u{85}\tü";
    assert_eq!(messages(json!({"try": "print", "text": forged})).await, [escaped]);
}

#[tokio::test]
async fn long_lines_are_cut() {
    let limit = Limits::default().log_line_bytes;
    assert_eq!(messages(json!({"try": "print", "text": limit})).await, ["x".repeat(limit)]);
    assert_eq!(messages(json!({"try": "print", "text": limit + 1})).await, ["x".repeat(limit) + "…"]);
}

#[tokio::test]
async fn a_flood_is_dropped_with_a_note_and_without_a_trap() {
    for stream in ["output", "error"] {
        // With the 64 bytes that each line counts for beside its text, 64 lines fit.
        let line = "z".repeat(1023 - 64) + "\n";
        let payload = json!({"try": "print", "stream": stream, "text": line, "times": 100});
        let messages = messages(payload.clone()).await;
        assert_eq!(messages.len(), 64 + 1);
        assert_eq!(messages[64], "34560 more bytes of output were dropped (limit log_bytes)");
        assert_eq!(output(try_(&CHAOS, "chaos", &payload).await), Value::Null);
    }
}

#[tokio::test]
async fn many_short_lines_are_a_flood_too() {
    let messages = messages(json!({"try": "print", "text": "x\n".repeat(1000), "times": 10})).await;
    assert!(messages.len() < 1000, "{} lines", messages.len());
    assert!(messages.last().unwrap().ends_with("were dropped (limit log_bytes)"), "{:?}", messages.last());
}
