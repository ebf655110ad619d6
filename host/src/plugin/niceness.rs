//! How threads of lengthy work give way to all others.

/// How urgent a thread is, as `nice` counts it. Each step is a fifth less time: a thread that gives way by 6 gets a fourth
/// of what one gets that does not, while both want the same processor, and all of it otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Niceness(i32);

impl Niceness {
    /// Of the calling thread.
    pub fn own() -> Self {
        #[cfg(target_os = "linux")]
        return Self(rustix::process::getpriority_process(None).unwrap_or_default());
        #[cfg(not(target_os = "linux"))]
        Self(0)
    }

    /// What gives way to it by so much.
    pub fn behind(self, by: i32) -> Self {
        Self(self.0.saturating_add(by).min(19))
    }

    /// Makes it the calling thread's, whatever that has inherited. On Linux niceness is each thread's own matter;
    /// elsewhere, and where it is forbidden, the thread stays as urgent as the rest.
    pub fn apply(self) {
        #[cfg(target_os = "linux")]
        let _ = rustix::process::setpriority_process(None, self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_behind_the_last() {
        assert_eq!(Niceness(0).behind(6), Niceness(6));
        assert_eq!(Niceness(15).behind(6), Niceness(19));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn only_the_calling_thread_gives_way() {
        let before = Niceness::own();
        let seen = std::thread::spawn(move || {
            before.behind(6).apply();
            Niceness::own()
        });
        assert_eq!(seen.join().unwrap(), before.behind(6));
        assert_eq!(Niceness::own(), before);
    }
}
