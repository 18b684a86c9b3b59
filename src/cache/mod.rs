//! [`QueryCache`]: the handle, and the path of a read from the call down to the load.

mod build;
pub(crate) mod build_error;
pub(crate) mod builder;
mod collector;
pub(crate) mod config;
mod fetch;
mod fleet_stats;
mod follow;
pub(crate) mod gather;
pub(crate) mod inner;
pub(crate) mod invalidation;
pub(crate) mod judge;
mod large;
pub(crate) mod load;
mod loading;
pub(crate) mod lookup;
pub(crate) mod many;
mod next;
mod permission;
mod publisher;
#[cfg(all(test, feature = "redis"))]
mod publisher_tests;
pub(crate) mod read;
mod read_through;
#[cfg(feature = "redis")]
mod redis_settings;
pub(crate) mod serve;
pub(crate) mod write;

use std::fmt;
use std::sync::Arc;

use crate::cache::inner::{Inner, Phase};
use crate::l2::Store;
use crate::telemetry::stats::{CacheStats, QueryStats};

/// A cache of query results: in the memory of this process, and in a Redis that other processes
/// share.
///
/// It is a handle: clones share one cache. Build it once, keep it as long as the program runs, and
/// pass clones around.
///
/// Reads may run on any thread and on any Tokio runtime with timers and IO (`enable_all`). Build the
/// cache in the program's main runtime: its connection to Redis and its background tasks live there.
/// If that runtime ends before the cache, as when the cache is in a static and each test has a
/// runtime, they move to the runtime of the next read that memory cannot answer, or of the next
/// invalidation. A single-threaded runtime that exists without a thread that drives it has not
/// ended; until a thread drives it, the cache works without Redis. A load runs on a
/// multi-threaded runtime if there is one, so that it continues without its caller: on the caller's,
/// or else on the one that the cache was built in.
///
/// ```
/// use larder::QueryCache;
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cache = QueryCache::builder()
///     .namespace("shop")
///     // .redis("redis://127.0.0.1:6379")
///     .max_bytes(256 << 20)
///     .ttl(Duration::from_secs(300))
///     .build()
///     .await?;
/// # let _ = cache;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct QueryCache {
    pub(crate) inner: Arc<Inner>,
    /// Shared by all handles. It is dropped with the last one, which ends the background tasks.
    _last: Arc<LastHandle>,
}

impl QueryCache {
    pub(crate) fn over(inner: Arc<Inner>) -> QueryCache {
        QueryCache { _last: Arc::new(LastHandle(inner.clone())), inner }
    }

    /// The shared tier, if there is one.
    pub(crate) fn shared_tier(&self) -> Option<Arc<dyn Store>> {
        self.inner.fleet.as_ref().map(|fleet| fleet.store.clone())
    }

    /// Returns the statistics of the cache since it was built.
    ///
    /// ```
    /// # use larder::QueryCache;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cache = QueryCache::builder().build().await?;
    /// let stats = cache.query("SELECT 1").name("one");
    /// for _ in 0..4 {
    ///     stats.load(|| async { Ok::<_, std::io::Error>(1_i32) }).await?;
    /// }
    /// assert_eq!((cache.stats().l1_hits, cache.stats().loads), (3, 1));
    /// let of_one = &cache.query_stats()[0];
    /// assert_eq!((&*of_one.name, of_one.hit_ratio()), ("one", Some(0.75)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn stats(&self) -> CacheStats {
        self.inner.collector.of_cache(&self.query_stats())
    }

    /// Returns the statistics of each query since the cache was built, by
    /// [name](crate::Query::name).
    pub fn query_stats(&self) -> Vec<QueryStats> {
        self.inner.collector.of_queries()
    }

    /// Stops the background tasks and closes the connections to Redis.
    ///
    /// It sends the invalidations that Redis has not acknowledged, gives back the leases of loads
    /// under way, and returns when that is done, after a second at most.
    ///
    /// Loads under way continue for the reads that wait for them. Later reads are answered as if
    /// Redis were unreachable.
    ///
    /// Dropping the last handle (`QueryCache`, `Query`, `Wrapped`) does the same without waiting,
    /// so invalidations that Redis has not acknowledged may not be sent. It also cancels loads that
    /// no read can be waiting for.
    pub async fn shutdown(&self) {
        self.inner.closing.send_if_modified(|phase| {
            let first = *phase == Phase::Open;
            *phase = (*phase).max(Phase::ShutDown);
            first
        });
        if let Some(follower) = &self.inner.follower {
            follower.stop();
        }
        let Some(fleet) = &self.inner.fleet else { return };
        if !self.inner.settle().await {
            return fleet.close();
        }
        let farewell = async {
            if let Some(publisher) = &self.inner.publisher {
                publisher.withdraw().await;
            }
            fleet.shut_down().await;
        };
        self.inner.with_timers(farewell).await;
    }
}

impl fmt::Debug for QueryCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryCache")
            .field("namespace", &self.inner.namespace)
            .field("policy", &self.inner.policy)
            .field("redis", &self.inner.fleet.is_some())
            .field("stats", &self.stats())
            .finish()
    }
}

struct LastHandle(Arc<Inner>);

impl Drop for LastHandle {
    fn drop(&mut self) {
        // Loads hold the shared state, and with it the connections. This ends them.
        self.0.closing.send_replace(Phase::Abandoned);
    }
}
