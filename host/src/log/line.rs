//! An event as one line.
//!
//! Text is `TIME LEVEL message name=value name=value`. Texts in values are always quoted; other values are quoted unless they
//! consist of letters, digits and a few signs. A message with a `=` is quoted, and every message of a guest: so an `=` outside
//! of quotes stands behind the name of a field of the host. JSON is an object with `timestamp`, `level` and `fields`.
//!
//! In both, hidden characters ([`text`](crate::saga::text)) are escaped, and values are cut after [`FIELD_BYTES_MAX`].

use std::{
    error::Error,
    fmt::{self, Debug, Write},
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

use crate::{causes, plugin::GUEST_LOG_TARGET, saga::text::is_hidden};

/// Longest value of a field in bytes: twice the longest text of a guest or a service that the host takes by default.
/// Messages of guests are not cut here, since `log_line_bytes` cuts them.
pub const FIELD_BYTES_MAX: usize = 8 << 10;

/// The field with the text of an event.
const MESSAGE: &str = "message";

/// The form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text {
        /// With the colours of a terminal.
        is_coloured: bool,
    },
    Json,
}

/// Whether an event is a line of a guest.
pub(super) fn is_guests(metadata: &Metadata<'_>) -> bool {
    metadata.target() == GUEST_LOG_TARGET
}

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        self.begin(&mut out, *metadata.level())?;
        let mut fields =
            Fields { format: *self, is_guests: is_guests(metadata), out: &mut out, count: 0, written: Ok(()) };
        event.record(&mut fields);
        fields.written?;
        self.end(&mut out)
    }
}

impl Format {
    /// The line that says how many were dropped.
    pub(super) fn note_of_dropped(self, host: u64, guests: u64, seconds: f64) -> String {
        let mut line = String::new();
        let message = "lines of the log were dropped: standard error is read too slowly";
        let mut write = || {
            self.begin(&mut Writer::new(&mut line), Level::WARN)?;
            let written = Ok(());
            let mut fields = Fields { format: self, is_guests: false, out: &mut line, count: 0, written };
            fields.put(MESSAGE, Value::Text(&message));
            fields.put("of_the_host", Value::Plain(&host));
            fields.put("of_guests", Value::Plain(&guests));
            fields.put("in_s", Value::Plain(&seconds));
            fields.written?;
            self.end(&mut line)
        };
        // Writing to a string does not fail.
        let _ = write();
        line
    }

    fn begin(self, out: &mut Writer<'_>, level: Level) -> fmt::Result {
        match self {
            Self::Json => {
                out.write_str("{\"timestamp\":\"")?;
                SystemTime.format_time(out)?;
                write!(out, "\",\"level\":\"{level}\",\"fields\":{{")
            }
            Self::Text { is_coloured: false } => {
                SystemTime.format_time(out)?;
                write!(out, " {level:>5}")
            }
            Self::Text { is_coloured: true } => {
                let colour = match level {
                    Level::ERROR => 31,
                    Level::WARN => 33,
                    Level::INFO => 32,
                    _ => 34,
                };
                out.write_str("\x1b[2m")?;
                SystemTime.format_time(out)?;
                write!(out, "\x1b[0m \x1b[{colour}m{level:>5}\x1b[0m")
            }
        }
    }

    fn end(self, out: &mut impl Write) -> fmt::Result {
        out.write_str(if self == Self::Json { "}}\n" } else { "\n" })
    }
}

