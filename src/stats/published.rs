//! [`ProcessStats`]: the statistics that a process publishes in Redis, and [`FleetStats`], those of
//! all.
//!
//! A snapshot is JSON with a version. A reader skips a snapshot of another version and a damaged one.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{CacheStats, Counters, QueryStats};
use crate::cache::QueryCache;
use crate::codec::Codec;
use crate::error::Error;
use crate::local::Local;
use crate::store::{Store, StoreError};

/// Counted up when a field changes its meaning. New fields need no new version.
const VERSION: u32 = 1;

/// The statistics that all processes of a namespace published: a snapshot by
/// [`QueryCache::fleet_stats`].
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProcessStats {
    version: u32,
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

/// What is under a process's name in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) bytes: Bytes,
    /// How long it had to last when the store was asked.
    pub(crate) remaining: Duration,
}

/// For so many intervals a process's numbers are shown after it has last been heard of.
pub(crate) const LASTS: u32 = 3;

impl ProcessStats {
    fn read(snapshot: &Snapshot) -> Option<ProcessStats> {
        let mut published: ProcessStats = Codec::Json.decode(&snapshot.bytes)?;
        let lasted = LASTS * Duration::from_millis(published.interval_ms.min(u64::from(u32::MAX)));
        published.age = lasted.saturating_sub(snapshot.remaining);
        (published.version == VERSION).then_some(published)
    }
}

impl FleetStats {
    async fn of(store: &dyn Store) -> Result<FleetStats, StoreError> {
        let mut stats = FleetStats::default();
        for snapshot in store.published().await? {
            match ProcessStats::read(&snapshot) {
                Some(process) => stats.processes.push(process),
                None => stats.skipped += 1,
            }
        }
        let place = |one: &ProcessStats| (one.host.clone(), one.pid, one.id.clone());
        stats.processes.sort_by_cached_key(place);
        Ok(stats)
    }
}

impl QueryCache {
    /// The statistics of all processes that use this namespace and
    /// [publish](crate::QueryCacheBuilder::publish_stats) theirs.
    ///
    /// Without a Redis to share, nothing is published and the list is empty. A process that was
    /// killed stays in the list for three of its intervals. One call is one round trip to Redis; a
    /// user of Redis of limited rights needs `+hgetall` for it.
    ///
    /// ```
    /// # use larder::QueryCache;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cache = QueryCache::builder().build().await?;
    /// let fleet = cache.fleet_stats().await?;
    /// for process in &fleet.processes {
    ///     println!("{} {}: {} hits", process.host, process.pid, process.cache.l1_hits);
    /// }
    /// # assert!(fleet.processes.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable): Redis does not answer in time, or
    /// refuses.
    pub async fn fleet_stats(&self) -> Result<FleetStats, Error> {
        let Some(fleet) = &self.core.fleet else { return Ok(FleetStats::default()) };
        let stats = FleetStats::of(&*fleet.store).await;
        stats.map_err(|_| Error::unavailable("the statistics of the fleet"))
    }
}

/// Where all numbers of a cache are. Clones look at the same.
#[derive(Clone)]
pub(crate) struct Numbers {
    pub(crate) counters: Arc<Counters>,
    local: Local,
    max_bytes: u64,
    refreshers: Arc<Refreshers>,
}

/// Tells how it stands with a refresher's views, as long as there is the refresher.
type Views = Box<dyn Fn() -> Option<Vec<ViewStats>> + Send + Sync>;

#[derive(Default)]
struct Refreshers(Mutex<Vec<Views>>);

impl Numbers {
    pub(crate) fn new(counters: Arc<Counters>, local: Local, max_bytes: u64) -> Numbers {
        Numbers { counters, local, max_bytes, refreshers: Arc::default() }
    }

    pub(crate) fn of_queries(&self) -> Vec<QueryStats> {
        self.counters.queries.snapshot()
    }

    /// Of the whole cache, of which this much is its queries'.
    pub(crate) fn of_cache(&self, queries: &[QueryStats]) -> CacheStats {
        let (entries, memory_bytes) = self.local.size();
        CacheStats {
            entries,
            memory_bytes,
            max_bytes: self.max_bytes,
            ..self.counters.sum(queries)
        }
    }

    /// A refresher that has been given the cache.
    pub(crate) fn add(&self, refresher: Views) {
        self.refreshers.0.lock().unwrap_or_else(PoisonError::into_inner).push(refresher);
    }

    fn of_views(&self) -> Vec<ViewStats> {
        let mut views = vec![];
        let mut refreshers = self.refreshers.0.lock().unwrap_or_else(PoisonError::into_inner);
        refreshers.retain(|refresher| refresher().map(|its| views.extend(its)).is_some());
        views
    }

    /// All of it, as it is published.
    pub(super) fn published(
        &self,
        id: &str,
        uptime: Duration,
        interval: Duration,
    ) -> Option<Bytes> {
        let queries = self.of_queries();
        let published = ProcessStats {
            version: VERSION,
            id: id.to_owned(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            pid: std::process::id(),
            larder: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: uptime.as_millis() as u64,
            interval_ms: interval.as_millis() as u64,
            cache: self.of_cache(&queries),
            queries,
            views: self.of_views(),
            age: Duration::ZERO,
        };
        Codec::json(&published)
    }
}

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Numbers")
    }
}
