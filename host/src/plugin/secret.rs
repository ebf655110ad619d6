//! Values that a plugin may know, and nobody may read in what the host writes.
//!
//! A secret has no way out but [`Secret::reveal`], for the plugin itself. What the plugin gives to the host's log and to
//! people passes [`redact`](super::redact). That catches accidents (a token in an error text, a header in a debug line), not a guest
//! that encodes what it knows: only a plugin that is trusted with a secret should be granted it.

use std::{env, fmt, fs, io, io::Read as _, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Bytes of one setting or secret of a plugin: room for certificates and keys, none for data.
pub const VALUE_BYTES_MAX: usize = 64 << 10;

/// A secret and the line break behind it.
const FILE_BYTES_MAX: usize = VALUE_BYTES_MAX + 2;

/// Bytes from which on a secret is looked for in texts. Shorter ones stand in many texts by chance.
pub const REDACTED_BYTES_MIN: usize = 4;

/// Where a secret comes from; the settings never hold it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A variable of the host's environment.
    Env(String),
    /// A file; one line break at its end is not part of the secret.
    File(PathBuf),
}

/// Why a secret cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// There is no such variable.
    #[error("the variable {0} is not set: set it where the host is started")]
    Variable(String),
    /// The file cannot be read.
    #[error("the file {} cannot be read: make it readable for the host", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing in it.
    #[error("{0} is empty")]
    Empty(String),
    /// More than a secret should have.
    #[error("{0} has more than {VALUE_BYTES_MAX} bytes")]
    TooLong(String),
    /// Not a text.
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
    /// Fetches it.
    pub fn read(source: &Source) -> Result<Self, Missing> {
        let (place, text) = match source {
            Source::Env(name) => {
                let place = format!("the variable {name}");
                let text = env::var_os(name).ok_or_else(|| Missing::Variable(name.clone()))?;
                (place.clone(), text.into_string().map_err(|_| Missing::NoText(place))?)
            }
            Source::File(file) => {
                let place = format!("the file {}", file.display());
                let bytes = contents(file).map_err(|source| Missing::File { file: file.clone(), source })?;
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

    /// One that a test knows.
    #[cfg(test)]
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The text itself, for the plugin.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What gives it away: all of it, and each of its lines, since logs are read by line.
    pub(super) fn traces(&self) -> impl Iterator<Item = &str> {
        let lines = self.0.lines().filter(|line| line.len() != self.0.len());
        std::iter::once(&*self.0).chain(lines).filter(|trace| trace.len() >= REDACTED_BYTES_MIN)
    }
}

/// Opening anything but a file, a pipe for example, could wait for ever.
fn contents(file: &PathBuf) -> io::Result<Vec<u8>> {
    if !fs::metadata(file)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    fs::File::open(file)?.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_shows_nothing() {
        assert!(!format!("{:?}", Secret("hunter2".into())).contains("hunter2"));
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
