//! [`QueryStats`]: the counters of each query.

use serde::{Deserialize, Serialize};

use super::latency::Latency;

/// What a cache did for a query since it was built: a snapshot from
/// [`QueryCache::query_stats`](crate::QueryCache::query_stats).
///
/// Each read is counted once, when it is answered, as one of `l1_hits`, `l2_hits`, `coalesced`,
/// `reads_loaded`, `stale` and `failed`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct QueryStats {
    /// The [name](crate::Query::name) that the query was given, or else the first 16 digits of a
    /// hash of namespace and SQL. Queries that come after the first 1,000 names are counted
    /// together, as `other`.
    pub name: String,
    /// The slots of the query itself, one for each [scope](crate::Query::scope) and schema version: each
    /// of its results depends on one of them. At most 64.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<u16>,
    /// The tags that it declares, and the relations that it has [learned](crate::Query::auto), as tags; of
    /// results that this process has loaded. At most 64. Tags of single calls are not among them, since
    /// they may show parameters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Reads answered from memory.
    pub l1_hits: u64,
    /// Reads answered from Redis.
    pub l2_hits: u64,
    /// Reads answered with the result of another read's lookup or load of the same key.
    pub coalesced: u64,
    /// Reads answered with a load that they began, or with a load of another process that they
    /// waited for.
    #[serde(rename = "loaded")]
    pub reads_loaded: u64,
    /// Reads answered with a stale result, by policy.
    pub stale: u64,
    /// Reads answered with an error.
    pub failed: u64,
    /// Of the failed reads, those answered with a cached error.
    pub negative_hits: u64,
    /// Results found in memory or in Redis that were not served because something they depend on
    /// had been invalidated since their load began.
    #[serde(rename = "outdated")]
    pub invalidated: u64,
    /// Loads begun.
    pub loads: u64,
    /// Loads that failed, including those whose deadline passed before their turn.
    pub load_errors: u64,
    /// Encoded bytes of the loaded results, of those that may be stored.
    pub loaded_bytes: u64,
    /// Bytes of entries read from Redis.
    pub l2_bytes_read: u64,
    /// Bytes of entries written to Redis.
    pub l2_bytes_written: u64,
    /// Loads of a query that [learns](crate::Query::auto) whose result could not be followed. It was not
    /// stored, or for the `ttl` of the query.
    pub unfollowed: u64,
    /// Why the last of them was not followed.
    pub unfollowed_because: Option<String>,
    /// The duration of lookups in Redis, whether they found the result or not.
    pub lookup_latency: Latency,
    /// The duration of loads, failed ones included: the time that PostgreSQL was kept busy.
    pub load_latency: Latency,
}

impl QueryStats {
    /// All reads that were answered.
    pub fn reads(&self) -> u64 {
        self.l1_hits + self.l2_hits + self.coalesced + self.reads_loaded + self.stale + self.failed
    }

    /// The share of reads that were answered from memory or Redis, or with the result of a load
    /// that was already in flight; `None` if there were no reads.
    pub fn hit_ratio(&self) -> Option<f64> {
        let reads = self.reads();
        let hits = reads - self.reads_loaded - self.failed;
        (reads > 0).then(|| hits as f64 / reads as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_what_needed_no_load_of_their_own() {
        let stats = QueryStats {
            l1_hits: 4,
            l2_hits: 2,
            coalesced: 1,
            stale: 1,
            reads_loaded: 1,
            failed: 1,
            ..QueryStats::default()
        };
        assert_eq!(stats.reads(), 10);
        assert_eq!(stats.hit_ratio(), Some(0.8));
        assert_eq!(QueryStats::default().hit_ratio(), None);
    }
}
