//! [`Published`]: what a process says in Redis about what its cache did, for all to see.
//!
//! It is told in JSON, with a version. Whoever reads it passes over what it cannot read: another
//! version's, or something damaged.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{CacheStats, Counters, QueryStats};
use crate::cache::QueryCache;
use crate::l1::Local;
use crate::l2::{Store, StoreError};
use crate::value::codec::Codec;

/// Counted up when a field changes its meaning. New fields need no new version.
const VERSION: u32 = 1;

/// A process's cache as of the last time that it published its numbers.
#[allow(dead_code)] // Read by the command only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Published {
    version: u32,
    /// Tells this cache from all others, of this process and before it.
    pub(crate) id: String,
    pub(crate) host: String,
    pub(crate) pid: u32,
    /// The version of this crate.
    pub(crate) larder: String,
    /// How long ago the cache was built.
    pub(crate) uptime_ms: u64,
    /// How often it publishes.
    pub(crate) interval_ms: u64,
    pub(crate) cache: CacheStats,
    pub(crate) queries: Vec<QueryStats>,
    /// Of all refreshers that the cache was given to.
    pub(crate) views: Vec<PublishedView>,
    /// How long before it was read it was written, by Redis's clock.
    #[serde(skip)]
    pub(crate) age: Duration,
}

/// How it stands with a view in that process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[derive(Default)]
pub(crate) struct PublishedView {
    pub(crate) view: String,
    pub(crate) activity: String,
    /// What came of the last attempt that did not fail.
    pub(crate) last: Option<String>,
    /// How long the last refresh took that this process made.
    pub(crate) took_ms: Option<u64>,
    /// Milliseconds since 1970, by that process's clock.
    pub(crate) next_unix_ms: Option<u64>,
    pub(crate) last_refreshed_unix_ms: Option<u64>,
    pub(crate) refreshes: u64,
    pub(crate) noticed: u64,
    pub(crate) failures_in_a_row: u32,
    pub(crate) last_error: Option<String>,
    pub(crate) hook_failures: u64,
}

/// All that a fleet publishes.
#[allow(dead_code)] // Read by the command only.
#[derive(Debug, Default)]
pub(crate) struct Roll {
    /// By host, process and id.
    pub(crate) processes: Vec<Published>,
    /// How many could not be read: of another version, or damaged.
    pub(crate) skipped: usize,
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

impl Published {
    fn read(snapshot: &Snapshot) -> Option<Published> {
        let mut published: Published = Codec::Json.decode(&snapshot.bytes)?;
        let lasted = LASTS * Duration::from_millis(published.interval_ms.min(u64::from(u32::MAX)));
        published.age = lasted.saturating_sub(snapshot.remaining);
        (published.version == VERSION).then_some(published)
    }
}

impl Roll {
    async fn call(store: &dyn Store) -> Result<Roll, StoreError> {
        let mut roll = Roll::default();
        for snapshot in store.published().await? {
            match Published::read(&snapshot) {
                Some(published) => roll.processes.push(published),
                None => roll.skipped += 1,
            }
        }
        let place = |one: &Published| (one.host.clone(), one.pid, one.id.clone());
        roll.processes.sort_by_cached_key(place);
        Ok(roll)
    }
}

impl QueryCache {
    /// What all processes of the namespace publish. Without a shared tier that is nothing.
    #[allow(dead_code)] // Asked for by the command only.
    pub(crate) async fn roll(&self) -> Result<Roll, StoreError> {
        match &self.core.fleet {
            Some(fleet) => Roll::call(&*fleet.store).await,
            None => Ok(Roll::default()),
        }
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
type Views = Box<dyn Fn() -> Option<Vec<PublishedView>> + Send + Sync>;

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

    fn of_views(&self) -> Vec<PublishedView> {
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
        let published = Published {
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
