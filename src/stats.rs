//! [`CacheStats`]: what the cache did.

mod latency;
mod published;
mod publisher;
mod query;
mod striped;
#[cfg(all(test, feature = "redis"))]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

pub use self::latency::Latency;
pub use self::published::{FleetStats, ProcessStats, ViewStats};
pub(crate) use self::published::{Numbers, Snapshot};
pub(crate) use self::publisher::Publisher;
pub use self::query::QueryStats;
pub(crate) use self::query::{Tallies, Tally, check_name};
pub(crate) use self::striped::Lane;

/// What a cache did since it was built: a snapshot by [`QueryCache::stats`](crate::QueryCache::stats).
///
/// The numbers are counted one by one while the cache is in use, so they may be a few events apart
/// from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct CacheStats {
    /// Reads answered from memory.
    pub l1_hits: u64,
    /// Reads answered from Redis.
    pub l2_hits: u64,
    /// Reads that waited for another read's look-up or load of the same key, and have perhaps not
    /// been answered yet.
    pub coalesced: u64,
    /// Reads answered with a load that they began: of their own, or of another process, which they
    /// waited for.
    pub loaded: u64,
    /// Reads answered with an error.
    pub failed: u64,
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
    /// Bytes of the results that were loaded, encoded, as far as they may be stored.
    pub loaded_bytes: u64,
    /// Bytes of entries read from Redis.
    pub l2_bytes_read: u64,
    /// Bytes of entries written to Redis.
    pub l2_bytes_written: u64,
    /// Results in memory at present.
    pub entries: u64,
    /// What they take at present.
    pub memory_bytes: u64,
    /// What they may take: [`max_bytes`](crate::QueryCacheBuilder::max_bytes).
    pub max_bytes: u64,
    /// How often these numbers could not be [published](crate::QueryCacheBuilder::publish_stats).
    pub unpublished: u64,
    /// How long Redis took to be looked into, in vain or not.
    pub lookup_latency: Latency,
    /// How long loads took, failed ones included: the time that PostgreSQL was kept busy.
    pub load_latency: Latency,
}

/// The counters behind [`CacheStats`]: those of queries, and those that are of no query's.
pub(crate) struct Counters {
    pub(crate) queries: Tallies,
    pub(crate) coalesced: AtomicU64,
    pub(crate) l2_misses: AtomicU64,
    pub(crate) l2_refused: AtomicU64,
    pub(crate) l2_errors: AtomicU64,
    pub(crate) l2_writes: AtomicU64,
    pub(crate) l2_overtaken: AtomicU64,
    pub(crate) refreshes: AtomicU64,
    pub(crate) lease_waits: AtomicU64,
    pub(crate) invalidations: AtomicU64,
    pub(crate) unannounced: AtomicU64,
    pub(crate) epochs: AtomicU64,
    /// Reads that did not find their result in memory.
    pub(crate) misses: AtomicU64,
    pub(crate) oversized: AtomicU64,
    pub(crate) unstorable: AtomicU64,
    pub(crate) unpublished: AtomicU64,
}

#[inline]
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn count_bytes(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(bytes as u64, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Counters {
    pub(crate) fn new(namespace: &str) -> Counters {
        let zero = AtomicU64::default;
        Counters {
            queries: Tallies::new(namespace),
            coalesced: zero(),
            l2_misses: zero(),
            l2_refused: zero(),
            l2_errors: zero(),
            l2_writes: zero(),
            l2_overtaken: zero(),
            refreshes: zero(),
            lease_waits: zero(),
            invalidations: zero(),
            unannounced: zero(),
            epochs: zero(),
            misses: zero(),
            oversized: zero(),
            unstorable: zero(),
            unpublished: zero(),
        }
    }

    /// All reads: whoever sees the number stand still knows that nobody uses the cache.
    pub(crate) fn reads(&self) -> u64 {
        self.queries.l1_hits() + read(&self.misses)
    }

    /// All but what memory holds, from this much of queries.
    pub(crate) fn sum(&self, queries: &[QueryStats]) -> CacheStats {
        let mut sum = CacheStats {
            coalesced: read(&self.coalesced),
            l2_misses: read(&self.l2_misses),
            l2_refused: read(&self.l2_refused),
            l2_errors: read(&self.l2_errors),
            l2_writes: read(&self.l2_writes),
            l2_overtaken: read(&self.l2_overtaken),
            refreshes: read(&self.refreshes),
            lease_waits: read(&self.lease_waits),
            invalidations: read(&self.invalidations),
            unannounced: read(&self.unannounced),
            epochs: read(&self.epochs),
            oversized: read(&self.oversized),
            unstorable: read(&self.unstorable),
            unpublished: read(&self.unpublished),
            ..CacheStats::default()
        };
        for query in queries {
            sum.l1_hits += query.l1_hits;
            sum.l2_hits += query.l2_hits;
            sum.loaded += query.loaded;
            sum.stale += query.stale;
            sum.failed += query.failed;
            sum.negative_hits += query.negative_hits;
            sum.outdated += query.outdated;
            sum.loads += query.loads;
            sum.load_errors += query.load_errors;
            sum.loaded_bytes += query.loaded_bytes;
            sum.l2_bytes_read += query.l2_bytes_read;
            sum.l2_bytes_written += query.l2_bytes_written;
            sum.lookup_latency.add(&query.lookup_latency);
            sum.load_latency.add(&query.load_latency);
        }
        sum
    }
}
