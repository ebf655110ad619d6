//! What commands have to say, on standard output.

use std::{
    fmt::Display,
    io::{self, ErrorKind, Write as _},
};

/// Writes a line. Who reads may have seen enough, as `head` has after some lines: the command goes on to its end all the
/// same, so that its exit status stays true.
pub fn say(text: impl Display) {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            // If that does not work either, nobody can be told.
            let _ = writeln!(io::stderr(), "wasaga: standard output cannot be written: {error}");
        }
        _ => {}
    }
}