/// The value of a field.
#[derive(Clone, Copy)]
enum Value<'a> {
    /// A number or a truth value.
    Plain(&'a dyn fmt::Display),
    /// A text, which is always quoted.
    Text(&'a dyn fmt::Display),
    /// The debug output of anything else.
    Other(&'a dyn Debug),
}

/// Writes the fields of one event.
struct Fields<'a, W> {
    format: Format,
    is_guests: bool,
    out: &'a mut W,
    count: usize,
    written: fmt::Result,
}

impl<W: Write> Fields<'_, W> {
    fn put(&mut self, name: &str, value: Value<'_>) {
        if self.written.is_ok() {
            self.written = if self.format == Format::Json { self.json(name, &value) } else { self.text(name, &value) };
            self.count += 1;
        }
    }

    fn json(&mut self, name: &str, value: &Value<'_>) -> fmt::Result {
        self.out.write_str(if self.count > 0 { ",\"" } else { "\"" })?;
        write!(Escaping::new(self.out, Style::Json, usize::MAX), "{name}")?;
        self.out.write_str("\":")?;
        if let Value::Plain(value) = value {
            return write!(self.out, "{value}");
        }
        self.quoted(Style::Json, name, value)
    }

    fn text(&mut self, name: &str, value: &Value<'_>) -> fmt::Result {
        self.out.write_str(" ")?;
        if name != MESSAGE {
            write!(self.out, "{name}=")?;
        }
        match value {
            Value::Plain(value) => write!(self.out, "{value}"),
            _ if name == MESSAGE && (self.is_guests || value.has(|c| c == '=')) => {
                self.quoted(Style::Quoted, name, value)
            }
            _ if name == MESSAGE => self.escaped(Style::Bare, name, value),
            Value::Other(_) if !value.has(is_not_plain) => self.escaped(Style::Bare, name, value),
            _ => self.quoted(Style::Quoted, name, value),
        }
    }

    fn quoted(&mut self, style: Style, name: &str, value: &Value<'_>) -> fmt::Result {
        self.out.write_str("\"")?;
        self.escaped(style, name, value)?;
        self.out.write_str("\"")
    }

    fn escaped(&mut self, style: Style, name: &str, value: &Value<'_>) -> fmt::Result {
        let bytes_max = if self.is_guests && name == MESSAGE { usize::MAX } else { FIELD_BYTES_MAX };
        value.write_to(&mut Escaping::new(self.out, style, bytes_max))
    }
}

/// What does not stand unquoted in a value.
fn is_not_plain(c: char) -> bool {
    !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-' | '+' | '.' | ':' | '/' | '%' | '(' | ')' | '[' | ']')
}

impl Value<'_> {
    fn write_to(&self, out: &mut impl Write) -> fmt::Result {
        match self {
            Self::Plain(value) | Self::Text(value) => write!(out, "{value}"),
            Self::Other(value) => write!(out, "{value:?}"),
        }
    }

    /// Whether its text has such a character, or is empty.
    fn has(&self, is_sought: impl Fn(char) -> bool) -> bool {
        struct Search<F> {
            is_sought: F,
            is_found: bool,
        }

        impl<F: Fn(char) -> bool> Write for Search<F> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.is_found |= text.contains(&self.is_sought);
                Ok(())
            }
        }

        let mut search = Search { is_sought, is_found: false };
        // A value that cannot be written is quoted.
        self.write_to(&mut search).is_err() || search.is_found
    }
}

