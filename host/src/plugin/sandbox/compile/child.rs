//! The process that compiles. It limits its processor time, ends with the host, and is the first to go when the system has
//! no memory left.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    num::NonZero,
    thread,
    time::Duration,
};

use rayon::ThreadPoolBuilder;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wasmtime::{Engine, component::Component};

use super::{
    protocol::{Cost, Outcome, Report, Request},
    watch::memory_peak,
};
use crate::plugin::{
    name::digest,
    sandbox::{compilers, engine, niceness::Niceness},
    storage::cache::{compatibility, entry_digest, entry_name},
};

/// Threads that compile. Each needs memory for the function that it compiles, so that more would need a higher limit.
const THREADS_MAX: usize = 8;

/// Compiles standard input to standard output as `request` says, and reports to standard error. For the program `wasaga`
/// alone: the limits stay with the process.
pub fn run(request: &str) -> io::Result<()> {
    let request: Request = serde_json::from_str(request).map_err(io::Error::other)?;
    limit(request.cpu)?;
    // The pool that the engine uses. If there is one already, it has as many threads as the machine has processors.
    let _ = ThreadPoolBuilder::new().num_threads(threads()).build_global();
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes)?;
    let outcome = match compile(&request, &bytes) {
        Ok((name, code)) => match write(&[&entry_digest(&name, &code), &code]) {
            Ok(()) => Outcome::Compiled,
            Err(error) => Outcome::Failed(format!("cannot write compiled code: {error}")),
        },
        Err(outcome) => outcome,
    };
    let report = Report { outcome, cost: Cost { cpu: cpu(), memory_bytes: memory_peak("self").unwrap_or_default() } };
    let mut line = serde_json::to_vec(&report).map_err(io::Error::other)?;
    line.push(b'\n');
    io::stderr().lock().write_all(&line)
}

/// The name and the code of the entry.
fn compile(request: &Request, bytes: &[u8]) -> Result<(String, Vec<u8>), Outcome> {
    // Without a pool of instances, on which code does not depend.
    let engine =
        Engine::new(&engine::config(&request.limits)).map_err(|error| Outcome::Failed(format!("{error:#}")))?;
    let component = Component::from_binary(&engine, bytes).map_err(|error| Outcome::Invalid(format!("{error:#}")))?;
    let code = component.serialize().map_err(|error| Outcome::Failed(format!("{error:#}")))?;
    Ok((entry_name(digest(bytes), compatibility(&engine)), code))
}

fn threads() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX)
}

fn write(parts: &[&[u8]]) -> io::Result<()> {
    let mut output = io::stdout().lock();
    parts.iter().try_for_each(|part| output.write_all(part))?;
    output.flush()
}

fn limit(cpu: Duration) -> io::Result<()> {
    Niceness::own().plus(compilers::NICE).apply();
    #[cfg(target_os = "linux")]
    {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // A system without it is no reason to refuse components.
        let _ = fs::write("/proc/self/oom_score_adj", "1000");
    }
    let seconds = cpu.as_secs().max(1);
    // At the first limit the process ends with the signal that names it.
    let hard = getrlimit(Resource::Cpu).maximum.unwrap_or(u64::MAX);
    let maximum = seconds.saturating_add(5).min(hard);
    setrlimit(Resource::Cpu, Rlimit { current: Some(seconds.min(maximum)), maximum: Some(maximum) })?;
    // A crash is expected, and its image is of no use.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

/// The processor time of this process.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or_default(), time.tv_nsec.try_into().unwrap_or_default())
}
