//! [`CacheStats`]: what the cache did.

mod latency;
mod process;
mod query;

use serde::{Deserialize, Serialize};

pub(crate) use self::latency::Histogram;
pub use self::latency::Latency;
pub(crate) use self::process::LASTS;
pub use self::process::{FleetStats, ProcessStats, ViewStats};
pub use self::query::QueryStats;

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
    #[serde(rename = "loaded")]
    pub reads_loaded: u64,
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
    #[serde(rename = "outdated")]
    pub invalidated: u64,
    /// Reads answered with a stale result, by policy.
    pub stale: u64,
    /// Reads answered with an error that was kept as an answer.
    pub negative_hits: u64,
    /// Loads begun while the result was still served: in its last moments, or stale.
    #[serde(rename = "refreshes")]
    pub background_loads: u64,
    /// Loads of other processes that were waited for.
    pub lease_waits: u64,
    /// Calls of `invalidate`, `invalidate_query` and `clear`.
    pub invalidations: u64,
    /// Those that Redis had not acknowledged when they returned.
    #[serde(rename = "unannounced")]
    pub unacknowledged: u64,
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
