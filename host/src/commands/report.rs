//! Tables and sizes for a terminal.

use std::fmt::Write as _;

/// A list of names, each with a text of one or more lines.
#[derive(Default)]
pub struct Report(Vec<(String, String)>);

impl Report {
    /// Adds a name and its text.
    pub fn add(&mut self, name: &str, text: impl Into<String>) {
        self.0.push((name.to_owned(), text.into()));
    }

    /// The list, with the texts in one column.
    pub fn text(&self) -> String {
        let width = self.0.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for (name, lines) in &self.0 {
            for (number, line) in lines.lines().enumerate() {
                let name = if number == 0 { name.as_str() } else { "" };
                // Writing to a string does not fail.
                let _ = writeln!(text, "{name:width$}  {line}");
            }
        }
        text
    }
}

/// The alignment of a column.
#[derive(Clone, Copy)]
pub enum Side {
    Left,
    Right,
}

/// Rows with columns as wide as their longest cell.
pub fn table<const N: usize>(rows: &[[String; N]], sides: [Side; N]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for ((cell, side), width) in row.iter().zip(sides).zip(widths) {
            // Writing to a string does not fail.
            let _ = match side {
                Side::Left => write!(line, "{cell:width$}  "),
                Side::Right => write!(line, "{cell:>width$}  "),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A number of bytes with its unit, as in `1.5 KiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["bytes", "KiB", "MiB", "GiB"];
    let (mut whole, mut tenths, mut unit) = (bytes, 0, 0);
    while whole >= 1024 && unit + 1 < UNITS.len() {
        (whole, tenths, unit) = (whole / 1024, whole % 1024 * 10 / 1024, unit + 1);
    }
    let unit_name = UNITS.get(unit).copied().unwrap_or_default();
    if unit == 0 { format!("{whole} {unit_name}") } else { format!("{whole}.{tenths} {unit_name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (18_390_281, "17.5 MiB")] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_longest() {
        let rows = [["plugin", "size", "end"], ["a-name-of-many-letters", "1", "x"], ["b", "12345", ""]];
        let rows = rows.map(|row| row.map(ToOwned::to_owned));
        let wanted =
            "plugin                   size  end\na-name-of-many-letters      1  x\nb                       12345\n";
        assert_eq!(table(&rows, [Side::Left, Side::Right, Side::Left]), wanted);
    }

    #[test]
    fn texts_stand_in_one_column() {
        let mut report = Report::default();
        report.add("a", "one");
        report.add("long", "two\nthree");
        assert_eq!(report.text(), "a     one\nlong  two\n      three\n");
    }
}
