//! SIGKILL at random times: every acknowledged commit is kept, and what is kept is a prefix of the commit order.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use tempfile::tempdir;
use wasaga_store::{Batch, Settings, StateOrigin, Store};

use crate::support::{contents, eventually, open, small};

/// Names the directory, and makes a test the child.
const CHILD_DIR: &str = "WASAGA_TEST_KILL_DIR";
/// Keys that are live at a time.
const WINDOW: u64 = 200;

fn key(n: u64) -> String {
    format!("n{n:012}")
}

fn value(n: u64) -> Vec<u8> {
    let length = if n % 50 == 7 { 70_000 } else { usize::try_from(n * 31 % 300).unwrap() };
    vec![u8::try_from(n % 251).unwrap(); length]
}

/// Commit `n` writes its own key, removes that of `n - WINDOW`, and counts.
fn batch(n: u64) -> Batch {
    let mut batch = Batch::new();
    batch.put(key(n), value(n));
    batch.put("count", n.to_string());
    if n > WINDOW {
        batch.delete(key(n - WINDOW));
    }
    batch
}

fn count(store: &dyn Store) -> u64 {
    store.get(b"count").unwrap().map_or(0, |count| std::str::from_utf8(&count).unwrap().parse().unwrap())
}

/// In the child: commits as fast as it can and reports what is durable. Never returns.
fn write_for_ever(dir: &Path) -> ! {
    let (store, _) = open(small(dir));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut out = std::io::stdout();
    let mut n = count(&store);
    loop {
        let tickets: Vec<_> = (0..10)
            .map(|_| {
                n += 1;
                store.commit(batch(n)).unwrap()
            })
            .collect();
        runtime.block_on(tickets[9].durable()).unwrap();
        writeln!(out, "durable {n}").unwrap();
    }
}

/// This program again, running one test only.
fn child(test: &str, dir: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", &format!("kill::{test}"), "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    if let Some(dir) = env::var_os(CHILD_DIR) {
        write_for_ever(Path::new(&dir));
    }
    let dir = tempdir().unwrap();
    let mut rng = wasaga_seed::rng(7);
    for round in 0..10 {
        let mut child = child("nothing_acknowledged_is_lost_when_the_process_is_killed", dir.path());
        let mut acknowledged = 0;
        let mut left = rng.u32(1..150);
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            // The last line may be cut.
            let Some(n) = line.strip_prefix("durable ") else { continue };
            acknowledged = acknowledged.max(n.parse().unwrap_or(0));
            left = left.saturating_sub(1);
            if left == 0 {
                child.kill().unwrap();
            }
        }
        assert!(!child.wait().unwrap().success());
        let (store, report) = open(small(dir.path()));
        assert_eq!(report.state, StateOrigin::Kept, "round {round}");
        let count = count(&store);
        assert!(count >= acknowledged, "round {round}: {acknowledged} acknowledged, {count} found");
        let found = contents(&store);
        let live = count.saturating_sub(WINDOW) + 1..=count;
        let expected = std::iter::once(("count".into(), count.to_string().into()))
            .chain(live.map(|n| (key(n).into(), value(n).into())));
        assert!(found.into_iter().eq(expected), "round {round}: not the state after commit {count}");
    }
}

#[test]
fn a_rebuild_that_is_killed_is_begun_again() {
    // Bigger than sled's write buffer, so that a part of a rebuild does reach its file.
    let settings = |dir: &Path| Settings { base_bytes: 1 << 20, ..Settings::new(dir) };
    if let Some(dir) = env::var_os(CHILD_DIR) {
        println!("opening");
        open(settings(Path::new(&dir)));
        return;
    }
    let dir = tempdir().unwrap();
    let (store, _) = open(Settings { segment_bytes: 1 << 20, ..settings(dir.path()) });
    for n in 0..1000_u32 {
        let mut batch = Batch::new();
        (0..30).for_each(|i| batch.put((n * 30 + i).to_be_bytes(), [7; 1000]));
        store.commit(batch).unwrap();
    }
    eventually("a base of everything", || {
        store.commit(Batch::new()).unwrap();
        let stats = store.stats();
        stats.bases > 0 && stats.overlay_entries == 0
    });
    store.close().unwrap();
    let expected = contents(&store);
    drop(store);
    let state = dir.path().join("state");
    let mut rng = wasaga_seed::rng(11);
    for round in 0..12 {
        fs::remove_dir_all(&state).unwrap();
        let mut child = child("a_rebuild_that_is_killed_is_begun_again", dir.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().ends_with("opening")));
        thread::sleep(Duration::from_millis(rng.u64(..400)));
        child.kill().unwrap();
        child.wait().unwrap();
        let (store, report) = open(settings(dir.path()));
        assert!(contents(&store) == expected, "round {round}: {report:?}");
    }
}
