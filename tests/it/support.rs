//! Helpers that many tests need.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder::{QueryCache, QueryCacheBuilder};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::servers::{Database, Postgres};

const PATIENCE: Duration = Duration::from_secs(30);

/// A database of the test's own.
pub async fn database() -> Database {
    Postgres::shared().unwrap().database().await.unwrap()
}

/// A name that no other test of this process uses.
pub fn namespace() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A cache in memory.
pub async fn local() -> QueryCache {
    QueryCache::builder().build().await.unwrap()
}

/// A cache over the Redis that all tests share, or in memory if the crate is built without it.
pub fn over_redis(namespace: &str) -> QueryCacheBuilder {
    let builder = QueryCache::builder().namespace(namespace);
    #[cfg(feature = "redis")]
    let builder = builder
        .redis(crate::servers::Redis::shared().unwrap().url())
        // A busy machine must not make a test of hits into one of time limits.
        .redis_timeout(Duration::from_secs(10));
    builder
}

/// Waits until something has happened that nobody tells about.
pub async fn until(what: &str, mut happened: impl FnMut() -> bool) {
    until_async(what, async || happened()).await;
}

pub async fn until_async(what: &str, mut happened: impl AsyncFnMut() -> bool) {
    let poll = async {
        let mut ticks = interval(Duration::from_millis(2));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !happened().await {
            ticks.tick().await;
        }
    };
    timeout(PATIENCE, poll).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

/// Results are written to Redis after they were answered.
pub async fn written(cache: &QueryCache, results: u64) {
    if cfg!(feature = "redis") {
        until("the results are in redis", || cache.stats().l2_writes >= results).await;
    }
}
