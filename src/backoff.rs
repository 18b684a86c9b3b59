//! How long to wait before the next attempt: exponential back-off with jitter
//! (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>).
//!
//! Processes of a fleet lose a server at the same moment. The random part keeps them from coming
//! back at the same moment too.

use std::time::Duration;

/// A random time up to the ceiling of this attempt (full jitter).
pub(crate) fn delay(failed: u32, base: Duration, cap: Duration) -> Duration {
    ceiling(failed, base, cap).mul_f64(fastrand::f64())
}

/// A random time from half of the ceiling of this attempt to the whole (equal jitter).
pub(crate) fn pause(failed: u32, base: Duration, cap: Duration) -> Duration {
    ceiling(failed, base, cap).mul_f64(0.5 + 0.5 * fastrand::f64())
}

/// `base`, doubled once for each failed attempt, and `cap` at most.
fn ceiling(failed: u32, base: Duration, cap: Duration) -> Duration {
    let factor = 1_u32.checked_shl(failed).unwrap_or(u32::MAX);
    base.saturating_mul(factor).min(cap)
}

/// The pauses between attempts to keep one connection up. Each lasts from half of its ceiling to the
/// whole (equal jitter): an attempt never follows at once.
#[cfg(feature = "redis")]
pub(crate) struct Backoff {
    base: Duration,
    cap: Duration,
    /// A connection that lived for so long was a good one.
    steady: Duration,
    failed: u32,
}

#[cfg(feature = "redis")]
impl Backoff {
    pub(crate) fn new(base: Duration, cap: Duration, steady: Duration) -> Backoff {
        Backoff { base, cap, steady, failed: 0 }
    }

    /// Waits before the next attempt, longer each time. `lived` is how long the last connection
    /// lasted; after a good one the pauses begin anew.
    pub(crate) async fn rest(&mut self, lived: Duration) {
        tokio::time::sleep(self.pause(lived)).await;
    }

    fn pause(&mut self, lived: Duration) -> Duration {
        if lived >= self.steady {
            self.failed = 0;
        }
        let pause = pause(self.failed, self.base, self.cap);
        self.failed = self.failed.saturating_add(1);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_to_the_cap_and_is_never_above() {
        let (base, cap) = (Duration::from_millis(100), Duration::from_secs(5));
        let longest = |failed| (0..200).map(|_| delay(failed, base, cap)).max().unwrap();
        assert!(longest(0) <= base);
        assert!(longest(3) > base);
        assert!(longest(40) <= cap && longest(u32::MAX) <= cap);
        assert!(longest(40) > cap / 2);
    }

    #[cfg(feature = "redis")]
    #[test]
    fn pauses_double_until_a_connection_was_good() {
        let (base, cap) = (Duration::from_millis(20), Duration::from_millis(500));
        let mut backoff = Backoff::new(base, cap, Duration::from_secs(1));
        let mut pause = |lived| backoff.pause(lived);
        for ceiling in [20, 40, 80, 160, 320, 500, 500].map(Duration::from_millis) {
            let pause = pause(Duration::ZERO);
            assert!((ceiling / 2..=ceiling).contains(&pause), "{pause:?} below {ceiling:?}");
        }
        assert!(pause(Duration::from_secs(1)) <= base);
    }
}
