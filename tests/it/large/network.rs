//! Large results over a network that is slow, silent or cut.

use std::time::Duration;

use larder::{Origin, QueryCache, QueryCacheBuilder};
use tokio::task::JoinHandle;

use super::{MIB, cache, names, over, read, small, transfers};
use crate::servers::{Proxy, Redis, Way};
use crate::support::{until, until_async, written};

/// A reader that has received the first part of a large result, over a slow network.
struct MidTransfer {
    redis: Redis,
    // Kept, for the reader's connections.
    _proxy: Proxy,
    reader: QueryCache,
    reading: JoinHandle<(Origin, u8)>,
}

/// `rate` is in bytes a second. A load of the reader returns version 1; in Redis is version 0.
async fn mid_transfer(
    size: usize,
    rate: usize,
    builder: impl FnOnce(String) -> QueryCacheBuilder,
) -> MidTransfer {
    let redis = Redis::start_tcp().unwrap();
    let writer = cache(&redis).await;
    read(&writer, size, 0).await;
    written(&writer, 1).await;
    let proxy = Proxy::to_redis(&redis).unwrap();
    let reader = builder(proxy.url()).build().await.unwrap();
    proxy.rate(rate as f64);
    let reading = tokio::spawn({
        let reader = reader.clone();
        async move { read(&reader, size, 1).await }
    });
    let arrived = || transfers(&proxy).map_or(0, |link| link.counts().to_client);
    until("a part has arrived", || arrived() > 300 << 10).await;
    MidTransfer { redis, _proxy: proxy, reader, reading }
}

fn with_memory(url: String) -> QueryCacheBuilder {
    let builder = QueryCache::builder().namespace("large").redis(url);
    builder.redis_timeout(Duration::from_secs(10))
}

