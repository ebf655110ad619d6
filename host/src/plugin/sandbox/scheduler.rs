//! A multilevel feedback queue for guests that compute for long.
//!
//! A guest runs inside the poll of its future, at first on the caller's thread (level 0), where the epoch makes it yield at
//! every tick. When it has used the CPU budget of its level, it is demoted: it continues on the threads of the next level,
//! which have a lower priority and longer turns. So commits, the network and short calls run at once however many guests
//! compute, guests of some milliseconds do not wait for those that never end, and an idle host gives all its CPU time to
//! whichever guests there are.
//!
//! If a plugin's guests usually compute for long ([`CpuEstimate`]), its next ones start on level 1: otherwise most of an
//! interpreter's few milliseconds would be spent on level 0.
//!
//! Demoted guests only compute on these threads. Their timers, connections and tasks stay with the caller's runtime.
//!
//! The algorithm: F. J. Corbato et al., "An Experimental Time-Sharing System" (1962). Without its priority boost: a guest
//! that computes without end is cancelled by its time limit.

use std::{
    panic::{catch_unwind, resume_unwind},
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::future::BoxFuture;
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{self, Handle, Runtime};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{instrument::WithSubscriber as _, warn};

use super::niceness::Niceness;

/// One level of the queue.
struct Level {
    /// Niceness of its threads, relative to the host's.
    nice: i32,
    /// CPU time, that on earlier levels included, after which a guest is demoted; `None` on the last level.
    cpu_budget: Option<Duration>,
}

/// All levels. Level 0 is the caller's thread.
const LEVELS: [Level; 3] = [
    Level { nice: 0, cpu_budget: Some(Duration::from_millis(3)) },
    Level { nice: 6, cpu_budget: Some(Duration::from_millis(15)) },
    Level { nice: 12, cpu_budget: None },
];

/// Ticks of one turn of a demoted guest. Most guests end within one turn, and so in the order in which they came; with
/// shorter turns, the average guest would end later.
const TICKS_PER_TURN: u32 = 5;

/// Most threads of a level.
const THREADS_MAX: usize = 1024;

const THREAD_NAME: &str = "busy-guests";

const NO_THREADS: &str = "busy guests delay others, as no threads can be started for them";

/// The threads of all levels. Those of a level are started when a guest first needs them.
pub struct Scheduler {
    /// By level; none on level 0, which is the caller's thread.
    levels: [OnceLock<Option<Runtime>>; LEVELS.len()],
    threads_per_level: usize,
    host: Niceness,
}

impl Scheduler {
    /// As many threads on each level. Their niceness is relative to that of the calling thread.
    pub fn new(threads_per_level: usize) -> Self {
        let threads_per_level = threads_per_level.clamp(1, THREADS_MAX);
        Self { levels: Default::default(), threads_per_level, host: Niceness::own() }
    }

    /// The threads of a level above 0; `None` if there is no such level or they cannot be started. Guests then stay on
    /// their level.
    fn threads(&self, level: usize) -> Option<&Runtime> {
        let (threads, Level { nice, .. }) = self.levels.get(level).zip(LEVELS.get(level))?;
        threads.get_or_init(|| self.start(self.host.plus(*nice))).as_ref()
    }

    fn start(&self, niceness: Niceness) -> Option<Runtime> {
        let build = || {
            runtime::Builder::new_multi_thread()
                .worker_threads(self.threads_per_level)
                .thread_name(THREAD_NAME)
                .on_thread_start(move || niceness.apply())
                // A guest that arrives, is woken or is cancelled from outside runs after every second turn. With the
                // default, a thread that is busy with computing guests would run it after dozens.
                .global_queue_interval(2)
                .build()
                .inspect_err(|error| warn!("{NO_THREADS}: {error}"))
                .ok()
        };
        // This panics if the system gives no more threads.
        catch_unwind(build).inspect_err(|_| warn!("{NO_THREADS}")).ok().flatten()
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        // The last handle may be dropped on a thread that must not block.
        for threads in self.levels.iter_mut().filter_map(|level| level.take().flatten()) {
            threads.shutdown_background();
        }
    }
}

/// The CPU time of one attempt's guest. Clones count together.
#[derive(Clone)]
pub struct CpuMeter(Arc<Counted>);

struct Counted {
    ticks: AtomicU32,
    nanoseconds: AtomicU64,
    is_demoted: AtomicBool,
    /// From the end of the attempt on, a guest that still computes ends its turn with the next tick.
    cancelled: CancellationToken,
}

impl CpuMeter {
    /// For an attempt that ends when `cancelled` is.
    pub fn new(cancelled: CancellationToken) -> Self {
        Self(Arc::new(Counted {
            ticks: AtomicU32::new(0),
            nanoseconds: AtomicU64::new(0),
            is_demoted: AtomicBool::new(false),
            cancelled,
        }))
    }

    /// Called at each tick while the guest computes. Whether it must yield.
    pub fn tick(&self) -> bool {
        let Counted { ticks, is_demoted, cancelled, .. } = &*self.0;
        let ticks = ticks.fetch_add(1, Relaxed).wrapping_add(1);
        !is_demoted.load(Relaxed) || ticks.is_multiple_of(TICKS_PER_TURN) || cancelled.is_cancelled()
    }

    /// The CPU time so far; time that the guest waited is not included.
    pub fn spent(&self) -> Duration {
        Duration::from_nanos(self.0.nanoseconds.load(Relaxed))
    }

    fn spend(&self, time: Duration) {
        let nanoseconds = time.as_nanos().try_into().unwrap_or(u64::MAX);
        self.0.nanoseconds.fetch_add(nanoseconds, Relaxed);
    }

    fn exceeds_budget_of(&self, level: usize) -> bool {
        let budget = LEVELS.get(level).and_then(|level| level.cpu_budget);
        budget.is_some_and(|budget| self.spent() >= budget)
    }

    fn set_demoted(&self) {
        self.0.is_demoted.store(true, Relaxed);
    }
}

/// How long a plugin's guests compute: an exponentially weighted moving average over its attempts.
#[derive(Default)]
pub struct CpuEstimate {
    nanoseconds: AtomicU32,
    is_long: AtomicBool,
}

impl CpuEstimate {
    /// From this average on, new guests start on level 1.
    const LONG: u32 = 1_000_000;
    /// Hysteresis: below this average, new guests start on level 0 again. Far from `LONG`: with some guests of a plugin on
    /// each level, those on level 1 would wait for each other.
    const SHORT: u32 = 250_000;
    /// An attempt counts for no more than this.
    const MOST: u32 = 2_000_000;
    /// The weight of each attempt is 1/2^this: a few that were interrupted by chance do not change the level.
    const SHIFT: u32 = 5;

    /// Whether the plugin's guests usually compute for long.
    pub fn is_long(&self) -> bool {
        self.is_long.load(Relaxed)
    }

    /// Adds the CPU time of an attempt. Concurrent calls may lose one, which an estimate can bear.
    pub fn learn(&self, spent: Duration, has_ended: bool) {
        let spent = u32::try_from(spent.as_nanos()).unwrap_or(u32::MAX).min(Self::MOST);
        let before = self.nanoseconds.load(Relaxed);
        // A cancelled attempt shows only a lower bound.
        if !has_ended && spent < before {
            return;
        }
        let after = before - (before >> Self::SHIFT) + (spent >> Self::SHIFT);
        self.nanoseconds.store(after, Relaxed);
        match self.is_long() {
            false if after >= Self::LONG => self.is_long.store(true, Relaxed),
            true if after < Self::SHORT => self.is_long.store(false, Relaxed),
            _ => {}
        }
    }
}

/// A guest's future, which is demoted when it exceeds the CPU budget of its level.
///
/// When it is dropped, the guest is dropped too, on its own thread if it has been demoted. A guest that computes just then
/// goes on until it yields: cancel the token of its [`CpuMeter`] to end it with the next tick.
pub struct Demotable<T> {
    /// The guest, until it is demoted.
    guest: Option<BoxFuture<'static, T>>,
    /// The guest on a thread of the next level, once it is demoted.
    demoted: Option<AbortOnDropHandle<T>>,
    level: usize,
    /// The caller's runtime, once the guest has been demoted.
    home: Option<Handle>,
    cpu_meter: CpuMeter,
    scheduler: Arc<Scheduler>,
}

impl<T: Send + 'static> Demotable<T> {
    /// For a task of a tokio runtime. `cpu_meter` also counts the guest's ticks. If `is_long`, the guest starts on level 1.
    pub fn new(guest: BoxFuture<'static, T>, cpu_meter: CpuMeter, is_long: bool, scheduler: Arc<Scheduler>) -> Self {
        let mut new = Self { guest: Some(guest), demoted: None, level: 0, home: None, cpu_meter, scheduler };
        if is_long {
            new.demote();
        }
        new
    }

    /// Moves the guest to a thread of the next level, where a `Demotable` of that level polls it.
    fn demote(&mut self) {
        let level = self.level + 1;
        let Some(threads) = self.scheduler.threads(level) else { return };
        let Some(guest) = self.guest.take() else { return };
        self.cpu_meter.set_demoted();
        let demoted = Self {
            guest: Some(guest),
            demoted: None,
            level,
            home: Some(self.home.clone().unwrap_or_else(Handle::current)),
            cpu_meter: self.cpu_meter.clone(),
            scheduler: self.scheduler.clone(),
        };
        self.demoted = Some(AbortOnDropHandle::new(threads.spawn(demoted.with_current_subscriber())));
    }
}

