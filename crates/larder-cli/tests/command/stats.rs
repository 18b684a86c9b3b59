//! `larder stats`: are the numbers those of the fleet?

use std::time::Duration;

use larder::QueryCache;
use serde_json::Value;

use crate::servers::Redis;
use crate::support::{Ran, larder, namespace, run, until};

/// A process's cache, which has loaded each of these once and read it again so often.
pub async fn publisher(namespace: &str, reads: &[(&str, u64)]) -> QueryCache {
    let cache = QueryCache::builder()
        .namespace(namespace)
        .redis(Redis::shared().unwrap().url())
        .redis_timeout(Duration::from_secs(10))
        .publish_stats(Duration::from_millis(100))
        .build()
        .await
        .unwrap();
    for (name, again) in reads {
        let query = cache.query(*name).name(*name);
        for _ in 0..=*again {
            query.load(|| async { Ok::<_, std::io::Error>(7_i32) }).await.unwrap();
        }
    }
    cache
}

async fn stats(namespace: &str, arguments: &[&str]) -> (Ran, Value) {
    let redis = Redis::shared().unwrap().url();
    let fixed = ["stats", "--redis", &redis, "--namespace", namespace];
    let ran = run(larder(fixed.iter().chain(arguments))).await;
    let json = serde_json::from_str(&ran.out).unwrap_or(Value::Null);
    (ran, json)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_numbers_of_all_processes_are_added_up() {
    let namespace = namespace();
    let here = publisher(&namespace, &[("revenue", 5), ("orders", 1)]).await;
    let there = publisher(&namespace, &[("stock", 8)]).await;
    // The other process finds in Redis what the first has loaded.
    until("the results are in redis", async || here.stats().l2_writes == 2).await;
    let revenue = there.query("revenue").name("revenue");
    revenue.load(|| async { Ok::<_, std::io::Error>(7_i32) }).await.unwrap();
    here.invalidate(["stock"]).await.acknowledged().unwrap();
    let mut seen = Value::Null;
    until("both have published it", async || {
        seen = stats(&namespace, &["--json"]).await.1;
        seen["total"]["reads"] == 18 && seen["rest"]["invalidations"] == 1
    })
    .await;
    let total = &seen["total"];
    assert_eq!((&total["l1_hits"], &total["l2_hits"]), (&14.into(), &1.into()), "{total}");
    assert_eq!((&total["loaded"], &total["loads"]), (&3.into(), &3.into()), "{total}");
    assert_eq!(total["hit_ratio"].as_f64().unwrap(), 15.0 / 18.0);
    assert_eq!(total["load_latency"]["count"], 3);
    assert_eq!(seen["processes"].as_array().unwrap().len(), 2);
    let names = |seen: &Value| -> Vec<String> {
        let queries = seen["queries"].as_array().unwrap().iter();
        queries.map(|query| query["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&seen), ["stock", "revenue", "orders"]);
    let (_, by_hits) = stats(&namespace, &["--json", "--sort", "hits", "--top", "1"]).await;
    assert_eq!(names(&by_hits), ["orders"]);

    let (ran, _) = stats(&namespace, &[]).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    for words in ["2 processes, hit ratio 83.3 %", "a load", "revenue", "1 invalidations"] {
        assert!(ran.out.contains(words), "{words}: {}", ran.out);
    }
    let redis = Redis::shared().unwrap().url();
    let mut narrow = larder(["stats", "--redis", &redis, "--namespace", &namespace]);
    narrow.env("COLUMNS", "40");
    let ran = run(narrow).await;
    let long = ran.out.lines().find(|line| line.chars().count() > 40);
    assert!(long.is_none() && !ran.out.contains('\x1b'), "{long:?}: {}", ran.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_publishes_it_is_said_how_to() {
    let (ran, _) = stats(&namespace(), &[]).await;
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains(".publish_stats("), "{}", ran.err);
}
