//! Arithmetic of what was measured, and how it is written.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Times of many operations.
#[derive(Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(crate) fn append(&mut self, other: Times) {
        self.0.extend(other.0);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len() as u64
    }

    /// The least time that this share of all does not exceed; zero if there are none.
    pub(crate) fn percentile(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let place = (sorted.len() as f64 * share).ceil() as usize;
        sorted.get(place.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or_default()
    }

    pub(crate) fn max(&self) -> Duration {
        self.percentile(1.0)
    }

    /// `p50 / p99`
    pub(crate) fn usual_and_rare(&self) -> String {
        format!("{} / {}", time(self.percentile(0.5)), time(self.percentile(0.99)))
    }
}

impl FromIterator<Duration> for Times {
    fn from_iter<I: IntoIterator<Item = Duration>>(times: I) -> Times {
        Times(times.into_iter().collect())
    }
}

/// The middle of some numbers; of an even count the upper one.
pub(crate) fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.into_iter().collect();
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

/// How often something happened, of all times that it could: in percent. All of nothing is 100 %.
pub(crate) fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "100 %".to_owned();
    }
    let percent = 100.0 * part as f64 / whole as f64;
    // What is not all is not written as if it were.
    match percent {
        all if part == whole => format!("{all:.0} %"),
        nearly if nearly > 99.99 => "> 99.99 %".to_owned(),
        nearly if nearly > 99.0 => format!("{nearly:.2} %"),
        percent => format!("{percent:.1} %"),
    }
}

/// The share of a time that a processor was busy.
pub(crate) fn busy(processor: Duration, elapsed: Duration) -> String {
    format!("{:.2} %", 100.0 * processor.as_secs_f64() / elapsed.as_secs_f64())
}

/// The microseconds of each of several operations.
pub(crate) fn micros_each(all: Duration, count: u64) -> f64 {
    all.as_secs_f64() * 1e6 / count.max(1) as f64
}

/// Microseconds, with as many digits as say something.
pub(crate) fn micros(micros: f64) -> String {
    match micros {
        small if small < 10.0 => format!("{small:.2} µs"),
        middle if middle < 100.0 => format!("{middle:.1} µs"),
        large if large >= 10_000.0 => format!("{:.1} ms", large / 1e3),
        large => format!("{large:.0} µs"),
    }
}

pub(crate) fn time(time: Duration) -> String {
    match time.as_secs_f64() {
        under if under < 1e-3 => micros(under * 1e6),
        under if under < 1e-2 => format!("{:.2} ms", under * 1e3),
        under if under < 1.0 => format!("{:.1} ms", under * 1e3),
        over => format!("{over:.2} s"),
    }
}

/// A rate, with separators between thousands.
pub(crate) fn rate(count: u64, elapsed: Duration) -> String {
    thousands((count as f64 / elapsed.as_secs_f64()).round() as u64)
}

pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Fleets that are too large to be measured on one machine, and are computed.
pub(crate) const FLEETS: [u64; 4] = [10, 100, 1_000, 10_000];

/// The value at `x` of the line through two points. A line does not fall below its first point.
pub(crate) fn on_line(one: (f64, f64), other: (f64, f64), x: f64) -> f64 {
    let slope = if other.0 > one.0 { (other.1 - one.1) / (other.0 - one.0) } else { 0.0 };
    one.1 + slope.max(0.0) * (x - one.0)
}

/// The share of one Redis that so many seconds of its processor in each second are.
pub(crate) fn load(seconds: f64) -> String {
    match seconds {
        all if all > 1.0 => format!("more than there is: {all:.1} ×"),
        part => format!("{:.1} %", 100.0 * part),
    }
}

/// The processor time of this process.
pub(crate) fn own_processor() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn a_percentile_is_one_of_the_times() {
        let times: Times = (1..=200).rev().map(MS).collect();
        assert_eq!((times.percentile(0.5), times.percentile(0.99)), (MS(100), MS(198)));
        assert_eq!((times.max(), times.percentile(0.0)), (MS(200), MS(1)));
        let one: Times = [MS(7)].into_iter().collect();
        assert_eq!((one.percentile(0.01), one.percentile(0.99)), (MS(7), MS(7)));
        assert_eq!(Times::default().max(), Duration::ZERO);
        assert_eq!(one.usual_and_rare(), "7.00 ms / 7.00 ms");
    }

    #[test]
    fn shares_are_not_rounded_to_all() {
        assert_eq!(share(1, 2), "50.0 %");
        assert_eq!(share(999, 1_000), "99.90 %");
        assert_eq!(share(999_999, 1_000_000), "> 99.99 %");
        assert_eq!(share(10, 10), "100 %");
        assert_eq!(share(0, 0), "100 %");
        assert_eq!(busy(MS(57), Duration::from_secs(1)), "5.70 %");
    }

    #[test]
    fn numbers_are_written_with_the_digits_that_count() {
        assert_eq!(micros(micros_each(MS(1), 300)), "3.33 µs");
        assert_eq!(micros_each(MS(1), 0), 1000.0);
        assert_eq!(micros(32.14), "32.1 µs");
        assert_eq!(micros(320.4), "320 µs");
        assert_eq!(micros(43_150.0), "43.1 ms");
        assert_eq!(time(Duration::from_micros(450)), "450 µs");
        assert_eq!(time(MS(15)), "15.0 ms");
        assert_eq!(time(MS(2_500)), "2.50 s");
        assert_eq!(
            (thousands(7), thousands(1_863), thousands(1_234_567)),
            ("7".to_owned(), "1,863".to_owned(), "1,234,567".to_owned())
        );
        assert_eq!(rate(500, MS(100)), "5,000");
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert!(median([]).is_nan());
        assert_eq!(load(0.057), "5.7 %");
        assert_eq!(load(1.29), "more than there is: 1.3 ×");
    }

    #[test]
    fn what_is_computed_is_on_the_line_through_what_was_measured() {
        assert_eq!(on_line((1.0, 30.0), (201.0, 230.0), 1_001.0), 1_030.0);
        // Measured by chance in the wrong order, or once only: the same for all.
        assert_eq!(on_line((1.0, 30.0), (200.0, 29.0), 1_000.0), 30.0);
        assert_eq!(on_line((1.0, 30.0), (1.0, 30.0), 1_000.0), 30.0);
    }
}
