//! What callers ask of the follower: its statistics, and a table that includes what they have written.

use std::time::Duration;

use crate::cache::QueryCache;
use crate::error::Error;
use crate::telemetry::stats::FollowStats;

/// How long [`QueryCache::caught_up`] waits.
const PATIENCE: Duration = Duration::from_secs(10);

impl QueryCache {
    /// Waits until this process knows of everything that was committed and visible in the
    /// [followed](crate::QueryCacheBuilder::follow) database when this was called, by whomever.
    ///
    /// For tests, and for a read that must include what another service has just written:
    ///
    /// ```no_run
    /// # async fn run(cache: larder::QueryCache, pool: deadpool_postgres::Pool) -> Result<(), larder::Error> {
    /// # async fn order_by_another_service() {}
    /// order_by_another_service().await;
    /// cache.caught_up().await?;
    /// // Includes the order.
    /// let orders = cache.query("SELECT count(*) FROM orders").table("orders").fetch(&pool).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// It takes two rounds of the process that reads the changes: some milliseconds while the fleet is
    /// in use, and up to three seconds if it was idle.
    ///
    /// # Errors
    ///
    /// [`NotFollowed`](crate::ErrorKind::NotFollowed): the cache does not follow the database, or no
    /// process could tell of it within 10 seconds. [`follow_stats`](QueryCache::follow_stats) says why
    /// this process cannot.
    ///
    /// # Cancellation
    ///
    /// Dropping the future has no effect.
    pub async fn caught_up(&self) -> Result<(), Error> {
        let Some(follower) = &self.inner.follower else { return Err(Error::not_followed(None)) };
        let caught_up = async { self.inner.settle().await && follower.caught_up(PATIENCE).await };
        if self.inner.with_timers(caught_up).await {
            return Ok(());
        }
        Err(Error::not_followed(Some(follower.stats().reason)))
    }

    /// Returns what the follower of this process does, and has done since the cache was built. `None`
    /// if the cache does not [follow](crate::QueryCacheBuilder::follow) the database.
    pub fn follow_stats(&self) -> Option<FollowStats> {
        self.inner.follower.as_ref().map(|follower| follower.stats())
    }
}