fn life(redis: &Redis, name: &str) -> i64 {
    redis.command(&["PTTL", name]).unwrap().trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_a_writer_that_is_killed_have_a_short_life() {
    let redis = Redis::start_tcp().unwrap();
    let proxy = Proxy::to_redis(&redis).unwrap();
    let builder = QueryCache::builder().namespace("large").redis(proxy.url());
    let writer = builder.redis_timeout(Duration::from_secs(1)).build().await.unwrap();
    small(&writer, 1).await;
    written(&writer, 1).await;
    let before = names(&redis).len();
    proxy.rate((4 * MIB) as f64);
    read(&writer, 8 * MIB, 0).await;
    until("a part is there", || names(&redis).len() > before + 1).await;
    // As the network sees the death of a process.
    proxy.cut();
    until("the write has failed", || writer.stats().l2_writes == 1 && writer.stats().l2_errors > 0)
        .await;
    let parts: Vec<String> = names(&redis)
        .into_iter()
        .filter(|name| name.contains("}:") && !name.ends_with("lease"))
        .collect();
    assert!(!parts.is_empty());
    for part in &parts {
        let life = life(&redis, part);
        assert!((0..30_000).contains(&life), "{life}");
    }
    // No entry names them.
    assert_eq!(names(&redis).iter().filter(|name| name.ends_with('}')).count(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_result_that_cannot_be_had_in_time_is_loaded_and_not_fetched_again() {
    let redis = Redis::start_tcp().unwrap();
    let writer = cache(&redis).await;
    read(&writer, 8 * MIB, 0).await;
    small(&writer, 1).await;
    written(&writer, 2).await;
    let proxy = Proxy::to_redis(&redis).unwrap();
    let builder = QueryCache::builder().namespace("large").redis(proxy.url()).memory_off();
    let reader = builder.redis_timeout(Duration::from_secs(1)).build().await.unwrap();
    // Its load was short, so it is waited for as long as it takes at 32 MiB a second, and a second.
    proxy.rate((2 * MIB) as f64);
    assert_eq!(read(&reader, 8 * MIB, 1).await, (Origin::Loaded, 1));
    assert_eq!(reader.stats().l2_too_slow, 1);
    proxy.pass();
    assert_eq!(small(&reader, 1).await, Origin::L2);
    let before = proxy.counts();
    for reads in 2..5 {
        assert_eq!(read(&reader, 8 * MIB, reads).await, (Origin::Loaded, reads));
        assert_eq!(reader.stats().l2_too_slow, u64::from(reads));
    }
    let moved = proxy.counts() - before;
    assert!(moved.to_client < MIB as u64 && moved.to_server < MIB as u64, "{moved:?}");
    assert_eq!((reader.stats().l2_writes, reader.stats().l2_errors), (0, 0));
    // The entry is still there for others.
    assert_eq!(read(&writer, 8 * MIB, 9).await, (Origin::L2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_result_that_cannot_be_written_in_time_is_counted_and_small_ones_are_written() {
    let redis = Redis::start_tcp().unwrap();
    let proxy = Proxy::to_redis(&redis).unwrap();
    let builder = QueryCache::builder().namespace("large").redis(proxy.url()).memory_off();
    let writer = builder.redis_timeout(Duration::from_secs(1)).build().await.unwrap();
    proxy.rate((2 * MIB) as f64);
    read(&writer, 8 * MIB, 0).await;
    until("it is given up", || writer.stats().l2_too_slow == 1).await;
    until("its lease is given back", || !names(&redis).iter().any(|it| it.ends_with("lease")))
        .await;
    small(&writer, 1).await;
    until("the small one is written", || writer.stats().l2_writes == 1).await;
    proxy.pass();
    let before = proxy.counts();
    read(&writer, 8 * MIB, 1).await;
    until("it is not tried again", || writer.stats().l2_too_slow == 2).await;
    assert!((proxy.counts() - before).to_server < MIB as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_for_large_results_harms_only_them_and_is_replaced() {
    let redis = Redis::start_tcp().unwrap();
    let writer = cache(&redis).await;
    for size in [MIB, 2 * MIB, 3 * MIB] {
        read(&writer, size, 0).await;
    }
    small(&writer, 1).await;
    written(&writer, 4).await;
    let proxy = Proxy::to_redis(&redis).unwrap();
    let builder = QueryCache::builder().namespace("large").redis(proxy.url()).memory_off();
    let reader = builder.redis_timeout(Duration::from_secs(2)).build().await.unwrap();
    assert_eq!(read(&reader, MIB, 1).await, (Origin::L2, 0));
    let link = transfers(&proxy).unwrap();
    link.stall(Way::Both);
    assert_eq!(read(&reader, 2 * MIB, 1).await, (Origin::Loaded, 1));
    assert_eq!(small(&reader, 1).await, Origin::L2);
    assert_eq!((reader.stats().l2_too_slow, reader.stats().l2_errors), (1, 0));
    until("there is another connection", || proxy.links().len() == 4).await;
    until_async("large results come from redis again", async || {
        read(&reader, 3 * MIB, 1).await.0 == Origin::L2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_killed_in_mid_transfer_fails_no_read() {
    let mut scene = mid_transfer(8 * MIB, 4 * MIB, over).await;
    scene.redis.kill().unwrap();
    assert_eq!(scene.reading.await.unwrap(), (Origin::Loaded, 1));
    assert!(scene.reader.stats().l2_errors > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_invalidated_in_mid_transfer_is_not_served() {
    let scene = mid_transfer(8 * MIB, 8 * MIB, with_memory).await;
    let (reader, reading) = (&scene.reader, scene.reading);
    reader.invalidate(["reports"]).await.acknowledged().unwrap();
    // A read that begins now must not be given what the transfer brings.
    let later = read(reader, 8 * MIB, 2).await;
    assert_ne!(later.1, 0);
    reading.await.unwrap();
    assert_ne!(read(reader, 8 * MIB, 3).await.1, 0);
    assert_eq!(reader.stats().l2_hits, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_share_one_transfer_and_a_caller_that_leaves_does_not_end_it() {
    let scene = mid_transfer(4 * MIB, 8 * MIB, with_memory).await;
    let (reader, reading) = (&scene.reader, scene.reading);
    let others: Vec<_> = (0..5)
        .map(|_| {
            let reader = reader.clone();
            tokio::spawn(async move { read(&reader, 4 * MIB, 1).await })
        })
        .collect();
    reading.abort();
    for other in others {
        assert_eq!(other.await.unwrap().1, 0);
    }
    assert_eq!(read(reader, 4 * MIB, 1).await, (Origin::L1, 0));
    let stats = reader.stats();
    assert_eq!(stats.loads, 0);
    assert!(stats.l2_bytes_read < 5 * MIB as u64, "{}", stats.l2_bytes_read);
}
