//! [`Clock`]: the time that the cache lives by, real or advanced by hand.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;

/// The source of time for the cache.
///
/// The default is the system's: the monotonic clock for durations, and the wall clock for calendar
/// times. Tests pass a [`ManualClock`] to
/// [`QueryCacheBuilder::clock`](crate::QueryCacheBuilder::clock) and advance it.
#[derive(Debug, Clone, Default)]
pub struct Clock(Kind);

#[derive(Debug, Clone, Default)]
enum Kind {
    #[default]
    System,
    Manual(ManualClock),
}

/// A point in time: nanoseconds since an origin of the clock's own. A separate type, so that counts
/// and times cannot be confused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Instant(u64);

impl Instant {
    /// Later than every other instant.
    pub(crate) const NEVER: Instant = Instant(u64::MAX);

    #[inline]
    pub(crate) const fn from_nanos(nanos: u64) -> Instant {
        Instant(nanos)
    }

    #[inline]
    pub(crate) const fn nanos(self) -> u64 {
        self.0
    }
}

/// The clock reading at its origin. A result from Redis may be older than the uptime of this
/// machine. The time of its load must not be cut off at zero: the result would seem younger than it
/// is.
const ORIGIN: u64 = 20 * 366 * 24 * 60 * 60 * 1_000_000_000;

/// The maximum delay before a wait for a wall time notices that the system's clock was set or that
/// the machine was suspended.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

impl Clock {
    /// The system's monotonic clock, which keeps counting while the machine is suspended.
    pub fn system() -> Clock {
        Clock(Kind::System)
    }

    #[inline]
    pub(crate) fn now(&self) -> Instant {
        match &self.0 {
            Kind::System => Instant(system_now().saturating_add(ORIGIN)),
            Kind::Manual(clock) => Instant(clock.passed().saturating_add(ORIGIN)),
        }
    }

    /// The wall time, for calendar times. The system's wall clock can be set, back as well as
    /// forward, so durations and lifetimes use [`now`](Clock::now).
    #[allow(dead_code)] // Used by schedules only.
    pub(crate) fn wall(&self) -> SystemTime {
        match &self.0 {
            Kind::System => SystemTime::now(),
            Kind::Manual(clock) => clock.wall(),
        }
    }

    /// Waits until [`wall`](Clock::wall) shows `at` or later.
    ///
    /// The wait ends on time. If the system's clock is set or the machine is suspended, the wait
    /// notices that within 30 seconds. While Tokio's time is paused, a wait on the system's clock
    /// never goes idle: such a test needs a [`ManualClock`].
    ///
    /// # Cancellation
    ///
    /// Nothing is lost if the wait is dropped.
    #[allow(dead_code)] // Used by schedules only.
    pub(crate) async fn until(&self, at: SystemTime) {
        match &self.0 {
            // A single sleep counts elapsed time. It would be late by the amount that the clock was
            // set forward or that the machine was suspended.
            Kind::System => loop {
                match at.duration_since(SystemTime::now()) {
                    Ok(remaining) if !remaining.is_zero() => {
                        tokio::time::sleep(remaining.min(LOOK_AGAIN)).await;
                    }
                    _ => return,
                }
            },
            Kind::Manual(clock) => clock.until(at).await,
        }
    }
}

