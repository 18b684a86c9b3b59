//! Does a read ever fail, or hang, because of Redis?

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use larder::{Invalidated, Origin, QueryCache, QueryCacheBuilder};

use crate::servers::Redis;
use crate::support::until_async;

fn cache_on(url: &str) -> QueryCacheBuilder {
    // Every read of these tests is to ask Redis: memory keeps nothing for long.
    QueryCache::builder().namespace("outage").redis(url).l1_ttl(Duration::from_millis(1))
}

async fn read(cache: &QueryCache, number: i32) -> Origin {
    let query = cache.query("SELECT 1");
    let read = query.params((number,)).load(move || async move { Ok::<_, std::io::Error>(number) });
    let answer = read.answer().await.unwrap();
    assert_eq!(**answer.value(), number);
    answer.origin()
}

/// Reads until an answer comes from Redis.
async fn until_redis_answers(cache: &QueryCache) {
    until_async("an answer comes from redis", async || {
        read(cache, -1).await;
        read(cache, -1).await == Origin::L2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_redis_is_passed_over_and_used_again_when_it_is_back() {
    let mut redis = Redis::start().unwrap();
    let cache = cache_on(&redis.url()).build().await.unwrap();
    until_redis_answers(&cache).await;
    redis.kill().unwrap();
    for number in 0..200 {
        assert_ne!(read(&cache, number).await, Origin::L2);
    }
    assert!(cache.stats().l2_errors >= 200);
    redis.restart().unwrap();
    until_redis_answers(&cache).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_redis_costs_two_time_limits_and_no_more() {
    let mut redis = Redis::start().unwrap();
    let limit = Duration::from_millis(200);
    let cache = cache_on(&redis.url()).redis_timeout(limit).build().await.unwrap();
    until_redis_answers(&cache).await;
    redis.pause().unwrap();
    let begin = Instant::now();
    for number in 0..100 {
        assert_ne!(read(&cache, number).await, Origin::L2);
    }
    // Each of the hundred would have waited once or twice without giving the connection up.
    assert!(begin.elapsed() < 20 * limit, "{:?}", begin.elapsed());
    redis.resume().unwrap();
    until_redis_answers(&cache).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_under_way_when_redis_is_killed_are_answered() {
    for _ in 0..5 {
        let mut redis = Redis::start().unwrap();
        let cache = cache_on(&redis.url()).build().await.unwrap();
        let readers: Vec<_> = (0..4)
            .map(|reader| {
                let cache = cache.clone();
                tokio::spawn(async move {
                    for number in 0..500 {
                        read(&cache, reader * 1000 + number).await;
                    }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        redis.kill().unwrap();
        for reader in readers {
            reader.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_full_or_read_only_or_wants_a_password_is_passed_over() {
    let redis = Redis::start().unwrap();
    let cache = cache_on(&redis.url()).build().await.unwrap();
    until_redis_answers(&cache).await;
    let client = redis::Client::open(redis.url()).unwrap();
    let mut admin = client.get_multiplexed_async_connection().await.unwrap();
    let mut set = async |name: &str, value: &str| {
        redis::cmd("CONFIG").arg("SET").arg(name).arg(value).exec_async(&mut admin).await.unwrap();
    };
    set("maxmemory", "1").await;
    for number in 0..20 {
        assert_eq!(read(&cache, number).await, Origin::Loaded);
    }
    set("maxmemory", "0").await;
    until_redis_answers(&cache).await;
    // A replica of nobody accepts no writes.
    redis::cmd("REPLICAOF").arg("127.0.0.1").arg("1").exec_async(&mut admin).await.unwrap();
    for number in 20..40 {
        assert_eq!(read(&cache, number).await, Origin::Loaded);
    }
    redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec_async(&mut admin).await.unwrap();
    until_redis_answers(&cache).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_answers_garbage_or_nothing_fails_no_read() {
    for greeting in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"+OK\r\n$-7\r\n", b""] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sock");
        let listener = UnixListener::bind(&path).unwrap();
        let answers = std::thread::spawn(move || {
            // Until the test is over and connects for the last time.
            let mut open = vec![];
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut first = [0; 1];
                match std::io::Read::read(&mut stream, &mut first) {
                    Ok(1) if first[0] == b'!' => return,
                    _ => {}
                }
                let _ = stream.write_all(greeting);
                open.push(stream);
            }
        });
        let cache = cache_on(&format!("unix://{}", path.display()));
        let cache = cache.redis_optional().build().await.unwrap();
        for number in 0..50 {
            assert_eq!(read(&cache, number).await, Origin::Loaded);
        }
        drop(cache);
        std::os::unix::net::UnixStream::connect(&path).unwrap().write_all(b"!").unwrap();
        answers.join().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_comes_up_after_the_start_is_used() {
    let mut redis = Redis::start().unwrap();
    redis.kill().unwrap();
    let cache = cache_on(&redis.url()).redis_optional().build().await.unwrap();
    assert_eq!(read(&cache, 1).await, Origin::Loaded);
    redis.restart().unwrap();
    until_redis_answers(&cache).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hiccup_that_many_reads_meet_at_once_keeps_the_connection() {
    let mut redis = Redis::start().unwrap();
    let limit = Duration::from_millis(300);
    let cache = cache_on(&redis.url()).redis_timeout(limit).build().await.unwrap();
    until_redis_answers(&cache).await;
    let client = redis::Client::open(redis.url()).unwrap();
    let mut admin = client.get_multiplexed_async_connection().await.unwrap();
    let mut connections = async || -> Vec<String> {
        let list: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut admin).await.unwrap();
        let id = |line: &str| line.split_once(' ').unwrap().0.to_owned();
        list.lines().map(id).collect()
    };
    let before = connections().await;
    redis.pause().unwrap();
    let together = (0..20).map(|number| read(&cache, number));
    let origins = futures_util::future::join_all(together).await;
    redis.resume().unwrap();
    assert!(origins.iter().all(|&origin| origin == Origin::Loaded));
    until_redis_answers(&cache).await;
    let after = connections().await;
    assert!(before.iter().all(|id| after.contains(id)), "{before:?}, then {after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hit_in_redis_takes_one_round_trip_and_a_miss_three() {
    let redis = Redis::start().unwrap();
    let clock = larder::testing::ManualClock::new();
    // A busy machine must not make it a test of the time limit.
    let cache = cache_on(&redis.url()).namespace("trips").redis_timeout(Duration::from_secs(10));
    let cache = cache.l1_ttl(Duration::from_secs(1)).clock(clock.clone()).build().await.unwrap();
    let client = redis::Client::open(redis.url()).unwrap();
    let mut admin = client.get_multiplexed_async_connection().await.unwrap();
    // How often the server found something to read on a connection: commands that arrive together
    // count once. Asking is one.
    let mut reads = async || -> u64 {
        let info: String = redis::cmd("INFO").arg("stats").query_async(&mut admin).await.unwrap();
        let line = info.lines().find(|line| line.starts_with("total_reads_processed:"));
        line.unwrap().split_once(':').unwrap().1.trim().parse().unwrap()
    };
    // Beats go on besides.
    let before = reads().await;
    for number in 0..100 {
        assert_eq!(read(&cache, number).await, Origin::Loaded);
    }
    crate::support::written(&cache, 100).await;
    let after_misses = reads().await;
    assert!(after_misses - before <= 310, "{} round trips", after_misses - before);
    clock.advance(Duration::from_secs(1));
    for number in 0..100 {
        assert_eq!(read(&cache, number).await, Origin::L2);
    }
    let after_hits = reads().await;
    assert!(after_hits - after_misses <= 110, "{} round trips", after_hits - after_misses);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_slower_than_the_time_limit_is_not_waited_for() {
    let redis = Redis::start().unwrap();
    let cache = cache_on(&redis.url()).build().await.unwrap();
    until_redis_answers(&cache).await;
    let client = redis::Client::open(redis.url()).unwrap();
    let mut admin = client.get_multiplexed_async_connection().await.unwrap();
    let pause = Duration::from_secs(20);
    let mut command = redis::cmd("CLIENT");
    command.arg("PAUSE").arg(pause.as_millis() as u64).arg("ALL");
    command.exec_async(&mut admin).await.unwrap();
    let begin = Instant::now();
    for number in 0..20 {
        assert_eq!(read(&cache, number).await, Origin::Loaded);
    }
    assert!(begin.elapsed() < pause / 2, "{:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_less_patient_than_the_cache_are_answered_while_redis_is_frozen() {
    let mut redis = Redis::start().unwrap();
    let limit = Duration::from_millis(300);
    let cache = cache_on(&redis.url()).redis_timeout(limit).build().await.unwrap();
    until_redis_answers(&cache).await;
    redis.pause().unwrap();
    until_async("a caller who waits for 100 ms at most is answered", async || {
        let patience = Duration::from_millis(100);
        tokio::time::timeout(patience, read(&cache, 1)).await.is_ok()
    })
    .await;
    redis.resume().unwrap();
    until_redis_answers(&cache).await;
}

/// Runs it on a thread of its own, and fails if it does not end: a loop that never yields could not be
/// stopped otherwise.
fn ends(what: &str, run: impl FnOnce() + Send + 'static) {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        run();
        let _ = done.send(());
    });
    let ended = ended.recv_timeout(Duration::from_secs(60));
    ended.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

#[test]
fn an_invalidation_tried_again_at_once_succeeds_when_redis_is_back() {
    for threads in [0, 1, 2] {
        ends("an invalidation is acknowledged", move || {
            let runtime = match threads {
                0 => tokio::runtime::Builder::new_current_thread().enable_all().build(),
                threads => tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(threads)
                    .enable_all()
                    .build(),
            };
            runtime.unwrap().block_on(async {
                let mut redis = Redis::start().unwrap();
                let cache = cache_on(&redis.url()).redis_timeout(Duration::from_secs(10));
                let cache = cache.build().await.unwrap();
                until_redis_answers(&cache).await;
                redis.kill().unwrap();
                cache.invalidate(["t"]).await.acknowledged().unwrap_err();
                // Long enough for the pauses between attempts to connect to be the longest.
                let restarted = std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_secs(2));
                    redis.restart().unwrap();
                    (redis, Instant::now())
                });
                let again = async || {
                    let mut failed_at = Instant::now();
                    loop {
                        let begin = Instant::now();
                        if cache.invalidate(["t"]).await.is_acknowledged() {
                            return failed_at;
                        }
                        failed_at = begin;
                    }
                };
                let (one, two, three) = tokio::join!(again(), again(), again());
                let (_redis, back) = restarted.join().unwrap();
                // An invalidation waits for a second. So the first one that begins when Redis is back
                // is acknowledged, if not the one before.
                assert!([one, two, three].iter().all(|failed_at| *failed_at < back));
            });
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalidation_waits_for_a_connection_and_not_longer_than_a_second() {
    let mut redis = Redis::start().unwrap();
    let cache = cache_on(&redis.url()).build().await.unwrap();
    until_redis_answers(&cache).await;
    redis.kill().unwrap();
    let begin = Instant::now();
    let all = (0..20).map(|_| cache.invalidate(["t"]));
    let all = futures_util::future::join_all(all).await;
    assert!(all.iter().all(|one| !one.is_acknowledged()));
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(900), "{took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    // Many wait for the same connection.
    redis.restart().unwrap();
    let all = (0..20).map(|_| cache.invalidate(["t"]));
    let all = futures_util::future::join_all(all).await;
    assert!(all.iter().all(Invalidated::is_acknowledged));
}

#[cfg(feature = "test-util")]
#[test]
fn a_store_in_memory_that_is_disconnected_keeps_no_task_from_running() {
    ends("the store is connected again", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = larder::testing::MemoryStore::new();
            let cache = QueryCache::builder().namespace("outage").memory_store(&store);
            let cache = cache.build().await.unwrap();
            let again = || {
                let store = store.clone();
                store.disconnect();
                tokio::spawn(async move {
                    tokio::task::yield_now().await;
                    store.reconnect();
                })
            };
            let reconnected = again();
            while cache.invalidate(["t"]).await.acknowledged().is_err() {}
            reconnected.await.unwrap();
            let reconnected = again();
            while cache.fleet_stats().await.is_err() {}
            reconnected.await.unwrap();
        });
    });
}
