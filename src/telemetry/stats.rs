//! [`CacheStats`]: the counters of a cache.

mod follow;
mod latency;
mod process;
mod query;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::follow::{FollowRole, FollowStats};
pub(crate) use self::latency::Histogram;
pub use self::latency::Latency;
pub(crate) use self::process::LASTS;
pub use self::process::{FleetStats, ProcessStats, ViewStats};
pub use self::query::QueryStats;

/// What a cache did since it was built: a snapshot from
/// [`QueryCache::stats`](crate::QueryCache::stats).
///
/// The counters are read one after the other while the cache is in use, so they may differ by a few
/// events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct CacheStats {
    /// Reads answered from memory.
    pub l1_hits: u64,
    /// Reads answered from Redis.
    pub l2_hits: u64,
    /// Reads that waited for another read's lookup or load of the same key. Some of them may not
    /// have been answered yet.
    pub coalesced: u64,
    /// Reads answered with a load that they began, or with a load of another process that they
    /// waited for.
    #[serde(rename = "loaded")]
    pub reads_loaded: u64,
    /// Reads answered with an error.
    pub failed: u64,
    /// Lookups in Redis that found nothing, or only a result too old for the query.
    pub l2_misses: u64,
    /// Lookups in Redis that found something else than an entry of this key that this build can
    /// read: an entry of another version or of another key, a damaged one, or a wrong Redis type.
    pub l2_refused: u64,
    /// Commands that Redis did not answer within the time limit or answered with an error, and
    /// lookups skipped because there was no connection.
    pub l2_errors: u64,
    /// Results written to Redis.
    pub l2_writes: u64,
    /// Results not written to Redis, because another process had taken over the load or stored a
    /// newer result, or because they were invalidated before they arrived.
    pub l2_overtaken: u64,
    /// Large results that were not read from Redis, or not written to it, because the transfer took
    /// too long, or had done so within the last minute, or did not get its turn in time.
    pub l2_too_slow: u64,
    /// Results found in memory or in Redis that were not served because something they depend on
    /// had been invalidated since their load began.
    #[serde(rename = "outdated")]
    pub invalidated: u64,
    /// Reads answered with a stale result, by policy.
    pub stale: u64,
    /// Reads answered with a cached error.
    pub negative_hits: u64,
    /// Loads begun while the result was still served: shortly before it expired, or stale.
    #[serde(rename = "refreshes")]
    pub background_loads: u64,
    /// Loads of other processes that this process waited for.
    pub lease_waits: u64,
    /// Calls of `invalidate`, `invalidate_query` and `clear`.
    pub invalidations: u64,
    /// Invalidations that Redis had not acknowledged when their call returned or was dropped.
    #[serde(rename = "unannounced")]
    pub unacknowledged: u64,
    /// How often the count of invalidations in Redis was found to have restarted.
    pub epochs: u64,
    /// Loads begun.
    pub loads: u64,
    /// Loads that failed, including those whose deadline passed before their turn.
    pub load_errors: u64,
    /// Results not stored because they are larger than `max_value_bytes`.
    pub oversized: u64,
    /// Results not stored because the codec would not have decoded them to the same value, or because
    /// the server that they came from was in recovery, as a replica is.
    pub unstorable: u64,
    /// Loads of queries that [learn](crate::Query::auto) whose results could not be followed.
    pub unfollowed: u64,
    /// Encoded bytes of the loaded results, of those that may be stored.
    pub loaded_bytes: u64,
    /// Bytes of entries read from Redis.
    pub l2_bytes_read: u64,
    /// Bytes of entries written to Redis.
    pub l2_bytes_written: u64,
    /// Results in memory now.
    pub entries: u64,
    /// Bytes that the results in memory take now.
    pub memory_bytes: u64,
    /// The limit of `memory_bytes`: [`max_bytes`](crate::QueryCacheBuilder::max_bytes).
    pub max_bytes: u64,
    /// How often Redis refused the user or the password (`WRONGPASS`, `NOAUTH`, `NOPERM`), or the
    /// [provider](crate::QueryCacheBuilder::redis_credentials) gave none. Every attempt to connect
    /// counts. The event names the reply.
    pub refused_credentials: u64,
    /// How often a server of Redis replied that it cannot serve now, and its connection was given
    /// up or not opened: a replica, or a server that loads its data (`READONLY`, `LOADING`,
    /// `MASTERDOWN`, `NOREPLICAS`, …). Every attempt to connect counts. The event names the reply.
    pub refused_connections: u64,
    /// Whether this process follows the database for all: one or zero. Other numbers about it are in
    /// [`FollowStats`].
    pub follow_leads: u64,
    /// How long the last round of this process took, while it follows the database for all.
    pub follow_lag: Duration,
    /// Relations that this process has announced as changed, because it follows the database. One
    /// counts in each round that announces it.
    pub followed_relations: u64,
    /// How often this process has invalidated everything that is followed, because nobody had
    /// followed for a while.
    pub followed_gaps: u64,
    /// … because a transaction became visible that had been committed before anybody read.
    pub followed_unseen: u64,
    /// … because a changed relation was not there any more under its name.
    pub followed_unnamed: u64,
    /// … because a change could not be read.
    pub followed_unreadable: u64,
    /// … because a definition was changed that any result may depend on.
    pub followed_definitions: u64,
    /// How often this process had to stop following the database, or could not begin to.
    pub follow_failures: u64,
    /// How often these statistics could not be
    /// [published](crate::QueryCacheBuilder::publish_stats).
    pub unpublished: u64,
    /// The duration of lookups in Redis, whether they found the result or not.
    pub lookup_latency: Latency,
    /// The duration of loads, failed ones included: the time that PostgreSQL was kept busy.
    pub load_latency: Latency,
}
