//! Folders that a newer version has written.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use wasaga::{
    data_folder,
    store::{Batch, LocalStore, Settings, Store, disk::Os},
};

use crate::{Folder, tree};

/// Starts the host on a folder that it must refuse.
fn start(data: &Path) -> Output {
    let plugins = data.with_file_name("plugins");
    Command::new(env!("CARGO_BIN_EXE_wasaga"))
        .args(["--listen", "127.0.0.1:0", "--data"])
        .arg(data)
        .arg("--plugins")
        .arg(plugins)
        .output()
        .unwrap()
}

/// Asserts that it is refused by name with exit status 78, and that nothing changes.
fn assert_is_refused(data: &Path, words: &str, may_change: impl Fn(&Path) -> bool) {
    let kept = || {
        let mut files = tree(data);
        files.retain(|path, _| !may_change(path));
        files
    };
    let before = kept();
    let output = start(data);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{stderr}");
    let last = stderr.lines().last().unwrap();
    assert!(last.starts_with("wasaga: ") && last.contains(words) && last.contains("newer Wasaga"), "{stderr}");
    assert_eq!(kept(), before, "{words}");
}

#[test]
fn a_newer_data_folder_is_refused_and_not_touched() {
    for fixture in ["stopped", "torn"] {
        let folder = Folder::unpack("data-1", fixture);
        fs::write(folder.data().join("FORMAT"), "wasaga-data 3\n").unwrap();
        assert_is_refused(&folder.data(), "format 3; this one reads up to 2: start that one", |_| false);
    }
}

#[test]
fn a_newer_journal_is_refused_and_not_touched() {
    let folder = Folder::unpack("data-1", "torn");
    data_folder::open(&folder.data(), &Os).unwrap();
    let journal = folder.data().join("database/journal/00000000000000000001.journal");
    let mut bytes = fs::read(&journal).unwrap();
    bytes[8..12].copy_from_slice(&9u32.to_le_bytes());
    let crc = crc32(&bytes[..20]);
    bytes[20..24].copy_from_slice(&crc.to_le_bytes());
    // Records of another form, as a newer version would have them: nothing behind the header can be read.
    bytes[24..].iter_mut().for_each(|byte| *byte = !*byte);
    fs::write(&journal, bytes).unwrap();
    assert_is_refused(&folder.data(), "format 9; this one reads up to 1: start that one", |_| false);
}

#[test]
fn rows_of_a_newer_version_are_refused_and_not_touched() {
    let newer: [(&[u8], &[u8], &str); 3] = [
        (b"h\0\0\0\0\0\0\0\x01", b"\x01", "holds"),
        (b"zebra", b"\x01", "rows of an unknown kind"),
        (b"o\0\0\0\0\0\0\0\x01", b"\x09...", "row of the unfinished saga"),
    ];
    for (key, value, words) in newer {
        let folder = Folder::unpack("data-1", "stopped");
        data_folder::open(&folder.data(), &Os).unwrap();
        let (store, _) = LocalStore::open(Settings::new(data_folder::store(&folder.data()))).unwrap();
        let mut batch = Batch::new();
        batch.put(key, value);
        store.commit(batch).unwrap();
        store.close().unwrap();
        drop(store);
        // The store has been opened, and so has its own housekeeping; no row of it may change.
        let rows = || {
            let (store, _) = LocalStore::open(Settings::new(data_folder::store(&folder.data()))).unwrap();
            wasaga::store::Read::scan(&store, &wasaga::store::Range::default(), 4096).unwrap()
        };
        let before = rows();
        assert_is_refused(&folder.data(), words, |path| path.starts_with("database") || path.starts_with("compiled"));
        assert_eq!(rows(), before);
    }
}

/// CRC-32 as in zip, bit by bit: the test does not use the code that it tests.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}
