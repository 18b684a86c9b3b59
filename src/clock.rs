//! [`Clock`]: the time the cache lives by, real or advanced by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Where the cache reads how much time has passed.
///
/// The default is the system's monotonic clock. Tests hand a [`ManualClock`] to
/// [`QueryCacheBuilder::clock`](crate::QueryCacheBuilder::clock) and advance it.
#[derive(Debug, Clone, Default)]
pub struct Clock(Kind);

#[derive(Debug, Clone, Default)]
enum Kind {
    #[default]
    System,
    Manual(ManualClock),
}

/// A point in time: nanoseconds since an origin of the clock's own.
pub(crate) type Instant = u64;

/// What the clocks show at their beginning. A result from Redis may be older than this machine is
/// up, and the time of its load must not be cut off at zero: it would seem younger.
const ORIGIN: Instant = 20 * 366 * 24 * 60 * 60 * 1_000_000_000;

impl Clock {
    /// The system's monotonic clock, which goes on while the machine is suspended.
    pub fn system() -> Clock {
        Clock(Kind::System)
    }

    #[inline]
    pub(crate) fn now(&self) -> Instant {
        match &self.0 {
            Kind::System => system_now().saturating_add(ORIGIN),
            Kind::Manual(clock) => clock.0.load(Ordering::Acquire).saturating_add(ORIGIN),
        }
    }
}

/// An entry must not outlive its TTL because the laptop or the virtual machine was asleep for part
/// of it. `std::time::Instant` stands still during suspend on Linux, CLOCK_BOOTTIME does not;
/// CLOCK_MONOTONIC counts it on the other systems we know.
#[inline]
fn system_now() -> Instant {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const CLOCK: ClockId = ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const CLOCK: ClockId = ClockId::Monotonic;
    let now = clock_gettime(CLOCK);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// `at + by`, staying at the end of time instead of wrapping.
#[inline]
pub(crate) fn after(at: Instant, by: Duration) -> Instant {
    at.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX))
}

/// How long ago `then` was; zero if it lies ahead.
#[inline]
pub(crate) fn since(now: Instant, then: Instant) -> Duration {
    Duration::from_nanos(now.saturating_sub(then))
}

/// A clock that stands still until it is [advanced](ManualClock::advance), for tests.
///
/// Clones show the same time. It governs what the cache does with time in this process: the life of
/// entries in memory and the age of answers. Redis and PostgreSQL keep their own, and deadlines are
/// Tokio's: while `tokio::time` is paused, a wait for a real server passes for one without end.
///
/// ```
/// use std::time::Duration;
/// use larder::{ManualClock, Origin, QueryCache};
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
#[derive(Debug, Clone, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// A clock at its origin.
    pub fn new() -> ManualClock {
        ManualClock::default()
    }

    /// Lets `by` pass.
    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        // Saturating, so that a test that advances by `Duration::MAX` ends up at the end of time
        // and not before its beginning.
        let _ = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| Some(now.saturating_add(by)));
    }
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
        // An entry may be older than the machine is up.
        let year = Duration::from_secs(366 * 24 * 60 * 60).as_nanos() as u64;
        assert!(Clock::from(ManualClock::new()).now() > year);
        assert!(Clock::system().now() > year);
    }

    #[test]
    fn clones_of_a_manual_clock_show_the_same_time() {
        let manual = ManualClock::new();
        let clock = Clock::from(manual.clone());
        let start = clock.now();
        manual.advance(Duration::from_secs(3));
        assert_eq!(since(clock.now(), start), Duration::from_secs(3));
        manual.advance(Duration::MAX);
        assert_eq!(clock.now(), u64::MAX);
    }
}
