//! What happens to the others if a process dies or is paused?

use super::*;
use crate::servers::{Worker, worker};
use larder::QueryCacheBuilder;

const PATIENCE: Duration = Duration::from_secs(30);

fn builder(url: &str) -> QueryCacheBuilder {
    let blind = Duration::from_millis(200);
    QueryCache::builder().namespace("processes").redis(url).max_staleness(blind)
}

/// Reads, invalidates and fills when it is told to.
#[test]
fn worker_entry() {
    let Some(lines) = worker::parent_lines() else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let url = std::env::var("REDIS").unwrap();
    let cache = runtime.block_on(builder(&url).build()).unwrap();
    worker::say("ready");
    for line in lines {
        let query = cache.query("q").tag("t");
        match line.split_once(' ').unwrap() {
            ("read", value) => {
                let value: i64 = value.parse().unwrap();
                let load = move || async move { Ok::<_, std::io::Error>(value) };
                let answer = runtime.block_on(query.load(load).answer()).unwrap();
                worker::say(&format!("{} {:?}", answer.value(), answer.origin()));
            }
            ("fill", bytes) => {
                let text = "x".repeat(bytes.parse().unwrap());
                let load = move || async move { Ok::<_, std::io::Error>(text) };
                let large = cache.query("large");
                runtime.block_on(large.load(load)).unwrap();
                worker::say("answered");
            }
            ("invalidate", tag) => {
                let (cache, tag) = (cache.clone(), tag.to_owned());
                runtime.spawn(async move { cache.invalidate([tag]).await });
                worker::say("begun");
            }
            other => panic!("{other:?}"),
        }
    }
}

fn start(url: &str) -> Worker {
    let entry = "faults::processes::worker_entry";
    let mut worker = Worker::start(entry, &[("REDIS", url)]).unwrap();
    assert_eq!(worker.next_line(PATIENCE).unwrap(), "ready");
    worker
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_paused_serves_nothing_that_was_invalidated_meanwhile() {
    let redis = Redis::start_tcp().unwrap();
    let cache = builder(&redis.url()).build().await.unwrap();
    let mut paused = start(&redis.url());
    let ask = |paused: &mut Worker, value: i64| {
        paused.send(&format!("read {value}")).unwrap();
        paused.next_line(PATIENCE).unwrap()
    };
    for round in 1..10 {
        ask(&mut paused, round);
        assert_eq!(ask(&mut paused, round), format!("{round} L1"));
        paused.pause().unwrap();
        // In the pipe when it wakes up: the first thing it does is to read.
        paused.send(&format!("read {}", round + 1)).unwrap();
        cache.invalidate(["t"]).await.acknowledged().unwrap();
        let acknowledged = Instant::now();
        until_async("it is blind for too long", async || {
            acknowledged.elapsed() > Duration::from_millis(210)
        })
        .await;
        paused.resume().unwrap();
        let woken = paused.next_line(PATIENCE).unwrap();
        assert_eq!(woken, format!("{} Loaded", round + 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_in_mid_fill_leaves_nothing_half_written() {
    let redis = Redis::start_tcp().unwrap();
    let proxy = Proxy::to_redis(&redis).unwrap();
    let mut killed = start(&proxy.url());
    // Stalled after the lease was granted: its entry cannot all be on its way.
    let large = 8_000_000;
    let leased = proxy.counts().to_server;
    killed.send(&format!("fill {large}")).unwrap();
    until_async("a part of the entry has passed", async || {
        if proxy.counts().to_server > leased + 100_000 {
            proxy.stall(Way::ToServer);
            return true;
        }
        false
    })
    .await;
    killed.kill().unwrap();
    proxy.pass();
    let cache = builder(&redis.url()).build().await.unwrap();
    let query = cache.query("large");
    let load = || async { Ok::<_, std::io::Error>(String::from("anew")) };
    let answer = query.load(load).answer().await.unwrap();
    let whole = answer.value().len() == large;
    assert!(whole || **answer.value() == "anew");
    assert_eq!(whole, answer.origin() == Origin::L2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_in_mid_invalidation_harms_nobody() {
    let redis = Redis::start_tcp().unwrap();
    let proxy = Proxy::to_redis(&redis).unwrap();
    let cache = builder(&redis.url()).build().await.unwrap();
    for round in 0..5 {
        let mut killed = start(&proxy.url());
        proxy.stall(Way::ToServer);
        killed.send("invalidate t").unwrap();
        assert_eq!(killed.next_line(PATIENCE).unwrap(), "begun");
        killed.kill().unwrap();
        proxy.pass();
        let query = cache.query("q").tag("t");
        let load = move || async move { Ok::<_, std::io::Error>(round) };
        query.load(load).await.unwrap();
        cache.invalidate(["t"]).await.acknowledged().unwrap();
        assert_eq!(query.load(load).answer().await.unwrap().origin(), Origin::Loaded);
    }
}
