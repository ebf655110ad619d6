use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::*;
use crate::store::disk::{File, Handle, Os, Room};

/// Every file below a folder with its content; folders with none.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let content = path.is_file().then(|| fs::read(&path).unwrap());
            if content.is_none() {
                folders.push(path.clone());
            }
            found.insert(path.strip_prefix(dir).unwrap().to_owned(), content);
        }
    }
    found
}

fn folder_of_format_1() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("store/journal")).unwrap();
    fs::write(dir.path().join("store/LOCK"), "").unwrap();
    fs::write(dir.path().join("store/journal/00000000000000000001.journal"), "records").unwrap();
    dir
}

/// What every host of this version expects to find.
fn assert_is_of_format_2(dir: &Path) {
    assert_eq!(fs::read_to_string(dir.join("FORMAT")).unwrap(), "wasaga-data 2\n");
    assert_eq!(fs::read_to_string(dir.join("store")).unwrap(), NOTE);
}

fn assert_holds_the_old_records(dir: &Path) {
    let journal = store(dir).join("journal/00000000000000000001.journal");
    assert_eq!(fs::read_to_string(journal).unwrap(), "records");
}

#[test]
fn a_new_folder_says_its_format() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("a/data");
    open(&data, &Os).unwrap();
    assert_is_of_format_2(&data);
    let before = tree(&data);
    open(&data, &Os).unwrap();
    assert_eq!(tree(&data), before, "a second start changes nothing");
}

#[test]
fn a_folder_of_format_1_is_brought_up_to_date() {
    let dir = folder_of_format_1();
    open(dir.path(), &Os).unwrap();
    assert_is_of_format_2(dir.path());
    assert_holds_the_old_records(dir.path());
}

#[test]
fn a_format_that_cannot_be_read_is_refused_by_name_and_nothing_is_touched() {
    let newer = |found: &str| format!("was written by a newer Wasaga, format {found}; this one reads up to 2");
    let cases: [(&[u8], String, bool); 9] = [
        (b"wasaga-data 3\n", newer("3"), true),
        (b"wasaga-data 99999999999999999999999\n", newer("99999999999999999999999"), true),
        (b"wasaga-data 1\n", "is damaged".into(), false),
        (b"", "is damaged".into(), false),
        (b"wasaga-da", "is damaged".into(), false),
        (&[0; 14], "is damaged".into(), false),
        (b"wasaga-data 2", "is damaged".into(), false),
        (b"wasaga-data two\n", "is not of Wasaga".into(), false),
        (b"ext4\n", "is not of Wasaga".into(), false),
    ];
    for (format, words, is_newer) in cases {
        for dir in [folder_of_format_1(), tempfile::tempdir().unwrap()] {
            fs::write(dir.path().join("FORMAT"), format).unwrap();
            let before = tree(dir.path());
            let error = open(dir.path(), &Os).unwrap_err();
            assert!(error.to_string().contains(&words), "{error}");
            assert_eq!(error.is_newer(), is_newer, "{error}");
            assert_eq!(tree(dir.path()), before, "{error}");
        }
    }
}

#[test]
fn a_store_of_an_older_host_beside_ours_is_refused() {
    let dir = folder_of_format_1();
    fs::create_dir(store(dir.path())).unwrap();
    assert!(matches!(open(dir.path(), &Os), Err(Error::TwoStores { .. })));
    fs::write(dir.path().join("FORMAT"), "wasaga-data 2\n").unwrap();
    let before = tree(dir.path());
    assert!(matches!(open(dir.path(), &Os), Err(Error::TwoStores { .. })));
    assert_eq!(tree(dir.path()), before);
}

#[test]
fn a_store_on_a_disk_that_is_not_mounted_is_not_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/nonexistent/store", dir.path().join("store")).unwrap();
    let error = open(dir.path(), &Os).unwrap_err();
    assert!(error.to_string().starts_with("cannot look at"), "{error}");
    assert!(dir.path().join("store").is_symlink() && !dir.path().join("FORMAT").exists());

    let dir = tempfile::tempdir().unwrap();
    open(dir.path(), &Os).unwrap();
    fs::remove_dir(store(dir.path())).unwrap();
    let before = tree(dir.path());
    assert!(matches!(open(dir.path(), &Os), Err(Error::NoStore { .. })));
    assert_eq!(tree(dir.path()), before);
}

