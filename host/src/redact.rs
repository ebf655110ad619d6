//! Finds secrets in texts, in every spelling that is likely there.
//!
//! A secret is not always written literally: a JSON string escapes some of its characters, an address encodes them, a
//! limit cuts it off. So each text is read in several ways, each of which undoes one spelling, and a secret that is found
//! in one of these readings is found in the text.

use std::{borrow::Cow, cmp::Reverse, fmt, ops::Range};

/// Shorter secrets are not searched for: they occur in many texts by chance.
pub const REDACTED_BYTES_MIN: usize = 4;

/// What is shown in place of a secret of a saga.
pub const HIDDEN: &str = "[hidden]";

/// What stands in place of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark<'a> {
    /// `[secret NAME]`: a secret that a plugin is granted.
    Secret(&'a str),
    /// `[hidden]`: a secret of a saga.
    Hidden,
}

impl fmt::Display for Mark<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(name) => write!(f, "[secret {name}]"),
            Self::Hidden => f.write_str(HIDDEN),
        }
    }
}

/// A text that reveals a secret, and what is shown in its place.
pub type Trace<'a> = (Mark<'a>, &'a str);

/// Scan this many bytes past the visible end of a text, so that a secret cut by the limit is still recognised, even if all
/// of it is escaped twice.
pub const MARGIN_BYTES: usize = 64;

/// Whether upper and lower case of a letter differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    Matters,
    /// For texts with names of hosts: the HTTP client writes those in lower case.
    IsIgnored,
}

/// The text with each trace of a secret replaced by its mark, also one that the end of the text cuts off. The result ends
/// after `bytes_max`, but a mark that begins before that is kept whole; a `…` says that more follows.
pub fn redact<'s>(traces: impl Iterator<Item = Trace<'s>>, text: &str, bytes_max: usize, case: Case) -> String {
    // A text of megabytes must not make the host scan all of it.
    let start = text.get(..text.floor_char_boundary(bytes_max.saturating_add(MARGIN_BYTES))).unwrap_or(text);
    let mut shown = Shown { text: String::with_capacity(start.len().min(bytes_max)), bytes_max, is_cut: false };
    let mut done = 0;
    for (place, mark) in places(traces, start, case) {
        if let Some(between) = start.get(done..place.start) {
            shown.text(between);
            shown.mark(mark);
        }
        done = done.max(place.end);
    }
    shown.text(start.get(done..).unwrap_or_default());
    if shown.is_cut || start.len() < text.len() {
        shown.text.push('…');
    }
    shown.text
}

/// The visible part of a text, so far.
struct Shown {
    text: String,
    bytes_max: usize,
    is_cut: bool,
}

impl Shown {
    fn text(&mut self, text: &str) {
        let (start, rest) = text.split_at(text.floor_char_boundary(self.bytes_max.saturating_sub(self.text.len())));
        self.text.push_str(start);
        self.is_cut |= !rest.is_empty();
    }

    fn mark(&mut self, mark: Mark<'_>) {
        self.is_cut |= self.text.len() >= self.bytes_max;
        if !self.is_cut {
            self.text.push_str(&mark.to_string());
        }
    }
}

