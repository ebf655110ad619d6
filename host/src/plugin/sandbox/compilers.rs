//! Low-priority threads that compile components in the host's own process.
//!
//! Compiling a large component takes all processors for seconds. Running sagas have priority; an idle host compiles at
//! full speed.

use std::sync::OnceLock;

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::niceness::Niceness;

/// Niceness of the threads, relative to the host's. With a much higher one, compiling under full load would take minutes.
pub const NICE: i32 = 6;

/// The threads. Started at the first compilation.
pub struct Compilers {
    threads: OnceLock<Option<ThreadPool>>,
    niceness: Niceness,
}

impl Default for Compilers {
    /// Threads that are nicer than the calling one.
    fn default() -> Self {
        Self { threads: OnceLock::new(), niceness: Niceness::own().plus(NICE) }
    }
}

impl Compilers {
    /// Runs a compilation, including its parallel parts, on these threads, and waits for it.
    pub fn run<T: Send>(&self, compile: impl FnOnce() -> T + Send) -> T {
        // If the threads cannot be started, it runs on the caller's thread.
        match self.threads.get_or_init(|| self.start()) {
            Some(threads) => threads.install(compile),
            None => compile(),
        }
    }

    fn start(&self) -> Option<ThreadPool> {
        let niceness = self.niceness;
        let name = |n| format!("compiler-{n}");
        ThreadPoolBuilder::new().thread_name(name).start_handler(move |_| niceness.apply()).build().ok()
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn only_compilers_have_a_lower_priority() {
        let before = Niceness::own();
        let compilers = Compilers::default();
        assert_eq!(compilers.run(Niceness::own), before.plus(NICE));
        assert_eq!(Niceness::own(), before);
    }
}
