//! [`Collector`]: collects the statistics of a cache from the places that keep them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::l1::L1;
use crate::sync::Mutex;
use crate::telemetry::counters::Counters;
use crate::telemetry::stats::{CacheStats, ProcessStats, QueryStats, ViewStats};

/// Collects all statistics of a cache. Clones share their sources.
#[derive(Clone)]
pub(crate) struct Collector {
    pub(crate) counters: Arc<Counters>,
    l1: L1,
    max_bytes: u64,
    refreshers: Arc<Refreshers>,
}

/// Returns the status of a refresher's views, or `None` once the refresher is gone.
type Views = Box<dyn Fn() -> Option<Vec<ViewStats>> + Send + Sync>;

#[derive(Default)]
struct Refreshers(Mutex<Vec<Views>>);

impl Collector {
    pub(crate) fn new(counters: Arc<Counters>, l1: L1, max_bytes: u64) -> Collector {
        Collector { counters, l1, max_bytes, refreshers: Arc::default() }
    }

    pub(crate) fn of_queries(&self) -> Vec<QueryStats> {
        self.counters.queries.snapshot()
    }

    /// The statistics of the whole cache: those of its queries, added up, and its own.
    pub(crate) fn of_cache(&self, queries: &[QueryStats]) -> CacheStats {
        let (entries, memory_bytes) = self.l1.size();
        CacheStats {
            entries,
            memory_bytes,
            max_bytes: self.max_bytes,
            ..self.counters.sum(queries)
        }
    }

    /// Adds a refresher that uses this cache.
    pub(crate) fn add(&self, refresher: Views) {
        self.refreshers.0.lock().push(refresher);
    }

    fn of_views(&self) -> Vec<ViewStats> {
        let mut views = vec![];
        let mut refreshers = self.refreshers.0.lock();
        refreshers.retain(|refresher| refresher().map(|its| views.extend(its)).is_some());
        views
    }

    /// All statistics, encoded for publication.
    pub(super) fn published(
        &self,
        id: &str,
        uptime: Duration,
        interval: Duration,
    ) -> Option<Bytes> {
        let queries = self.of_queries();
        let published = ProcessStats {
            id: id.to_owned(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            pid: std::process::id(),
            larder: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: uptime.as_millis() as u64,
            interval_ms: interval.as_millis() as u64,
            cache: self.of_cache(&queries),
            queries,
            views: self.of_views(),
            ..ProcessStats::default()
        };
        published.to_bytes()
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Collector")
    }
}