/// The places of secrets in the text in ascending order; they may overlap.
fn places<'s>(traces: impl Iterator<Item = Trace<'s>>, text: &str, case: Case) -> Vec<(Range<usize>, Mark<'s>)> {
    let mut traces: Vec<_> = traces.map(|(mark, trace)| (folded(trace, case), mark)).collect();
    let mut places: Vec<(Range<usize>, Mark<'_>)> = Vec::new();
    if traces.is_empty() {
        return places;
    }
    // The longest first: a secret may be part of another one.
    traces.sort_by_key(|(trace, _)| Reverse(trace.len()));
    for mut reading in readings(text.into()) {
        // Not before it is read: the case of a letter behind a backslash counts. Offsets stay, for ASCII letters keep their length.
        reading.text = folded(&reading.text, case).into_owned().into();
        for (trace, mark) in &traces {
            places.extend(reading.places(trace).map(|place| (place, *mark)));
            places.extend(reading.cut_off(trace).map(|start| (start..text.len(), *mark)));
        }
    }
    places.sort_by_key(|(place, _)| (place.start, Reverse(place.end)));
    places
}

/// The mark of a secret that the text holds.
pub fn found_in<'s>(traces: impl Iterator<Item = Trace<'s>>, text: &str) -> Option<Mark<'s>> {
    let mut traces = traces.peekable();
    traces.peek()?;
    let readings = readings(text.into());
    let is_in_text = |trace: &str| readings.iter().any(|reading: &Reading<'_>| reading.text.contains(trace));
    traces.find(|(_, trace)| is_in_text(trace)).map(|(mark, _)| mark)
}

/// The text without the percent-encoding of addresses.
pub fn percent_decoded(text: &str) -> String {
    Reading { text: text.into(), at: Vec::new() }.decoded().text.into_owned()
}

fn folded(text: &str, case: Case) -> Cow<'_, str> {
    match case {
        Case::Matters => text.into(),
        Case::IsIgnored => text.to_ascii_lowercase().into(),
    }
}

/// All readings of a text: literally; unescaped; unescaped twice, for a string within a string; percent-decoded.
fn readings(text: Cow<'_, str>) -> Vec<Reading<'_>> {
    let mut readings = vec![Reading { text, at: Vec::new() }];
    for _ in 0..2 {
        let Some(unescaped) = readings.last().filter(|last| last.text.contains('\\')).map(Reading::unescaped) else {
            break;
        };
        readings.push(unescaped);
    }
    if let Some(decoded) = readings.first().filter(|first| first.text.contains('%')).map(Reading::decoded) {
        readings.push(decoded);
    }
    readings
}

/// One reading of an original text.
struct Reading<'a> {
    text: Cow<'a, str>,
    /// For each byte of `text`, and for its end, the offset in the original of the piece that it was read from. Empty for
    /// the literal reading, where offsets are the same.
    at: Vec<usize>,
}

impl Reading<'_> {
    fn at(&self, byte: usize) -> usize {
        self.at.get(byte).copied().unwrap_or(byte)
    }

    /// The places of a trace in the original.
    fn places(&self, trace: &str) -> impl Iterator<Item = Range<usize>> {
        self.text.match_indices(trace).map(|(start, found)| self.at(start)..self.at(start + found.len()))
    }

    /// The offset in the original of a trace that the end of the text cuts off.
    fn cut_off(&self, trace: &str) -> Option<usize> {
        let longest = trace.len().min(self.text.len());
        let ends = (REDACTED_BYTES_MIN..=longest).rev().filter(|end| trace.is_char_boundary(*end));
        let mut beginnings = ends.filter_map(|end| trace.get(..end));
        beginnings.find_map(|beginning| self.text.strip_suffix(beginning)).map(|kept| self.at(kept.len()))
    }

    /// Without backslash escapes, as JSON, Rust and most other languages write them.
    fn unescaped(&self) -> Reading<'static> {
        let mut rewriter = Rewriter::new(self);
        while let Some(rest) = rewriter.copy_until('\\') {
            match escape(rest) {
                Escape::Of(c, length) => rewriter.replace(length, [(c, 0)]),
                Escape::None => rewriter.replace(1, [('\\', 0)]),
                Escape::CutOff => break,
            }
        }
        rewriter.finish()
    }

    /// Without the percent-encoding of addresses.
    fn decoded(&self) -> Reading<'static> {
        let mut rewriter = Rewriter::new(self);
        while let Some(rest) = rewriter.copy_until('%') {
            let bytes: Vec<u8> = std::iter::successors(Some(rest), |rest| rest.get(3..))
                .map_while(|rest| hex(rest.strip_prefix('%')?, 2).ok()?.try_into().ok())
                .collect();
            let length = bytes.len() * 3;
            let is_end = rest.len() - length < 3;
            match length {
                0 if is_end => break,
                0 => rewriter.replace(1, [('%', 0)]),
                length => rewriter.replace(length, characters(&bytes, is_end)),
            }
        }
        rewriter.finish()
    }
}

