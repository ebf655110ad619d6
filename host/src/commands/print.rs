//! Output of commands.

use std::{
    fmt::Display,
    io::{self, ErrorKind, Write as _},
};

/// Writes a line to standard output. If the reader has closed it, as `head` does, the command still runs to its end, so
/// that its exit status is correct.
pub fn say(text: impl Display) {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            // There is no other place to report an error of standard error.
            let _ = writeln!(io::stderr(), "wasaga: standard output cannot be written: {error}");
        }
        _ => {}
    }
}
