//! What one plugin may write to the host's log, all its attempts together.
//!
//! A token bucket in the form of the generic cell rate algorithm (ITU-T I.371): one point in time says how much of the
//! burst is used up. A plugin that has used it up is silent until half of it is there again, and for at least a second:
//! lines that are logged stand together, and there are few notes of dropped ones.

use std::{
    fmt,
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::{hidden::Headers, store::sync::lock};

/// Shortest time for which a plugin that wrote too much is silent.
const SILENCE_MIN: Duration = Duration::from_secs(1);

/// How much each plugin may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes in the long run, each line counted as 64 more than its text. 0: no limit.
    pub bytes_per_second: u64,
    /// Bytes at once.
    pub burst_bytes: u64,
    /// Headers whose values no line shows.
    pub hidden_headers: Headers,
}

impl Default for Settings {
    fn default() -> Self {
        Self { bytes_per_second: 256 << 10, burst_bytes: 2 << 20, hidden_headers: Headers::default() }
    }
}

/// The log of one plugin.
#[derive(Debug, Default)]
pub struct GuestLog {
    settings: Settings,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the whole burst is there again.
    full_at: Option<Instant>,
    /// Set while lines are dropped.
    dropped: Option<Dropped>,
}

/// Lines that were not logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    lines: u64,
    bytes: u64,
    from: Instant,
    until: Instant,
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lines, bytes, .. } = self;
        let seconds = self.until.duration_since(self.from).as_secs_f64();
        write!(f, "{lines} lines ({bytes} bytes) of this plugin were dropped in {seconds:.1} s (log_bytes_per_second)")
    }
}

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is logged.
    Logged,
    /// It is logged, as the first one after those that were dropped.
    LoggedAfter(Dropped),
    /// It is dropped.
    Dropped,
    /// It is dropped, as the first one.
    FirstDropped,
}

impl GuestLog {
    /// A log that nothing was written to.
    pub fn new(settings: Settings) -> Self {
        Self { settings, state: Mutex::default() }
    }

    /// The headers whose values no line shows.
    pub fn hidden_headers(&self) -> &Headers {
        &self.settings.hidden_headers
    }

    /// Takes the cost of a line, if there is room for it.
    pub fn admit(&self, bytes: usize, now: Instant) -> Admission {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let Some(cost) = self.time_for(bytes) else { return Admission::Logged };
        let burst = self.burst();
        let mut state = lock(&self.state);
        let used = state.used(now);
        // A line longer than the burst is logged when nothing is used up.
        let has_room = used.is_zero() || used.saturating_add(cost) <= burst;
        let dropped = match &mut state.dropped {
            None if !has_room => {
                state.dropped = Some(Dropped { lines: 1, bytes, from: now, until: now });
                return Admission::FirstDropped;
            }
            Some(dropped) if !has_room || is_silent(*dropped, used, burst, now) => {
                dropped.lines += 1;
                dropped.bytes = dropped.bytes.saturating_add(bytes);
                dropped.until = now;
                return Admission::Dropped;
            }
            _ => state.dropped.take(),
        };
        state.full_at = now.checked_add(used.saturating_add(cost));
        dropped.map_or(Admission::Logged, Admission::LoggedAfter)
    }

    /// The lines that were dropped, if the silence is over and none was logged since. Reported once.
    pub fn take_dropped(&self, now: Instant) -> Option<Dropped> {
        let burst = self.burst();
        let mut state = lock(&self.state);
        let used = state.used(now);
        state.dropped.take_if(|dropped| !is_silent(*dropped, used, burst, now))
    }

    fn burst(&self) -> Duration {
        self.time_for(self.settings.burst_bytes).unwrap_or_default()
    }

    /// How long it takes until so many bytes may be written again; `None` without a limit.
    fn time_for(&self, bytes: u64) -> Option<Duration> {
        let rate = self.settings.bytes_per_second;
        let nanoseconds = (u128::from(bytes) * 1_000_000_000).checked_div(rate.into())?;
        Some(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)))
    }
}

impl State {
    /// How much of the burst is used up, as the time until it is there again.
    fn used(&self, now: Instant) -> Duration {
        self.full_at.map_or(Duration::ZERO, |full_at| full_at.saturating_duration_since(now))
    }
}

fn is_silent(dropped: Dropped, used: Duration, burst: Duration, now: Instant) -> bool {
    used > burst / 2 || now.saturating_duration_since(dropped.from) < SILENCE_MIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_writes_its_burst_and_then_its_rate() {
        let log =
            GuestLog::new(Settings { bytes_per_second: 100, burst_bytes: 1000, hidden_headers: Headers::default() });
        let start = Instant::now();
        let admit = |at_s: u64| log.admit(100, start + Duration::from_secs(at_s));
        for _ in 0..10 {
            assert_eq!(admit(0), Admission::Logged);
        }
        assert_eq!(admit(0), Admission::FirstDropped);
        assert_eq!([admit(1), admit(4)], [Admission::Dropped; 2], "silent until half of the burst is there");
        assert_eq!(log.take_dropped(start + Duration::from_secs(4)), None);
        let Admission::LoggedAfter(dropped) = admit(5) else { panic!("half of the burst is there") };
        let note = "3 lines (300 bytes) of this plugin were dropped in 4.0 s (log_bytes_per_second)";
        assert_eq!(dropped.to_string(), note);
        for _ in 0..4 {
            assert_eq!(admit(5), Admission::Logged);
        }
        assert_eq!(admit(5), Admission::FirstDropped);
        assert_eq!(log.take_dropped(start + Duration::from_secs(10)).map(|dropped| dropped.lines), Some(1));
        assert_eq!(log.take_dropped(start + Duration::from_secs(10)), None, "reported once");
        // Whatever it does, it gets no more than its burst and its rate.
        let times = (11..1011).flat_map(|at_s| [at_s; 5]);
        let logged = times.filter(|at_s| matches!(admit(*at_s), Admission::Logged | Admission::LoggedAfter(_))).count();
        assert!((900..1100).contains(&logged), "{logged}");
    }

    #[test]
    fn a_line_longer_than_the_burst_is_logged_alone_and_no_rate_means_no_limit() {
        let log = GuestLog::new(Settings { bytes_per_second: 1, burst_bytes: 10, hidden_headers: Headers::default() });
        let now = Instant::now();
        assert_eq!((log.admit(100, now), log.admit(1, now)), (Admission::Logged, Admission::FirstDropped));
        let log = GuestLog::new(Settings { bytes_per_second: 0, burst_bytes: 10, hidden_headers: Headers::default() });
        assert!((0..100).all(|_| log.admit(100, now) == Admission::Logged));
        assert_eq!(log.take_dropped(now), None);
    }
}