impl<W: Write> Visit for Fields<'_, W> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no number for the others.
        self.put(name(field), if value.is_finite() { Value::Plain(&value) } else { Value::Text(&value) });
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(name(field), Value::Plain(&value));
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.put(name(field), Value::Plain(&value));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.put(name(field), Value::Plain(&value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(name(field), Value::Plain(&value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(name(field), Value::Plain(&value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(name(field), Value::Text(&value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.put(name(field), Value::Text(&causes::in_one_line(value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(name(field), Value::Other(value));
    }
}

fn name(field: &Field) -> &'static str {
    field.name().strip_prefix("r#").unwrap_or(field.name())
}

/// Which characters are escaped, and how.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    /// Hidden characters, as in Rust.
    Bare,
    /// Also quotes and backslashes.
    Quoted,
    /// The same characters as in JSON.
    Json,
}

/// Escapes what is written, and cuts it.
struct Escaping<'a, W> {
    out: &'a mut W,
    style: Style,
    /// Bytes that may still be written; `None` once the text was cut.
    left: Option<usize>,
}

impl<'a, W: Write> Escaping<'a, W> {
    fn new(out: &'a mut W, style: Style, bytes_max: usize) -> Self {
        Self { out, style, left: Some(bytes_max) }
    }

    fn is_escaped(&self, c: char) -> bool {
        is_hidden(c) && !(c == '\t' && self.style == Style::Bare)
            || self.style != Style::Bare && matches!(c, '"' | '\\')
    }
}

impl<W: Write> Write for Escaping<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let Some(left) = self.left else { return Ok(()) };
        let (mut rest, beyond) = text.split_at(text.floor_char_boundary(left));
        while let Some((plain, special)) = rest.find(|c| self.is_escaped(c)).and_then(|at| rest.split_at_checked(at)) {
            self.out.write_str(plain)?;
            let mut chars = special.chars();
            match (chars.next(), self.style) {
                (Some(c @ ('"' | '\\')), _) => write!(self.out, "\\{c}")?,
                (Some(c), Style::Json) => {
                    c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(self.out, "\\u{unit:04x}"))?;
                }
                (Some(c), _) => write!(self.out, "{}", c.escape_default())?,
                (None, _) => {}
            }
            rest = chars.as_str();
        }
        self.out.write_str(rest)?;
        self.left = if beyond.is_empty() { left.checked_sub(text.len()) } else { None };
        if beyond.is_empty() { Ok(()) } else { self.out.write_str("…") }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use tracing::{error, info, warn};

    use super::*;
    use crate::store::sync::lock;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            lock(&self.0).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged, without the time.
    fn logged(format: Format, log: impl FnOnce()) -> String {
        let written = Written::default();
        let to = written.clone();
        let subscriber = tracing_subscriber::fmt().event_format(format).with_writer(move || to.clone()).finish();
        tracing::subscriber::with_default(subscriber, log);
        let text = String::from_utf8(lock(&written.0).clone()).unwrap();
        match format {
            Format::Text { .. } => text.split_once(' ').unwrap().1.to_owned(),
            Format::Json => text,
        }
    }

    const TEXT: Format = Format::Text { is_coloured: false };

    const GID: &str = "ok branch=01 op=\"cancel\" \u{202e}\u{2028}\u{200b}\u{1b}[2K";

    #[test]
    fn fields_cannot_be_forged() {
        let line = logged(TEXT, || info!(gid = GID, status = "succeed", duration_ms = 3_u128, "saga finished"));
        let gid = r#""ok branch=01 op=\"cancel\" \u{202e}\u{2028}\u{200b}\u{1b}[2K""#;
        assert_eq!(line, format!(" INFO saga finished gid={gid} status=\"succeed\" duration_ms=3\n"));
        let line = logged(TEXT, || info!(target: GUEST_LOG_TARGET, plugin = "a", "x plugin=\"bank\" gid=other\n"));
        assert_eq!(line, concat!(r#" INFO "x plugin=\"bank\" gid=other\n" plugin="a""#, "\n"));
        let line =
            logged(TEXT, || warn!(a = true, b = -1, c = 0.5, d = %"01", e = ?Some("x"), f = %"p q=r", "no {GID}"));
        let rest = r#"a=true b=-1 c=0.5 d=01 e="Some(\"x\")" f="p q=r""#;
        assert_eq!(line, format!(" WARN {} {rest}\n", gid.replacen('"', "\"no ", 1)));
    }

    #[test]
    fn a_message_of_the_host_is_bare_and_on_one_line() {
        assert_eq!(logged(TEXT, || info!("cannot read \"a\\b\":\r\n\tno")), " INFO cannot read \"a\\b\":\\r\\n\tno\n");
        let error = io::Error::other("a\nb");
        let line = logged(TEXT, || error!(error = &error as &dyn Error, "failed"));
        assert_eq!(line, "ERROR failed error=\"a\\nb\"\n");
    }

    #[test]
    fn json_stays_json_and_hides_nothing() {
        let line = logged(Format::Json, || info!(gid = GID, n = 3, x = f64::NAN, ok = true, "a\n\"b\"\\ \u{e0041}é"));
        assert!(line.is_ascii() || !line.contains(|c| c != '\n' && is_hidden(c)), "{line}");
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        let fields =
            serde_json::json!({"message": "a\n\"b\"\\ \u{e0041}é", "gid": GID, "n": 3, "x": "NaN", "ok": true});
        assert_eq!((&json["fields"], &json["level"]), (&fields, &"INFO".into()));
        assert!(json["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn long_values_are_cut_and_lines_of_guests_are_not_cut_again() {
        let long = "é".repeat(FIELD_BYTES_MAX);
        let line = logged(TEXT, || info!(long, "x"));
        assert_eq!(line, format!(" INFO x long=\"{}…\"\n", "é".repeat(FIELD_BYTES_MAX / 2)));
        let line = logged(TEXT, || info!(target: GUEST_LOG_TARGET, "{long}"));
        assert_eq!(line, format!(" INFO \"{long}\"\n"));
    }

    #[test]
    fn dropped_lines_are_noted_in_both_forms() {
        let note = TEXT.note_of_dropped(2, 3, 1.5);
        let end = " WARN lines of the log were dropped: standard error is read too slowly of_the_host=2 of_guests=3 in_s=1.5\n";
        assert!(note.ends_with(end), "{note}");
        let json: serde_json::Value = serde_json::from_str(&Format::Json.note_of_dropped(2, 3, 1.5)).unwrap();
        assert_eq!(json["fields"]["of_guests"], 3);
    }
}
