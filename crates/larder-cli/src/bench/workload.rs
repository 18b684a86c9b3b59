//! [`Workload`]: which keys are asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};
use serde::{Deserialize, Serialize};

/// The same sequence in every release of `rand`, so that a seed means something.
pub(super) type Random = Xoshiro256PlusPlus;

/// The kind of a workload, with what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) enum Kind {
    Zipf {
        skew: f64,
    },
    /// All keys in their order, again and again.
    Scan,
    /// The accesses of a trace, once.
    Trace,
}

/// What the readers of one process ask for.
pub(super) struct Workload {
    kind: Kind,
    keys: u32,
    zipf: Option<Zipf<f64>>,
    trace: Arc<Vec<u32>>,
    /// How many accesses have been taken.
    taken: AtomicU64,
    /// This process of so many: they share a trace by taking turns, and begin a scan at different
    /// places.
    process: u32,
    processes: u32,
}

impl Workload {
    pub(super) fn new(
        kind: Kind,
        keys: u32,
        trace: Arc<Vec<u32>>,
        (process, processes): (u32, u32),
    ) -> Workload {
        let zipf = match kind {
            Kind::Zipf { skew } => Zipf::new(f64::from(keys), skew).ok(),
            Kind::Scan | Kind::Trace => None,
        };
        let taken = AtomicU64::new(0);
        Workload { kind, keys, zipf, trace, taken, process, processes }
    }

    /// The next key to read; none at the end of a trace.
    pub(super) fn next(&self, random: &mut Random) -> Option<u32> {
        match self.kind {
            Kind::Zipf { .. } => Some(self.any(random)),
            Kind::Scan => {
                let begin =
                    u64::from(self.keys) * u64::from(self.process) / u64::from(self.processes);
                let at = begin + self.taken.fetch_add(1, Ordering::Relaxed);
                Some((at % u64::from(self.keys)) as u32)
            }
            Kind::Trace => {
                let turn = self.taken.fetch_add(1, Ordering::Relaxed);
                let at = turn * u64::from(self.processes) + u64::from(self.process);
                self.trace.get(usize::try_from(at).ok()?).copied()
            }
        }
    }

    /// A key to write, drawn as often as it is read.
    pub(super) fn any(&self, random: &mut Random) -> u32 {
        match self.kind {
            Kind::Zipf { .. } => {
                let rank = self.zipf.map_or(1.0, |zipf| zipf.sample(random));
                // The rank is from 1 to the number of keys.
                (rank as u32).clamp(1, self.keys) - 1
            }
            Kind::Scan => random.random_range(0..self.keys),
            Kind::Trace => self.trace[random.random_range(0..self.trace.len())],
        }
    }
}

/// What one reader's draws grow from.
pub(super) fn random(seed: u64, process: u32, task: u32) -> Random {
    // Spread, so that neighbours do not begin alike; `seed_from_u64` mixes it.
    let mine = u64::from(process) << 32 | u64::from(task);
    Random::seed_from_u64(seed ^ mine.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(kind: Kind, keys: u32, trace: Vec<u32>, process: u32) -> Workload {
        Workload::new(kind, keys, Arc::new(trace), (process, 2))
    }

    #[test]
    fn zipf_asks_for_keys_by_their_rank() {
        let zipf = workload(Kind::Zipf { skew: 1.0 }, 1000, vec![], 0);
        let mut random = random(1, 0, 0);
        let mut counts = vec![0_u32; 1000];
        for _ in 0..200_000 {
            counts[zipf.next(&mut random).unwrap() as usize] += 1;
        }
        // 1 / H(1000) = 0.1336; the second has half of that, the tenth a tenth.
        for (rank, within) in [(1_u32, 0.03), (2, 0.05), (10, 0.1)] {
            let expected = 200_000.0 * 0.1336 / f64::from(rank);
            let found = f64::from(counts[rank as usize - 1]);
            assert!((found / expected - 1.0).abs() < within, "rank {rank}: {found}, {expected}");
        }
        let flat = workload(Kind::Zipf { skew: 0.0 }, 1, vec![], 0);
        assert_eq!(flat.next(&mut random), Some(0));
    }

    #[test]
    fn a_scan_goes_round_from_another_place_in_each_process() {
        let mut random = random(1, 0, 0);
        for (process, expected) in [(0, [0, 1, 2, 3, 0]), (1, [2, 3, 0, 1, 2])] {
            let scan = workload(Kind::Scan, 4, vec![], process);
            let keys: Vec<u32> = (0..5).filter_map(|_| scan.next(&mut random)).collect();
            assert_eq!(keys, expected);
        }
    }

    #[test]
    fn processes_share_a_trace_by_turns_to_its_end() {
        let mut random = random(1, 0, 0);
        for (process, expected) in [(0, vec![7, 9, 5]), (1, vec![8, 6])] {
            let trace = workload(Kind::Trace, 10, vec![7, 8, 9, 6, 5], process);
            let keys: Vec<u32> = std::iter::from_fn(|| trace.next(&mut random)).collect();
            assert_eq!(keys, expected);
            assert!([5, 6, 7, 8, 9].contains(&trace.any(&mut random)));
        }
    }

    #[test]
    fn the_same_seed_draws_the_same_and_another_reader_does_not() {
        let draw = |seed, process, task| random(seed, process, task).random::<u64>();
        assert_eq!(draw(1, 0, 0), draw(1, 0, 0));
        let others = [draw(2, 0, 0), draw(1, 1, 0), draw(1, 0, 1)];
        assert!(!others.contains(&draw(1, 0, 0)));
    }
}
