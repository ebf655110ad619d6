//! Texts of others as people may read them: without characters that control a terminal, begin a line, or hide or reorder
//! what stands around them.
//!
//! [`is_hidden`] is the whole list. It has, by their general category in Unicode 17:
//!
//! - `Cc`, controls: U+0000 to U+001F (line break, carriage return and escape among them), U+007F to U+009F;
//! - `Cf`, format characters: text directions (U+061C, U+200E, U+200F, U+202A to U+202E, U+2066 to U+2069), zero widths
//!   (U+200B to U+200D, U+2060, U+FEFF), soft hyphen, tags (U+E0001, U+E0020 to U+E007F) and the other ones;
//! - `Zl` and `Zp`, the separators of lines and paragraphs: U+2028, U+2029;
//! - `Co`, private use, whose look a font chooses, and the noncharacters at the end of each plane;
//!
//! and what the property `Default_Ignorable_Code_Point` has beside these: fillers, joiners and variation selectors, which
//! have no width of their own and can carry a hidden text. An emoji that is made with one of them is shown in parts.
//!
//! Combining marks and letters that look like others are not on it: they are needed to write, and move nothing else.

use std::{borrow::Cow, fmt::Write as _};

/// Whether a character is never shown as it is. See the module for the list.
pub const fn is_hidden(c: char) -> bool {
    matches!(c,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}'
        | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{e000}'..='\u{f8ff}' | '\u{fdd0}'..='\u{fdef}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
        | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{10ffff}')
        || (c as u32) & 0xfffe == 0xfffe
}

/// The text with each hidden character in the form `\n` or `\u{202e}`. A tab stays: it moves to the right only. A
/// backslash stays too, so the text cannot be read back without doubt.
pub fn escape(text: &str) -> Cow<'_, str> {
    escape_also(text, |_| false)
}

/// The text in double quotes, in which each hidden character, quote and backslash is escaped: what stands behind the
/// closing quote is not of the text.
pub fn quote(text: &str) -> String {
    let escaped = escape_also(text, |c| matches!(c, '"' | '\\' | '\t'));
    let mut quoted = String::with_capacity(escaped.len() + 2);
    quoted.push('"');
    quoted.push_str(&escaped);
    quoted.push('"');
    quoted
}

fn escape_also(text: &str, also: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_escaped = |c: char| is_hidden(c) && c != '\t' || also(c);
    let Some(first) = text.find(is_escaped) else { return text.into() };
    let (plain, rest) = text.split_at(first);
    let mut escaped = String::with_capacity(text.len() + 16);
    escaped.push_str(plain);
    for c in rest.chars() {
        if is_escaped(c) {
            // Writing to a string does not fail.
            let _ = write!(escaped, "{}", c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped.into()
}

/// The text, or its beginning of at most `bytes_max` bytes followed by `…`.
pub fn cut(text: &str, bytes_max: usize) -> Cow<'_, str> {
    match text.split_at_checked(text.floor_char_boundary(bytes_max)) {
        Some((start, rest)) if !rest.is_empty() => format!("{start}…").into(),
        _ => text.into(),
    }
}

/// As [`cut`], of a text that is owned: it is not copied if nothing is cut off.
pub fn cut_owned(text: String, bytes_max: usize) -> String {
    match cut(&text, bytes_max) {
        Cow::Owned(cut) => cut,
        Cow::Borrowed(_) => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_hides_or_reorders_text_is_escaped_and_writing_is_not() {
        for c in (0..=0x1f).chain(0x7f..=0x9f).filter_map(char::from_u32) {
            assert!(is_hidden(c), "{c:?}");
        }
        for c in "\u{ad}\u{61c}\u{200b}\u{200d}\u{200f}\u{2028}\u{2029}\u{202e}\u{2060}\u{2066}\u{2069}\u{feff}\u{fff9}\u{e000}\u{e0001}\u{e0061}\u{1d173}\u{fe0f}\u{e0100}\u{3164}\u{ffff}\u{1fffe}\u{fdd0}\u{10ffff}".chars() {
            assert!(is_hidden(c), "{c:?}");
        }
        for c in " ~aäßжñ字あ한ا\u{5d0}€😀—“\u{301}\u{a0}\u{fffd}\u{fffc}".chars() {
            assert!(!is_hidden(c), "{c:?}");
        }
    }

    #[test]
    fn hidden_characters_are_escaped_and_quotes_end_a_text() {
        let text = "a\u{1b}[2K\r\nb\tc\u{202e}\u{85}é";
        assert_eq!(escape(text), r"a\u{1b}[2K\r\nb".to_owned() + "\tc" + r"\u{202e}\u{85}" + "é");
        assert!(matches!(escape("plain \\ \"text\" é"), Cow::Borrowed(_)));
        assert_eq!(quote("a\" b=\"\t\\\n\u{200b}é"), r#""a\" b=\"\t\\\n\u{200b}é""#);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(cut("abé", 4), "abé");
        assert_eq!(cut("abé", 3), "ab…");
        assert_eq!(cut("", 0), "");
    }
}
