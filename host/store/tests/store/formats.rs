//! Files of a newer version and of other programs: the store is not opened, and no byte of them changes.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use fastrand::Rng;
use tempfile::{TempDir, tempdir};
use wasaga_store::{LocalStore, OpenError, Settings, StateOrigin, Store, Unsupported};

use crate::support::{contents, eventually, files, open, put, segments, small};

fn settings(dir: &Path) -> Settings {
    Settings { segment_bytes: 300, base_bytes: 1000, ..small(dir) }
}

/// A closed store with segments, a base and sled.
fn filled() -> TempDir {
    let dir = tempdir().unwrap();
    let (store, _) = open(settings(dir.path()));
    eventually("a base", || {
        (0..20).for_each(|n| drop(store.commit(put(format!("k{n:04}"), "value")).unwrap()));
        store.stats().bases > 0
    });
    drop(store);
    // Not whole: recovery would remove it.
    fs::write(dir.path().join("base/00000000000000000099.draft"), b"draft").unwrap();
    dir
}

/// A closed store whose journal is one segment with records 1 to `count`, and nothing else.
fn journal_of(count: usize) -> (TempDir, PathBuf) {
    let dir = tempdir().unwrap();
    let (store, _) = open(Settings { base_bytes: u64::MAX, segment_bytes: 1 << 20, ..settings(dir.path()) });
    (0..count).for_each(|n| drop(store.commit(put(format!("k{n:04}"), "value")).unwrap()));
    drop(store);
    fs::remove_dir_all(dir.path().join("state")).unwrap();
    fs::remove_dir_all(dir.path().join("base")).unwrap();
    let segment = segments(dir.path()).remove(0);
    (dir, segment)
}

/// Every file and directory, but for what sled writes and the lock.
fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut rest = vec![dir.to_owned()];
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() && !path.ends_with("LOCK") {
                found.insert(path.clone(), Some(fs::read(&path).unwrap()));
            } else if path.is_dir() {
                if !path.ends_with("state") {
                    rest.push(path.clone());
                }
                found.insert(path, None);
            }
        }
    }
    found
}

/// Opening fails, with `salvage` too, and changes nothing.
fn refusal(dir: &Path) -> OpenError {
    let before = snapshot(dir);
    for salvage in [true, false] {
        let settings = Settings { salvage, ..settings(dir) };
        LocalStore::open(settings).expect_err("the store was opened");
        assert!(snapshot(dir) == before, "something was changed");
    }
    LocalStore::open(settings(dir)).expect_err("the store was opened")
}

fn assert_newer(dir: &Path, file: &Path, found: Unsupported) {
    let before = snapshot(dir);
    let refused = refusal(dir);
    assert!(snapshot(dir) == before);
    let OpenError::Newer { file: named, found: seen, .. } = &refused else { panic!("{refused}") };
    assert_eq!((named.as_path(), *seen, refused.is_newer()), (file, found, true));
    let text = refused.to_string();
    let number = match found {
        Unsupported::Format(version) => {
            format!("newer Wasaga, format {version}; this one reads up to 1: start that one")
        }
        Unsupported::Operation(tag) => format!("newer Wasaga, operation {tag}"),
    };
    assert!(text.contains(&number) && text.ends_with("Nothing was changed."), "{text}");
}

/// Gives a file's header another version, and its right checksum.
fn set_version(file: &Path, version: u32) {
    let mut bytes = fs::read(file).unwrap();
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..20]).to_le_bytes();
    bytes[20..24].copy_from_slice(&crc);
    fs::write(file, bytes).unwrap();
}