/// The characters of percent-encoded bytes, each with the offset of its encoding. With `is_end`, a character that the end
/// cuts off is left out.
fn characters(bytes: &[u8], is_end: bool) -> Vec<(char, usize)> {
    let mut characters = Vec::with_capacity(bytes.len());
    let mut at = 0;
    for chunk in bytes.utf8_chunks() {
        characters.extend(chunk.valid().char_indices().map(|(byte, c)| (c, (at + byte) * 3)));
        at += chunk.valid().len();
        let is_cut_off = is_end && at + chunk.invalid().len() == bytes.len();
        if !chunk.invalid().is_empty() && !is_cut_off {
            characters.push((char::REPLACEMENT_CHARACTER, at * 3));
        }
        at += chunk.invalid().len();
    }
    characters
}

/// Makes a new reading of another one: copies plain text and replaces what a sign begins.
struct Rewriter<'r> {
    source: &'r Reading<'r>,
    /// How much of the source is done.
    done: usize,
    text: String,
    at: Vec<usize>,
}

impl<'r> Rewriter<'r> {
    fn new(source: &'r Reading<'r>) -> Self {
        let length = source.text.len();
        Self { source, done: 0, text: String::with_capacity(length), at: Vec::with_capacity(length + 1) }
    }

    /// Copies up to the next `sign`. The rest of the source from there on; `None` if no sign follows.
    fn copy_until(&mut self, sign: char) -> Option<&'r str> {
        let rest = self.source.text.get(self.done..)?;
        let (plain, rest) = rest.split_at(rest.find(sign).unwrap_or(rest.len()));
        self.text.push_str(plain);
        self.at.extend((self.done..self.done + plain.len()).map(|byte| self.source.at(byte)));
        self.done += plain.len();
        Some(rest).filter(|rest| !rest.is_empty())
    }

    /// Goes on `length` bytes in the source, which stand for these characters, each with its offset there.
    fn replace(&mut self, length: usize, characters: impl IntoIterator<Item = (char, usize)>) {
        for (c, offset) in characters {
            self.text.push(c);
            self.at.extend(std::iter::repeat_n(self.source.at(self.done + offset), c.len_utf8()));
        }
        self.done += length;
    }

    fn finish(mut self) -> Reading<'static> {
        self.at.push(self.source.at(self.done));
        Reading { text: self.text.into(), at: self.at }
    }
}

/// The meaning of a backslash.
enum Escape {
    /// A character, escaped in so many bytes.
    Of(char, usize),
    /// No escape: the backslash is literal.
    None,
    /// An escape that the end of the text cuts off.
    CutOff,
}

fn escape(text: &str) -> Escape {
    let rest = text.get(1..).unwrap_or_default();
    let Some(kind) = rest.chars().next() else { return Escape::CutOff };
    let digits = rest.get(kind.len_utf8()..).unwrap_or_default();
    let (number, length) = match kind {
        'n' => return Escape::Of('\n', 2),
        'r' => return Escape::Of('\r', 2),
        't' => return Escape::Of('\t', 2),
        'b' => return Escape::Of('\u{8}', 2),
        'f' => return Escape::Of('\u{c}', 2),
        '"' | '\'' | '\\' | '/' => return Escape::Of(kind, 2),
        'x' => (hex(digits, 2), 4),
        'u' => match digits.strip_prefix('{').map(|digits| digits.find('}').ok_or(digits)) {
            None => (hex(digits, 4), 6),
            Some(Ok(count)) => (hex(digits.get(1..).unwrap_or_default(), count), count + 4),
            Some(Err(digits)) => (hex(digits, 6), 0),
        },
        _ => return Escape::None,
    };
    match number {
        Ok(high @ 0xd800..0xdc00) => match digits.get(4..).map(|low| (low.len(), low.strip_prefix("\\u"))) {
            Some((_, Some(low))) => match hex(low, 4) {
                Ok(low @ 0xdc00..0xe000) => {
                    let code = 0x1_0000 + ((high - 0xd800) << 10 | (low - 0xdc00));
                    Escape::Of(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 12)
                }
                Err(Escape::CutOff) => Escape::CutOff,
                _ => Escape::Of(char::REPLACEMENT_CHARACTER, length),
            },
            Some((0 | 1, None)) => Escape::CutOff,
            _ => Escape::Of(char::REPLACEMENT_CHARACTER, length),
        },
        Ok(code) if length > 0 => Escape::Of(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), length),
        Ok(_) => Escape::None,
        Err(none) => none,
    }
}

