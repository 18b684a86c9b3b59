//! Batches while Redis is away, silent or damaged.
#![cfg(feature = "redis")]

use std::time::{Duration, Instant};

use larder::{Origin, QueryCache};

use super::{Loader, origins, values};
use crate::servers::Redis;
use crate::support::written;

const PATIENCE: Duration = Duration::from_secs(10);

async fn over(redis: &Redis, limit: Duration) -> QueryCache {
    let builder = QueryCache::builder().namespace("faults").redis(redis.url());
    builder.redis_timeout(limit).build().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_silent_or_gone_fails_no_value_and_delays_none_long() {
    for dies in [false, true] {
        let mut redis = Redis::start_tcp().unwrap();
        let cache = over(&redis, Duration::from_millis(100)).await;
        let (query, loader) = (cache.query("SELECT 1"), Loader::open());
        if dies {
            redis.kill().unwrap()
        } else {
            redis.pause().unwrap()
        }
        let begin = Instant::now();
        let given: Vec<i64> = (0..5_000).collect();
        let expected: Vec<i64> = given.iter().map(|it| it * 10).collect();
        assert_eq!(values(&query, &loader, given).await, expected);
        println!(
            "{:?} for 5,000 values, redis {}",
            begin.elapsed(),
            if dies { "dead" } else { "silent" }
        );
        assert!(loader.times().values().all(|&times| times == 1));
        assert!(loader.asked().len() <= 10, "{}", loader.asked().len());
        if !dies {
            redis.resume().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_entry_is_loaded_again_and_the_others_are_hits() {
    let redis = Redis::start_tcp().unwrap();
    let filler = over(&redis, PATIENCE).await;
    let loader = Loader::open();
    let given: Vec<i64> = (0..40).collect();
    values(&filler.query("SELECT 1"), &loader, given.clone()).await;
    written(&filler, 40).await;
    let names = redis.command(&["KEYS", "larder:faults:*}"]).unwrap();
    let names: Vec<_> = names.lines().collect();
    assert_eq!(names.len(), 40);
    redis.command(&["SETRANGE", names[7], "120", "damaged"]).unwrap();
    redis.command(&["SET", names[8], "foreign"]).unwrap();
    redis.command(&["DEL", names[9]]).unwrap();
    let cache = over(&redis, PATIENCE).await;
    let origins = origins(&cache.query("SELECT 1"), &loader, given).await;
    let count = |wanted| origins.iter().filter(|it| **it == wanted).count();
    assert_eq!((count(Origin::L2), count(Origin::Loaded)), (37, 3));
    // The three by one load.
    assert_eq!(loader.asked()[1].len(), 3);
    assert_eq!(cache.stats().l2_refused, 2);
}
