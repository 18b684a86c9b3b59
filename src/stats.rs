//! [`CacheStats`]: what the cache did.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What a cache did since it was built: a snapshot by [`QueryCache::stats`](crate::QueryCache::stats).
///
/// The numbers are counted one by one while the cache is in use, so they may be a few events apart
/// from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CacheStats {
    /// Reads answered from memory.
    pub l1_hits: u64,
    /// Reads answered from Redis.
    pub l2_hits: u64,
    /// Reads that waited for another read's look-up or load of the same key.
    pub coalesced: u64,
    /// Look-ups in Redis that found nothing, or nothing young enough for the query.
    pub l2_misses: u64,
    /// Look-ups in Redis that found something which is not this key's entry in a form that this
    /// build reads: of another version, damaged, another key's, of the wrong Redis type.
    pub l2_refused: u64,
    /// Commands that Redis did not answer within the time limit or answered with an error, and
    /// look-ups left out because there was no connection.
    pub l2_errors: u64,
    /// Results written to Redis.
    pub l2_writes: u64,
    /// Results not written to Redis, because another process had taken the load over or stored a
    /// newer one, or because they were invalidated before they came.
    pub l2_overtaken: u64,
    /// Results found in memory or in Redis that were not served because something they depend on
    /// had been invalidated since their load began.
    pub outdated: u64,
    /// Reads answered with a stale result, by policy.
    pub stale: u64,
    /// Reads answered with an error that was kept as an answer.
    pub negative_hits: u64,
    /// Loads begun while the result was still served: in its last moments, or stale.
    pub refreshes: u64,
    /// Loads of other processes that were waited for.
    pub lease_waits: u64,
    /// Calls of `invalidate`, `invalidate_query` and `clear`.
    pub invalidations: u64,
    /// Those that Redis had not acknowledged when they returned.
    pub unannounced: u64,
    /// How often the count of invalidations in Redis was found to have begun anew.
    pub epochs: u64,
    /// Loads begun.
    pub loads: u64,
    /// Loads that failed, those included whose deadline passed before it was their turn.
    pub load_errors: u64,
    /// Results not stored because they are larger than `max_value_bytes`.
    pub oversized: u64,
    /// Results not stored because the codec would not give them back as they were.
    pub unstorable: u64,
}

/// The counters behind [`CacheStats`].
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) l1_hits: Striped,
    pub(crate) l2_hits: AtomicU64,
    pub(crate) coalesced: AtomicU64,
    pub(crate) l2_misses: AtomicU64,
    pub(crate) l2_refused: AtomicU64,
    pub(crate) l2_errors: AtomicU64,
    pub(crate) l2_writes: AtomicU64,
    pub(crate) l2_overtaken: AtomicU64,
    pub(crate) outdated: AtomicU64,
    pub(crate) stale: AtomicU64,
    pub(crate) negative_hits: AtomicU64,
    pub(crate) refreshes: AtomicU64,
    pub(crate) lease_waits: AtomicU64,
    pub(crate) invalidations: AtomicU64,
    pub(crate) unannounced: AtomicU64,
    pub(crate) epochs: AtomicU64,
    /// Reads that did not find their result in memory.
    pub(crate) misses: AtomicU64,
    pub(crate) loads: AtomicU64,
    pub(crate) load_errors: AtomicU64,
    pub(crate) oversized: AtomicU64,
    pub(crate) unstorable: AtomicU64,
}

#[inline]
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    /// All reads: whoever sees the number stand still knows that nobody uses the cache.
    pub(crate) fn reads(&self) -> u64 {
        self.l1_hits.sum() + self.misses.load(Ordering::Relaxed)
    }

    pub(crate) fn snapshot(&self) -> CacheStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheStats {
            l1_hits: self.l1_hits.sum(),
            l2_hits: read(&self.l2_hits),
            coalesced: read(&self.coalesced),
            l2_misses: read(&self.l2_misses),
            l2_refused: read(&self.l2_refused),
            l2_errors: read(&self.l2_errors),
            l2_writes: read(&self.l2_writes),
            l2_overtaken: read(&self.l2_overtaken),
            outdated: read(&self.outdated),
            stale: read(&self.stale),
            negative_hits: read(&self.negative_hits),
            refreshes: read(&self.refreshes),
            lease_waits: read(&self.lease_waits),
            invalidations: read(&self.invalidations),
            unannounced: read(&self.unannounced),
            epochs: read(&self.epochs),
            loads: read(&self.loads),
            load_errors: read(&self.load_errors),
            oversized: read(&self.oversized),
            unstorable: read(&self.unstorable),
        }
    }
}

const STRIPES: usize = 16;

/// A counter for what many threads do at once: each adds to a cache line that it shares with few
/// others. One counter for all would cost a hit in memory more than its look-up when several cores
/// take turns at it.
#[derive(Default)]
pub(crate) struct Striped([Stripe; STRIPES]);

/// Two lines of 64 bytes, since processors fetch them in pairs.
#[derive(Default)]
#[repr(align(128))]
struct Stripe(AtomicU64);

impl Striped {
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
        count(&self.0[stripe].0);
    }

    fn sum(&self) -> u64 {
        self.0.iter().map(|stripe| stripe.0.load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_threads_add_is_all_counted() {
        let counter = Striped::default();
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| (0..1000).for_each(|_| counter.add()));
            }
        });
        assert_eq!(counter.sum(), 20_000);
    }
}
