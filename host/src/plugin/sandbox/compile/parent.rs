//! The host's side: starts the process that compiles, and judges how it ended.

use std::{
    env,
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use rustix::process::Signal;

use super::{
    protocol::{COMMAND, Cost, Fault, Outcome, Refusal, Report, Request},
    watch::{self, Exceeded},
};
use crate::{
    files::unnamed,
    plugin::limits::{CompileLimits, Limits},
};

/// Compiled code is mostly two or three times as long as the component. What is longer than this many times, and
/// [`CODE_BYTES`] more, is not kept in the host's memory.
const CODE_FACTOR: u64 = 8;
/// See [`CODE_FACTOR`], in bytes.
const CODE_BYTES: u64 = 64 << 20;

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
        Outcome::Compiled => {
            let length = files.entry.metadata().map_err(Fault::System)?.len();
            let most = (bytes.len() as u64).saturating_mul(CODE_FACTOR).saturating_add(CODE_BYTES);
            if length > most {
                let reason =
                    format!("its compiled code has {length} bytes, the limit for a component of its size is {most}");
                return Err(Fault::Refused(Refusal { reason, is_lasting: true }));
            }
            Ok((read(&mut files.entry).map_err(Fault::System)?, report.cost))
        }
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

/// How the last line of a program begins that the system has refused memory.
const NO_MEMORY: &str = "memory allocation of";

/// Exit status of a Rust program that has panicked.
const PANICKED: i32 = 101;

/// The fault of a compiler that ended in another way than by reporting.
fn fault(status: ExitStatus, last: &str, compile: &CompileLimits) -> Fault {
    let crashed = |is_lasting| {
        let reason = format!("ends the compiler ({status}): {last}");
        Fault::Refused(Refusal { reason, is_lasting })
    };
    match (status.signal().and_then(Signal::from_named_raw), status.code()) {
        (Some(Signal::XCPU), _) => Fault::Refused(Exceeded::Cpu.refusal(compile)),
        (
            Some(Signal::ABORT | Signal::BUS | Signal::FPE | Signal::ILL | Signal::SEGV | Signal::SYS | Signal::TRAP),
            _,
        )
        | (None, Some(PANICKED)) => crashed(!last.starts_with(NO_MEMORY)),
        // By the system for want of memory, or by a person.
        (Some(Signal::KILL), _) => crashed(false),
        _ => Fault::System(io::Error::other(format!("the compiler ended with {status}: {last}"))),
    }
}
