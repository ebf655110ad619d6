//! Threads that compile components, and give way to everybody else.
//!
//! Compiling a large component takes all processors for seconds. While sagas run, they come first; an idle host compiles
//! at full speed.

use std::sync::OnceLock;

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::niceness::Niceness;

/// By how much they give way. Far more, and an upgrade of a host under full load would take minutes.
const NICE_BY_LEVEL: i32 = 6;

/// Started when something is first compiled.
pub struct Compilers {
    threads: OnceLock<Option<ThreadPool>>,
    niceness: Niceness,
}

impl Default for Compilers {
    /// They will give way to the calling thread.
    fn default() -> Self {
        Self { threads: OnceLock::new(), niceness: Niceness::own().behind(NICE_BY_LEVEL) }
    }
}

impl Compilers {
    /// Runs what compiles, and whatever it does in parallel, on these threads; returns when it is done.
    pub fn run<T: Send>(&self, compile: impl FnOnce() -> T + Send) -> T {
        // Without threads of its own it compiles on the caller's.
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
    fn compilers_give_way_and_nobody_else_does() {
        let before = Niceness::own();
        let compilers = Compilers::default();
        assert_eq!(compilers.run(Niceness::own), before.behind(NICE_BY_LEVEL));
        assert_eq!(Niceness::own(), before);
    }
}
