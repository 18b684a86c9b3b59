//! Does a cache that outlives its runtime, as one in a static does, still use Redis?

use std::sync::Arc;
use std::time::Duration;

use futures_executor::block_on;
use larder::{ErrorKind, Origin, QueryCache};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

use crate::support::{namespace, over_redis, until, until_async, written};

fn single() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn threads() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

const KINDS: [fn() -> Runtime; 2] = [single, threads];

/// Builds a cache in a runtime and ends the runtime.
fn left_behind(runtime: Runtime, namespace: &str) -> QueryCache {
    let cache = runtime.block_on(over_redis(namespace).build()).unwrap();
    assert_eq!(runtime.block_on(read(&cache, "first")), Origin::Loaded);
    runtime.block_on(written(&cache, 1));
    cache
}

async fn read(cache: &QueryCache, sql: &str) -> Origin {
    let query = cache.query(sql).tag("t").load_deadline(Duration::from_secs(30));
    query.load(|| async { Ok::<_, std::io::Error>(7_i32) }).answer().await.unwrap().origin()
}

#[test]
fn each_next_runtime_uses_redis_with_its_first_read_and_its_first_invalidation() {
    for (first, next) in KINDS.into_iter().flat_map(|one| KINDS.map(|two| (one, two))) {
        let namespace = namespace();
        let others = threads();
        let other = others.block_on(over_redis(&namespace).build()).unwrap();
        let cache = left_behind(first(), &namespace);
        for round in 0..2 {
            // Known to Redis alone.
            let sql = format!("SELECT {round}");
            others.block_on(async {
                read(&other, &sql).await;
                written(&other, 2 * round + 1).await;
            });
            next().block_on(async {
                assert_eq!(read(&cache, &sql).await, Origin::L2);
            });
            // Nothing was read here before.
            next().block_on(async {
                cache.invalidate(["t"]).await.acknowledged().unwrap();
            });
            others.block_on(async {
                let heard = async || read(&other, &sql).await != Origin::L1;
                until_async("the invalidation has arrived", heard).await;
                // What was loaded then must not be taken for the next round's.
                written(&other, 2 * round + 2).await;
                other.clear().await;
            });
        }
    }
}

#[test]
fn invalidations_by_others_arrive_on_the_next_runtime() {
    let namespace = namespace();
    let first = threads();
    // Without Redis, memory would go on serving for an hour.
    let builder = over_redis(&namespace).disconnected_ttl(Duration::from_secs(3600));
    let cache = first.block_on(builder.build()).unwrap();
    drop(first);
    threads().block_on(async {
        let other = over_redis(&namespace).build().await.unwrap();
        read(&cache, "pushed").await;
        assert_eq!(read(&cache, "pushed").await, Origin::L1);
        other.invalidate(["t"]).await.acknowledged().unwrap();
        let arrived = async || read(&cache, "pushed").await != Origin::L1;
        until_async("the invalidation has arrived", arrived).await;
    });
}

#[test]
fn without_any_runtime_left_nothing_panics_and_an_invalidation_is_announced_later() {
    for kind in KINDS {
        let namespace = namespace();
        let cache = left_behind(kind(), &namespace);
        let query = cache.query("SELECT 1");
        let load = query.load(|| async { Ok::<_, std::io::Error>(7_i32) });
        assert_eq!(block_on(load).unwrap_err().kind(), ErrorKind::Closed);
        assert!(!block_on(cache.invalidate(["t"])).is_acknowledged());
        threads().block_on(async {
            let other = over_redis(&namespace).build().await.unwrap();
            assert_eq!(read(&other, "first").await, Origin::L2, "it has not heard of it");
            read(&cache, "another").await;
            let heard = async || read(&other, "first").await == Origin::Loaded;
            until_async("the invalidation has arrived", heard).await;
        });
        block_on(cache.shutdown());
    }
}

#[test]
fn a_shutdown_on_the_next_runtime_announces_what_is_pending() {
    let namespace = namespace();
    let cache = left_behind(single(), &namespace);
    assert!(!block_on(cache.invalidate(["t"])).is_acknowledged());
    single().block_on(async {
        let other = over_redis(&namespace).build().await.unwrap();
        cache.shutdown().await;
        assert_eq!(read(&other, "first").await, Origin::Loaded);
    });
}

#[test]
fn a_flight_that_ended_with_its_runtime_leaves_redis_to_the_next() {
    for kind in KINDS {
        let namespace = namespace();
        let runtime = threads();
        let cache = runtime.block_on(over_redis(&namespace).build()).unwrap();
        let begun = Arc::new(Notify::new());
        let (begins, shared) = (begun.clone(), cache.clone());
        runtime.spawn(async move {
            let query = shared.query("held").tag("t");
            let read = query.load(move || async move {
                begins.notify_one();
                std::future::pending::<Result<i32, std::io::Error>>().await
            });
            let _ = read.await;
        });
        runtime.block_on(begun.notified());
        let next = kind();
        let reader = std::thread::spawn({
            let cache = cache.clone();
            move || {
                next.block_on(async {
                    let origin = read(&cache, "held").await;
                    // That one may have met the connections while they moved to this runtime.
                    let mut others = 0;
                    until_async("the results are in redis", async || {
                        others += 1;
                        read(&cache, &format!("another {others}")).await;
                        cache.stats().l2_writes > 0
                    })
                    .await;
                    cache.invalidate(["t"]).await.acknowledged().unwrap();
                    origin
                })
            }
        });
        runtime.block_on(until("the reader waits", || cache.stats().coalesced == 1));
        drop(runtime);
        assert_eq!(reader.join().unwrap(), Origin::Loaded);
    }
}
