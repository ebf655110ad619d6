//! A disk without space, without inodes, or read-only. Each on a file system in memory of its own, which needs the right
//! to mount one: `make test-faults` gets it from a namespace.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;
use tempfile::TempDir;
use wasaga_testkit::process::{Host, poll};

use crate::{
    client::{Client, saga},
    participant::Participant,
    probe::honest,
    world::{World, all_succeed, assert_alive, files, refused, refused_unless_ready, unless_it_ends, with_files},
};

const MB: u64 = 1_000_000;

/// A file system, mounted as long as this lives.
struct Disk(TempDir);

impl Disk {
    fn mount(options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(dir.path()).output().unwrap();
        let why =
            "this test needs the right to mount a file system: `make test-faults` runs it in a namespace that has it";
        assert!(mount.status.success(), "{why}: {}", String::from_utf8_lossy(&mount.stderr));
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn remount(&self, options: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(self.path()).status();
        assert!(status.unwrap().success());
    }

    fn world(&self, settings: &str) -> World {
        let mut world = World::new(settings);
        world.data = self.path().join("data");
        world
    }

    /// Fills it until this much is left.
    fn fill(&self, left: u64) {
        let free = rustix::fs::statvfs(self.path()).unwrap();
        let bytes = (free.f_bavail * free.f_frsize).saturating_sub(left);
        let mut file = fs::File::create(self.ballast()).unwrap();
        let piece = vec![1; 1 << 16];
        for _ in 0..bytes.div_ceil(1 << 16) {
            match file.write_all(&piece) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Makes the ballast smaller by so much.
    fn free(&self, bytes: u64) {
        let file = OpenOptions::new().write(true).open(self.ballast()).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(length.saturating_sub(bytes)).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

/// Sagas with 50 kB each, all on disk.
async fn sagas(host: &Host, sagas: usize) -> Vec<String> {
    let mut client = Client::new(&host.address);
    let mut gids = Vec::new();
    for number in 0..sagas {
        let gid = format!("before-{number}");
        let answer = client.submit(&saga(&gid, "", &json!("x".repeat(50_000)))).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        gids.push(gid);
    }
    gids
}

/// The end of a start that the disk does not allow: it says why, and leaves everything as it was.
fn refused_and_untouched(command: Command, disk: &Path, reason: &str) {
    let before = files(disk);
    let log = refused(command);
    assert!(log.contains(reason), "{reason} should be named:\n{log}");
    let after = files(disk);
    let names = |files: &[(PathBuf, Option<Vec<u8>>)]| files.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
    assert_eq!(names(&after), names(&before), "files came or went:\n{log}");
    for (before, after) in before.iter().zip(&after) {
        assert!(before == after, "{} was changed:\n{log}", before.0.display());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "mounts a file system: make test-faults"]
async fn a_disk_that_fills_refuses_new_sagas_and_finishes_the_others() {
    let disk = Disk::mount("size=200m");
    let world = disk.world("[saga.retry]\nretry_interval_max = \"1s\"\n");
    let host = world.start();
    let dead = Participant::dead().await;
    let mut client = Client::new(&host.address);
    for number in 0..20 {
        let answer = client.submit(&saga(&format!("begun-{number}"), &dead.url, &json!({}))).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    disk.fill(20 * MB);
    // The host looks at the disk now and then.
    let refused = poll(
        async || {
            let gid = format!("full-{}", fastrand::u64(..));
            let answer = Client::new(&host.address).submit(&honest(&gid)).await.unwrap();
            (answer.status != 200).then_some((gid, answer))
        },
        || "new sagas are accepted although the disk is full".into(),
    );
    let (gid, answer) = unless_it_ends(&host, refused).await;
    assert!(answer.status == 503 && answer.retry_after.is_some(), "{answer:?}");
    assert_eq!(client.status(&gid).await, None, "it was refused and is stored");
    dead.come_back();
    unless_it_ends(&host, all_succeed(&host, (0..20).map(|number| format!("begun-{number}")))).await;
    disk.free(100 * MB);
    let accepted = poll(
        async || {
            let answer = Client::new(&host.address).submit(&honest("after")).await.unwrap();
            (answer.status == 200).then_some(())
        },
        || "no sagas are accepted although there is space again".into(),
    );
    unless_it_ends(&host, accepted).await;
    assert_alive(&host);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "mounts a file system: make test-faults"]
async fn a_full_disk_at_the_start_changes_nothing_and_less_than_a_copy_of_the_database_is_enough() {
    let disk = Disk::mount("size=300m");
    let world = disk.world("");
    let host = world.start();
    let gids = sagas(&host, 400).await;
    assert!(host.terminate().success());
    let state = files(&world.data.join("database/state"));
    let state_bytes: usize = state.iter().filter_map(|(_, content)| content.as_ref()).map(Vec::len).sum();
    assert!(state_bytes > 10_000_000, "{state_bytes} bytes tell nothing");
    disk.fill(0);
    for _ in 0..2 {
        refused_and_untouched(world.command(), &world.data, "No space left on device");
    }
    disk.free(state_bytes as u64 * 9 / 10);
    let host = world.start();
    all_succeed(&host, gids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "mounts a file system: make test-faults"]
async fn a_start_without_inodes_changes_nothing() {
    let disk = Disk::mount("size=100m,nr_inodes=200");
    let world = disk.world("");
    let host = world.start();
    let gids = sagas(&host, 100).await;
    assert!(host.terminate().success());
    let eaten = disk.path().join("eaten");
    fs::create_dir(&eaten).unwrap();
    let mut numbers = 0..;
    while numbers.next().is_some_and(|number: u32| fs::File::create(eaten.join(number.to_string())).is_ok()) {}
    refused_and_untouched(world.command(), &world.data, "No space left on device");
    fs::remove_dir_all(&eaten).unwrap();
    let host = world.start();
    all_succeed(&host, gids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "mounts a file system: make test-faults"]
async fn a_start_on_a_read_only_disk_changes_nothing() {
    let disk = Disk::mount("size=100m");
    let world = disk.world("");
    let host = world.start();
    let gids = sagas(&host, 100).await;
    assert!(host.terminate().success());
    disk.remount("ro");
    refused_and_untouched(world.command(), &world.data, "Read-only file system");
    disk.remount("rw");
    let host = world.start();
    all_succeed(&host, gids).await;
}

/// Needs no file system of its own. A start that comes as far as opening the store leaves what every start leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_with_too_few_files_takes_nothing_for_damage() {
    let world = World::new("");
    let host = world.start();
    let gids = sagas(&host, 100).await;
    assert!(host.terminate().success());
    let mut reasons = 0;
    // From too few for the store to as many as are enough for everything.
    for limit in 8..32 {
        let Some(log) = refused_unless_ready(with_files(&world.command(), limit, limit)) else { continue };
        reasons += 1;
        assert!(log.contains("Too many open files"), "with {limit} files:\n{log}");
        for (path, _) in files(&world.data) {
            let name = path.display().to_string();
            assert!(!name.contains("damaged") && !name.contains("REBUILD"), "with {limit} files {name}:\n{log}");
        }
    }
    assert!(reasons > 2);
    let host = world.start();
    all_succeed(&host, gids).await;
}
