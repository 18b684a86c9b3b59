//! [`StripedCounter`]: a counter that many threads increment at once.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::count;

const STRIPES: usize = 16;
const LANES: usize = 16;

/// Sixteen counters that many threads increment at once. Each thread adds to a stripe that it
/// shares with few others. With one location for all threads, contention between cores would cost a
/// hit in memory more than its lookup.
///
/// A stripe has a part of each of the sixteen counters. So a thread that counts for several queries
/// stays in its own stripe, and a query takes 128 bytes and not two kilobytes.
#[derive(Default)]
pub(super) struct Block([Stripe; STRIPES]);

/// Two cache lines of 64 bytes, since processors fetch them in pairs.
#[derive(Default)]
#[repr(align(128))]
struct Stripe([AtomicU64; LANES]);

impl Block {
    /// The sum of all its counters.
    pub(super) fn sum(&self) -> u64 {
        let all = self.0.iter().flat_map(|stripe| &stripe.0);
        all.map(|counter| counter.load(Ordering::Relaxed)).sum()
    }
}

/// One counter of a block.
#[derive(Clone)]
pub(crate) struct StripedCounter {
    block: Arc<Block>,
    number: usize,
}

impl StripedCounter {
    /// The counter after `last`: of the same block if it has one left, or else of a new block.
    pub(super) fn next(last: Option<&StripedCounter>) -> StripedCounter {
        match last {
            Some(last) if last.number + 1 < LANES => {
                StripedCounter { block: last.block.clone(), number: last.number + 1 }
            }
            _ => StripedCounter { block: Arc::default(), number: 0 },
        }
    }

    pub(super) fn block(&self) -> &Arc<Block> {
        &self.block
    }

    #[inline]
    pub(crate) fn add(&self) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
        }
        let stripe = MINE.with(|mine| {
            if mine.get() == usize::MAX {
                mine.set(NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES);
            }
            mine.get()
        });
        count(&self.block.0[stripe].0[self.number]);
    }

    pub(super) fn sum(&self) -> u64 {
        let mine = self.block.0.iter().map(|stripe| &stripe.0[self.number]);
        mine.map(|counter| counter.load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_threads_add_is_all_counted_and_for_the_right_one() {
        let first = StripedCounter::next(None);
        let second = StripedCounter::next(Some(&first));
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| (0..1000).for_each(|_| first.add()));
                scope.spawn(|| (0..500).for_each(|_| second.add()));
            }
        });
        assert_eq!((first.sum(), second.sum(), first.block.sum()), (20_000, 10_000, 30_000));
    }

    #[test]
    fn sixteen_share_a_block_and_no_more() {
        let mut counter = StripedCounter::next(None);
        let first = counter.block.clone();
        for _ in 1..LANES {
            counter = StripedCounter::next(Some(&counter));
            assert!(Arc::ptr_eq(&first, &counter.block));
        }
        assert!(!Arc::ptr_eq(&first, &StripedCounter::next(Some(&counter)).block));
        assert_eq!(size_of::<Block>(), 2048);
    }
}
