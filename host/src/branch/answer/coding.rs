//! Content codings of an answer (RFC 9110, section 8.4), and transfer codings other than `chunked`, which servers apply in
//! the same way.
//!
//! They are decoded also if the host has not asked for them: a server may compress unasked, and a saga's `branch_headers`
//! may ask. A decoder that meets the end of its input before the end of its format, or has input left behind it, is an
//! error, since what is missing may decide.

use std::io::{self, BufRead, Read};

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::{Decompress, FlushDecompress, Status, bufread::MultiGzDecoder};
use http::{
    HeaderMap,
    header::{CONTENT_ENCODING, TRANSFER_ENCODING},
};

/// Most codings of one answer, one upon the other: as many as curl decodes.
const CODINGS_MAX: usize = 2;

/// Longest name of a coding in an error, in characters.
const NAME_CHARS_MAX: usize = 64;

/// Binary logarithm of zstd's largest window: 8 MiB, the most that a server may use (RFC 9659).
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// How much a decoder's output grows at once, in bytes.
const PIECE_BYTES: usize = 8 << 10;

/// A coding that can be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Coding {
    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    /// Decodes until the end, or until there are more than `bytes_max` bytes.
    fn decode(self, coded: &[u8], bytes_max: usize) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip => read(MultiGzDecoder::new(coded), bytes_max),
            Self::Deflate => inflate(coded, bytes_max),
            Self::Brotli => unbrotli(coded, bytes_max),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(coded)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                read(decoder, bytes_max)
            }
        }
    }
}

/// The codings of an answer, in the order in which they were applied. The error names one that cannot be decoded.
pub fn codings(headers: &HeaderMap) -> Result<Vec<Coding>, String> {
    let mut codings = Vec::new();
    let mut is_chunked = false;
    for header in [CONTENT_ENCODING, TRANSFER_ENCODING] {
        for value in headers.get_all(&header) {
            let value = String::from_utf8_lossy(value.as_bytes());
            // A transfer coding may have parameters.
            let names = value.split(',').map(|element| element.split(';').next().unwrap_or_default().trim());
            for name in names {
                if is_chunked && !name.is_empty() {
                    // What stands behind it has not been taken off with the framing.
                    return Err("the answer cannot be read: chunked is not the last of its transfer codings".to_owned());
                }
                codings.push(match name.to_ascii_lowercase().as_str() {
                    "" | "identity" => continue,
                    // Taken off with the rest of the framing.
                    "chunked" if header == TRANSFER_ENCODING => {
                        is_chunked = true;
                        continue;
                    }
                    "gzip" | "x-gzip" => Coding::Gzip,
                    "deflate" => Coding::Deflate,
                    "br" => Coding::Brotli,
                    "zstd" => Coding::Zstd,
                    _ => {
                        let name: String = name.chars().take(NAME_CHARS_MAX).collect();
                        return Err(format!(
                            "the answer cannot be read: its {header} {name:?} is not known; \
                             let the service answer without one, or with gzip, deflate, br or zstd"
                        ));
                    }
                });
                if codings.len() > CODINGS_MAX {
                    return Err(format!("the answer cannot be read: it has more than {CODINGS_MAX} codings"));
                }
            }
        }
    }
    Ok(codings)
}

/// A body without its codings.
pub struct Decoded {
    pub bytes: Vec<u8>,
    /// The body is longer than the limit, and this is its beginning.
    pub is_cut: bool,
}

/// Takes the codings off a body, the last first. The limit holds for what each of them yields. The error names the one
/// that is broken.
pub fn decode(coded: &[u8], codings: &[Coding], bytes_max: usize) -> Result<Decoded, String> {
    let mut decoded = Decoded { bytes: Vec::new(), is_cut: false };
    for (number, coding) in codings.iter().rev().enumerate() {
        let name = coding.name();
        if decoded.is_cut {
            return Err(format!(
                "the answer cannot be read: its {name} is longer than the limit of {bytes_max} bytes (response_bytes_max)"
            ));
        }
        let from = if number == 0 { coded } else { &decoded.bytes };
        let mut bytes = coding
            .decode(from, bytes_max)
            .map_err(|error| format!("the answer cannot be read: its body is not whole and valid {name}: {error}"))?;
        let is_cut = bytes.len() > bytes_max;
        bytes.truncate(bytes_max);
        decoded = Decoded { bytes, is_cut };
    }
    Ok(decoded)
}

/// Reads a decoder to its end, or one byte more than `bytes_max`.
fn read(decoder: impl Read, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    decoder.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// `deflate` is the format of zlib (RFC 9110, section 8.4.1.2). Some servers send it without zlib's header and checksum,
/// which all clients accept. `flate2`'s readers take the end of the input for the end of the stream.
fn inflate(coded: &[u8], bytes_max: usize) -> io::Result<Vec<u8>> {
    let is_zlib = match coded {
        [method, flags, ..] => method & 0x0f == 8 && u16::from_be_bytes([*method, *flags]).is_multiple_of(31),
        _ => false,
    };
    let mut decoder = Decompress::new(is_zlib);
    let mut bytes = Vec::new();
    let mut rest = coded;
    loop {
        bytes.reserve(PIECE_BYTES);
        let before = (decoder.total_in(), decoder.total_out());
        let status = decoder.decompress_vec(rest, &mut bytes, FlushDecompress::None)?;
        let taken = usize::try_from(decoder.total_in() - before.0).unwrap_or(usize::MAX);
        rest.consume(taken.min(rest.len()));
        match status {
            _ if bytes.len() > bytes_max => return Ok(bytes),
            Status::StreamEnd if rest.is_empty() => return Ok(bytes),
            Status::StreamEnd => return Err(bytes_behind()),
            _ if before == (decoder.total_in(), decoder.total_out()) => return Err(ends_early()),
            _ => {}
        }
    }
}

/// Brotli (RFC 7932), without the larger windows that were added to it later, which `br` does not have.
fn unbrotli(coded: &[u8], bytes_max: usize) -> io::Result<Vec<u8>> {
    let allocator = StandardAlloc::default;
    let mut state = BrotliState::new_strict(allocator(), allocator(), allocator());
    let mut piece = vec![0; PIECE_BYTES];
    let mut bytes = Vec::new();
    let (mut left, mut at, mut total) = (coded.len(), 0, 0);
    loop {
        let (mut room, mut filled) = (piece.len(), 0);
        let result = BrotliDecompressStream(
            &mut left,
            &mut at,
            coded,
            &mut room,
            &mut filled,
            &mut piece,
            &mut total,
            &mut state,
        );
        bytes.extend_from_slice(piece.get(..filled).unwrap_or_default());
        match result {
            BrotliResult::ResultFailure => return Err(io::Error::new(io::ErrorKind::InvalidData, "invalid data")),
            _ if bytes.len() > bytes_max => return Ok(bytes),
            BrotliResult::ResultSuccess if left == 0 => return Ok(bytes),
            BrotliResult::ResultSuccess => return Err(bytes_behind()),
            BrotliResult::NeedsMoreInput => return Err(ends_early()),
            BrotliResult::NeedsMoreOutput => {}
        }
    }
}

fn ends_early() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it ends too early")
}

fn bytes_behind() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "there are bytes behind its end")
}