#[test]
fn folders_and_files_that_are_not_ours_are_refused_and_not_touched() {
    let (foreign_store, foreign_file) = (folder_of_format_1(), folder_of_format_1());
    fs::write(foreign_store.path().join("store/shopping list"), "milk").unwrap();
    fs::write(foreign_file.path().join("database"), "of something else").unwrap();
    for dir in [foreign_store, foreign_file] {
        let before = tree(dir.path());
        let error = open(dir.path(), &Os).unwrap_err();
        assert!(error.to_string().contains("is not of Wasaga"), "{error}");
        assert_eq!(tree(dir.path()), before);
    }
}

#[test]
fn a_folder_in_use_by_an_older_host_is_refused() {
    let dir = folder_of_format_1();
    let lock = fs::File::open(dir.path().join("store/LOCK")).unwrap();
    lock.lock().unwrap();
    let before = tree(dir.path());
    assert!(matches!(open(dir.path(), &Os), Err(Error::Locked { .. })));
    assert_eq!(tree(dir.path()), before);
    drop(lock);
    open(dir.path(), &Os).unwrap();
    assert_holds_the_old_records(dir.path());
}

#[test]
fn a_note_that_was_removed_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path(), &Os).unwrap();
    fs::remove_file(dir.path().join("store")).unwrap();
    open(dir.path(), &Os).unwrap();
    assert_is_of_format_2(dir.path());
}

/// Fails from the given operation on, as a process that is killed there does no more. May lack the exchange of names.
#[derive(Debug)]
struct Cut {
    left: Arc<AtomicUsize>,
    can_exchange: bool,
}

impl Cut {
    fn step(&self) -> io::Result<()> {
        let took = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        took.map(drop).map_err(|_| io::Error::other("cut off"))
    }
}

struct CutFile(Box<dyn File>, Cut);

impl File for CutFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        // Half of it gets there.
        if self.1.step().is_err() {
            self.0.append(&bytes[..bytes.len() / 2])?;
            return Err(io::Error::other("cut off"));
        }
        self.0.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.1.step()?;
        self.0.sync()
    }
}

impl Disk for Cut {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.step()?;
        let cut = Self { left: self.left.clone(), can_exchange: self.can_exchange };
        Ok(Box::new(CutFile(Os.create(path)?, cut)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Handle>> {
        self.step()?;
        Os.open(path)
    }

    fn mark(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        Os.mark(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        Os.rename(from, to)
    }

    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()> {
        self.step()?;
        if self.can_exchange { Os.exchange(a, b) } else { Err(ErrorKind::Unsupported.into()) }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        Os.remove(path)
    }

    fn room(&self, path: &Path) -> io::Result<Room> {
        Os.room(path)
    }
}

#[test]
fn an_upgrade_that_is_cut_off_at_any_step_goes_on_at_the_next_start() {
    for can_exchange in [true, false] {
        let mut cuts = 0;
        loop {
            let dir = folder_of_format_1();
            let before = tree(&old_store(dir.path()));
            let disk = Cut { left: Arc::new(cuts.into()), can_exchange };
            let is_done = open(dir.path(), &disk).is_ok();
            // A host of format 1 finds its store as it was, or a file in its way.
            match kind(&old_store(dir.path())).unwrap() {
                Kind::Folder => assert_eq!(tree(&old_store(dir.path())), before, "cut at {cuts}"),
                Kind::File => assert_eq!(tree(&store(dir.path())), before, "cut at {cuts}"),
                Kind::Nothing => assert!(!can_exchange, "cut at {cuts}: an old host would begin an empty store"),
            }
            open(dir.path(), &Os).unwrap();
            assert_is_of_format_2(dir.path());
            assert_holds_the_old_records(dir.path());
            if is_done {
                break;
            }
            cuts += 1;
        }
        assert!(cuts > 8, "only {cuts} steps");
    }
}

#[test]
fn a_first_start_that_is_cut_off_at_any_step_goes_on_at_the_next_start() {
    for cuts in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let disk = Cut { left: Arc::new(cuts.into()), can_exchange: true };
        let is_done = open(dir.path(), &disk).is_ok();
        open(dir.path(), &Os).unwrap();
        assert_is_of_format_2(dir.path());
        if is_done {
            assert!(cuts > 5, "only {cuts} steps");
            break;
        }
    }
}
