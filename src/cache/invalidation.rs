//! The invalidations that a caller asks for, and [`Invalidated`]: what became of one.

use crate::cache::QueryCache;
use crate::cache::inner::Inner;
use crate::error::Error;
use crate::telemetry::counters::{Counters, count};
use crate::telemetry::trace::{self, Span};
use crate::value::tag::{TagSlot, Tags};

/// What became of an invalidation: it is in force in this process, and Redis has acknowledged it or
/// will receive it again.
///
/// It is not a `Result`, so that `?` cannot turn a failure of Redis into the failure of a write that
/// has committed:
///
/// ```compile_fail
/// # async fn run(cache: larder::QueryCache) -> Result<(), larder::Error> {
/// cache.invalidate(["orders"]).await?;
/// # Ok(())
/// # }
/// ```
///
/// A caller that needs the acknowledgement asks for it with
/// [`acknowledged`](Invalidated::acknowledged). One that does not can drop this value: the cache
/// keeps the invalidation, sends it again and counts it in
/// [`CacheStats::unacknowledged`](crate::stats::CacheStats::unacknowledged).
#[derive(Debug, Clone)]
pub struct Invalidated {
    error: Option<Error>,
}

impl Invalidated {
    /// Whether Redis has acknowledged the invalidation. Without Redis it is always acknowledged.
    pub fn is_acknowledged(&self) -> bool {
        self.error.is_none()
    }

    /// Why the invalidation is not acknowledged, for a log.
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Turns a missing acknowledgement into an error.
    ///
    /// Do not use it after a commit in a handler whose client tries again after an error: the write
    /// has succeeded.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cache = larder::QueryCache::builder().build().await?;
    /// // At the end of a deployment: fail if other processes may not know of it.
    /// cache.clear().await.acknowledged()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Unacknowledged`](crate::ErrorKind::Unacknowledged): Redis has not acknowledged the
    /// invalidation. It is in force in this process nevertheless, and is sent again until Redis
    /// accepts it.
    pub fn acknowledged(self) -> Result<(), Error> {
        self.error.map_or(Ok(()), Err)
    }
}

impl QueryCache {
    /// Makes all results stale that depend on one of these tags. It cannot fail.
    ///
    /// It takes effect in this process at once, and in all other processes when Redis has
    /// acknowledged it; see below. It costs one round trip to Redis, whatever the number of results.
    /// If Redis does not acknowledge it within a second, this returns all the same. The cache then
    /// keeps the invalidation and sends it again until Redis accepts it.
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
    /// cache.invalidate(["orders"]).await;
    /// assert_eq!(count().answer().await?.origin(), Origin::Loaded);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Consistency
    ///
    /// After this has returned, no read in this process that begins later is answered with a result
    /// whose load began before. If it is [acknowledged](Invalidated::is_acknowledged), the same holds
    /// for all reads from Redis in any process. The memory of another process follows when it
    /// receives the push, usually within a millisecond. A process that is cut off from Redis stops
    /// serving results that it cannot show to be current after
    /// [`max_staleness`](crate::QueryCacheBuilder::max_staleness) at the latest.
    ///
    /// If it is not acknowledged, other processes may serve results from before it until Redis has
    /// accepted it. If this process ends before that, they may do so until the results' `ttl` ends.
    /// [`Invalidated::acknowledged`] is the strict form.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped after its first poll, the invalidation continues in the background,
    /// like one that Redis has not acknowledged, and is counted like it. Before its first poll it
    /// does nothing.
    pub async fn invalidate(&self, tags: impl Tags) -> Invalidated {
        let mut slots: Vec<TagSlot> = tags.into_tags().map(|tag| tag.slot()).collect();
        slots.sort();
        slots.dedup();
        self.inner.invalidate(&slots).await
    }

    /// Makes all results of all queries of this namespace stale. It cannot fail.
    ///
    /// Consistency, cancellation and cost are those of [`invalidate`](QueryCache::invalidate).
    pub async fn clear(&self) -> Invalidated {
        self.inner.invalidate(&[TagSlot::EVERYTHING]).await
    }

    pub(crate) async fn invalidate_slot(&self, slot: TagSlot) -> Invalidated {
        self.inner.invalidate(&[slot]).await
    }
}

impl Inner {
    /// Carries out every invalidation: counted, traced, and sent to Redis if there is one.
    pub(crate) async fn invalidate(&self, slots: &[TagSlot]) -> Invalidated {
        if slots.is_empty() {
            return Invalidated { error: None };
        }
        count(&self.counters.invalidations);
        let (span, began) = (Span::invalidate(slots.len()), std::time::Instant::now());
        let Some(fleet) = &self.fleet else {
            self.currency.invalidate_alone(slots);
            span.ends("alone", began.elapsed(), None);
            return Invalidated { error: None };
        };
        fleet.invalidate(slots);
        let pending = Pending { counters: &self.counters, tags: slots.len() };
        let announced = async { self.settle().await && fleet.announce().await.is_ok() };
        let acknowledged = self.with_timers(span.around(announced)).await;
        let word = if acknowledged { "announced" } else { "unannounced" };
        span.ends(word, began.elapsed(), None);
        if acknowledged {
            std::mem::forget(pending);
        }
        Invalidated { error: (!acknowledged).then(Error::unacknowledged) }
    }
}

/// An invalidation that Redis has not acknowledged. It is counted when this is dropped, so also if
/// the caller leaves.
struct Pending<'a> {
    counters: &'a Counters,
    tags: usize,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        count(&self.counters.unannounced);
        trace::unannounced(self.tags);
    }
}
