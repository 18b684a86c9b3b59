//! The clock of the benchmark: one that all processes of this machine share.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since an origin that all processes share.
pub(super) type Instant = u64;

/// Reads the time. It counts while the machine is suspended, as the cache's clock does.
pub(super) fn now() -> Instant {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const CLOCK: ClockId = ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const CLOCK: ClockId = ClockId::Monotonic;
    let now = clock_gettime(CLOCK);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
