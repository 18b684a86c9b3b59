//! This machine's clock, which every hit looks at.

use std::fs;
use std::time::{Duration, Instant};

use super::report::{Report, Severity};
use crate::text;

const AREA: &str = "This machine's clock";
/// A look at a clock that the kernel keeps in the process's own memory takes 20 to 60 ns; one that
/// is a call of the kernel, or reads a timer on the bus, ten times that and more.
const SLOW: Duration = Duration::from_nanos(300);
const LOOKS: u32 = 20_000;

/// Reads the clock that the cache reads at every hit.
fn now() -> rustix::time::Timespec {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;
    rustix::time::clock_gettime(CLOCK)
}

pub(super) fn check(report: &mut Report) {
    // The fastest of some rounds: what else the machine does is not the clock's doing.
    let round = || {
        let begin = Instant::now();
        for _ in 0..LOOKS {
            std::hint::black_box(now());
        }
        begin.elapsed() / LOOKS
    };
    let cost = (0..5).map(|_| round()).min().unwrap_or_default();
    const SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let source = fs::read_to_string(SOURCE).unwrap_or_default();
    let source = match source.trim() {
        "" => String::new(),
        source => format!("the source is {source}; "),
    };
    let what = format!("{source}a look at it takes {}", text::duration(cost));
    if cost <= SLOW {
        report.add(AREA, Severity::Ok, what)
    } else {
        report.add(AREA, Severity::Warning, what).advise(
            "Every hit in memory looks at it once. Where the kernel offers tsc, kvm-clock or \
         arch_sys_counter (available_clocksource, beside current_clocksource in /sys), hits \
         take half the time with it.",
        )
    };
}