/// The number that the first `digits` hexadecimal digits make.
fn hex(text: &str, digits: usize) -> Result<u32, Escape> {
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match text.get(..digits) {
        Some(number) if is_number(number) => u32::from_str_radix(number, 16).map_err(|_| Escape::None),
        None if is_number(text) => Err(Escape::CutOff),
        _ => Err(Escape::None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traces<'a>(secrets: &'a [(&str, &str)]) -> impl Iterator<Item = Trace<'a>> {
        let long = secrets.iter().filter(|(_, value)| value.len() >= REDACTED_BYTES_MIN);
        long.map(|(name, value)| (Mark::Secret(name), *value))
    }

    fn redacted_as(known: &[(&str, &str)], text: &str, case: Case) -> String {
        redact(traces(known), text, usize::MAX, case)
    }

    fn redacted(known: &[(&str, &str)], text: &str) -> String {
        redacted_as(known, text, Case::Matters)
    }

    #[test]
    fn every_occurrence_is_replaced() {
        assert_eq!(redacted(&[("k", "hunter2")], "hunter2, ahunter2b"), "[secret k], a[secret k]b");
        assert_eq!(redacted(&[("k", "hunter2")], "nothing to hide"), "nothing to hide");
        assert_eq!(redacted(&[("a", "word"), ("b", "password")], "password word"), "[secret b] [secret a]");
        assert_eq!(redacted(&[("a", "abcdef"), ("b", "efghij")], "abcdefghij"), "[secret a]");
        assert_eq!(redacted(&[("short", "abc")], "abc"), "abc");
    }

    #[test]
    fn a_secret_that_was_cut_is_still_one() {
        assert_eq!(redacted(&[("k", "hunter2")], "it is hunt"), "it is [secret k]");
        assert_eq!(redacted(&[("k", "hunter2")], "it is hun"), "it is hun");
        assert_eq!(redacted(&[("k", "pa\u{df}w\u{f6}rter")], "pa\u{df}w\u{f6}"), "[secret k]");
    }

    #[test]
    fn a_shown_text_is_cut_but_the_name_of_a_secret_is_not() {
        let shown = |text: &str, bytes_max| redact(traces(&[("k", "hunter2")]), text, bytes_max, Case::Matters);
        assert_eq!(shown("abcd", 4), "abcd");
        assert_eq!(shown("abcde", 4), "abcd…");
        assert_eq!(shown("abcé", 4), "abc…");
        assert_eq!(shown("abchunter2", 4), "abc[secret k]");
        assert_eq!(shown("abchunter2d", 4), "abc[secret k]…");
        assert_eq!(shown("abcdhunter2", 4), "abcd…");
        let long = format!("abc{}", "\\\\u0068\\\\u0075\\\\u006e\\\\u0074\\\\u0065\\\\u0072\\\\u0032".repeat(3));
        assert_eq!(shown(&long, 4), "abc[secret k]…");
    }

    const ODD: &str = "pa\"s/s\\\n-\u{e9}\u{1f600}";

    /// Spellings of [`ODD`].
    const SPELLED: [&str; 8] = [
        r#"pa\"s/s\\\n-é😀"#,
        r#"pa\"s\/s\\\n-\u00e9\ud83d\ude00"#,
        r"pa\u0022s/s\u005C\u000A-\u00E9\uD83D\uDE00",
        r#"pa\"s/s\\\n-\u{e9}\u{1f600}"#,
        r"pa\x22s/s\\\n-\xe9😀",
        r#"pa\\\"s/s\\\\\\n-\\u00e9\\ud83d\\ude00"#,
        "pa%22s/s%5C%0A-%C3%A9%F0%9F%98%80",
        "%70%61%22%73%2f%73%5c%0a%2d%c3%a9%f0%9f%98%80",
    ];

    #[test]
    fn a_secret_is_recognised_in_every_spelling() {
        for spelled in SPELLED {
            let text = format!("<\\q100%\\ {spelled}\\>");
            assert_eq!(redacted(&[("k", ODD)], &text), "<\\q100%\\ [secret k]\\>", "{spelled}");
            let find = |text: &str| found_in(traces(&[("other", "nothing"), ("k", ODD)]), text);
            assert_eq!(find(&text), Some(Mark::Secret("k")), "{spelled}");
            assert_eq!(find("<pa\\\"s>"), None);
        }
    }

    /// Wherever a text is cut, no more of a secret is seen than the few bytes that redaction ignores.
    #[test]
    fn a_spelled_secret_may_be_cut_anywhere() {
        for spelled in SPELLED {
            for end in (0..=spelled.len()).filter(|end| spelled.is_char_boundary(*end)) {
                let shown = redacted(&[("k", ODD)], &format!("it is {}", &spelled[..end]));
                let seen = shown.strip_prefix("it is ").unwrap();
                assert!(end < MARGIN_BYTES / 2 || seen.starts_with("[secret k]"), "{shown} of {spelled}");
                // The rest behind the mark is part of one character.
                assert!(!seen.starts_with('[') || seen.len() < "[secret k]".len() + 12, "{shown} of {spelled}");
            }
        }
    }

    #[test]
    fn readings_keep_offsets_in_the_original() {
        let text = "é\\u00e9%C3%A9\\\\n%";
        for reading in readings(text.into()) {
            for (byte, c) in reading.text.char_indices() {
                let (start, end) = (reading.at(byte), reading.at(byte + c.len_utf8()));
                assert!(start < end && text.get(start..end).is_some(), "{} at {byte}", reading.text);
            }
        }
        let read: Vec<_> = readings(text.into()).iter().map(|reading| reading.text.to_string()).collect();
        assert_eq!(read, [text, "éé%C3%A9\\n%", "éé%C3%A9\n%", "é\\u00e9é\\\\n"]);
    }

    #[test]
    fn invalid_escapes_are_literal() {
        for text in ["\\", "\\q", "\\ux", "\\u12", "\\u{", "\\u{x}", "\\u{110000000}", "\\ud83d", "\\ud83dx", "\\xg"] {
            assert_eq!(redacted(&[("k", "hunter2")], text), text);
        }
        for text in ["%", "%2", "%zz", "%ff%", "100 %, %e9"] {
            assert_eq!(redacted(&[("k", "hunter2")], text), text);
        }
    }

    #[test]
    fn the_case_of_an_escape_counts_where_that_of_letters_does_not() {
        let text = "pa\\\"s/s\\N and Hunter2";
        assert_eq!(
            redacted_as(&[("k", "pa\"s/s\\"), ("l", "hunter2")], text, Case::IsIgnored),
            "[secret k]N and [secret l]"
        );
    }

    #[test]
    fn names_of_hosts_are_recognised_in_small_letters() {
        let text = "https://hunter2.example/HUNTER2/x";
        assert_eq!(redacted_as(&[("k", "Hunter2")], text, Case::IsIgnored), "https://[secret k].example/[secret k]/x");
        assert_eq!(redacted(&[("k", "Hunter2")], text), text);
    }
}
