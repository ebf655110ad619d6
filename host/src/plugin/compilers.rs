//! Threads that compile components, and give way to everybody else.
//!
//! Compiling a large component takes all processors for seconds. While sagas run, they come first: under full load these
//! threads get a fourth of the time that others get, and an idle host compiles at full speed.

use std::sync::OnceLock;

use rayon::{ThreadPool, ThreadPoolBuilder};

/// How much less urgent than the rest of the host, as `nice` counts it. Each step is a fifth less time: far more of them,
/// and an upgrade of a busy host would take minutes.
const NICENESS: i32 = 6;

/// Started when something is first compiled.
#[derive(Default)]
pub struct Compilers(OnceLock<Option<ThreadPool>>);

impl Compilers {
    /// Runs what compiles, and whatever it does in parallel, on these threads; returns when it is done.
    pub fn run<T: Send>(&self, compile: impl FnOnce() -> T + Send) -> T {
        // Without threads of its own it compiles on the caller's.
        match self.0.get_or_init(start) {
            Some(threads) => threads.install(compile),
            None => compile(),
        }
    }
}

fn start() -> Option<ThreadPool> {
    let give_way = |_| {
        // On Linux that is the thread's own; elsewhere, and where it is forbidden, compiling is as urgent as the rest.
        #[cfg(target_os = "linux")]
        let _ = rustix::process::nice(NICENESS);
    };
    ThreadPoolBuilder::new().thread_name(|n| format!("compiler-{n}")).start_handler(give_way).build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn compilers_give_way_and_nobody_else_does() {
        // The 19th field of the thread's line, the 17th after its name.
        let niceness = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            stat.rsplit(')').next().unwrap().split_whitespace().nth(16).unwrap().parse::<i32>().unwrap()
        };
        let before = niceness();
        let compilers = Compilers::default();
        assert_eq!(compilers.run(niceness), (before + NICENESS).min(19));
        assert_eq!(niceness(), before);
    }
}
