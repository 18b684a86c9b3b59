//! ProcessStats statistics are read by every process of the namespace. Other data is skipped.

use std::time::Duration;

use test_servers::Redis;

use crate::cache::QueryCache;
use crate::clock::ManualClock;
use crate::l2::memory::MemoryStore;
use crate::telemetry::stats::FleetStats;

const EVERY: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(30);

async fn cache(redis: &Redis) -> QueryCache {
    QueryCache::builder()
        .namespace("roll")
        .redis(redis.url())
        .redis_timeout(PATIENCE)
        .publish_stats(EVERY)
        .build()
        .await
        .unwrap()
}

async fn read(cache: &QueryCache, number: i32) {
    let query = cache.query("SELECT $1").name("numbers");
    query.bind(number).load(move || async move { Ok::<_, std::io::Error>(number) }).await.unwrap();
}

/// Reads the roll until it is as expected, and returns it.
async fn until(
    cache: &QueryCache,
    what: &str,
    expected: impl Fn(&FleetStats) -> bool,
) -> FleetStats {
    let calls = async {
        loop {
            let roll = cache.fleet_stats().await.unwrap();
            if expected(&roll) {
                return roll;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, calls).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

#[tokio::test]
async fn each_cache_of_a_namespace_is_shown_until_it_has_ended() {
    let redis = Redis::start().unwrap();
    let (here, there) = (cache(&redis).await, cache(&redis).await);
    for _ in 0..3 {
        read(&here, 1).await;
    }
    let roll = until(&here, "both are there, with what was read", |roll| {
        roll.processes.len() == 2
            && roll.processes.iter().any(|one| one.cache.l1_hits == 2 && one.cache.entries == 1)
    })
    .await;
    assert_eq!(roll.skipped, 0);
    let mine = roll.processes.iter().find(|one| one.cache.l1_hits == 2).unwrap();
    assert_eq!((mine.pid, &*mine.larder), (std::process::id(), env!("CARGO_PKG_VERSION")));
    assert_eq!(mine.interval_ms, EVERY.as_millis() as u64);
    assert!(!mine.host.is_empty() && mine.age < 3 * EVERY);
    let [query] = &mine.queries[..] else { panic!("{:?}", mine.queries) };
    assert_eq!(
        (&*query.name, query.l1_hits, query.reads_loaded, query.loads),
        ("numbers", 2, 1, 1)
    );
    assert_eq!((query.lookup_latency.count(), query.load_latency.count()), (1, 1));
    assert_eq!(mine.cache.load_latency, query.load_latency);

    drop(there);
    until(&here, "one is gone", |roll| roll.processes.len() == 1).await;
    let all = redis.command(&["PTTL", "larder:roll:stats"]).unwrap();
    let left: i64 = all.trim().parse().unwrap();
    assert!((1..=3 * EVERY.as_millis() as i64).contains(&left), "{left}");

    let watcher = QueryCache::builder().namespace("roll").redis(redis.url()).build().await.unwrap();
    here.shutdown().await;
    assert_eq!(watcher.fleet_stats().await.unwrap().processes.len(), 0);
}

#[tokio::test]
async fn one_that_died_without_a_word_is_forgotten() {
    let redis = Redis::start().unwrap();
    let here = cache(&redis).await;
    let roll = until(&here, "it is there", |roll| roll.processes.len() == 1).await;
    let mut dead = roll.processes[0].clone();
    dead.id = "dead".to_owned();
    let bytes = crate::value::codec::Codec::json(&dead).unwrap();
    let store = &here.inner.fleet.as_ref().unwrap().store;
    store.publish("dead", bytes, 2 * EVERY).await.unwrap();
    assert_eq!(here.fleet_stats().await.unwrap().processes.len(), 2);
    until(&here, "it is not shown", |roll| roll.processes.len() == 1).await;
    let fields = || redis.command(&["HLEN", "larder:roll:stats"]).unwrap();
    until(&here, "it is not kept", |_| fields().trim() == "1").await;
}

#[tokio::test]
async fn what_is_damaged_or_of_another_version_harms_nobody() {
    let redis = Redis::start().unwrap();
    let here = cache(&redis).await;
    let roll = until(&here, "it is there", |roll| roll.processes.len() == 1).await;
    let good = serde_json::to_value(&roll.processes[0]).unwrap();
    let newer = {
        let mut newer = good.clone();
        newer["version"] = 2.into();
        newer.to_string()
    };
    let misshapen = {
        let mut misshapen = good.clone();
        misshapen["cache"]["l1_hits"] = "many".into();
        misshapen.to_string()
    };
    let more = {
        let mut more = good.clone();
        more["of a later release"] = 7.into();
        more["cache"].as_object_mut().unwrap().remove("epochs");
        more.to_string()
    };
    for (field, said) in [
        ("9999999999999:aa", &*newer),
        ("9999999999999:bb", &*misshapen),
        ("9999999999999:cc", "\u{0}not json"),
        ("9999999999999:dd", ""),
        ("99999999999999999999999999:ee", "{}"),
        ("no such field", "{}"),
        ("9999999999999:ff", &*more),
        ("1:0a", &*more),
    ] {
        redis.command(&["HSET", "larder:roll:stats", field, said]).unwrap();
    }
    let roll = here.fleet_stats().await.unwrap();
    assert_eq!((roll.processes.len(), roll.skipped), (2, 6));
    read(&here, 1).await;
    assert_eq!(here.stats().unpublished, 0);
    // The next publication removes a field that no process can have written.
    until(&here, "it is cleared", |roll| roll.skipped == 5).await;

    redis.command(&["DEL", "larder:roll:stats"]).unwrap();
    redis.command(&["SET", "larder:roll:stats", "of another type"]).unwrap();
    read(&here, 2).await;
    let counted = async {
        while here.stats().unpublished == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.expect("it is counted");
    assert!(here.fleet_stats().await.is_err());
    redis.command(&["DEL", "larder:roll:stats"]).unwrap();
    until(&here, "it is there again", |roll| roll.processes.len() == 1).await;
}

#[tokio::test]
async fn a_store_in_memory_keeps_the_roll_as_redis_does() {
    let clock = ManualClock::new();
    let store = MemoryStore::with_clock(clock.clone());
    let builder = QueryCache::builder().memory_store(&store);
    let build = async || builder.clone().publish_stats(PATIENCE).build().await.unwrap();
    let (here, there) = (build().await, build().await);
    until(&here, "both are there", |roll| roll.processes.len() == 2).await;
    drop(there);
    until(&here, "one is gone", |roll| roll.processes.len() == 1).await;
    clock.advance(3 * PATIENCE);
    assert_eq!(here.fleet_stats().await.unwrap().processes.len(), 0);
}
