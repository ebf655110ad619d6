//! Compiles a component in a process of its own, since the bytes may be anybody's: reading them may overflow a stack, and
//! compiling them may take any amount of time and memory.
//!
//! The process runs the same program ([`child`]). It gets the bytes as its standard input and writes a cache entry to its
//! standard output, both files without a name that only the host's own user can open. The host watches its memory
//! ([`watch`]) and believes an entry only as far as one of the cache: its digest must fit, and the engine must be the same.
//!
//! - [`child`]: the process that compiles
//! - [`watch`]: ends a process that exceeds a limit

pub mod child;
mod watch;

use std::{
    env,
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use self::watch::Exceeded;
use crate::{
    files::unnamed,
    plugin::limits::{CompileLimits, Limits},
};

/// Where components are compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compiler {
    /// In this process, without limits of memory and time: for programs that know the components, as tests do.
    InProcess,
    /// In a process of this program, which is a `wasaga` of the same version.
    Child { program: PathBuf },
}

impl Compiler {
    /// A process of the program that runs now, which must be `wasaga`. On Linux it is found although its file has been
    /// replaced or removed since.
    pub fn own_program() -> io::Result<Self> {
        let program = if cfg!(target_os = "linux") { PathBuf::from("/proc/self/exe") } else { env::current_exe()? };
        Ok(Self::Child { program })
    }
}

/// What compiling a component has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Cost {
    /// Time of processors, all threads together.
    pub cpu: Duration,
    /// The most bytes of resident memory; 0 where the system does not tell.
    pub memory_bytes: u64,
}

/// Why there is no compiled component.
#[derive(Debug)]
pub enum Fault {
    /// The engine refuses the bytes.
    Invalid(String),
    /// Compiling exceeds a limit, or ends the process that compiles.
    Refused(Refusal),
    /// The system has failed, which says nothing of the component.
    System(io::Error),
}

/// Why a component must not be compiled again.
#[derive(Debug)]
pub struct Refusal {
    /// Completes "compiling it ...".
    pub reason: String,
    /// Whether the next host must not try it either.
    pub is_lasting: bool,
}

/// The name of the subcommand that compiles.
pub const COMMAND: &str = "compile-component";

/// What the process that compiles is told.
#[derive(Deserialize, Serialize)]
struct Request {
    /// Compiled code depends on some of them.
    limits: Limits,
    cpu: Duration,
}

/// What the process that compiles has to say at its end, in the last line of its standard error.
#[derive(Deserialize, Serialize)]
struct Report {
    outcome: Outcome,
    cost: Cost,
}

#[derive(Deserialize, Serialize)]
enum Outcome {
    /// The entry is written.
    Compiled,
    /// The engine refuses the bytes.
    Invalid(String),
    /// The entry could not be made or written.
    Failed(String),
}

/// Compiles a component. Returns the entry of the cache, with what it took. Blocks for as long as the limits allow. `dir` is
/// where the files are.
pub fn in_child(
    program: &Path,
    limits: &Limits,
    compile: &CompileLimits,
    dir: &Path,
    bytes: &[u8],
) -> Result<(Vec<u8>, Cost), Fault> {
    let request = Request { limits: limits.clone(), cpu: compile.cpu };
    let (status, ended, mut files) = run(program, &request, compile, dir, bytes).map_err(Fault::System)?;
    let text = read(&mut files.errors).map_err(Fault::System)?;
    let text = String::from_utf8_lossy(&text);
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    if let Some(exceeded) = ended {
        return Err(Fault::Refused(exceeded.refusal(compile)));
    }
    if !status.success() {
        return Err(fault(status, last, compile));
    }
    let failed = |why: String| Fault::System(io::Error::other(why));
    let report: Report = serde_json::from_str(last).map_err(|_| {
        failed(format!("the compiler {} is no wasaga of this version: it wrote {last:?}", program.display()))
    })?;
    match report.outcome {
        Outcome::Compiled => Ok((read(&mut files.entry).map_err(Fault::System)?, report.cost)),
        Outcome::Invalid(detail) => Err(Fault::Invalid(detail)),
        Outcome::Failed(why) => Err(failed(format!("the compiler failed: {why}"))),
    }
}

/// The files that the process writes.
struct Files {
    entry: File,
    errors: File,
}

fn run(
    program: &Path,
    request: &Request,
    compile: &CompileLimits,
    dir: &Path,
    bytes: &[u8],
) -> io::Result<(ExitStatus, Option<Exceeded>, Files)> {
    let mut component = unnamed(dir)?;
    component.write_all(bytes)?;
    component.rewind()?;
    let files = Files { entry: unnamed(dir)?, errors: unnamed(dir)? };
    let mut child = Command::new(program)
        .arg(COMMAND)
        .arg(serde_json::to_string(request).map_err(io::Error::other)?)
        // The host's environment may hold secrets of plugins.
        .env_clear()
        // The keys of a terminal end the host, and the host ends the compiler.
        .process_group(0)
        .stdin(Stdio::from(component))
        .stdout(Stdio::from(files.entry.try_clone()?))
        .stderr(Stdio::from(files.errors.try_clone()?))
        .spawn()?;
    let (status, exceeded) = watch::watch(&mut child, compile)?;
    Ok((status, exceeded, files))
}

fn read(file: &mut File) -> io::Result<Vec<u8>> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Exit status of a Rust program that has panicked.
const PANICKED: i32 = 101;

/// The fault of a compiler that ended in another way than by reporting.
fn fault(status: ExitStatus, last: &str, compile: &CompileLimits) -> Fault {
    let crashed = |is_lasting| {
        let reason = format!("ends the compiler ({status}): {last}");
        Fault::Refused(Refusal { reason, is_lasting })
    };
    match (status.signal().and_then(rustix::process::Signal::from_named_raw), status.code()) {
        (Some(rustix::process::Signal::XCPU), _) => Fault::Refused(Exceeded::Cpu.refusal(compile)),
        (
            Some(
                rustix::process::Signal::ABORT
                | rustix::process::Signal::BUS
                | rustix::process::Signal::FPE
                | rustix::process::Signal::ILL
                | rustix::process::Signal::SEGV
                | rustix::process::Signal::SYS
                | rustix::process::Signal::TRAP,
            ),
            _,
        )
        | (None, Some(PANICKED)) => crashed(true),
        // By the system for want of memory, or by a person.
        (Some(rustix::process::Signal::KILL), _) => crashed(false),
        _ => Fault::System(io::Error::other(format!("the compiler ended with {status}: {last}"))),
    }
}
