//! Values that a plugin reads and that the host never writes.
//!
//! Only [`Secret::reveal`] returns the text, for the plugin itself. Texts of the plugin for the log and for people pass
//! [`redact`](crate::redact). That catches accidents (a token in an error text, a header in a debug line), not a guest
//! that encodes a secret on purpose: grant a secret only to a plugin that you trust with it.

use std::{env, fmt, io, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{files, redact::REDACTED_BYTES_MIN};

/// Bytes of one setting or secret of a plugin: enough for certificates and keys.
pub const VALUE_BYTES_MAX: usize = 64 << 10;

/// A secret and the line break behind it.
const FILE_BYTES_MAX: usize = VALUE_BYTES_MAX + 2;

/// Where the host reads a secret from; the settings never hold the secret itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A variable of the host's environment.
    Env(String),
    /// A file; one line break at its end does not belong to the secret.
    File(PathBuf),
}

/// Why a secret cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    #[error("the variable {0} is not set: set it where the host is started")]
    Variable(String),
    #[error("the file {} cannot be read: make it readable for the host", file.display())]
    File { file: PathBuf, source: io::Error },
    #[error("{0} is empty")]
    Empty(String),
    #[error("{0} has more than {VALUE_BYTES_MAX} bytes")]
    TooLong(String),
    #[error("{0} is not UTF-8 text: encode it, for example by base64")]
    NoText(String),
}

/// A text that neither debug output nor serialization shows.
#[derive(Clone)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Reads it from its source.
    pub fn read(source: &Source) -> Result<Self, Missing> {
        let (place, text) = match source {
            Source::Env(name) => {
                let place = format!("the variable {name}");
                let text = env::var_os(name).ok_or_else(|| Missing::Variable(name.clone()))?;
                (place.clone(), text.into_string().map_err(|_| Missing::NoText(place))?)
            }
            Source::File(file) => {
                let place = format!("the file {}", file.display());
                let bytes = files::read_regular_file(file, FILE_BYTES_MAX as u64)
                    .map_err(|source| Missing::File { file: file.clone(), source })?;
                if bytes.len() > FILE_BYTES_MAX {
                    return Err(Missing::TooLong(place));
                }
                let mut text = String::from_utf8(bytes).map_err(|_| Missing::NoText(place.clone()))?;
                let end = if text.ends_with("\r\n") { 2 } else { usize::from(text.ends_with('\n')) };
                text.truncate(text.len() - end);
                (place, text)
            }
        };
        match text.len() {
            0 => Err(Missing::Empty(place)),
            bytes if bytes > VALUE_BYTES_MAX => Err(Missing::TooLong(place)),
            _ => Ok(Self(text)),
        }
    }

    /// A secret of a test.
    #[cfg(test)]
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The text itself, for the plugin.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The texts that reveal it: all of it, and each of its lines, since logs show single lines.
    pub(super) fn traces(&self) -> impl Iterator<Item = &str> {
        let lines = self.0.lines().filter(|line| line.len() != self.0.len());
        std::iter::once(&*self.0).chain(lines).filter(|trace| trace.len() >= REDACTED_BYTES_MIN)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn debug_output_shows_nothing() {
        assert!(!format!("{:?}", Secret("hunter2".into())).contains("hunter2"));
    }

    #[test]
    fn the_lines_of_a_secret_are_secret() {
        let secret = Secret("-----BEGIN-----\nMIIEvQ==\nab\n-----END-----".into());
        let traces: Vec<_> = secret.traces().collect();
        assert_eq!(traces, [&*secret.0, "-----BEGIN-----", "MIIEvQ==", "-----END-----"]);
        assert_eq!(Secret("abc".into()).traces().count(), 0);
    }

    #[test]
    fn a_file_loses_one_line_break() {
        let dir = tempfile::tempdir().unwrap();
        let read = |contents: &[u8]| {
            let file = dir.path().join("secret");
            fs::write(&file, contents).unwrap();
            Secret::read(&Source::File(file)).map(|secret| secret.reveal().to_owned())
        };
        assert_eq!(read(b"word").unwrap(), "word");
        assert_eq!(read(b"word\n").unwrap(), "word");
        assert_eq!(read(b"word\r\n").unwrap(), "word");
        assert_eq!(read(b"word\n\n").unwrap(), "word\n");
        assert_eq!(read(b"word\r").unwrap(), "word\r");
        assert!(matches!(read(b"\n"), Err(Missing::Empty(_))));
        assert!(matches!(read(b"\xff"), Err(Missing::NoText(_))));
        assert_eq!(read(&vec![b'x'; VALUE_BYTES_MAX]).unwrap().len(), VALUE_BYTES_MAX);
        assert!(matches!(read(&vec![b'x'; VALUE_BYTES_MAX + 1]), Err(Missing::TooLong(_))));
        assert!(matches!(Secret::read(&Source::File(dir.path().into())), Err(Missing::File { .. })));
        assert!(matches!(Secret::read(&Source::Env("WASAGA_NO_SUCH".into())), Err(Missing::Variable(_))));
    }
}
