//! Over Redis: the other processes, the announcements, and Redis itself.

use super::*;
use crate::servers::{Proxy, Redis};
use crate::wire::{connect, only_key};

async fn two(settings: impl Fn(QueryCacheBuilder) -> QueryCacheBuilder) -> [QueryCache; 2] {
    let namespace = namespace();
    let build = async || settings(over_redis(&namespace)).build().await.unwrap();
    [build().await, build().await]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalidation_reaches_the_memory_of_others_by_a_push() {
    // The one who is told can ask nothing: its questions are held, only notices come.
    let redis = Redis::start_tcp().unwrap();
    let proxy = Proxy::to_redis(&redis).unwrap();
    let build = |url: String| {
        let builder = QueryCache::builder().namespace("push").redis(url);
        builder.redis_timeout(Duration::from_secs(10)).max_staleness(Duration::from_secs(3600))
    };
    let here = build(redis.url()).build().await.unwrap();
    let there = build(proxy.url()).build().await.unwrap();
    until_async("it listens", async || proxy.links().iter().any(|it| it.said("SUBSCRIBE"))).await;
    let table = Table::default();
    let [a, b] = [&here, &there].map(|cache| cache.query("SELECT 1").tag("t"));
    table.read(&a).await;
    written(&here, 1).await;
    assert_eq!(table.read(&b).await, (0, Origin::L2));
    assert_eq!(table.read(&b).await, (0, Origin::L1));
    proxy
        .links()
        .into_iter()
        .filter(|link| !link.said("SUBSCRIBE"))
        .for_each(|link| link.stall(crate::servers::Way::ToServer));
    table.write();
    here.invalidate(["t"]).await.acknowledged().unwrap();
    until_async("the push has come", async || {
        let read = tokio::time::timeout(Duration::from_millis(50), table.read(&b)).await;
        // What it would load anew has to wait for Redis.
        read.is_err()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_of_redis_knows_all_that_was_acknowledged_before_it() {
    // No pushes come, and beats do not come in time: the read itself has to find out.
    let redis = Redis::start_tcp().unwrap();
    let proxy = Proxy::to_redis(&redis).unwrap();
    let build = async |url: String| {
        let builder = QueryCache::builder().namespace("strict").redis(url);
        builder.redis_timeout(Duration::from_secs(10)).max_staleness(Duration::from_secs(3600))
    };
    let here = build(redis.url()).await.build().await.unwrap();
    let there = build(proxy.url()).await.l1_ttl(Duration::from_millis(1));
    let there = there.build().await.unwrap();
    until_async("it listens", async || proxy.links().iter().any(|it| it.said("SUBSCRIBE"))).await;
    proxy
        .links()
        .into_iter()
        .filter(|link| link.said("SUBSCRIBE"))
        .for_each(|link| link.stall(crate::servers::Way::ToClient));
    let table = Table::default();
    let [a, b] = [&here, &there].map(|cache| cache.query("SELECT 1").tag("t"));
    for round in 1..200 {
        table.read(&a).await;
        table.read(&b).await;
        table.write();
        here.invalidate(["t"]).await.acknowledged().unwrap();
        // What memory has there ended a millisecond after it came.
        let came = std::time::Instant::now();
        while came.elapsed() < Duration::from_millis(2) {
            tokio::task::yield_now().await;
        }
        assert_eq!(table.read(&b).await.0, round);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalidation_without_redis_is_in_force_here_and_announced_later() {
    let mut redis = Redis::start().unwrap();
    let build = async || {
        let builder = QueryCache::builder().namespace("later").redis(redis.url());
        builder.disconnected_ttl(Duration::from_secs(3600)).build().await.unwrap()
    };
    let (here, there) = (build().await, build().await);
    let table = Table::default();
    let [a, b] = [&here, &there].map(|cache| cache.query("SELECT 1").tag("t"));
    table.read(&a).await;
    written(&here, 1).await;
    assert_eq!(table.read(&b).await.1, Origin::L2);
    redis.pause().unwrap();
    table.write();
    let error = here.invalidate(["t"]).await.acknowledged().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unacknowledged);
    assert!(error.to_string().contains("announced as soon as redis takes it"), "{error}");
    assert_eq!(table.read(&a).await, (1, Origin::Loaded));
    // What was loaded since is current, although Redis has not heard of the invalidation.
    assert_eq!(table.read(&a).await, (1, Origin::L1));
    redis.resume().unwrap();
    until_async("the other has heard of it", async || table.read(&b).await.0 == 1).await;
    assert_eq!((here.stats().unacknowledged, there.stats().unacknowledged), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalidation_never_fails() {
    let mut redis = Redis::start().unwrap();
    let build = async || {
        let builder = QueryCache::builder().namespace("never").redis(redis.url());
        builder.disconnected_ttl(Duration::from_secs(3600)).build().await.unwrap()
    };
    let (here, there) = (build().await, build().await);
    let table = Table::default();
    let [a, b] = [&here, &there].map(|cache| cache.query("SELECT 1").tag("t"));
    let ways = ["tags", "everything", "a query", "outside of any runtime"];
    for (number, way) in ways.into_iter().enumerate() {
        table.read(&a).await;
        table.read(&b).await;
        redis.pause().unwrap();
        let written = table.write();
        let invalidated = match way {
            "tags" => here.invalidate(["t"]).await,
            "everything" => here.clear().await,
            "a query" => here.invalidate_query(&a).await,
            _ => {
                let here = here.clone();
                let alone = || block_on(async move { here.invalidate(["t"]).await });
                std::thread::spawn(alone).join().unwrap()
            }
        };
        assert!(!invalidated.is_acknowledged(), "{way}");
        assert_eq!(invalidated.error().unwrap().kind(), ErrorKind::Unacknowledged, "{way}");
        assert_eq!(table.read(&a).await.0, written, "{way}: in force here");
        redis.resume().unwrap();
        let current = async || table.read(&b).await.0 == written;
        until_async("the other process reads what is current", current).await;
        assert_eq!(here.stats().unacknowledged, number as u64 + 1, "{way}: counted");
        let again = async || here.invalidate(["another"]).await.is_acknowledged();
        until_async("redis acknowledges again", again).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalidation_whose_caller_left_is_announced_all_the_same() {
    let mut redis = Redis::start().unwrap();
    let build =
        async || QueryCache::builder().namespace("left").redis(redis.url()).build().await.unwrap();
    let (here, there) = (build().await, build().await);
    let table = Table::default();
    let b = there.query("SELECT 1").tag("t");
    table.read(&b).await;
    table.write();
    redis.pause().unwrap();
    let left = tokio::time::timeout(Duration::from_millis(5), here.invalidate(["t"])).await;
    assert!(left.is_err());
    assert_eq!(here.stats().unacknowledged, 1, "counted");
    redis.resume().unwrap();
    until_async("the other has heard of it", async || table.read(&b).await.0 == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_depends_on_a_tag_by_the_word_of_its_loader_is_stale_in_redis_too() {
    let [here, there] = two(|builder| builder).await;
    let load = async |cache: &QueryCache| {
        let load =
            || async { Ok::<_, std::io::Error>(Tagged::new(7_i64).tag("only the loader knows")) };
        cache.query("SELECT 1").load_tagged(load).answer().await.unwrap().origin()
    };
    load(&here).await;
    written(&here, 1).await;
    assert_eq!(load(&there).await, Origin::L2);
    there.invalidate(["only the loader knows"]).await.acknowledged().unwrap();
    assert_eq!(load(&there).await, Origin::Loaded);
    let third = &two(|builder| builder).await[0];
    assert_eq!(load(third).await, Origin::Loaded, "another namespace");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_of_an_overtaken_load_is_not_stored() {
    let namespace = namespace();
    let cache = over_redis(&namespace).build().await.unwrap();
    let other = over_redis(&namespace).build().await.unwrap();
    let (table, query) = (Table::default(), cache.query("SELECT 1").tag("t"));
    let (seen, reading) = oneshot::channel();
    let (go_on, waiting) = oneshot::channel();
    let slow = {
        let (query, table) = (query.clone(), table.clone());
        tokio::spawn(async move { held_load(&query, &table, seen, waiting).await })
    };
    reading.await.unwrap();
    table.write();
    // By another process: its lease is superseded, and it takes the load over.
    other.invalidate(["t"]).await.acknowledged().unwrap();
    let theirs = other.query("SELECT 1").tag("t");
    assert_eq!(table.read(&theirs).await, (1, Origin::Loaded));
    written(&other, 1).await;
    let mut redis = connect().await;
    let key = only_key(&mut redis, &namespace).await;
    let stored: Vec<u8> = redis::cmd("GET").arg(&key).query_async(&mut redis).await.unwrap();
    go_on.send(()).unwrap();
    slow.await.unwrap();
    until_async("the fill was refused", async || cache.stats().l2_overtaken == 1).await;
    let after: Vec<u8> = redis::cmd("GET").arg(&key).query_async(&mut redis).await.unwrap();
    assert_eq!(stored, after);
}

/// One announcement is under way at a time, and whoever comes meanwhile takes part in the next one.
#[tokio::test]
async fn callers_who_come_together_share_announcements_and_all_are_in_force() {
    let redis = Redis::start().unwrap();
    let builder = QueryCache::builder().namespace("shared").redis(redis.url());
    let builder = builder.redis_timeout(Duration::from_secs(10));
    let (here, there) = (builder.clone().build().await.unwrap(), builder.build().await.unwrap());
    let table = Table::default();
    let queries: Vec<_> = (0..32)
        .map(|number| {
            // Every read is to ask Redis.
            let query = there.query(format!("SELECT {number}")).tag(format!("t:{number}"));
            query.l1_ttl(Duration::from_millis(1))
        })
        .collect();
    for query in &queries {
        until_async("it comes from redis", async || table.read(query).await.1 == Origin::L2).await;
    }
    table.write();
    redis.command(&["CONFIG", "RESETSTAT"]).unwrap();
    let calls = (0..32).map(|number| here.invalidate([format!("t:{number}")]));
    for invalidated in futures_util::future::join_all(calls).await {
        invalidated.acknowledged().unwrap();
    }
    let stats = redis.command(&["INFO", "commandstats"]).unwrap();
    let published = stats.lines().find_map(|line| line.strip_prefix("cmdstat_publish:calls="));
    let published: u64 = published.unwrap().split(',').next().unwrap().parse().unwrap();
    // The first one goes at once, and the others go together. The heartbeat may come in between.
    assert!((1..=4).contains(&published), "{stats}");
    for query in &queries {
        assert_eq!(table.read(query).await.0, 1);
    }
}
