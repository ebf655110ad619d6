//! Fuzzing on stable Rust: runs a target on its corpus and on mutations of it, and keeps the input that breaks it.
//!
//! A target is a test beside the code that it is about, named `fuzz_*`, which asserts a property of any input:
//!
//! ```no_run
//! wasaga_fuzz::Target::new("doc").seed("12").seed("[1, 2]").tokens(["null", "e9"]).run(|input| {
//!     let text = String::from_utf8_lossy(input);
//!     assert!(text.trim().len() <= text.len());
//! });
//! ```
//!
//! Its corpus is the seeds and the files in `host/fuzz/corpus/NAME`. Nothing is measured inside the target, so a corpus
//! covers what mutations do not find by themselves, and an input that has broken it once becomes a file there.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `WASAGA_FUZZ_SECONDS` | how long each target runs; without it [`RUNS`] mutations, always the same |
//! | `WASAGA_SEED` | the seed of the mutations; printed |
//! | `WASAGA_FUZZ_INPUT` | a file: the only input that is run |
//!
//! What breaks a target: a panic, an input that takes longer than [`SLOW`], and one that ends the process. The last one is
//! found at the next run: each input stands in the file `running` while it runs.

mod mutate;

use std::{
    env, fs,
    io::{self, Seek, SeekFrom, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use self::mutate::Mutator;

/// Mutations without `WASAGA_FUZZ_SECONDS`: a second or so for most targets.
pub const RUNS: u64 = 20_000;

/// An input that takes longer is a finding. Most take microseconds.
pub const SLOW: Duration = Duration::from_secs(1);

/// An input that takes longer ends the process: nothing else ends a loop without end.
const STUCK: Duration = Duration::from_secs(20);

/// Longest input, in bytes, unless the target says otherwise.
const BYTES_MAX: usize = 16 << 10;

/// A name, a corpus and the words that mutations insert.
#[derive(Debug)]
pub struct Target {
    name: &'static str,
    seeds: Vec<Vec<u8>>,
    tokens: Vec<Vec<u8>>,
    bytes_max: usize,
    findings: PathBuf,
}

/// How long a target runs.
#[derive(Clone, Copy, Debug)]
enum Length {
    Runs(u64),
    Time(Duration),
}

impl Target {
    /// A target whose corpus is `host/fuzz/corpus/NAME`.
    pub fn new(name: &'static str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let corpus = root.join("corpus").join(name);
        let findings = root.join("../../target/fuzz").join(name);
        let mut files: Vec<PathBuf> =
            fs::read_dir(corpus).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let seeds = files.iter().map(|file| fs::read(file).unwrap()).collect();
        Self { name, seeds, tokens: Vec::new(), bytes_max: BYTES_MAX, findings }
    }

    /// Adds an input to the corpus: one that code makes, such as an encoded record.
    #[must_use]
    pub fn seed(mut self, input: impl AsRef<[u8]>) -> Self {
        self.seeds.push(input.as_ref().to_vec());
        self
    }

    /// Words of the input's language.
    #[must_use]
    pub fn tokens<T: AsRef<[u8]>>(mut self, tokens: impl IntoIterator<Item = T>) -> Self {
        self.tokens.extend(tokens.into_iter().map(|token| token.as_ref().to_vec()));
        self
    }

    /// Sets the longest input, in bytes.
    #[must_use]
    pub fn bytes_max(mut self, bytes_max: usize) -> Self {
        self.bytes_max = bytes_max;
        self
    }

    /// Sets the folder for inputs that break the target; `target/fuzz/NAME` without it.
    #[must_use]
    pub fn in_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.findings = folder.into();
        self
    }

    /// Runs `check` on the corpus and on mutations of it.
    ///
    /// # Panics
    /// With the file and the seed of the first input that breaks it.
    pub fn run(self, check: impl Fn(&[u8])) {
        if let Some(file) = env::var_os("WASAGA_FUZZ_INPUT") {
            check(&fs::read(file).unwrap());
            return;
        }
        let seconds = env::var("WASAGA_FUZZ_SECONDS").ok().map(|text| text.parse().unwrap());
        let length = seconds.map_or(Length::Runs(RUNS), |seconds| Length::Time(Duration::from_secs(seconds)));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seed = wasaga_seed::seed(if seconds.is_some() { now.as_secs() } else { 0 });
        self.run_for(length, seed, &check);
    }

    fn run_for(&self, length: Length, seed: u64, check: &dyn Fn(&[u8])) {
        fs::create_dir_all(&self.findings).unwrap();
        let running = self.findings.join("running");
        let left = fs::read(&running).unwrap_or_default();
        if !left.is_empty() {
            let file = self.keep(&left);
            self.say(&format!("the last run ended during an input, which is tried first: {}", file.display()));
        }
        let mut running = Running::new(running);
        let began = Instant::now();
        let (mut slowest, mut count) = (Duration::ZERO, 0);
        let known = [left].into_iter().filter(|left| !left.is_empty()).chain(self.seeds.iter().cloned());
        for input in known {
            slowest = slowest.max(self.one(&mut running, &input, seed, check));
        }
        let mutator = Mutator::new(&self.seeds, &self.tokens, self.bytes_max);
        let is_over = |count| match length {
            Length::Runs(runs) => count >= runs,
            Length::Time(time) => began.elapsed() >= time,
        };
        while !is_over(count) {
            let input = mutator.input(seed, count);
            slowest = slowest.max(self.one(&mut running, &input, seed, check));
            count += 1;
        }
        running.end();
        let seconds = began.elapsed().as_secs_f32();
        self.say(&format!("{count} mutations in {seconds:.1} s, WASAGA_SEED={seed}, the slowest {slowest:?}"));
    }

    /// Runs one input; how long it took.
    fn one(&self, running: &mut Running, input: &[u8], seed: u64, check: &dyn Fn(&[u8])) -> Duration {
        running.begin(input);
        let mut took = Duration::MAX;
        // A busy machine can stop any input for a second, but not three times in a row.
        for _ in 0..3 {
            let began = Instant::now();
            let result = catch_unwind(AssertUnwindSafe(|| check(input)));
            took = took.min(began.elapsed());
            if let Err(panic) = result {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text");
                self.found(running, input, seed, text);
            }
            if took <= SLOW {
                break;
            }
        }
        if took > SLOW {
            self.found(running, input, seed, &format!("it took {took:?}"));
        }
        running.begin(&[]);
        took
    }

    /// Keeps the input and ends the test.
    fn found(&self, running: &mut Running, input: &[u8], seed: u64, what: &str) -> ! {
        let file = self.keep(input);
        running.end();
        let again = format!("WASAGA_FUZZ_INPUT={} runs it again", file.display());
        panic!("{}: {what}\n{again}, WASAGA_SEED={seed}. A copy in host/fuzz/corpus/{} keeps it", self.name, self.name);
    }

    fn keep(&self, input: &[u8]) -> PathBuf {
        let file = self.findings.join(format!("finding-{:016x}", mutate::hash(input)));
        fs::write(&file, input).unwrap();
        file.canonicalize().unwrap_or(file)
    }

    /// Also seen for a test that succeeds: libtest keeps back what is printed, but not what is written.
    fn say(&self, text: &str) {
        let _ = writeln!(io::stderr(), "fuzz {}: {text}", self.name);
    }
}

/// The file with the input that runs, and a thread that ends the process if it runs too long.
struct Running {
    path: PathBuf,
    file: fs::File,
    clock: Arc<Clock>,
}

/// When the input began, in ms since `start`; [`IDLE`] between inputs, [`OVER`] after the last one.
struct Clock {
    start: Instant,
    began: AtomicU64,
}

const IDLE: u64 = u64::MAX;
const OVER: u64 = u64::MAX - 1;

impl Running {
    fn new(path: PathBuf) -> Self {
        let file = fs::File::create(&path).unwrap();
        let clock = Arc::new(Clock { start: Instant::now(), began: AtomicU64::new(IDLE) });
        let (watched, name) = (Arc::clone(&clock), path.clone());
        thread::spawn(move || watched.watch(&name));
        Self { path, file, clock }
    }

    fn begin(&mut self, input: &[u8]) {
        self.file.seek(SeekFrom::Start(0)).unwrap();
        self.file.write_all(input).unwrap();
        self.file.set_len(input.len() as u64).unwrap();
        let now = if input.is_empty() { IDLE } else { self.clock.now() };
        self.clock.began.store(now, Ordering::Relaxed);
    }

    fn end(&mut self) {
        self.clock.began.store(OVER, Ordering::Relaxed);
        let _ = fs::remove_file(&self.path);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.clock.began.store(OVER, Ordering::Relaxed);
    }
}

impl Clock {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(OVER - 1)
    }

    fn watch(&self, running: &Path) {
        loop {
            thread::sleep(Duration::from_millis(200));
            match self.began.load(Ordering::Relaxed) {
                OVER => return,
                IDLE => {}
                began if self.now().saturating_sub(began) > u64::try_from(STUCK.as_millis()).unwrap_or(u64::MAX) => {
                    let _ = writeln!(io::stderr(), "an input has not ended after {STUCK:?}: {}", running.display());
                    process::abort();
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn target(folder: &Path) -> Target {
        Target::new("none").in_folder(folder).seed("{\"a\":1}").seed("abc").tokens(["magic"]).bytes_max(64)
    }

    fn message(run: impl FnOnce()) -> String {
        let panic = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
        *panic.downcast::<String>().unwrap()
    }

    #[test]
    fn an_input_that_breaks_the_target_is_kept_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let broken = |input: &[u8]| assert!(!input.windows(6).any(|part| part == b"amagic"), "planted");
        let message = message(|| target(folder.path()).run_for(Length::Runs(1_000_000), 7, &broken));
        assert!(message.contains("planted") && message.contains("WASAGA_SEED=7"), "{message}");
        let path = message.split("WASAGA_FUZZ_INPUT=").nth(1).unwrap().split(' ').next().unwrap();
        assert!(catch_unwind(|| broken(&fs::read(path).unwrap())).is_err());
        assert!(!folder.path().join("running").exists());
    }

    #[test]
    fn an_input_that_takes_long_is_a_finding() {
        let folder = tempfile::tempdir().unwrap();
        let slow = |input: &[u8]| {
            if input == b"abc" {
                thread::sleep(SLOW + Duration::from_millis(50));
            }
        };
        let message = message(|| target(folder.path()).run_for(Length::Runs(0), 7, &slow));
        assert!(message.contains("none: it took 1."), "{message}");
    }

    #[test]
    fn the_input_that_ended_a_process_is_tried_first() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("running"), "killer").unwrap();
        let seen = RefCell::new(Vec::new());
        target(folder.path()).run_for(Length::Runs(0), 7, &|input| seen.borrow_mut().push(input.to_vec()));
        assert_eq!(*seen.borrow(), [&b"killer"[..], b"{\"a\":1}", b"abc"]);
        assert!(!folder.path().join("running").exists());
    }

    #[test]
    fn a_seed_gives_the_same_inputs() {
        let folder = tempfile::tempdir().unwrap();
        let inputs = |seed| {
            let seen = RefCell::new(Vec::new());
            target(folder.path()).run_for(Length::Runs(500), seed, &|input| seen.borrow_mut().push(input.to_vec()));
            seen.into_inner()
        };
        assert_eq!(inputs(7), inputs(7));
        assert_ne!(inputs(7), inputs(8));
        assert!(inputs(7).iter().all(|input| input.len() <= 64));
    }
}
