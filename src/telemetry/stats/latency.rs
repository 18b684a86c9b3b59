//! [`Latency`]: the durations of an operation.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The durations of an operation: their number, their sum and their distribution.
///
/// Durations are counted in buckets; four buckets cover each doubling from 4 µs to 71 minutes. A
/// [`quantile`](Latency::quantile) is the middle of its bucket: within 12.5 % of the true value,
/// and below 4 µs within half a microsecond. Durations above 71 minutes are counted in the last
/// bucket. The [`sum`](Latency::sum), and therefore the [`mean`](Latency::mean), is exact.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    sum_ns: u64,
    buckets: [u64; BUCKETS],
}

/// The two bits below the leading one select one of the four buckets of a doubling.
const BITS: u32 = 2;
const PER_DOUBLING: usize = 1 << BITS;
/// Durations from this many microseconds on are in the last bucket.
const LONGEST: u64 = 1 << 32;
const BUCKETS: usize = PER_DOUBLING + (32 - BITS as usize) * PER_DOUBLING;

/// The bucket of a duration in microseconds.
fn bucket(us: u64) -> usize {
    let us = us.min(LONGEST - 1);
    if us < PER_DOUBLING as u64 {
        return us as usize;
    }
    let doublings = us.ilog2() - BITS;
    let part = (us >> doublings) as usize - PER_DOUBLING;
    PER_DOUBLING + doublings as usize * PER_DOUBLING + part
}

/// Where a bucket begins, in microseconds.
fn begin(bucket: usize) -> u64 {
    let Some(above) = bucket.checked_sub(PER_DOUBLING) else { return bucket as u64 };
    let (doublings, part) = (above / PER_DOUBLING, above % PER_DOUBLING);
    ((PER_DOUBLING + part) as u64) << doublings
}

impl Latency {
    /// The number of durations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The sum of all durations.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }

    /// The mean duration; `None` if there is none.
    pub fn mean(&self) -> Option<Duration> {
        let count = self.count();
        (count > 0).then(|| Duration::from_nanos(self.sum_ns / count))
    }

    /// The duration that this share of all durations, from 0.0 to 1.0, does not exceed, as exactly
    /// as the buckets allow; `None` if there is none.
    ///
    /// ```
    /// # use larder::QueryCache;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cache = QueryCache::builder().build().await?;
    /// cache.query("SELECT 1").load(|| async { Ok::<_, std::io::Error>(1_i32) }).await?;
    /// let loads = cache.stats().load_latency;
    /// assert_eq!(loads.count(), 1);
    /// println!("half of all loads took {:?} at most", loads.quantile(0.5));
    /// # Ok(())
    /// # }
    /// ```
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let count = self.count();
        let rank = ((share.clamp(0.0, 1.0) * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut passed = 0;
        let found = self.buckets.iter().position(|&number| {
            passed += number;
            passed >= rank
        })?;
        let middle = (begin(found) + begin(found + 1)) * 500;
        Some(Duration::from_nanos(middle))
    }

    /// The buckets that are not empty: for each, the bound that its durations lie below, and their
    /// number.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let filled = self.buckets.iter().enumerate().filter(|(_, number)| **number > 0);
        filled.map(|(at, &number)| (Duration::from_micros(begin(at + 1)), number))
    }

    /// The durations that were counted after `earlier` was taken. Between two snapshots of the same
    /// cache or query, this is the distribution in that period.
    #[must_use = "it returns the difference"]
    pub fn since(&self, earlier: &Latency) -> Latency {
        let mut since = *self;
        since.sum_ns = since.sum_ns.saturating_sub(earlier.sum_ns);
        for (number, before) in since.buckets.iter_mut().zip(&earlier.buckets) {
            *number = number.saturating_sub(*before);
        }
        since
    }

    /// Adds the durations of another query or another process.
    pub fn add(&mut self, other: &Latency) {
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
        for (number, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *number = number.saturating_add(*more);
        }
    }
}

impl Default for Latency {
    fn default() -> Latency {
        Latency { sum_ns: 0, buckets: [0; BUCKETS] }
    }
}

impl fmt::Debug for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latency")
            .field("count", &self.count())
            .field("mean", &self.mean())
            .field("p50", &self.quantile(0.5))
            .field("p99", &self.quantile(0.99))
            .finish()
    }
}