/// An entry must not outlive its TTL because the laptop or virtual machine was suspended for part
/// of it. `std::time::Instant` stops during suspend on Linux; CLOCK_BOOTTIME does not. On the other
/// systems we know, CLOCK_MONOTONIC counts suspended time.
#[inline]
fn system_now() -> u64 {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const CLOCK: ClockId = ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const CLOCK: ClockId = ClockId::Monotonic;
    let now = clock_gettime(CLOCK);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// `at + by`; saturates at the end of time.
#[inline]
pub(crate) fn after(at: Instant, by: Duration) -> Instant {
    Instant(at.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
}

/// `at - by`; saturates at the beginning of time.
pub(crate) fn before(at: Instant, by: Duration) -> Instant {
    Instant(at.0.saturating_sub(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
}

/// The time between `then` and `now`; zero if `then` is later.
#[inline]
pub(crate) fn since(now: Instant, then: Instant) -> Duration {
    Duration::from_nanos(now.0.saturating_sub(then.0))
}

/// A clock for tests that stands still until it is [advanced](ManualClock::advance).
///
/// Clones show the same time. It controls the cache's use of time in this process: the lifetime of
/// entries in memory and the age of answers. Redis and PostgreSQL keep their own time. Deadlines
/// use Tokio's time: while `tokio::time` is paused, a wait for a real server counts as endless.
///
/// ```
/// use std::time::Duration;
/// use larder::{Origin, QueryCache};
/// use larder::testing::ManualClock;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let clock = ManualClock::new();
/// let cache = QueryCache::builder()
///     .ttl(Duration::from_secs(60))
///     .clock(clock.clone())
///     .build()
///     .await?;
/// let answer = cache.query("SELECT 1");
/// let load = || answer.load(|| async { Ok::<_, std::io::Error>(1_i32) });
///
/// load().await?;
/// clock.advance(Duration::from_secs(59));
/// assert_eq!(load().answer().await?.origin(), Origin::L1);
/// clock.advance(Duration::from_secs(1));
/// assert_eq!(load().answer().await?.origin(), Origin::Loaded);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Hands>);

#[derive(Debug)]
struct Hands {
    /// The wall time at the origin.
    began: SystemTime,
    /// The nanoseconds since the origin. One number serves both kinds of time, so that they cannot
    /// drift.
    passed: AtomicU64,
    /// Wakes the waits for a wall time at every advance.
    advanced: Notify,
}

impl ManualClock {
    /// A clock at its origin, whose wall time is the Unix epoch, 1970-01-01 00:00 UTC.
    pub fn new() -> ManualClock {
        ManualClock::starting_at(SystemTime::UNIX_EPOCH)
    }

    /// A clock at its origin, whose wall time is `began`: for tests that depend on calendar times.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use larder::testing::ManualClock;
    ///
    /// let midnight = SystemTime::UNIX_EPOCH + Duration::from_secs(20_000 * 24 * 60 * 60);
    /// let clock = ManualClock::starting_at(midnight);
    /// clock.advance(Duration::from_secs(60));
    /// assert_eq!(clock.wall(), midnight + Duration::from_secs(60));
    /// ```
    pub fn starting_at(began: SystemTime) -> ManualClock {
        ManualClock(Arc::new(Hands { began, passed: AtomicU64::new(0), advanced: Notify::new() }))
    }

    /// Advances the clock by `by`, and wakes the waits for a time that it reaches.
    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        // Saturating, so that a test that advances by `Duration::MAX` reaches the end of time
        // instead of wrapping around to its beginning.
        let _ = self
            .0
            .passed
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| Some(now.saturating_add(by)));
        self.0.advanced.notify_waiters();
    }

    /// The wall time: the starting wall time plus all advances, at most the last time that a
    /// [`SystemTime`] can hold.
    pub fn wall(&self) -> SystemTime {
        wall_after(self.0.began, self.passed())
    }

    #[inline]
    fn passed(&self) -> u64 {
        self.0.passed.load(Ordering::Acquire)
    }

    async fn until(&self, at: SystemTime) {
        loop {
            // Registers before it reads the time. Otherwise an advance between the check and the
            // wait would wake nobody, and there may be no other advance.
            let mut advanced = pin!(self.0.advanced.notified());
            advanced.as_mut().enable();
            if self.wall() >= at {
                return;
            }
            advanced.await;
        }
    }
}

impl Default for ManualClock {
    /// The same as [`ManualClock::new`].
    fn default() -> ManualClock {
        ManualClock::new()
    }
}

/// `nanos` after `began`; saturates at the last time that the system can represent. That time
/// differs between systems, and the standard library does not expose it.
fn wall_after(began: SystemTime, nanos: u64) -> SystemTime {
    began.checked_add(Duration::from_nanos(nanos)).unwrap_or_else(|| {
        // Adding every power of two that still fits, from the largest down, reaches the last time.
        (0..u64::BITS)
            .rev()
            .fold(began, |at, bit| at.checked_add(Duration::from_nanos(1 << bit)).unwrap_or(at))
    })
}

impl From<ManualClock> for Clock {
    fn from(clock: ManualClock) -> Clock {
        Clock(Kind::Manual(clock))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_never_goes_back() {
        let clock = Clock::system();
        let mut last = clock.now();
        for _ in 0..1000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn the_beginning_of_a_clock_is_not_the_beginning_of_time() {
        // An entry may be older than the machine's uptime.
        let year = Duration::from_secs(366 * 24 * 60 * 60).as_nanos() as u64;
        assert!(Clock::from(ManualClock::new()).now().nanos() > year);
        assert!(Clock::system().now().nanos() > year);
    }

    #[test]
    fn clones_of_a_manual_clock_show_the_same_time() {
        let manual = ManualClock::new();
        let clock = Clock::from(manual.clone());
        let start = clock.now();
        manual.advance(Duration::from_secs(3));
        assert_eq!(since(clock.now(), start), Duration::from_secs(3));
        manual.advance(Duration::MAX);
        assert_eq!(clock.now(), Instant::NEVER);
    }

    const EPOCH: SystemTime = SystemTime::UNIX_EPOCH;
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_manual_clock_begins_at_the_epoch_or_where_it_is_told() {
        assert_eq!(ManualClock::new().wall(), EPOCH);
        assert_eq!(ManualClock::default().wall(), EPOCH);
        let manual = ManualClock::starting_at(EPOCH + 100 * SECOND);
        manual.advance(SECOND);
        assert_eq!(manual.wall(), EPOCH + 101 * SECOND);
        assert_eq!(Clock::from(manual.clone()).wall(), manual.wall());
    }

    #[test]
    fn wall_time_ends_at_the_last_that_can_be() {
        let manual = ManualClock::new();
        manual.advance(Duration::MAX);
        assert_eq!(manual.wall(), EPOCH + Duration::from_nanos(u64::MAX));

        let fits = |seconds| EPOCH.checked_add(Duration::from_secs(seconds)).is_some();
        let (mut last, mut too_far) = (0, u64::MAX);
        while too_far - last > 1 {
            let middle = last + (too_far - last) / 2;
            if fits(middle) {
                last = middle;
            } else {
                too_far = middle;
            }
        }
        let manual = ManualClock::starting_at(EPOCH + Duration::from_secs(last - 10));
        manual.advance(5 * SECOND);
        assert_eq!(manual.wall(), EPOCH + Duration::from_secs(last - 5));
        manual.advance(Duration::MAX);
        let end = manual.wall();
        assert!(end >= EPOCH + Duration::from_secs(last));
        manual.advance(SECOND);
        assert_eq!(manual.wall(), end);
    }

    #[tokio::test]
    async fn a_time_that_has_come_is_not_waited_for() {
        Clock::system().until(EPOCH).await;
        Clock::system().until(SystemTime::now()).await;
        Clock::from(ManualClock::new()).until(EPOCH).await;
    }

    #[tokio::test]
    async fn the_system_clock_is_waited_for() {
        let clock = Clock::system();
        let at = clock.wall() + Duration::from_millis(5);
        clock.until(at).await;
        assert!(clock.wall() >= at);
    }

    #[tokio::test]
    async fn a_waiter_is_woken_by_exactly_the_advance_that_reaches_its_time() {
        let manual = ManualClock::new();
        let clock = Clock::from(manual.clone());
        let waiter = tokio::spawn(async move { clock.until(EPOCH + 10 * SECOND).await });
        // On a single-threaded runtime, yielding lets the waiter run.
        tokio::task::yield_now().await;
        for short in [5 * SECOND, 5 * SECOND - Duration::from_nanos(1), Duration::ZERO] {
            manual.advance(short);
            tokio::task::yield_now().await;
            assert!(!waiter.is_finished());
        }
        manual.advance(Duration::from_nanos(1));
        tokio::time::timeout(10 * SECOND, waiter).await.unwrap().unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_advance_is_lost_between_a_look_and_a_wait() {
        for _ in 0..1000 {
            let manual = ManualClock::new();
            let clock = Clock::from(manual.clone());
            let waiter = tokio::spawn(async move { clock.until(EPOCH + SECOND).await });
            manual.advance(SECOND);
            tokio::time::timeout(10 * SECOND, waiter).await.unwrap().unwrap();
        }
    }
}
