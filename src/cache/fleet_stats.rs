//! What all processes of a namespace publish about their caches.

use crate::cache::QueryCache;
use crate::error::Error;
use crate::telemetry::stats::FleetStats;

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
        let Some(fleet) = &self.inner.fleet else { return Ok(FleetStats::default()) };
        self.inner.settle().await;
        let Ok(snapshots) = fleet.store.published().await else {
            // A caller that tries again at once must not keep the thread from the task that connects.
            tokio::task::yield_now().await;
            return Err(Error::unavailable("the statistics of the fleet"));
        };
        Ok(FleetStats::new(snapshots.into_iter().map(|it| (it.bytes, it.remaining))))
    }
}