/// Everything behind the header becomes unreadable.
fn garble(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    bytes[24..].iter_mut().for_each(|byte| *byte = byte.wrapping_mul(7).wrapping_add(3));
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_journal_of_a_newer_version_is_left_alone_whichever_segment_says_so() {
    for is_garbled in [false, true] {
        for at in ["first", "last"] {
            let dir = filled();
            let segments = segments(dir.path());
            let segment = if at == "first" { segments.first() } else { segments.last() }.unwrap();
            set_version(segment, 2);
            if is_garbled {
                garble(segment);
            }
            assert_newer(dir.path(), segment, Unsupported::Format(2));
            // Not even a missing sled changes that.
            fs::remove_dir_all(dir.path().join("state")).unwrap();
            assert_newer(dir.path(), segment, Unsupported::Format(2));
            assert!(!dir.path().join("state").exists());
        }
    }
}

#[test]
fn one_segment_of_a_newer_version_is_all_there_is() {
    let (dir, segment) = journal_of(3);
    set_version(&segment, 7);
    garble(&segment);
    assert_newer(dir.path(), &segment, Unsupported::Format(7));
    assert!(!dir.path().join("base").exists() && !dir.path().join("state").exists(), "directories were made");
}

#[test]
fn a_base_of_a_newer_version_is_left_alone_also_when_it_is_not_the_newest() {
    let dir = filled();
    let bases = dir.path().join("base");
    let newest = files(&bases, "base").pop().unwrap();
    let older = bases.join("00000000000000000001.base");
    fs::copy(&newest, &older).unwrap();
    set_version(&older, 2);
    assert_newer(dir.path(), &older, Unsupported::Format(2));
    fs::remove_file(older).unwrap();
    set_version(&newest, 2);
    assert_newer(dir.path(), &newest, Unsupported::Format(2));
    fs::remove_dir_all(dir.path().join("state")).unwrap();
    assert_newer(dir.path(), &newest, Unsupported::Format(2));
    assert!(!dir.path().join("state").exists());
}

#[test]
fn sled_of_a_newer_version_is_neither_rebuilt_nor_set_aside() {
    let dir = filled();
    let state = dir.path().join("state");
    let row = {
        let mut row = b"\x02 a layout of its own".to_vec();
        row.extend(crc32fast::hash(&row).to_le_bytes());
        let db = sled::Config::new().path(&state).segment_size(8 << 20).open().unwrap();
        db.insert([0], row.clone()).unwrap();
        db.flush().unwrap();
        row
    };
    assert_newer(dir.path(), &state, Unsupported::Format(2));
    let db = sled::Config::new().path(&state).segment_size(8 << 20).open().unwrap();
    assert_eq!(db.get([0]).unwrap().unwrap(), row);
}

/// A record with a right checksum.
fn record(seq: u64, payload: &[u8]) -> Vec<u8> {
    let body = [&seq.to_le_bytes()[..], &(seq - 1).to_le_bytes(), payload].concat();
    let length = u32::try_from(body.len()).unwrap().to_le_bytes();
    [&length[..], &crc32fast::hash(&body).to_le_bytes(), &body].concat()
}

#[test]
fn an_operation_of_a_newer_version_is_not_skipped() {
    for (payload, tag) in [(&b"\x02\x01\0k\x03\x01\0k"[..], 3), (b"\x63\x01\0k", 0x63)] {
        let (dir, segment) = journal_of(2);
        let whole = fs::read(&segment).unwrap();
        // As the last record, and before another one.
        for after in [vec![], record(4, b"\x02\x01\0k")] {
            fs::write(&segment, [&whole, &record(3, payload), &after].map(|part| &part[..]).concat()).unwrap();
            assert_newer(dir.path(), &segment, Unsupported::Operation(tag));
        }
    }
    assert_eq!(Unsupported::Operation(3).to_string(), "operation 3 (FINISH)");
}

#[test]
fn an_operation_that_no_version_writes_is_damage() {
    for payload in [&b"\0\x01\0k"[..], b"\x01\x01\0k\xff\0\0\0cut", b"\x02\x09\0k"] {
        let (dir, segment) = journal_of(2);
        let whole = fs::read(&segment).unwrap();
        fs::write(&segment, [&whole[..], &record(3, payload)].concat()).unwrap();
        let before = snapshot(dir.path());
        let refused = LocalStore::open(settings(dir.path())).unwrap_err();
        let OpenError::Corrupt(found) = &refused else { panic!("{refused}") };
        assert_eq!((found.offset, found.first_seq, found.last_seq), (whole.len() as u64, 3, 3));
        assert!(snapshot(dir.path()) == before && !refused.is_newer());
        let (_store, report) = open(Settings { salvage: true, ..settings(dir.path()) });
        assert_eq!(report.last_seq, 2);
    }
}

#[test]
fn a_file_of_another_program_is_left_alone() {
    let foreign: [&[u8]; 3] = [b"PK\x03\x04", b"something of twenty-four", &[0x5a; 5000]];
    for content in foreign {
        let dir = filled();
        for name in ["journal/00000000000000009999.journal", "base/00000000000000009999.base"] {
            let file = dir.path().join(name);
            fs::write(&file, content).unwrap();
            let refused = refusal(dir.path());
            assert!(matches!(&refused, OpenError::Foreign { file: named } if *named == file), "{refused}");
            assert!(refused.to_string().contains("no file of Wasaga: move it away"), "{refused}");
            fs::remove_file(file).unwrap();
        }
        open(settings(dir.path()));
    }
}

#[test]
fn versions_that_were_never_written_are_damage() {
    let (dir, segment) = journal_of(3);
    set_version(&segment, 0);
    let refused = LocalStore::open(settings(dir.path())).unwrap_err();
    assert!(matches!(&refused, OpenError::Corrupt(found) if found.file == segment && found.offset == 0), "{refused}");
}

/// A last segment without a record, as a power cut leaves it.
#[test]
fn only_a_header_is_removed_and_anything_longer_is_kept_under_another_name() {
    let header = |version: &[u8; 4], first: u64| {
        let mut header = [&b"wasaga-j"[..], version, &first.to_le_bytes()].concat();
        header.extend(crc32fast::hash(&header).to_le_bytes());
        header
    };
    let sound = header(&[1, 0, 0, 0], 3);
    let torn = [&sound[..], &record(3, b"\x02\x01\0k")[..20]].concat();
    let mut damaged = torn.clone();
    damaged[21] ^= 1;
    let cases: [(&str, Vec<u8>, bool); 8] = [
        ("nothing", vec![], false),
        ("a header", sound.clone(), false),
        ("a cut header", sound[..13].to_vec(), false),
        ("a header of zeros", vec![0; 24], false),
        ("zeros", vec![0; 5000], true),
        ("a torn record", torn.clone(), true),
        ("a damaged header and a torn record", damaged, true),
        ("a version that was never written", header(&[0; 4], 3).into_iter().chain([1; 9]).collect(), true),
    ];
    for (what, content, is_kept) in cases {
        let (dir, segment) = journal_of(2);
        let last = segment.with_file_name("00000000000000000003.journal");
        fs::write(&last, &content).unwrap();
        let earlier = segment.with_file_name("00000000000000000003.journal.damaged");
        fs::write(&earlier, b"of an earlier crash").unwrap();
        let (store, report) = open(settings(dir.path()));
        assert!(matches!(report.state, StateOrigin::Rebuilt { .. } | StateOrigin::Kept), "{what}: {report:?}");
        assert_eq!((report.last_seq, contents(&store).len()), (2, 2), "{what}");
        store.commit(put("k", "and on")).unwrap();
        drop(store);
        assert_eq!(fs::read(&earlier).unwrap(), b"of an earlier crash", "{what}");
        let kept = segment.with_file_name("00000000000000000003.journal.damaged-1");
        assert_eq!(fs::read(kept).ok(), is_kept.then_some(content), "{what}");
        let (store, _) = open(settings(dir.path()));
        assert_eq!(contents(&store).len(), 3, "{what}");
    }
}

/// Damages one segment, most often the last one.
fn damage(rng: &mut Rng, segments: &[PathBuf]) {
    let file = &segments[if rng.bool() { segments.len() - 1 } else { rng.usize(..segments.len()) }];
    let mut bytes = fs::read(file).unwrap();
    let at = rng.usize(..bytes.len());
    let end = rng.usize(at..bytes.len()) + 1;
    match rng.u32(..8) {
        0 => bytes[at..end].fill(0),
        1 => rng.fill(&mut bytes[at..end]),
        2 => bytes[at] ^= 1 << rng.u32(..8),
        3 => bytes.truncate(at),
        4 => bytes.resize(end + 100, 0),
        5 => bytes.extend((0..rng.usize(..100)).map(|_| rng.u8(..)).collect::<Vec<_>>()),
        6 => bytes = fs::read(rng.choice(segments).unwrap()).unwrap(),
        _ => {
            let from = [0, 24][rng.usize(..2)].min(bytes.len());
            bytes[from..].fill(rng.u8(..));
        }
    }
    fs::write(file, &bytes).unwrap();
    if rng.u32(..8) == 0 && bytes.len() >= 24 {
        set_version(file, rng.u32(..3));
    }
}

#[test]
fn whatever_the_damage_recovery_deletes_no_file_that_is_longer_than_a_header() {
    let settings = |dir: &Path| Settings { base_bytes: u64::MAX, ..settings(dir) };
    let filled = tempdir().unwrap();
    let (store, _) = open(settings(filled.path()));
    for n in 0..20 {
        store.commit(put(format!("k{n:04}"), "value")).unwrap();
        eventually("it is durable", || store.barrier().is_durable());
    }
    drop(store);
    let whole = segments(filled.path());
    assert!(whole.len() > 2);
    let mut outcomes = [0; 4];
    for seed in wasaga_seed::seeds(400) {
        let mut rng = Rng::with_seed(seed);
        let dir = tempdir().unwrap();
        let journal = dir.path().join("journal");
        fs::create_dir(&journal).unwrap();
        for file in &whole {
            fs::copy(file, journal.join(file.file_name().unwrap())).unwrap();
        }
        (0..rng.u32(1..3)).for_each(|_| damage(&mut rng, &segments(dir.path())));
        let before = snapshot(dir.path());
        let report = match LocalStore::open(settings(dir.path())) {
            Ok((store, report)) => {
                drop(store);
                report
            }
            Err(error) => {
                assert!(snapshot(dir.path()) == before, "seed {seed}: something was changed");
                outcomes
                    [if error.is_newer() { 1 } else { 2 + usize::from(matches!(error, OpenError::Foreign { .. })) }] +=
                    1;
                continue;
            }
        };
        outcomes[0] += 1;
        let after = snapshot(dir.path());
        for (path, bytes) in before.iter().filter_map(|(path, bytes)| Some((path, bytes.as_ref()?))) {
            let is_aside = after
                .iter()
                .any(|(path, kept)| path.to_str().unwrap().contains(".damaged") && kept.as_ref() == Some(bytes));
            let is_cut = report.torn.as_ref().is_some_and(|torn| {
                let kept = &bytes[..usize::try_from(torn.offset).unwrap()];
                torn.file == *path && torn.offset > 0 && after[path].as_deref() == Some(kept)
            });
            let is_kept = after.get(path).is_some_and(|kept| kept.as_ref() == Some(bytes));
            assert!(is_kept || is_aside || is_cut || bytes.len() <= 24, "seed {seed}: {} is lost", path.display());
        }
    }
    assert!(outcomes.iter().all(|count| *count > 3), "{outcomes:?}");
}

#[test]
fn a_torn_tail_longer_than_a_header_is_kept_under_another_name() {
    for (bytes, is_kept) in [(61, true), (25, true), (24, false), (1, false)] {
        let (dir, segment) = journal_of(3);
        let whole = fs::read(&segment).unwrap();
        let tail = vec![0xa5; bytes];
        fs::write(&segment, [&*whole, &*tail].concat()).unwrap();
        let (store, recovery) = open(settings(dir.path()));
        assert_eq!(recovery.torn.unwrap().bytes, bytes as u64);
        assert_eq!(contents(&store).len(), 3);
        let aside = segment.with_extension("journal.damaged");
        assert_eq!(fs::read(aside).ok(), is_kept.then_some(tail), "{bytes} bytes");
    }
}
