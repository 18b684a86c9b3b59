//! Code that the benches share.
#![allow(dead_code, unreachable_pub)]

pub mod turns;

use std::hash::{BuildHasherDefault, Hasher};

/// SQL of 180 bytes, a usual length for a report.
pub const SQL: &str = "SELECT region, status, count(*) AS orders, sum(amount) AS total, avg(amount) AS mean \
     FROM orders WHERE customer_id = $1 AND region = $2 GROUP BY region, status ORDER BY 1, 2";

pub const ORDERS: &str = "CREATE TABLE orders AS SELECT 42::int8 AS customer_id, 'eu' AS region,
     'status ' || n AS status, n * 0.5 AS amount FROM generate_series(1, 10) AS n";

/// The least work that identifies a call: one block of keyed blake3 over kind and value of each
/// parameter.
pub fn floor_key(digest: &[u8; 32], id: i64, region: &str) -> [u8; 32] {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    bytes[1..9].copy_from_slice(&id.to_le_bytes());
    bytes[9] = 2;
    bytes[10] = region.len() as u8;
    bytes[11..11 + region.len()].copy_from_slice(region.as_bytes());
    *blake3::keyed_hash(digest, &bytes[..11 + region.len()]).as_bytes()
}

/// Uses the first eight bytes of a key as its hash.
#[derive(Default)]
pub struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }
    fn write_usize(&mut self, _: usize) {}
}

pub type PassThrough = BuildHasherDefault<FirstBytes>;

/// Random numbers below `keys`; the n-th has a probability proportional to 1 / n^`skew`. The same
/// seed gives the same numbers.
pub fn zipf(keys: usize, skew: f64, seed: u64) -> impl Iterator<Item = usize> {
    let weights = (1..=keys).map(|rank| (rank as f64).powf(-skew));
    let sums: Vec<f64> = weights
        .scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        })
        .collect();
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(move || {
        let drawn = random.f64() * sums[keys - 1];
        sums.partition_point(|&sum| sum <= drawn).min(keys - 1)
    })
}
