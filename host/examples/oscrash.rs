//! A simulated crash of the operating system: nothing that was acknowledged may be lost.
//!
//! Run with: `cargo run --release --example oscrash` (as root, on Linux; `-- 60` for 60 runs).
//!
//! Each run makes an ext4 file system in a file, lets a child process commit there as fast as it can, and shuts the
//! file system down in the middle (`EXT4_IOC_SHUTDOWN` without flushing its log): what had not reached the "disk" is
//! gone, as after a power cut. Then it mounts it again, opens the store, and looks for every commit that the child had
//! been told was durable before the shutdown began. (During it the kernel may let an `fdatasync` that is under way
//! succeed without having done it, which any program that appends and syncs shows; after a real power cut there is
//! no process left to be told.) Exit codes: 0 nothing lost, 1 something lost, 77 loop devices cannot be made here.

use std::{
    env, fs, io,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustix::ioctl::{Setter, ioctl, opcode};
use wasaga::store::{Batch, LocalStore, Range, Read, Settings, StateOrigin, Store};

const CHILD: &str = "write";
const CANNOT_RUN: u8 = 77;
const FILE_SYSTEM_BYTES: u64 = 1 << 30;
const UNMOUNT_DEADLINE: Duration = Duration::from_secs(30);
/// Keys that are live at a time, besides the count.
const WINDOW: u64 = 500;
const LIVE_MAX: usize = 501;
/// `_IOR('X', 125, __u32)`, and its flag for "do not flush the log".
const EXT4_IOC_SHUTDOWN: u32 = opcode::read::<u32>(b'X', 125);
const NO_LOG_FLUSH: u32 = 2;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [command, dir, size] = &arguments[..]
        && command == CHILD
    {
        write_for_ever(Path::new(dir), size.parse().unwrap());
    }
    let runs = arguments.first().map_or(36, |runs| runs.parse().unwrap());
    let scratch = tempfile::tempdir().unwrap();
    let disk = Disk { image: scratch.path().join("disk"), mounted: scratch.path().join("mounted") };
    fs::create_dir(&disk.mounted).unwrap();
    if let Err(error) = disk.format().and_then(|()| disk.mount()) {
        println!("oscrash: cannot run here: {error} (it needs root, mkfs.ext4 and loop devices)");
        return ExitCode::from(CANNOT_RUN);
    }
    disk.unmount();
    println!("{:>4} {:>8} {:>6} {:>10} {:>8} {:>9}  state", "run", "value B", "ms", "durable", "found", "replayed");
    let mut lost = 0;
    for run in 0..runs {
        let outcome = crash(&disk, run);
        println!("{outcome}");
        lost += u32::from(outcome.problem.is_some());
    }
    println!("{runs} runs, {lost} with losses");
    ExitCode::from(u8::from(lost > 0))
}

/// A file system in a file.
struct Disk {
    image: PathBuf,
    mounted: PathBuf,
}

