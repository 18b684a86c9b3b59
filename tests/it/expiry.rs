//! Does a result live as long as its settings say, and no longer?

use std::time::Duration;

use larder::testing::ManualClock;
use larder::{Origin, Query, QueryCache};

use crate::support::{namespace, over_redis};

const MINUTE: Duration = Duration::from_secs(60);

async fn origin(query: &Query) -> Origin {
    query.load(|| async { Ok::<_, std::io::Error>(1_i32) }).answer().await.unwrap().origin()
}

#[tokio::test]
async fn a_result_in_memory_lives_for_its_ttl() {
    let clock = ManualClock::new();
    let cache = QueryCache::builder().ttl(MINUTE).clock(clock.clone()).build().await.unwrap();
    let query = cache.query("SELECT 1");
    assert_eq!(origin(&query).await, Origin::Loaded);
    clock.advance(MINUTE - Duration::from_nanos(1));
    assert_eq!(origin(&query).await, Origin::L1);
    clock.advance(Duration::from_nanos(1));
    assert_eq!(origin(&query).await, Origin::Loaded);
}

#[tokio::test]
async fn a_query_overrides_the_caches_policy() {
    let clock = ManualClock::new();
    let cache = QueryCache::builder().ttl(MINUTE).clock(clock.clone()).build().await.unwrap();
    let short = cache.query("SELECT 1").ttl(MINUTE / 2);
    let long = cache.query("SELECT 2").ttl(10 * MINUTE);
    let brief = cache.query("SELECT 3").l1_ttl(MINUTE / 4);
    for query in [&short, &long, &brief] {
        assert_eq!(origin(query).await, Origin::Loaded);
    }
    clock.advance(MINUTE / 4);
    assert_eq!(origin(&brief).await, Origin::Loaded);
    assert_eq!(origin(&short).await, Origin::L1);
    clock.advance(MINUTE / 4);
    assert_eq!(origin(&short).await, Origin::Loaded);
    clock.advance(9 * MINUTE);
    assert_eq!(origin(&long).await, Origin::L1);
}

#[tokio::test]
async fn a_query_with_a_shorter_ttl_takes_nothing_older_from_memory() {
    let clock = ManualClock::new();
    let cache = QueryCache::builder().clock(clock.clone()).build().await.unwrap();
    let long = cache.query("SELECT 1").ttl(60 * MINUTE);
    let short = cache.query("SELECT 1").ttl(MINUTE);
    assert_eq!(origin(&long).await, Origin::Loaded);
    clock.advance(MINUTE / 2);
    assert_eq!(origin(&short).await, Origin::L1);
    clock.advance(MINUTE / 2);
    assert_eq!(origin(&long).await, Origin::L1);
    assert_eq!(origin(&short).await, Origin::Loaded);
}

#[tokio::test]
async fn a_load_of_a_longer_ttl_serves_those_who_waited_for_it_too() {
    let cache = QueryCache::builder().build().await.unwrap();
    let long = cache.query("SELECT 1").ttl(60 * MINUTE);
    let short = cache.query("SELECT 1").ttl(Duration::from_millis(1));
    let load = || async { Ok::<_, std::io::Error>(1_i32) };
    let (one, two) = tokio::join!(long.load(load).answer(), short.load(load).answer());
    // It was born after both had asked.
    assert_eq!((one.unwrap().origin(), two.unwrap().origin()), (Origin::Loaded, Origin::Coalesced));
}

#[tokio::test]
async fn jitter_spreads_the_ends_of_lives_and_shortens_only() {
    let clock = ManualClock::new();
    let builder = QueryCache::builder().ttl(MINUTE).jitter(0.5).clock(clock.clone());
    let cache = builder.build().await.unwrap();
    let queries: Vec<_> = (0..200).map(|n| cache.query(format!("SELECT {n}"))).collect();
    let mut alive = vec![];
    for query in &queries {
        assert_eq!(origin(query).await, Origin::Loaded);
    }
    for step in [29, 16, 15] {
        clock.advance(Duration::from_secs(step));
        let mut hits = 0;
        for query in &queries {
            // A result that has ended is not loaded again: that would begin a new life.
            let failing = query.load(|| async { Err::<i32, _>(std::io::Error::other("ended")) });
            hits += u32::from(failing.await.is_ok());
        }
        alive.push(hits);
    }
    assert_eq!((alive[0], alive[2]), (200, 0));
    assert!((50..150).contains(&alive[1]), "{alive:?} of 200 after half of the spread");
}

