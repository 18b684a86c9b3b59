//! Batches of several processes over one Redis.
#![cfg(feature = "redis")]

use std::time::Duration;

use larder::testing::ManualClock;
use larder::{Origin, QueryCache};

use super::{Loader, origins, values};
use crate::servers::{Proxy, Redis};
use crate::support::{namespace, over_redis, until, written};

struct Scene {
    /// Kept alive.
    _redis: Redis,
    proxy: Proxy,
    filler: QueryCache,
    cache: QueryCache,
    clock: ManualClock,
}

impl Scene {
    /// Two processes. The second one is behind a proxy, and what it keeps in memory is soon too old.
    async fn new() -> Scene {
        let redis = Redis::start_tcp().unwrap();
        let proxy = Proxy::to_redis(&redis).unwrap();
        let clock = ManualClock::new();
        let builder = |url: &str| {
            let builder = QueryCache::builder().namespace("many").redis(url);
            builder.redis_timeout(Duration::from_secs(10))
        };
        let filler = builder(&redis.url()).build().await.unwrap();
        let cache = builder(&proxy.url())
            .l1_ttl(Duration::from_millis(1))
            .max_staleness(Duration::from_secs(3600))
            .clock(clock.clone())
            .build()
            .await
            .unwrap();
        Scene { _redis: redis, proxy, filler, cache, clock }
    }

    fn trips(&self) -> u64 {
        self.proxy.counts_of(|link| !link.said("SUBSCRIBE")).round_trips
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_has_is_asked_for_in_one_round_trip() {
    let scene = Scene::new().await;
    let loader = Loader::open();
    let given: Vec<i64> = (0..200).collect();
    values(&scene.filler.query("SELECT 1"), &loader, given.clone()).await;
    written(&scene.filler, 200).await;
    let query = scene.cache.query("SELECT 1");
    let mut least = u64::MAX;
    // Between two of them a beat may come.
    for _ in 0..20 {
        scene.clock.advance(Duration::from_millis(1));
        let before = scene.trips();
        assert_eq!(origins(&query, &loader, given.clone()).await, [Origin::L2; 200]);
        least = least.min(scene.trips() - before);
    }
    assert_eq!((least, loader.asked().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_values_are_read_from_redis_in_bounded_pipelines() {
    let scene = Scene::new().await;
    let loader = Loader::open();
    let given: Vec<i64> = (0..10_000).collect();
    let filled = scene.filler.query("SELECT 1");
    assert_eq!(values(&filled, &loader, given.clone()).await.len(), 10_000);
    written(&scene.filler, 10_000).await;
    let before = scene.trips();
    let origins = origins(&scene.cache.query("SELECT 1"), &loader, given).await;
    assert!(origins.iter().all(|it| *it == Origin::L2));
    let trips = scene.trips() - before;
    // 20 of up to 512 keys, and a beat or two.
    assert!((20..30).contains(&trips), "{trips}");
    assert_eq!(scene.cache.stats().l2_errors, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_processes_load_each_value_once_between_them() {
    let namespace = namespace();
    let here = over_redis(&namespace).build().await.unwrap();
    let there = over_redis(&namespace).build().await.unwrap();
    let loader = Loader::open();
    for round in 0..20_i64 {
        let given: Vec<i64> = (round * 1_000..round * 1_000 + 100).collect();
        let backwards: Vec<i64> = given.iter().rev().copied().collect();
        let (one, two) = (here.query("SELECT 1"), there.query("SELECT 1"));
        let both = tokio::join!(
            values(&one, &loader, given.clone()),
            values(&two, &loader, backwards.clone())
        );
        let times_ten = |given: Vec<i64>| given.into_iter().map(|it| it * 10).collect::<Vec<_>>();
        assert_eq!(both, (times_ten(given), times_ten(backwards)));
    }
    assert_eq!(loader.times().len(), 2_000);
    assert!(loader.times().values().all(|&times| times == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_s_load_is_waited_for_and_the_others_do_not_wait() {
    let namespace = namespace();
    let here = over_redis(&namespace).build().await.unwrap();
    let there = over_redis(&namespace).build().await.unwrap();
    let (slow, fast) = (Loader::closed(), Loader::open());
    let query = there.query("SELECT 1");
    let first = tokio::spawn({
        let (query, slow) = (query.clone(), slow.clone());
        async move { values(&query, &slow, vec![1, 2]).await }
    });
    until("the other process loads", || !slow.asked().is_empty()).await;
    let query = here.query("SELECT 1");
    let second = tokio::spawn({
        let (query, fast) = (query.clone(), fast.clone());
        async move { values(&query, &fast, vec![1, 2, 3]).await }
    });
    until("the rest is loaded", || fast.asked() == [[3]]).await;
    until("it waits for the leases", || here.stats().lease_waits == 2).await;
    slow.gate.add_permits(1);
    assert_eq!(first.await.unwrap(), [10, 20]);
    assert_eq!(second.await.unwrap(), [10, 20, 30]);
    assert_eq!((slow.asked().len(), fast.asked().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalidation_by_another_process_is_respected_by_the_next_batch() {
    let scene = Scene::new().await;
    let loader = Loader::open();
    let given: Vec<i64> = (0..50).collect();
    let filled = scene.filler.query("SELECT 1").tag("t");
    values(&filled, &loader, given.clone()).await;
    written(&scene.filler, 50).await;
    // No push helps.
    for link in scene.proxy.links().iter().filter(|link| link.said("SUBSCRIBE")) {
        link.stall(crate::servers::Way::ToClient);
    }
    scene.filler.invalidate(["t"]).await.acknowledged().unwrap();
    let query = scene.cache.query("SELECT 1").tag("t");
    assert_eq!(origins(&query, &loader, given).await, [Origin::Loaded; 50]);
    assert_eq!(loader.asked().len(), 2);
    assert_eq!(scene.cache.stats().invalidated, 50);
}