impl Disk {
    fn format(&self) -> io::Result<()> {
        fs::File::create(&self.image)?.set_len(FILE_SYSTEM_BYTES)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&self.image))
    }

    fn mount(&self) -> io::Result<()> {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mounted))
    }

    fn shut_down(&self) -> io::Result<()> {
        let dir = fs::File::open(&self.mounted)?;
        // SAFETY: the request takes a pointer to a u32, which is what `Setter` passes.
        unsafe { ioctl(&dir, Setter::<EXT4_IOC_SHUTDOWN, u32>::new(NO_LOG_FLUSH)) }?;
        Ok(())
    }

    /// For a moment after the end of the child and the shutdown, the kernel may still be using the file system.
    fn unmount(&self) {
        let deadline = Instant::now() + UNMOUNT_DEADLINE;
        while let Err(error) = run(Command::new("umount").arg(&self.mounted)) {
            assert!(Instant::now() < deadline, "{error}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Mounted only if a run was broken off.
        let _ = Command::new("umount").arg("-q").arg(&self.mounted).stderr(Stdio::null()).status();
    }
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let program = command.get_program().to_string_lossy().into_owned();
    Err(io::Error::other(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

struct Outcome {
    run: u32,
    size: usize,
    after: Duration,
    durable: u64,
    found: u64,
    replayed: u64,
    problem: Option<String>,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { run, size, durable, found, replayed, .. } = self;
        write!(out, "{run:>4} {size:>8} {:>6} {durable:>10} {found:>8} {replayed:>9}  ", self.after.as_millis())?;
        out.write_str(self.problem.as_deref().unwrap_or("sound"))
    }
}

/// Writes, crashes, looks.
fn crash(disk: &Disk, run: u32) -> Outcome {
    let size = match run % 5 {
        0 => 100,
        1 => 1_000,
        2 => 10_000,
        3 => 40_000,
        _ => 200_000,
    };
    let mut random = fastrand::Rng::with_seed(run.into());
    // Early ones find half-made files, late ones rotations, checkpoints and bases.
    let after = Duration::from_millis(if run.is_multiple_of(3) { random.u64(..300) } else { random.u64(300..4000) });
    disk.format().unwrap();
    disk.mount().unwrap();
    let mut child = Command::new(env::current_exe().unwrap())
        .args([CHILD, disk.mounted.join("data").to_str().unwrap(), &size.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The acknowledgements come over a pipe: they do not depend on the file system that is shut down.
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (acknowledge, acknowledged) = mpsc::channel();
    let reader = thread::spawn(move || {
        for durable in lines.map_while(Result::ok).filter_map(|line| line.parse().ok()) {
            let _ = acknowledge.send(durable);
        }
    });
    let first: u64 = acknowledged.recv().unwrap_or(0);
    thread::sleep(after);
    let durable = acknowledged.try_iter().last().unwrap_or(first);
    disk.shut_down().unwrap();
    // The store notices that the disk is gone and fails its tickets; the child ends. Kill it if it does not.
    thread::sleep(Duration::from_millis(50));
    let _ = child.kill();
    child.wait().unwrap();
    reader.join().unwrap();
    disk.unmount();
    disk.mount().unwrap();
    let (found, replayed, problem) = look(&disk.mounted.join("data"), size, durable);
    disk.unmount();
    Outcome { run, size, after, durable, found, replayed, problem }
}

fn settings(dir: &Path) -> Settings {
    Settings {
        segment_bytes: 4 << 20,
        base_bytes: 16 << 20,
        checkpoint_interval: Duration::from_millis(200),
        ..Settings::new(dir)
    }
}

fn key(n: u64) -> Bytes {
    format!("n{n:012}").into()
}

fn value(n: u64, size: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(n);
    let size = random.usize(size / 2..=size);
    std::iter::repeat_with(|| random.u8(..)).take(size).collect()
}

/// In the child: commit `n` writes its own key, takes back that of `n - WINDOW`, and counts.
fn write_for_ever(dir: &Path, size: usize) -> ! {
    let (store, _) = LocalStore::open(settings(dir)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut out = io::stdout();
    for n in 1.. {
        let mut batch = Batch::new();
        batch.put(key(n), value(n, size));
        batch.put("count", n.to_string());
        if n > WINDOW {
            batch.delete(key(n - WINDOW));
        }
        let ticket = store.commit(batch).unwrap();
        // Now and then several share a sync.
        if n % 4 == 0 {
            runtime.block_on(ticket.durable()).unwrap();
            writeln!(out, "{n}").unwrap();
        }
    }
    unreachable!()
}

/// How many commits are there, and whether they are all that were acknowledged and nothing else.
fn look(dir: &Path, size: usize, durable: u64) -> (u64, u64, Option<String>) {
    let (store, report) = match LocalStore::open(settings(dir)) {
        Ok(opened) => opened,
        Err(error) => return (0, 0, Some(format!("DOES NOT OPEN: {error}"))),
    };
    let count: u64 = store.get(b"count").unwrap().map_or(0, |count| String::from_utf8_lossy(&count).parse().unwrap());
    let mut expected = vec![(Bytes::from("count"), Bytes::from(count.to_string()))];
    expected.extend((count.saturating_sub(WINDOW) + 1..=count).map(|n| (key(n), value(n, size).into())));
    let found = store.scan(&Range::default(), LIVE_MAX + 1).unwrap();
    let problem = match report.state {
        _ if count < durable => Some(format!("LOST {} acknowledged commits", durable - count)),
        _ if count > 0 && found != expected => Some("NOT THE STATE AFTER THE LAST COMMIT".into()),
        // Allowed, and worth seeing.
        StateOrigin::Rebuilt { reason, .. } => {
            println!("     (sled was rebuilt: {reason})");
            None
        }
        _ => None,
    };
    (count, report.replayed, problem)
}
