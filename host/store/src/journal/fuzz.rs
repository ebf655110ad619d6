//! Fuzz targets: a file in the journal's folder, and the operations in a record.

use std::{fs, path::Path};

use wasaga_fuzz::Target;

use super::{
    segment::{self, HEADER_BYTES, Kind, Next, RECORD_OVERHEAD, Reader, Record},
    survey::survey,
};
use crate::{codec, error::OpenError, files, opening::Opening};

/// A segment whose first record is number 1.
fn segment_of(payloads: &[&[u8]]) -> Vec<u8> {
    let mut bytes = segment::header(Kind::Journal, 1);
    for (payload, seq) in payloads.iter().zip(1..) {
        segment::encode_record(&mut bytes, seq, seq - 1, payload);
    }
    bytes
}

fn writes(writes: &[(&[u8], Option<&[u8]>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in writes {
        codec::encode(&mut out, key, *value);
    }
    out
}

/// The bytes with right checksums, so that mutations reach what lies behind them. Follows the lengths as they are.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let crc = |part: &[u8]| crc32fast::hash(part).to_le_bytes();
    if bytes.len() >= HEADER_BYTES {
        let checksum = crc(&bytes[..HEADER_BYTES - 4]);
        bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&checksum);
    }
    let mut at = HEADER_BYTES;
    while let Some(length) = bytes.get(at..at + 4) {
        let length = u32::from_le_bytes(length.try_into().unwrap()) as usize;
        let Some(body) = bytes.get(at + 8..at + 8 + length) else { break };
        let checksum = crc(body);
        bytes[at + 4..at + 8].copy_from_slice(&checksum);
        at += 8 + length;
    }
    bytes
}

/// A record that was read stands in the file, byte for byte, before the reader's place.
fn assert_is_in_file(bytes: &[u8], record: &Record, end: u64) {
    let mut encoded = Vec::new();
    segment::encode_record(&mut encoded, record.seq, record.synced, &record.payload);
    let end = usize::try_from(end).unwrap();
    assert_eq!(bytes.get(end - encoded.len()..end), Some(&*encoded));
}

fn read(file: &Path, bytes: &[u8]) -> Result<(), OpenError> {
    let mut reader = Reader::open(file, Kind::Journal, 1)?;
    let (mut last, mut offset, mut records) = (0, 0, 0);
    loop {
        let next = reader.next(last).unwrap();
        assert!(reader.offset() >= offset && reader.offset() <= reader.len(), "the reader goes forward");
        offset = reader.offset();
        let record = match next {
            Next::Record(record) => record,
            Next::Damage { then: Some(record), .. } => {
                assert!(record.seq > last, "behind damage, numbers go on");
                record
            }
            Next::Damage { then: None, .. } | Next::End => break,
        };
        assert_is_in_file(bytes, &record, offset);
        last = last.max(record.seq);
        records += 1;
        assert!(records <= bytes.len() / RECORD_OVERHEAD, "more records than the file has room for");
    }
    assert_eq!(offset, bytes.len() as u64);
    Ok(())
}

fn check_segment(dir: &Path, bytes: &[u8]) {
    let file = files::segment(dir, 1);
    fs::write(&file, bytes).unwrap();
    if let Err(error) = read(&file, bytes) {
        assert!(matches!(error, OpenError::Newer { .. } | OpenError::Foreign { .. }), "{error:?}");
    }
    match survey(dir, &Opening::default()) {
        Ok(survey) => {
            assert!(survey.readable <= (bytes.len() / RECORD_OVERHEAD) as u64);
            assert!(survey.holes.iter().all(|hole| hole.first_seq <= hole.last_seq), "{:?}", survey.holes);
            if let Some(torn) = survey.torn {
                assert_eq!(torn.offset + torn.bytes, bytes.len() as u64);
            }
        }
        Err(error) => assert!(matches!(error, OpenError::Newer { .. } | OpenError::Foreign { .. }), "{error:?}"),
    }
}

#[test]
fn fuzz_segments() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (writes(&[(b"key", Some(b"value"))]), writes(&[(b"gone", None), (b"k", Some(&[0; 40]))]));
    let inside = segment_of(&[&one]);
    Target::new("segments")
        .seed(segment_of(&[]))
        .seed(segment_of(&[&one, &two, &one]))
        .seed(segment_of(&[b"", &inside, b"\x03\x00\x00"]))
        .tokens([&b"wasaga-j"[..], b"wasaga-b", &inside, &1_u64.to_le_bytes(), &2_u64.to_le_bytes()])
        .bytes_max(2048)
        .run(|bytes| {
            check_segment(dir.path(), bytes);
            check_segment(dir.path(), &mended(bytes));
        });
}

#[test]
fn fuzz_operations() {
    Target::new("operations")
        .seed(writes(&[(b"key", Some(b"value")), (b"gone", None)]))
        .seed(writes(&[(b"", Some(b"")), (&[b'k'; 300], Some(&[7; 300]))]))
        .tokens([&b"\x01\x00\x00"[..], b"\x02\x00\x00", b"\x03", b"\xff\xff\xff\xff"])
        .run(|bytes| {
            let mut again = Vec::new();
            for write in codec::decode(bytes) {
                codec::encode(&mut again, write.key, write.value);
            }
            assert!(bytes.starts_with(&again), "what was read is what is there");
            match codec::check(bytes) {
                Ok(()) => assert_eq!(again, bytes),
                Err(codec::Unreadable::Newer(tag)) => assert!(tag > codec::NEWEST),
                Err(codec::Unreadable::Malformed) => assert_ne!(again.len(), bytes.len()),
            }
        });
}