/// The serialized form: each bucket by the bound in microseconds that its durations lie below.
#[derive(Serialize, Deserialize)]
struct Written {
    sum_ns: u64,
    below_us: Vec<(u64, u64)>,
}

impl Serialize for Latency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let below_us = self.buckets.iter().enumerate().filter(|(_, number)| **number > 0);
        let below_us = below_us.map(|(at, &number)| (begin(at + 1), number)).collect();
        Written { sum_ns: self.sum_ns, below_us }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Latency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Latency, D::Error> {
        let written = Written::deserialize(deserializer)?;
        let mut latency = Latency { sum_ns: written.sum_ns, ..Latency::default() };
        for (below, number) in written.below_us {
            let at = below.checked_sub(1).map(bucket).filter(|&at| begin(at + 1) == below);
            let at = at.ok_or_else(|| D::Error::custom("no bucket ends there"))?;
            latency.buckets[at] = latency.buckets[at].saturating_add(number);
        }
        Ok(latency)
    }
}

/// The counters behind [`Latency`]. Their kilobyte is allocated when the first duration is counted.
#[derive(Default)]
pub(crate) struct Histogram {
    sum_ns: AtomicU64,
    buckets: OnceLock<Box<[AtomicU64]>>,
}

impl Histogram {
    pub(crate) fn record(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let buckets =
            self.buckets.get_or_init(|| (0..BUCKETS).map(|_| AtomicU64::new(0)).collect());
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
        buckets[bucket(ns / 1000)].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Latency {
        let mut latency = Latency::default();
        if let Some(buckets) = self.buckets.get() {
            latency.sum_ns = self.sum_ns.load(Ordering::Relaxed);
            for (number, counted) in latency.buckets.iter_mut().zip(buckets) {
                *number = counted.load(Ordering::Relaxed);
            }
        }
        latency
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(us: impl IntoIterator<Item = u64>) -> Latency {
        let histogram = Histogram::default();
        us.into_iter().for_each(|us| histogram.record(Duration::from_micros(us)));
        histogram.snapshot()
    }

    #[test]
    fn every_time_is_in_the_bucket_that_says_so() {
        for at in 0..BUCKETS {
            assert_eq!(bucket(begin(at)), at);
            assert_eq!(bucket(begin(at + 1) - 1), at);
        }
        assert_eq!(begin(BUCKETS), LONGEST);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_quantile_is_as_near_to_the_truth_as_is_said() {
        for truth in (4..100_000).step_by(7) {
            let told = of([truth]).quantile(0.5).unwrap().as_secs_f64() * 1e6;
            let truth = truth as f64;
            assert!((told - truth).abs() <= 0.125 * truth, "{told} for {truth}");
        }
        let latency = of((1..=1000).map(|number| number * 100));
        for (share, truth) in [(0.0, 0.1), (0.5, 50.0), (0.9, 90.0), (0.99, 99.0), (1.0, 100.0)] {
            let told = latency.quantile(share).unwrap().as_secs_f64() * 1e3;
            assert!((told - truth).abs() <= 0.125 * truth, "{told} for {truth}");
        }
        assert_eq!(latency.mean(), Some(Duration::from_micros(50_050)));
        assert_eq!(Latency::default().quantile(0.5), None);
        assert_eq!(Latency::default().mean(), None);
    }

    #[test]
    fn what_is_written_is_read_as_it_was_and_nothing_else_is_read() {
        let latency = of([0, 3, 4, 5, 1000, 1 << 20, u64::MAX >> 20]);
        let text = serde_json::to_string(&latency).unwrap();
        assert_eq!(serde_json::from_str::<Latency>(&text).unwrap(), latency);
        assert_eq!(serde_json::to_string(&of([])).unwrap(), r#"{"sum_ns":0,"below_us":[]}"#);
        for wrong in ["[[0,1]]", "[[13,1]]", "[[18446744073709551615,1]]", "[[8,-1]]"] {
            let text = format!(r#"{{"sum_ns":0,"below_us":{wrong}}}"#);
            assert!(serde_json::from_str::<Latency>(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn two_snapshots_tell_what_came_between_and_two_processes_make_one() {
        let (before, after) = (of([10, 20]), of([10, 20, 30, 30]));
        assert_eq!(after.since(&before), of([30, 30]));
        assert_eq!(before.since(&after).count(), 0);
        let mut both = before;
        both.add(&of([30, 30]));
        assert_eq!(both, after);
    }
}