#[tokio::test]
async fn a_result_too_large_is_answered_and_not_stored() {
    let cache = over_redis(&namespace()).max_value_bytes(100).build().await.unwrap();
    let query = cache.query("SELECT 1");
    for _ in 0..2 {
        let long = query.load(|| async { Ok::<_, std::io::Error>("x".repeat(99)) });
        let answer = long.answer().await.unwrap();
        assert_eq!((answer.value().len(), answer.origin()), (99, Origin::Loaded));
    }
    let stats = cache.stats();
    assert_eq!((stats.oversized, stats.l2_writes), (2, 0));
    let larger = query.max_value_bytes(101);
    assert_eq!(
        larger.load(|| async { Ok::<_, std::io::Error>("x".repeat(99)) }).await.unwrap().len(),
        99
    );
    assert_eq!(cache.stats().oversized, 2);
}

#[cfg(feature = "redis")]
mod in_redis {
    use super::*;
    use crate::servers::Redis;
    use crate::support::{until_async, written};
    use crate::wire;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_copy_in_memory_never_outlives_the_entry_in_redis() {
        let namespace = namespace();
        let here = over_redis(&namespace).ttl(2 * MINUTE).build().await.unwrap();
        origin(&here.query("SELECT 1")).await;
        written(&here, 1).await;
        let mut redis = wire::connect().await;
        let name = wire::only_key(&mut redis, &namespace).await;
        let entry: Vec<u8> = redis::cmd("GET").arg(&name).query_async(&mut redis).await.unwrap();
        // Fifty seconds are left of it.
        let aged = wire::aged(entry, Duration::from_secs(70));
        redis::cmd("SET").arg(&name).arg(aged).exec_async(&mut redis).await.unwrap();

        // Another process, whose own policy would let it keep a copy for longer.
        let clock = ManualClock::new();
        let there =
            over_redis(&namespace).ttl(10 * MINUTE).clock(clock.clone()).build().await.unwrap();
        let query = there.query("SELECT 1");
        assert_eq!(origin(&query).await, Origin::L2);
        clock.advance(Duration::from_secs(40));
        assert_eq!(origin(&query).await, Origin::L1);
        clock.advance(Duration::from_secs(10));
        assert_ne!(origin(&query).await, Origin::L1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_reader_with_a_shorter_ttl_takes_nothing_older_from_redis() {
        let namespace = namespace();
        let here = over_redis(&namespace).ttl(10 * MINUTE).build().await.unwrap();
        origin(&here.query("SELECT 1")).await;
        written(&here, 1).await;
        let mut redis = wire::connect().await;
        let name = wire::only_key(&mut redis, &namespace).await;
        let entry: Vec<u8> = redis::cmd("GET").arg(&name).query_async(&mut redis).await.unwrap();
        let aged = wire::aged(entry, 3 * MINUTE);
        redis::cmd("SET").arg(&name).arg(aged).exec_async(&mut redis).await.unwrap();
        let there = over_redis(&namespace).build().await.unwrap();
        assert_eq!(origin(&there.query("SELECT 1").ttl(4 * MINUTE)).await, Origin::L2);
        let there = over_redis(&namespace).build().await.unwrap();
        assert_eq!(origin(&there.query("SELECT 1").ttl(2 * MINUTE)).await, Origin::Loaded);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn redis_forgets_an_entry_at_the_end_of_its_ttl() {
        let namespace = namespace();
        let here = over_redis(&namespace).ttl(Duration::from_millis(200)).build().await.unwrap();
        origin(&here.query("SELECT 1")).await;
        written(&here, 1).await;
        let mut redis = wire::connect().await;
        until_async("the entry is gone", async || {
            wire::keys(&mut redis, &namespace).await.is_empty()
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_entry_that_was_given_a_longer_life_by_hand_ends_when_it_says_itself() {
        let namespace = namespace();
        let here = over_redis(&namespace).ttl(10 * MINUTE).build().await.unwrap();
        origin(&here.query("SELECT 1")).await;
        written(&here, 1).await;
        let mut redis = wire::connect().await;
        let name = wire::only_key(&mut redis, &namespace).await;
        let entry: Vec<u8> = redis::cmd("GET").arg(&name).query_async(&mut redis).await.unwrap();
        redis::cmd("PERSIST").arg(&name).exec_async(&mut redis).await.unwrap();
        let there = over_redis(&namespace).ttl(10 * MINUTE).build().await.unwrap();
        assert_eq!(origin(&there.query("SELECT 1")).await, Origin::L2);
        // As it is eleven minutes later.
        let aged = wire::aged(entry, 11 * MINUTE);
        redis::cmd("SET").arg(&name).arg(aged).exec_async(&mut redis).await.unwrap();
        let there = over_redis(&namespace).ttl(10 * MINUTE).build().await.unwrap();
        assert_eq!(origin(&there.query("SELECT 1")).await, Origin::Loaded);
        assert_eq!(there.stats().l2_misses, 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_entry_that_has_longer_to_live_than_it_ever_had_is_refused() {
        let namespace = namespace();
        let here = over_redis(&namespace).ttl(MINUTE).build().await.unwrap();
        origin(&here.query("SELECT 1")).await;
        written(&here, 1).await;
        let mut redis = wire::connect().await;
        let name = wire::only_key(&mut redis, &namespace).await;
        let entry: Vec<u8> = redis::cmd("GET").arg(&name).query_async(&mut redis).await.unwrap();
        // As if Redis's clock had been put back.
        let younger = wire::forged(entry, |entry| {
            let number = u64::from_be_bytes(entry[88..96].try_into().unwrap());
            entry[88..96].copy_from_slice(&(number + 100_000).to_be_bytes());
        });
        redis::cmd("SET").arg(&name).arg(younger).exec_async(&mut redis).await.unwrap();
        let there = over_redis(&namespace).ttl(MINUTE).build().await.unwrap();
        assert_eq!(origin(&there.query("SELECT 1")).await, Origin::Loaded);
        assert_eq!(there.stats().l2_refused, 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_write_that_takes_effect_late_begins_no_second_life() {
        let mut redis = Redis::start().unwrap();
        let url = redis.url();
        let cache = async || {
            let builder = QueryCache::builder().namespace("late").redis(&url);
            builder.ttl(Duration::from_millis(300)).redis_optional().build().await.unwrap()
        };
        let here = cache().await;
        let warm = here.query("SELECT 0");
        until_async("redis is connected", async || {
            origin(&warm).await;
            here.stats().l2_writes > 0
        })
        .await;
        // Frozen between the lease and the write.
        let (began, running) = tokio::sync::oneshot::channel();
        let (finish, finished) = tokio::sync::oneshot::channel::<()>();
        let one = here.query("SELECT 1");
        let load = one.load(|| async {
            began.send(()).unwrap();
            finished.await.unwrap();
            Ok::<_, std::io::Error>(1_i32)
        });
        let freeze = async {
            running.await.unwrap();
            redis.pause().unwrap();
            finish.send(()).unwrap();
        };
        let (loaded, ()) = tokio::join!(load.answer(), freeze);
        let begin = std::time::Instant::now();
        assert_eq!(loaded.unwrap().origin(), Origin::Loaded);
        // The write lies before the frozen server until the life of the result is over.
        let errors = here.stats().l2_errors;
        until_async("the write is given up and the life is over", async || {
            here.stats().l2_errors > errors && begin.elapsed() > Duration::from_millis(600)
        })
        .await;
        redis.resume().unwrap();
        let client = redis::Client::open(url.as_str()).unwrap();
        let mut admin = client.get_multiplexed_async_connection().await.unwrap();
        // It has been carried out by now: the server serves its connections in turn.
        let _: String = redis::cmd("PING").query_async(&mut admin).await.unwrap();
        let there = cache().await;
        assert_ne!(origin(&there.query("SELECT 1")).await, Origin::L2);
    }
}
