//! How long is a process misled by a master that was deposed and does not know it?
//!
//! The network is split: the old master has lost its replica, which was promoted, and still answers
//! the process that was connected to it. Invalidations are acknowledged by the new master.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use larder::{Answer, Origin, QueryCache, QueryCacheBuilder};

use crate::demotion::Service;
use crate::servers::{Proxy, Redis, Way};
use crate::support::{until, until_async};

const MAX_STALENESS: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

struct Split {
    old: Redis,
    new: Redis,
    /// Between the old master and its replica.
    between: Proxy,
    database: Arc<AtomicI64>,
}

impl Split {
    async fn whole() -> Split {
        let old = Redis::start_tcp().unwrap();
        old.command(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]).unwrap();
        let between = Proxy::to_redis(&old).unwrap();
        let port = between.port().to_string();
        let new = Redis::start_tcp_with(&["--replicaof", "127.0.0.1", &port]).unwrap();
        let split = Split { old, new, between, database: Arc::default() };
        split.until_old_says("state=online").await;
        // The replica reports itself once a second.
        split.until_old_says("lag=0").await;
        split
    }

    async fn until_old_says(&self, what: &str) {
        let says = || self.old.command(&["INFO", "replication"]).unwrap().contains(what);
        until(what, says).await;
    }

    /// The network loses every packet between the two. The old master does not see its replica leave.
    fn cut(&mut self) {
        self.between.stall(Way::Both);
        self.new.promote().unwrap();
    }

    async fn read(&self, cache: &QueryCache) -> Answer<Arc<i64>> {
        let database = self.database.clone();
        let load = move || async move { Ok::<_, std::io::Error>(database.load(Ordering::SeqCst)) };
        cache.query("SELECT 1").tag("t").load(load).answer().await.unwrap()
    }

    /// Reads on the old master's side until a change that the new master has acknowledged is seen.
    /// Returns how long that took, and how many stale results there were.
    async fn misled(&self, reader: &QueryCache, writer: &QueryCache) -> (Duration, usize) {
        assert_eq!(self.read(reader).await.value(), &Arc::new(0));
        self.database.store(1, Ordering::SeqCst);
        writer.invalidate(["t"]).await.acknowledged().unwrap();
        let (acknowledged, mut last, mut stale) = (Instant::now(), Duration::ZERO, 0);
        until_async("the change is seen", async || {
            let begin = acknowledged.elapsed();
            let is_stale = **self.read(reader).await.value() == 0;
            if is_stale {
                (last, stale) = (begin, stale + 1);
            }
            !is_stale
        })
        .await;
        (last, stale)
    }
}

