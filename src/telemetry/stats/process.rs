//! [`ProcessStats`]: the statistics that a process publishes in Redis, and [`FleetStats`], those of
//! all.
//!
//! A snapshot is JSON with a version. A reader skips a snapshot of another version and a damaged one.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{CacheStats, QueryStats};
use crate::value::codec::Codec;

/// Increased when a field changes its meaning. New fields need no new version.
const VERSION: u32 = 1;

/// The statistics that all processes of a namespace published: a snapshot by
/// [`QueryCache::fleet_stats`](crate::QueryCache::fleet_stats).
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct FleetStats {
    /// The caches that publish now, sorted by host, process number and id.
    pub processes: Vec<ProcessStats>,
    /// How many more published something that this build cannot read, because it is of another
    /// version or damaged.
    pub skipped: usize,
}

/// The statistics of one process's cache, as it published them last.
///
/// Counters begin at zero when the cache is built. Two snapshots of one [`id`](ProcessStats::id)
/// give rates: divide what was added by the difference of the two
/// [`uptime_ms`](ProcessStats::uptime_ms).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProcessStats {
    pub(crate) version: u32,
    /// Names this cache and no other. A cache that is built anew has another one.
    pub id: String,
    /// The name of the host that the process runs on.
    pub host: String,
    /// The process number on that host.
    pub pid: u32,
    /// The version of this crate that the process is built with.
    pub larder: String,
    /// How long ago the cache was built, in milliseconds.
    pub uptime_ms: u64,
    /// The interval of [`publish_stats`](crate::QueryCacheBuilder::publish_stats), in milliseconds.
    pub interval_ms: u64,
    /// What the cache did in sum.
    pub cache: CacheStats,
    /// What it did for each query.
    pub queries: Vec<QueryStats>,
    /// The views of all refreshers that the cache was given to.
    pub views: Vec<ViewStats>,
    /// How old the snapshot is, by the clock of Redis.
    #[serde(skip)]
    pub age: Duration,
}

/// The state of one materialized view in one process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ViewStats {
    /// The view, as it was named to the refresher.
    pub view: String,
    /// What the refresher does with the view at present, such as `idle` or `refreshing`.
    pub activity: String,
    /// The outcome of the last attempt that did not fail.
    pub last: Option<String>,
    /// How long the last refresh by this process took, in milliseconds.
    pub took_ms: Option<u64>,
    /// When the next refresh is due, in milliseconds since 1970 by that process's clock.
    pub next_unix_ms: Option<u64>,
    /// When this process refreshed the view last, in milliseconds since 1970 by its clock.
    pub last_refreshed_unix_ms: Option<u64>,
    /// Refreshes by this process.
    pub refreshes: u64,
    /// Refreshes by others that this process noticed.
    pub noticed: u64,
    /// Failures since the last success.
    pub failures_in_a_row: u32,
    /// The message of the last failure, until a success.
    pub last_error: Option<String>,
    /// Hooks that failed.
    pub hook_failures: u64,
}

/// A snapshot is kept for this many intervals after it was published.
pub(crate) const LASTS: u32 = 3;

impl ProcessStats {
    /// As it is kept in the store.
    pub(crate) fn to_bytes(&self) -> Option<Bytes> {
        Codec::json(&ProcessStats { version: VERSION, ..self.clone() })
    }

    /// A snapshot that the store keeps for `remaining` longer.
    fn read(bytes: &Bytes, remaining: Duration) -> Option<ProcessStats> {
        let mut process: ProcessStats = Codec::Json.decode(bytes)?;
        let lasted = LASTS * Duration::from_millis(process.interval_ms.min(u64::from(u32::MAX)));
        process.age = lasted.saturating_sub(remaining);
        (process.version == VERSION).then_some(process)
    }
}

impl FleetStats {
    /// Of all snapshots in the store: the bytes of each, and how long it is kept.
    pub(crate) fn new(snapshots: impl IntoIterator<Item = (Bytes, Duration)>) -> FleetStats {
        let mut fleet = FleetStats::default();
        for (bytes, remaining) in snapshots {
            match ProcessStats::read(&bytes, remaining) {
                Some(process) => fleet.processes.push(process),
                None => fleet.skipped += 1,
            }
        }
        let place = |one: &ProcessStats| (one.host.clone(), one.pid, one.id.clone());
        fleet.processes.sort_by_cached_key(place);
        fleet
    }
}
