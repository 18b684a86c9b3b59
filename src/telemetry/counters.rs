//! [`Counters`]: what a cache counts while it runs.

mod query;
mod striped;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(crate) use self::query::{CountersByName, QueryCounters, check_name};
pub(crate) use self::striped::StripedCounter;
use crate::telemetry::stats::{CacheStats, QueryStats};

/// The counters behind [`CacheStats`]: those of each query, and those that belong to no query.
pub(crate) struct Counters {
    pub(crate) queries: CountersByName,
    pub(crate) coalesced: AtomicU64,
    pub(crate) l2_misses: AtomicU64,
    pub(crate) l2_refused: AtomicU64,
    pub(crate) l2_errors: AtomicU64,
    pub(crate) l2_writes: AtomicU64,
    pub(crate) l2_overtaken: AtomicU64,
    pub(crate) l2_too_slow: AtomicU64,
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
    pub(crate) refused_credentials: AtomicU64,
    pub(crate) refused_connections: AtomicU64,
    /// One while this process follows the database for all, and how long its last round took.
    pub(crate) follow_leads: AtomicU64,
    pub(crate) follow_lag_us: AtomicU64,
    pub(crate) followed_relations: AtomicU64,
    pub(crate) followed_gaps: AtomicU64,
    pub(crate) followed_unseen: AtomicU64,
    pub(crate) followed_unnamed: AtomicU64,
    pub(crate) followed_unreadable: AtomicU64,
    pub(crate) followed_definitions: AtomicU64,
    pub(crate) follow_failures: AtomicU64,
}

#[inline]
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn count_bytes(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(bytes as u64, Ordering::Relaxed);
}

pub(crate) fn set(gauge: &AtomicU64, value: u64) {
    gauge.store(value, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Counters {
    pub(crate) fn new(namespace: &str) -> Counters {
        let zero = AtomicU64::default;
        Counters {
            queries: CountersByName::new(namespace),
            coalesced: zero(),
            l2_misses: zero(),
            l2_refused: zero(),
            l2_errors: zero(),
            l2_writes: zero(),
            l2_overtaken: zero(),
            l2_too_slow: zero(),
            refreshes: zero(),
            lease_waits: zero(),
            invalidations: zero(),
            unannounced: zero(),
            epochs: zero(),
            misses: zero(),
            oversized: zero(),
            unstorable: zero(),
            unpublished: zero(),
            refused_credentials: zero(),
            refused_connections: zero(),
            follow_leads: zero(),
            follow_lag_us: zero(),
            followed_relations: zero(),
            followed_gaps: zero(),
            followed_unseen: zero(),
            followed_unnamed: zero(),
            followed_unreadable: zero(),
            followed_definitions: zero(),
            follow_failures: zero(),
        }
    }

    /// The number of all reads. As long as it does not change, nobody uses the cache.
    pub(crate) fn reads(&self) -> u64 {
        self.queries.l1_hits() + read(&self.misses)
    }

    /// The statistics, with the sums over `queries`; the fields about memory remain zero.
    pub(crate) fn sum(&self, queries: &[QueryStats]) -> CacheStats {
        let mut sum = CacheStats {
            coalesced: read(&self.coalesced),
            l2_misses: read(&self.l2_misses),
            l2_refused: read(&self.l2_refused),
            l2_errors: read(&self.l2_errors),
            l2_writes: read(&self.l2_writes),
            l2_overtaken: read(&self.l2_overtaken),
            l2_too_slow: read(&self.l2_too_slow),
            background_loads: read(&self.refreshes),
            lease_waits: read(&self.lease_waits),
            invalidations: read(&self.invalidations),
            unacknowledged: read(&self.unannounced),
            epochs: read(&self.epochs),
            oversized: read(&self.oversized),
            unstorable: read(&self.unstorable),
            unpublished: read(&self.unpublished),
            refused_credentials: read(&self.refused_credentials),
            refused_connections: read(&self.refused_connections),
            follow_lag: Duration::from_micros(read(&self.follow_lag_us)),
            follow_leads: read(&self.follow_leads),
            followed_relations: read(&self.followed_relations),
            followed_gaps: read(&self.followed_gaps),
            followed_unseen: read(&self.followed_unseen),
            followed_unnamed: read(&self.followed_unnamed),
            followed_unreadable: read(&self.followed_unreadable),
            followed_definitions: read(&self.followed_definitions),
            follow_failures: read(&self.follow_failures),
            ..CacheStats::default()
        };
        for query in queries {
            sum.l1_hits += query.l1_hits;
            sum.l2_hits += query.l2_hits;
            sum.reads_loaded += query.reads_loaded;
            sum.stale += query.stale;
            sum.failed += query.failed;
            sum.negative_hits += query.negative_hits;
            sum.invalidated += query.invalidated;
            sum.loads += query.loads;
            sum.load_errors += query.load_errors;
            sum.unfollowed += query.unfollowed;
            sum.loaded_bytes += query.loaded_bytes;
            sum.l2_bytes_read += query.l2_bytes_read;
            sum.l2_bytes_written += query.l2_bytes_written;
            sum.lookup_latency.add(&query.lookup_latency);
            sum.load_latency.add(&query.load_latency);
        }
        sum
    }
}