fn cache_on(redis: &Redis) -> QueryCacheBuilder {
    let builder = QueryCache::builder().namespace("deposed").redis(redis.url());
    builder.max_staleness(MAX_STALENESS).ttl(MINUTE)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_left_with_a_deposed_master_is_misled_for_the_lag_and_no_longer() {
    for lag in [1, 3].map(Duration::from_secs) {
        let mut split = Split::whole().await;
        let reader = cache_on(&split.old).redis_min_replicas(1, lag).build().await.unwrap();
        split.read(&reader).await;
        assert_eq!(split.read(&reader).await.origin(), Origin::L1, "in use before the split");
        split.cut();
        let writer = cache_on(&split.new).build().await.unwrap();
        let (misled, stale) = split.misled(&reader, &writer).await;
        println!("lag {lag:?}: {stale} stale results for {misled:?}");
        // Bounded by Redis's clock, however busy this machine is.
        let bound = MAX_STALENESS + lag + Duration::from_secs(1);
        assert!(misled <= bound, "{misled:?} of {bound:?}");
        // Nor does it get to believe that master again.
        let before = reader.stats().l2_hits;
        for _ in 0..20 {
            split.read(&reader).await;
        }
        assert_eq!(reader.stats().l2_hits, before);
        assert!(reader.stats().refused_connections > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_demand_it_is_misled_until_the_servers_own_setting_ends_it() {
    let mut split = Split::whole().await;
    let reader = cache_on(&split.old).build().await.unwrap();
    split.read(&reader).await;
    split.cut();
    let writer = cache_on(&split.new).build().await.unwrap();
    assert_eq!(split.read(&reader).await.value(), &Arc::new(0));
    split.database.store(1, Ordering::SeqCst);
    writer.invalidate(["t"]).await.acknowledged().unwrap();
    let acknowledged = Instant::now();
    // Longer than any bound of the test above.
    while acknowledged.elapsed() < Duration::from_secs(6) {
        assert_eq!(split.read(&reader).await.value(), &Arc::new(0), "it cannot know");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (setting, value) in [("min-replicas-to-write", "1"), ("min-replicas-max-lag", "1")] {
        split.old.command(&["CONFIG", "SET", setting, value]).unwrap();
    }
    until_async("the change is seen", async || **split.read(&reader).await.value() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalidation_that_only_the_deposed_master_has_acknowledged_reaches_its_successor() {
    let mut split = Split::whole().await;
    // Its address leads to the old master, and to the new one later.
    let address = Service::start(&split.old).await;
    let url = format!("redis://127.0.0.1:{}", address.port);
    let lag = Duration::from_secs(1);
    let writer = cache_on(&split.old).redis(url).redis_min_replicas(1, lag).build().await.unwrap();
    split.read(&writer).await;
    split.cut();
    // Loaded in the new lineage, before the change.
    let reader = cache_on(&split.new).build().await.unwrap();
    assert_eq!(split.read(&reader).await.value(), &Arc::new(0));
    split.database.store(1, Ordering::SeqCst);
    writer.invalidate(["t"]).await.acknowledged().unwrap();
    assert_eq!(split.read(&reader).await.value(), &Arc::new(0), "nobody has told it");
    // The old master notices that it has lost its replica, and the writer follows the address.
    address.name(&split.new);
    split.new.command(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]).unwrap();
    let _replica = Redis::start_replica_of(&split.new).unwrap();
    until_async("the change is seen", async || **split.read(&reader).await.value() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalidation_at_a_master_without_its_replicas_is_kept_and_announced_later() {
    let split = Split::whole().await;
    let lag = Duration::from_secs(1);
    let one = cache_on(&split.old).redis_min_replicas(1, lag).build().await.unwrap();
    let other = cache_on(&split.old).redis_min_replicas(1, lag).build().await.unwrap();
    split.read(&one).await;
    split.read(&other).await;
    split.between.cut();
    split.until_old_says("connected_slaves:0").await;
    split.database.store(1, Ordering::SeqCst);
    one.invalidate(["t"]).await.acknowledged().unwrap_err();
    assert_eq!(split.read(&one).await.value(), &Arc::new(1), "here it is in force");
    split.between.pass();
    until_async("it is announced", async || **split.read(&other).await.value() == 1).await;
    until_async("redis is used again", async || one.invalidate(["t"]).await.acknowledged().is_ok())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_without_the_demanded_replicas_says_how_many_there_are() {
    let redis = Redis::start_tcp().unwrap();
    let lag = Duration::from_secs(2);
    let error = cache_on(&redis).redis_min_replicas(1, lag).build().await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("NOREPLICAS 0 of the demanded 1 replicas"), "{text}");
    // Once there is one, a cache that did not insist on Redis has it.
    let cache = cache_on(&redis).redis_min_replicas(1, lag).redis_optional().build().await.unwrap();
    assert!(cache.invalidate(["t"]).await.acknowledged().is_err());
    let _replica = Redis::start_replica_of(&redis).unwrap();
    until_async("redis is used", async || cache.invalidate(["t"]).await.acknowledged().is_ok())
        .await;
    for (lag, number) in [(Duration::from_millis(999), 1), (2 * MINUTE * 60, 1)] {
        let error = cache_on(&redis).redis_min_replicas(number, lag).build().await.unwrap_err();
        assert!(error.to_string().contains("redis_min_replicas"), "{error}");
    }
    cache_on(&redis).redis_min_replicas(0, Duration::ZERO).build().await.unwrap();
}
