//! Times in bounded memory, exact to one sixteenth.

/// How often each duration, in nanoseconds, was measured.
#[derive(Clone, Default)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: u64,
}

/// Buckets for each doubling.
const FINE: u64 = 16;

impl Histogram {
    pub fn add(&mut self, value: u64) {
        let at = bucket(value);
        if self.buckets.len() <= at {
            self.buckets.resize(at + 1, 0);
        }
        self.buckets[at] += 1;
        self.count += 1;
        self.max = self.max.max(value);
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn max(&self) -> u64 {
        self.max
    }

    /// The least value that such a portion of all does not exceed, rounded up by a sixteenth at
    /// most.
    pub fn quantile(&self, portion: f64) -> u64 {
        let wanted = (self.count as f64 * portion).ceil() as u64;
        let mut seen = 0;
        for (at, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted.max(1) {
                return highest(at).min(self.max);
            }
        }
        self.max
    }
}

fn bucket(value: u64) -> usize {
    if value < FINE {
        return value as usize;
    }
    let exponent = u64::from(value.ilog2() - FINE.ilog2());
    (exponent * FINE + (value >> exponent)) as usize
}

/// The highest value of a bucket.
fn highest(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * FINE {
        return bucket;
    }
    let exponent = bucket / FINE - 1;
    let from = (bucket - exponent * FINE) << exponent;
    from + ((1 << exponent) - 1)
}

#[test]
fn every_value_is_in_a_bucket_that_is_hardly_wider() {
    for value in (0..10_000).chain([1 << 40, u64::MAX / 3]) {
        let highest = highest(bucket(value));
        assert!(value <= highest && highest - value <= value / FINE, "{value} {highest}");
    }
    let mut times = Histogram::default();
    (1..=100).for_each(|value| times.add(value * 1000));
    assert!((50_000..54_000).contains(&times.quantile(0.5)));
    assert_eq!((times.quantile(1.0), times.max(), times.count()), (100_000, 100_000, 100));
}
