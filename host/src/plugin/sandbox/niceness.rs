//! Priorities of threads, as `nice` counts them.

/// The niceness of a thread: higher is less urgent. While two threads want the same processor, each step of difference
/// takes a fifth of the time from the nicer one: at a difference of 6 it gets a fourth of the other's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Niceness(i32);

impl Niceness {
    /// The niceness of the calling thread.
    pub fn own() -> Self {
        #[cfg(target_os = "linux")]
        return Self(rustix::process::getpriority_process(None).unwrap_or_default());
        #[cfg(not(target_os = "linux"))]
        Self(0)
    }

    /// A niceness that is higher by this much, 19 at most.
    pub fn plus(self, by: i32) -> Self {
        Self(self.0.saturating_add(by).min(19))
    }

    /// Sets the niceness of the calling thread. On Linux each thread has its own; on other systems, and where it is
    /// forbidden, nothing changes.
    pub fn apply(self) {
        #[cfg(target_os = "linux")]
        let _ = rustix::process::setpriority_process(None, self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn niceness_has_a_maximum() {
        assert_eq!(Niceness(0).plus(6), Niceness(6));
        assert_eq!(Niceness(15).plus(6), Niceness(19));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn only_the_calling_thread_changes() {
        let before = Niceness::own();
        let seen = std::thread::spawn(move || {
            before.plus(6).apply();
            Niceness::own()
        });
        assert_eq!(seen.join().unwrap(), before.plus(6));
        assert_eq!(Niceness::own(), before);
    }
}
