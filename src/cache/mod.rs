//! [`QueryCache`]: the path of a read, top to bottom.

mod build;
pub(crate) mod build_error;
pub(crate) mod builder;
mod collector;
pub(crate) mod config;
mod fleet_stats;
pub(crate) mod inner;
pub(crate) mod load;
pub(crate) mod lookup;
mod permission;
mod publisher;
#[cfg(all(test, feature = "redis"))]
mod publisher_tests;
pub(crate) mod read;
mod read_through;
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

/// A cache of query results: in memory, over a Redis that other processes share.
///
/// It is a handle; clones share one cache. Make it once, keep it for the life of the program, and
/// hand clones around.
///
/// Results may be asked for from any thread and from any Tokio runtime with timers (and, for
/// [`fetch`](crate::Bound::fetch), with IO: `enable_all`). A load runs on the caller's runtime if
/// that has several threads, and otherwise on the one that the cache was built in, so that it goes
/// on without its caller; the connection to Redis lives on the latter. Best build the cache in the
/// program's main runtime.
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
    /// Ends with the last handle, and what runs in the background with it.
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

    /// What the cache did since it was built.
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

    /// What the cache did for each query since it was built, by [name](crate::Query::name).
    pub fn query_stats(&self) -> Vec<QueryStats> {
        self.inner.collector.of_queries()
    }

    /// Makes all results stale that depend on one of these tags: in this process at once, in all
    /// others by the time that this returns `Ok`, as far as they ask Redis (see below).
    ///
    /// Call it **after** the transaction that changed the data has committed. Before that, a result
    /// loaded in between would show the old data and count as loaded after the invalidation.
    ///
    /// It costs one round trip to Redis, whatever the number of results.
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
    /// No read that begins after this returned `Ok` is answered with a result whose load began
    /// before: none in this process, and none that is answered from Redis anywhere. Another
    /// process's memory is told by a push, within a millisecond or so; cut off from Redis, it stops
    /// serving what it cannot show to be current after
    /// [`max_staleness`](crate::QueryCacheBuilder::max_staleness) at the latest.
    ///
    /// # Errors
    ///
    /// [`Unacknowledged`](crate::ErrorKind::Unacknowledged): Redis has not acknowledged it. In this process it is in force all
    /// the same, and it is kept to be announced as soon as Redis takes it. Without Redis there are
    /// no errors.
    ///
    /// # Cancellation
    ///
    /// Dropped at any point after its first poll, it goes on in the background like one that failed.
    pub async fn invalidate<T: Into<Tag>>(
        &self,
        tags: impl IntoIterator<Item = T>,
    ) -> Result<(), Error> {
        let mut slots: Vec<TagSlot> = tags.into_iter().map(|tag| tag.into().slot()).collect();
        slots.sort();
        slots.dedup();
        self.inner.invalidate(&slots).await
    }

    /// Makes all results stale, of all queries of this namespace, as
    /// [`invalidate`](QueryCache::invalidate) does.
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

    /// Stops what runs in the background: announces what could not be announced yet, gives back the
    /// leases of loads under way, closes the connections to Redis, and returns when that is done,
    /// after a second at most.
    ///
    /// Loads under way go on for those who wait for them. Reads that come later are answered as if
    /// Redis were away for good. Dropping the last handle (`QueryCache`, `Query`, `Wrapped`) does
    /// the same without waiting for it, and cancels loads that nobody can be waiting for any more.
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
        // Loads hold the shared state, and with it the connections; they hear this and let go.
        self.0.closing.send_replace(Phase::Abandoned);
    }
}

impl Inner {
    /// The one way that all invalidations take.
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