impl<T: Send + 'static> Future for Demotable<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        if self.cpu_meter.exceeds_budget_of(self.level) {
            self.demote();
        }
        let Self { guest, demoted, home, cpu_meter, .. } = &mut *self;
        if let Some(guest) = guest {
            let _at_home = home.as_ref().map(Handle::enter);
            // Threads of lower levels are preempted, and the time of others must not count. On level 0 that is rare, and
            // the clock of the thread is slower to read.
            let clock = if home.is_some() { ClockId::ThreadCPUTime } else { ClockId::Monotonic };
            let started = now(clock);
            let end = guest.as_mut().poll(cx);
            cpu_meter.spend(now(clock).saturating_sub(started));
            return end;
        }
        let Some(demoted) = demoted else { return Poll::Pending };
        match ready!(Pin::new(demoted).poll(cx)) {
            Ok(end) => Poll::Ready(end),
            // The caller sees the panic as if the guest had not been demoted.
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            // The task was aborted although this was not dropped: its runtime shuts down.
            Err(_) => Poll::Pending,
        }
    }
}

fn now(clock: ClockId) -> Duration {
    clock_gettime(clock).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, poll_fn},
        mem,
        panic::AssertUnwindSafe,
        thread::{self, ThreadId},
        time::Instant,
    };

    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    /// A guest that records the thread of each poll, and pretends to compute for `ms` milliseconds in each. Ends with the
    /// last poll.
    fn guest(polls: usize, ms: u64, cpu_meter: &CpuMeter) -> BoxFuture<'static, Vec<ThreadId>> {
        let (mut seen, cpu_meter) = (Vec::new(), cpu_meter.clone());
        poll_fn(move |cx| {
            seen.push(thread::current().id());
            if seen.len() == polls {
                return Poll::Ready(mem::take(&mut seen));
            }
            cpu_meter.spend(Duration::from_millis(ms));
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .boxed()
    }

    fn new_meter() -> CpuMeter {
        CpuMeter::new(CancellationToken::new())
    }

    fn scheduler() -> Arc<Scheduler> {
        Arc::new(Scheduler::new(1))
    }

    /// The threads that polled a guest.
    async fn run(polls: usize, ms: u64, is_long: bool, scheduler: &Arc<Scheduler>) -> Vec<ThreadId> {
        let cpu_meter = new_meter();
        Demotable::new(guest(polls, ms, &cpu_meter), cpu_meter, is_long, scheduler.clone()).await
    }

    /// The meter of a guest that has computed for this long.
    fn spent(ms: u64) -> CpuMeter {
        let cpu_meter = new_meter();
        cpu_meter.spend(Duration::from_millis(ms));
        cpu_meter
    }

    #[tokio::test]
    async fn a_short_guest_stays_where_it_is() {
        let scheduler = scheduler();
        assert_eq!(run(2, 0, false, &scheduler).await, [thread::current().id(); 2]);
        assert!(scheduler.levels.iter().all(|level| level.get().is_none()), "started without need");
    }

    #[tokio::test]
    async fn a_guest_is_demoted_for_each_budget_it_exceeds() {
        let seen = run(5, 10, false, &scheduler()).await;
        let (here, level_1, level_2) = (thread::current().id(), seen[1], seen[2]);
        assert!(here != level_1 && level_1 != level_2 && level_2 != here);
        assert_eq!(seen, [here, level_1, level_2, level_2, level_2]);
    }

    #[tokio::test]
    async fn a_guest_that_is_probably_long_starts_on_level_1() {
        let scheduler = scheduler();
        let seen = run(2, 0, true, &scheduler).await;
        assert!(!seen.contains(&thread::current().id()));
        assert!(scheduler.levels[2].get().is_none(), "not demoted twice");
    }

    #[tokio::test]
    async fn computing_counts_and_waiting_does_not() {
        for is_long in [false, true] {
            let cpu_meter = new_meter();
            let guest = async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let started = now(ClockId::ThreadCPUTime);
                while now(ClockId::ThreadCPUTime).saturating_sub(started) < Duration::from_millis(2) {}
            };
            Demotable::new(guest.boxed(), cpu_meter.clone(), is_long, scheduler()).await;
            assert!((1..50).contains(&cpu_meter.spent().as_millis()), "{:?}", cpu_meter.spent());
        }
    }

    /// Timers of a demoted guest use the caller's clock, which is paused here.
    #[tokio::test(start_paused = true)]
    async fn a_demoted_guest_waits_on_the_callers_runtime() {
        let guest = async { tokio::time::sleep(Duration::from_hours(24)).await };
        let started = Instant::now();
        Demotable::new(guest.boxed(), spent(20), true, scheduler()).await;
        assert!(started.elapsed() < Duration::from_mins(1));
    }

    #[tokio::test]
    async fn a_turn_is_one_tick_on_level_0_and_five_below() {
        let turns = |cpu_meter: &CpuMeter| (0..10).map(|_| cpu_meter.tick()).collect::<Vec<_>>();
        let cpu_meter = new_meter();
        assert_eq!(turns(&cpu_meter), [true; 10]);
        let cancelled = CancellationToken::new();
        let cpu_meter = CpuMeter::new(cancelled.clone());
        let _guest = Demotable::new(pending::<()>().boxed(), cpu_meter.clone(), true, scheduler());
        let f = false;
        assert_eq!(turns(&cpu_meter), [f, f, f, f, true, f, f, f, f, true]);
        cancelled.cancel();
        assert_eq!(turns(&cpu_meter), [true; 10], "the attempt has ended");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn demoted_guests_have_a_lower_priority() {
        let scheduler = scheduler();
        for (ms, level) in [(0, 1), (20, 2)] {
            let guest = async { Niceness::own() }.boxed();
            let seen = Demotable::new(guest, spent(ms), true, scheduler.clone()).await;
            assert_eq!(seen, Niceness::own().plus(LEVELS[level].nice));
        }
    }

    #[test]
    fn many_long_attempts_change_the_estimate_and_short_ones_change_it_back() {
        let cpu_estimate = CpuEstimate::default();
        let learn = |times: usize, milliseconds: &[f64]| {
            for ms in milliseconds.iter().cycle().take(times * milliseconds.len()) {
                cpu_estimate.learn(Duration::from_secs_f64(ms / 1000.0), true);
            }
        };
        learn(10, &[5.0]);
        assert!(!cpu_estimate.is_long(), "ten may be chance");
        learn(20, &[5.0]);
        assert!(cpu_estimate.is_long());
        learn(1000, &[0.4]);
        assert!(cpu_estimate.is_long(), "an average between the bounds does not change it");
        for _ in 0..100 {
            cpu_estimate.learn(Duration::ZERO, false);
        }
        assert!(cpu_estimate.is_long(), "cancelled attempts show only a lower bound");
        learn(100, &[0.1]);
        assert!(!cpu_estimate.is_long());
        learn(1000, &[0.4]);
        assert!(!cpu_estimate.is_long(), "either way");
        learn(100, &[0.01, 0.01, 0.01, 1000.0]);
        assert!(!cpu_estimate.is_long(), "a few very long ones do not change it");
    }

    #[tokio::test]
    async fn a_demoted_guest_is_dropped_with_its_future() {
        for ms in [0, 20] {
            let (alive, gone) = oneshot::channel::<()>();
            let (begins, started) = oneshot::channel();
            let guest = async move {
                let _ = begins.send(());
                pending::<()>().await;
                drop(alive);
            };
            let guest = Demotable::new(guest.boxed(), spent(ms), true, scheduler());
            started.await.unwrap();
            drop(guest);
            assert!(gone.await.is_err());
        }
    }

    #[tokio::test]
    async fn a_panic_of_a_demoted_guest_reaches_the_caller() {
        for ms in [0, 20] {
            let guest = Demotable::<()>::new(async { panic!("on purpose") }.boxed(), spent(ms), true, scheduler());
            let end = AssertUnwindSafe(guest).catch_unwind().await;
            assert_eq!(end.unwrap_err().downcast_ref(), Some(&"on purpose"));
        }
    }

    #[tokio::test]
    async fn the_scheduler_can_be_dropped_on_its_own_threads() {
        let scheduler = scheduler();
        let threads = scheduler.threads(1).unwrap().handle().clone();
        let (done, dropped) = oneshot::channel();
        // A thread cannot wait for its own end.
        threads.spawn(async move {
            drop(scheduler);
            let _ = done.send(());
        });
        assert!(dropped.await.is_ok());
    }
}
