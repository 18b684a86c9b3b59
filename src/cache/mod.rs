//! [`QueryCache`]: the handle, and the path of a read from the call down to the load.

mod build;
pub(crate) mod build_error;
pub(crate) mod builder;
mod collector;
pub(crate) mod config;
mod fleet_stats;
pub(crate) mod inner;
pub(crate) mod judge;
pub(crate) mod load;
pub(crate) mod lookup;
mod permission;
mod publisher;
#[cfg(all(test, feature = "redis"))]
mod publisher_tests;
pub(crate) mod read;
mod read_through;
#[cfg(feature = "redis")]
mod redis_settings;
pub(crate) mod serve;

use std::fmt;
use std::sync::Arc;

use crate::cache::inner::{Inner, Phase};
use crate::error::Error;
use crate::l2::Store;
use crate::telemetry::counters::count;
use crate::telemetry::stats::{CacheStats, QueryStats};
use crate::telemetry::trace::{self, Span};
use crate::value::tag::{Tag, TagSlot};

/// A cache of query results: in the memory of this process, and in a Redis that other processes
/// share.
///
/// It is a handle: clones share one cache. Build it once, keep it as long as the program runs, and
/// pass clones around.
///
/// Reads may run on any thread and on any Tokio runtime with timers (and, for
/// [`fetch`](crate::Bound::fetch), with IO: `enable_all`). Build the cache in the program's main
/// runtime: its connection to Redis and its background tasks live there. A load runs on a
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
    pub(crate) fn new(inner: Arc<Inner>) -> QueryCache {
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

    /// Makes all results stale that depend on one of these tags.
    ///
    /// It takes effect in this process at once, and for all reads from Redis when this returns
    /// `Ok`; see below. It costs one round trip to Redis, whatever the number of results.
    ///
    /// Call it **after** the transaction that changed the data has committed. If it is called
    /// before, a load between the two reads the old data, and its result counts as loaded after the
    /// invalidation.
    ///
    /// ```
    /// # use larder::{Origin, QueryCache};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cache = QueryCache::builder().build().await?;
    /// let orders = cache.query("SELECT count(*) FROM orders").tag("orders");
    /// let count = || orders.load(|| async { Ok::<_, std::io::Error>(7_i64) });
    /// count().await?;
    /// assert_eq!(count().answer().await?.origin(), Origin::L1);
    /// // … INSERT INTO orders …; COMMIT; and then:
    /// cache.invalidate(["orders"]).await?;
    /// assert_eq!(count().answer().await?.origin(), Origin::Loaded);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Consistency
    ///
    /// After this has returned `Ok`, no read that begins later is answered with a result whose load
    /// began before. This holds for all reads in this process, and for all reads from Redis in any
    /// process. The memory of another process follows when it receives the push, usually within a
    /// millisecond. A process that is cut off from Redis stops serving results that it cannot show
    /// to be current after [`max_staleness`](crate::QueryCacheBuilder::max_staleness) at the
    /// latest.
    ///
    /// # Errors
    ///
    /// [`Unacknowledged`](crate::ErrorKind::Unacknowledged): Redis has not acknowledged the
    /// invalidation within a second. It waits that long for a connection as well. The invalidation is
    /// in force in this process nevertheless, and is sent again until Redis accepts it. Without
    /// Redis there are no errors.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped after its first poll, the invalidation continues in the background,
    /// like one that failed.
    pub async fn invalidate<T: Into<Tag>>(
        &self,
        tags: impl IntoIterator<Item = T>,
    ) -> Result<(), Error> {
        let mut slots: Vec<TagSlot> = tags.into_iter().map(|tag| tag.into().slot()).collect();
        slots.sort();
        slots.dedup();
        self.inner.invalidate(&slots).await
    }

    /// Makes all results of all queries of this namespace stale.
    ///
    /// Consistency, cancellation and cost are those of [`invalidate`](QueryCache::invalidate).
    ///
    /// # Errors
    ///
    /// Those of [`invalidate`](QueryCache::invalidate).
    pub async fn clear(&self) -> Result<(), Error> {
        self.inner.invalidate(&[TagSlot::EVERYTHING]).await
    }

    pub(crate) async fn invalidate_cell(&self, slot: TagSlot) -> Result<(), Error> {
        self.inner.invalidate(&[slot]).await
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
        if let Some(publisher) = &self.inner.publisher {
            publisher.withdraw().await;
        }
        if let Some(fleet) = &self.inner.fleet {
            fleet.shut_down().await;
        }
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

impl Inner {
    /// Carries out every invalidation: counted, traced, and sent to Redis if there is one.
    async fn invalidate(&self, slots: &[TagSlot]) -> Result<(), Error> {
        if slots.is_empty() {
            return Ok(());
        }
        count(&self.counters.invalidations);
        let (span, began) = (Span::invalidate(slots.len()), std::time::Instant::now());
        let Some(fleet) = &self.fleet else {
            self.currency.invalidate_alone(slots);
            span.ends("alone", began.elapsed(), None);
            return Ok(());
        };
        let outcome = span.around(fleet.invalidate(slots)).await;
        let word = if outcome.is_ok() { "announced" } else { "unannounced" };
        span.ends(word, began.elapsed(), None);
        outcome.map_err(|_| {
            count(&self.counters.unannounced);
            trace::unannounced(slots.len());
            Error::unacknowledged()
        })
    }
}
