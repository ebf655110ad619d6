//! Watches a process that compiles, and ends it when it exceeds a limit.

use std::{
    io,
    process::{Child, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use super::protocol::Refusal;
use crate::plugin::limits::CompileLimits;

/// How often a process is looked at. A process that fills memory as fast as it can takes some 50 MB in this time.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The limit that a process has exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    Memory,
    Cpu,
    Time,
}

impl Exceeded {
    /// The refusal of the component, which names the setting.
    pub fn refusal(self, limits: &CompileLimits) -> Refusal {
        let reason = match self {
            Self::Memory => {
                format!(
                    "takes more than {} bytes of memory ([plugins.compile] memory_bytes)",
                    limits.memory_bytes_here()
                )
            }
            Self::Cpu => format!("takes more than {:?} of processor time ([plugins.compile] cpu)", limits.cpu),
            Self::Time => format!("takes longer than {:?} ([plugins.compile] time)", limits.time),
        };
        // Time says little of the component: the machine may have been busy or suspended.
        Refusal { reason, is_lasting: self != Self::Time }
    }
}

/// Waits for the end of a process, and ends it when it exceeds its memory or its time; it limits its processor time itself.
pub fn watch(child: &mut Child, limits: &CompileLimits) -> io::Result<(ExitStatus, Option<Exceeded>)> {
    let watched = watch_to_end(child, limits);
    if watched.is_err() {
        // It must not go on unwatched; if it has ended, this says so.
        let _ = child.kill().and_then(|()| child.wait());
    }
    watched
}

fn watch_to_end(child: &mut Child, limits: &CompileLimits) -> io::Result<(ExitStatus, Option<Exceeded>)> {
    let memory_bytes = limits.memory_bytes_here();
    let started = Instant::now();
    // A small component is compiled in a few milliseconds.
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, None));
        }
        let exceeded = if started.elapsed() > limits.time {
            Some(Exceeded::Time)
        } else if memory_peak(&child.id().to_string()).is_some_and(|bytes| bytes > memory_bytes) {
            Some(Exceeded::Memory)
        } else {
            None
        };
        if exceeded.is_some() {
            child.kill()?;
            return Ok((child.wait()?, exceeded));
        }
        thread::sleep(pause);
        pause = LOOK_EVERY.min(pause * 2);
    }
}

/// The most bytes of resident memory that a process (`self` or its number) has had. `None` if the system does not tell.
pub fn memory_peak(process: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix("kB")?;
    kib.trim().parse::<u64>().ok()?.checked_mul(1024)
}
