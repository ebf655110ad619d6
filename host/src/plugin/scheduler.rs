//! Threads for guests that compute for long, which give way to everybody else.
//!
//! A guest runs inside the poll of its future, at first on one of the host's own threads, where a timer makes it yield
//! again and again. Most are done long before that. One that is not is *busy*: it goes on, and ends, on other threads
//! that are less urgent, so that commits, the network and all short calls run as soon as they can, however many busy
//! guests there are. Those get what is left, in turns of some ticks; on an idle host that is everything.
//!
//! Guests that are not done there either, and may never be, go on to threads that are less urgent still: what needs some
//! milliseconds does not wait for what spins.
//!
//! Where a plugin's guests are mostly long, its next ones begin as busy: an interpreter of a few milliseconds would
//! otherwise be done before it counted as one.
//!
//! These threads only compute. Timers, connections and tasks of a guest stay with the caller's runtime, where nobody
//! computes for long.

use std::{
    future::pending,
    mem,
    panic::{catch_unwind, resume_unwind},
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{self, Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;
use tracing::{instrument::WithSubscriber as _, warn};

use super::niceness::Niceness;

/// How far a guest has gone: 0 on the caller's thread, and then one of these, each by so much behind the caller's.
const NICE_BY_LEVEL: [i32; 2] = [6, 12];

/// Computing after which a guest goes further.
const CPU_BUDGET_BY_LEVEL: [Duration; 2] = [Duration::from_millis(3), Duration::from_millis(15)];

/// Ticks of a turn in the background. Most are done within one, and come to their end in the order in which they came:
/// on average that is sooner than if all took small turns.
const TICKS_A_TURN: u32 = 5;

/// Threads on each level at most: more would only wait for a processor.
const THREADS_MAX: usize = 1024;

const THREAD_NAME: &str = "busy-guests";

const NO_THREADS: &str = "busy guests delay others, as no threads can be started for them";

/// The threads. Started when a guest first needs them.
pub struct Scheduler {
    levels: [OnceLock<Option<Runtime>>; NICE_BY_LEVEL.len()],
    count: usize,
    host: Niceness,
}

impl Scheduler {
    /// As many guests compute at once on each level. All give way to the calling thread.
    pub fn new(count: usize) -> Self {
        Self { levels: Default::default(), count: count.clamp(1, THREADS_MAX), host: Niceness::own() }
    }

    /// The threads of who is as far as that; `None` if there are none: then guests stay where they are.
    fn threads(&self, depth: usize) -> Option<&Runtime> {
        let index = depth.checked_sub(1)?;
        let (level, behind) = self.levels.get(index).zip(NICE_BY_LEVEL.get(index))?;
        level.get_or_init(|| self.start(self.host.behind(*behind))).as_ref()
    }

    fn start(&self, niceness: Niceness) -> Option<Runtime> {
        let build = || {
            runtime::Builder::new_multi_thread()
                .worker_threads(self.count)
                .thread_name(THREAD_NAME)
                .on_thread_start(move || niceness.apply())
                // Who arrives, or is woken or given up, comes after every second turn. By default a thread that spinning
                // guests keep busy looks for them after dozens.
                .global_queue_interval(2)
                .build()
                .inspect_err(|error| warn!("{NO_THREADS}: {error}"))
                .ok()
        };
        // Where the system gives no more threads, this panics.
        catch_unwind(build).inspect_err(|_| warn!("{NO_THREADS}")).ok().flatten()
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        // Whoever drops it last may be on a thread that must not wait.
        for threads in self.levels.iter_mut().filter_map(|level| level.take().flatten()) {
            threads.shutdown_background();
        }
    }
}

/// What an attempt's guest has computed so far. Clones count together.
#[derive(Clone, Default)]
pub struct CpuMeter(Arc<Counted>);

#[derive(Default)]
struct Counted {
    ticks: AtomicU32,
    nanoseconds: AtomicU64,
    is_there: AtomicBool,
    is_cancelled: AtomicBool,
}

impl CpuMeter {
    /// Called when a tick has passed and the guest computes; whether others have their turn now.
    pub fn tick(&self) -> bool {
        let Counted { ticks, is_there, is_cancelled, .. } = &*self.0;
        let ticks = ticks.fetch_add(1, Relaxed).wrapping_add(1);
        !is_there.load(Relaxed) || is_cancelled.load(Relaxed) || ticks.is_multiple_of(TICKS_A_TURN)
    }

    /// How long it has computed, without what it has waited.
    pub fn spent(&self) -> Duration {
        Duration::from_nanos(self.0.nanoseconds.load(Relaxed))
    }

    fn spend(&self, time: Duration) {
        let nanoseconds = time.as_nanos().try_into().unwrap_or(u64::MAX);
        self.0.nanoseconds.fetch_add(nanoseconds, Relaxed);
    }

    fn is_too_much(&self, depth: usize) -> bool {
        CPU_BUDGET_BY_LEVEL.get(depth).is_some_and(|free| self.spent() >= *free)
    }

    fn moved_there(&self) {
        self.0.is_there.store(true, Relaxed);
    }

    /// Nobody waits for it any more: it ends its turn with the next tick.
    fn give_up(&self) {
        self.0.is_cancelled.store(true, Relaxed);
    }
}

/// How long a plugin's guests compute: a moving average over its attempts.
#[derive(Default)]
pub struct CpuEstimate {
    nanoseconds: AtomicU32,
    is_long: AtomicBool,
}

impl CpuEstimate {
    /// From here on guests begin in the background, ...
    const LONG: u32 = 1_000_000;
    /// ... until here. Far apart: while some begin here and some there, those there wait for their own kind.
    const SHORT: u32 = 250_000;
    /// No attempt counts for more than this.
    const MOST: u32 = 2_000_000;
    /// Each attempt counts for 1/2^this: some that were interrupted by chance make no cpu_estimate.
    const SHIFT: u32 = 5;

    /// Whether the plugin's guests are mostly long.
    pub fn is_long(&self) -> bool {
        self.is_long.load(Relaxed)
    }

    /// Takes in what an attempt has computed. It is an estimate, so one that is lost to a race does no harm.
    pub fn learn(&self, spent: Duration, has_ended: bool) {
        let spent = u32::try_from(spent.as_nanos()).unwrap_or(u32::MAX).min(Self::MOST);
        let before = self.nanoseconds.load(Relaxed);
        // Of one that was given up nobody knows how long it would have been.
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

/// A guest's future, which moves to the background once it is busy. Dropping it gives the guest up: if it computes just
/// then, it ends with the next tick.
pub struct Demotable<T> {
    place: Place<T>,
    depth: usize,
    /// The runtime that the guest belongs to, if it has left that.
    home: Option<Handle>,
    cpu_meter: CpuMeter,
    background: Arc<Scheduler>,
}

enum Place<T> {
    Here(BoxFuture<'static, T>),
    There(AbortOnDropHandle<T>),
}

impl<T: Send + 'static> Demotable<T> {
    /// For a task of a tokio runtime. `cpu_meter` also counts the guest's ticks. One that `is_long` begins in the background.
    pub fn new(guest: BoxFuture<'static, T>, cpu_meter: CpuMeter, is_long: bool, background: Arc<Scheduler>) -> Self {
        let mut new = Self { place: Place::Here(guest), depth: 0, home: None, cpu_meter, background };
        if is_long {
            new.go_further();
        }
        new
    }

    fn go_further(&mut self) {
        let depth = self.depth + 1;
        if let Place::Here(guest) = &mut self.place
            && let Some(threads) = self.background.threads(depth)
        {
            self.cpu_meter.moved_there();
            let (cpu_meter, background) = (self.cpu_meter.clone(), self.background.clone());
            let home = Some(self.home.clone().unwrap_or_else(Handle::current));
            let place = Place::Here(mem::replace(guest, pending().boxed()));
            let further = Self { place, depth, home, cpu_meter, background };
            self.place = Place::There(AbortOnDropHandle::new(threads.spawn(further.with_current_subscriber())));
        }
    }
}

impl<T: Send + 'static> Future for Demotable<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        if self.cpu_meter.is_too_much(self.depth) {
            self.go_further();
        }
        let Self { place, home, cpu_meter, .. } = &mut *self;
        match place {
            Place::Here(guest) => {
                let _at_home = home.as_ref().map(Handle::enter);
                // In the background others interrupt it, whose time is not its own; here that is rare, and asking dearer.
                let clock = if home.is_some() { ClockId::ThreadCPUTime } else { ClockId::Monotonic };
                let started = now(clock);
                let end = guest.as_mut().poll(cx);
                cpu_meter.spend(now(clock).saturating_sub(started));
                end
            }
            Place::There(guest) => match ready!(Pin::new(guest).poll(cx)) {
                Ok(end) => Poll::Ready(end),
                // For the caller it is as if it had happened here.
                Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
                // Nobody stops it but who drops this.
                Err(_) => Poll::Pending,
            },
        }
    }
}

impl<T> Drop for Demotable<T> {
    fn drop(&mut self) {
        self.cpu_meter.give_up();
    }
}

fn now(clock: ClockId) -> Duration {
    clock_gettime(clock).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        panic::AssertUnwindSafe,
        thread::{self, ThreadId},
        time::Instant,
    };

    use tokio::sync::oneshot;

    use super::*;

    /// A guest that says, each time it is polled, on which thread that is, and then seems to have computed for as many
    /// milliseconds; ends with the last poll.
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

    fn scheduler() -> Arc<Scheduler> {
        Arc::new(Scheduler::new(1))
    }

    /// Where it was polled.
    async fn run(polls: usize, ms: u64, is_long: bool, background: &Arc<Scheduler>) -> Vec<ThreadId> {
        let cpu_meter = CpuMeter::default();
        Demotable::new(guest(polls, ms, &cpu_meter), cpu_meter, is_long, background.clone()).await
    }

    /// One that has computed so much that, unless it has begun in the background, it goes there, or further.
    fn spent(ms: u64) -> CpuMeter {
        let cpu_meter = CpuMeter::default();
        cpu_meter.spend(Duration::from_millis(ms));
        cpu_meter
    }

    #[tokio::test]
    async fn a_short_guest_stays_where_it_is() {
        let background = scheduler();
        assert_eq!(run(2, 0, false, &background).await, [thread::current().id(); 2]);
        assert!(background.levels.iter().all(|level| level.get().is_none()), "started without need");
    }

    #[tokio::test]
    async fn a_guest_moves_once_it_is_busy_and_again_if_it_stays_so() {
        let seen = run(5, 10, false, &scheduler()).await;
        let (here, near, far) = (thread::current().id(), seen[1], seen[2]);
        assert!(here != near && near != far && far != here);
        assert_eq!(seen, [here, near, far, far, far]);
    }

    #[tokio::test]
    async fn a_guest_that_is_taken_for_long_begins_there() {
        let background = scheduler();
        let seen = run(2, 0, true, &background).await;
        assert!(!seen.contains(&thread::current().id()));
        assert!(background.levels[1].get().is_none(), "no further than it must");
    }

    #[tokio::test]
    async fn computing_counts_and_waiting_does_not() {
        for is_long in [false, true] {
            let cpu_meter = CpuMeter::default();
            let guest = async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let started = now(ClockId::ThreadCPUTime);
                while now(ClockId::ThreadCPUTime).saturating_sub(started) < Duration::from_millis(2) {}
            };
            Demotable::new(guest.boxed(), cpu_meter.clone(), is_long, scheduler()).await;
            assert!((1..50).contains(&cpu_meter.spent().as_millis()), "{:?}", cpu_meter.spent());
        }
    }

    /// Its time is the caller's, here one that does not pass by itself.
    #[tokio::test(start_paused = true)]
    async fn a_guest_there_waits_at_home() {
        let guest = async { tokio::time::sleep(Duration::from_hours(24)).await };
        let started = Instant::now();
        Demotable::new(guest.boxed(), spent(20), true, scheduler()).await;
        assert!(started.elapsed() < Duration::from_mins(1));
    }

    #[tokio::test]
    async fn a_turn_is_a_tick_here_and_some_there() {
        let turns = |cpu_meter: &CpuMeter| (0..10).map(|_| cpu_meter.tick()).collect::<Vec<_>>();
        let cpu_meter = CpuMeter::default();
        assert_eq!(turns(&cpu_meter), [true; 10]);
        let cpu_meter = CpuMeter::default();
        let guest = Demotable::new(pending::<()>().boxed(), cpu_meter.clone(), true, scheduler());
        let f = false;
        assert_eq!(turns(&cpu_meter), [f, f, f, f, true, f, f, f, f, true]);
        drop(guest);
        assert_eq!(turns(&cpu_meter), [true; 10], "nobody waits for it");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn it_gives_way_there() {
        let background = scheduler();
        for (ms, depth) in [(0, 1), (20, 2)] {
            let guest = async { Niceness::own() }.boxed();
            let seen = Demotable::new(guest, spent(ms), true, background.clone()).await;
            assert_eq!(seen, Niceness::own().behind(NICE_BY_LEVEL[depth - 1]));
        }
    }

    #[test]
    fn many_long_attempts_make_a_habit_and_short_ones_unmake_it() {
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
        assert!(cpu_estimate.is_long(), "one in the middle does not change the cpu_estimate");
        for _ in 0..100 {
            cpu_estimate.learn(Duration::ZERO, false);
        }
        assert!(cpu_estimate.is_long(), "of those that were given up it is not known");
        learn(100, &[0.1]);
        assert!(!cpu_estimate.is_long());
        learn(1000, &[0.4]);
        assert!(!cpu_estimate.is_long(), "either way");
        learn(100, &[0.01, 0.01, 0.01, 1000.0]);
        assert!(!cpu_estimate.is_long(), "some that are very long do not make it");
    }

    #[tokio::test]
    async fn who_is_given_up_there_is_dropped() {
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
    async fn a_panic_there_is_one_here() {
        for ms in [0, 20] {
            let guest = Demotable::<()>::new(async { panic!("on purpose") }.boxed(), spent(ms), true, scheduler());
            let end = AssertUnwindSafe(guest).catch_unwind().await;
            assert_eq!(end.unwrap_err().downcast_ref(), Some(&"on purpose"));
        }
    }

    #[tokio::test]
    async fn it_can_be_dropped_anywhere() {
        let background = scheduler();
        let threads = background.threads(1).unwrap().handle().clone();
        let (done, dropped) = oneshot::channel();
        // One of its own threads, which cannot wait for itself.
        threads.spawn(async move {
            drop(background);
            let _ = done.send(());
        });
        assert!(dropped.await.is_ok());
    }
}
