//! Is a large result served from Redis, and does it leave small ones alone? Its body lies in parts
//! under keys of their own.

mod network;

use std::sync::Arc;
use std::time::Duration;

use larder::{Origin, QueryCache, QueryCacheBuilder};
use tokio::sync::Semaphore;

use crate::servers::{Link, Proxy, Redis};
use crate::support::{until, until_async, written};
use crate::wire::forged;

const MIB: usize = 1 << 20;
/// A part is 256 KiB.
const PARTS: usize = 4;
/// Changes what is stored under the names of an entry and its parts.
type Wrong = fn(&Redis, &[String]);

const SQL: &str = "SELECT report FROM reports";

fn over(url: String) -> QueryCacheBuilder {
    let builder = QueryCache::builder().namespace("large").redis(url);
    // A busy machine must not make a test of hits into one of time limits.
    builder.redis_timeout(Duration::from_secs(10)).memory_off()
}

async fn cache(redis: &Redis) -> QueryCache {
    over(redis.url()).build().await.unwrap()
}

fn text(size: usize, version: u8) -> String {
    // Every part is different.
    (0..size).map(|at| char::from(b'a' + (at / 1000 + usize::from(version)) as u8 % 26)).collect()
}

/// Reads a result of this size, the quotes of JSON apart. A load returns this version.
async fn read(cache: &QueryCache, size: usize, version: u8) -> (Origin, u8) {
    let query = cache.query(SQL).tag("reports");
    let load = move || async move { Ok::<_, std::io::Error>(text(size, version)) };
    let answer = query.params((size as i64,)).load(load).answer().await.unwrap();
    let first = answer.value().bytes().next().unwrap() - b'a';
    assert!(**answer.value() == text(size, first), "it is whole");
    (answer.origin(), first)
}

async fn small(cache: &QueryCache, number: i32) -> Origin {
    let query = cache.query("SELECT 1");
    let read = query.params((number,)).load(move || async move { Ok::<_, std::io::Error>(number) });
    read.answer().await.unwrap().origin()
}

/// The names of the entry and of its parts, the entry first.
fn names(redis: &Redis) -> Vec<String> {
    let names = redis.command(&["KEYS", "larder:large:3:*"]).unwrap();
    let mut names: Vec<String> = names.lines().map(str::to_owned).collect();
    names.sort();
    names
}

/// Fills Redis with a result of a MiB, less two bytes, and returns the names of its keys.
async fn filled(redis: &Redis) -> Vec<String> {
    let writer = cache(redis).await;
    assert_eq!(read(&writer, MIB - 2, 0).await.0, Origin::Loaded);
    written(&writer, 1).await;
    writer.shutdown().await;
    let names = names(redis);
    assert_eq!(names.len(), 1 + PARTS, "{names:?}");
    names
}

/// The connection for large results: the one on which parts were asked for.
fn transfers(proxy: &Proxy) -> Option<Link> {
    proxy.links().into_iter().find(|link| link.is_open() && link.said(":0\r\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_result_comes_from_redis_and_small_ones_meanwhile_as_before() {
    let redis = Redis::start_tcp().unwrap();
    let proxy = Proxy::to_redis(&redis).unwrap();
    let writer = cache(&redis).await;
    read(&writer, 8 * MIB, 0).await;
    for number in 0..100 {
        small(&writer, number).await;
    }
    written(&writer, 101).await;
    proxy.rate((50 * MIB) as f64);
    let reader = over(proxy.url()).build().await.unwrap();
    let large = tokio::spawn({
        let reader = reader.clone();
        async move { read(&reader, 8 * MIB, 1).await }
    });
    until("the body is on its way", || transfers(&proxy).is_some()).await;
    for number in 0..100 {
        assert_eq!(small(&reader, number).await, Origin::L2, "{number}");
    }
    assert_eq!(large.await.unwrap(), (Origin::L2, 0));
    let stats = reader.stats();
    assert_eq!((stats.loads, stats.l2_errors, stats.l2_too_slow, stats.epochs), (0, 0, 0, 1));
    assert!(stats.l2_bytes_read > 8 * MIB as u64);
    // Commands, notices, large results; and none of them was given up.
    assert_eq!(proxy.links().len(), 3);
    assert!(proxy.links().iter().all(Link::is_open));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_result_has_no_parts_and_opens_no_connection() {
    let redis = Redis::start_tcp().unwrap();
    let proxy = Proxy::to_redis(&redis).unwrap();
    let writer = over(proxy.url()).build().await.unwrap();
    read(&writer, 256 * 1024 - 2, 0).await;
    written(&writer, 1).await;
    assert_eq!(names(&redis).len(), 1);
    assert_eq!(read(&writer, 256 * 1024 - 2, 1).await, (Origin::L2, 0));
    assert_eq!(proxy.links().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_and_its_parts_end_together() {
    let redis = Redis::start_tcp().unwrap();
    let names = filled(&redis).await;
    // Asked in one script, for which time stands still.
    let ask = "local lives = {} \
               for at, name in ipairs(KEYS) do lives[at] = redis.call('PTTL', name) end return lives";
    let count = names.len().to_string();
    let words: Vec<&str> =
        ["EVAL", ask, &count].into_iter().chain(names.iter().map(|name| &**name)).collect();
    let lives = redis.command(&words).unwrap();
    let lives: Vec<i64> = lives.lines().map(|life| life.trim().parse().unwrap()).collect();
    assert_eq!(lives.len(), names.len());
    assert!(lives.iter().all(|life| (250_000..=300_000).contains(life)), "{lives:?}");
    let (least, most) = (lives.iter().min().unwrap(), lives.iter().max().unwrap());
    assert!(most - least <= 5, "{lives:?}");
    let head: usize = redis.command(&["STRLEN", &names[0]]).unwrap().trim().parse().unwrap();
    assert!(head < 1_000, "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_not_the_entry_s_is_a_counted_miss_and_is_replaced() {
    let wrongs: [(&str, Wrong); 8] = [
        ("a part is gone", |redis, names| drop(redis.command(&["DEL", &names[2]]).unwrap())),
        ("the last part is gone", |redis, names| {
            redis.command(&["DEL", &names[4]]).unwrap();
        }),
        ("all are gone", |redis, names| {
            let all: Vec<&str> =
                ["DEL"].into_iter().chain(names[1..].iter().map(|it| &**it)).collect();
            redis.command(&all).unwrap();
        }),
        ("a part is shorter", |redis, names| {
            redis.command(&["SET", &names[3], "short", "KEEPTTL"]).unwrap();
        }),
        ("a part is longer", |redis, names| {
            redis.command(&["APPEND", &names[4], "x"]).unwrap();
        }),
        ("a byte is changed", |redis, names| {
            redis.command(&["SETRANGE", &names[1], "77", "!"]).unwrap();
        }),
        ("two parts are swapped", |redis, names| {
            redis.command(&["RENAME", &names[1], "between"]).unwrap();
            redis.command(&["RENAME", &names[2], &names[1]]).unwrap();
            redis.command(&["RENAME", "between", &names[2]]).unwrap();
        }),
        ("a part is no string", |redis, names| {
            redis.command(&["DEL", &names[1]]).unwrap();
            redis.command(&["RPUSH", &names[1], "a"]).unwrap();
            redis.command(&["EXPIRE", &names[1], "60"]).unwrap();
        }),
    ];
    for secret in [None, Some("known to the readers of large results")] {
        for (what, wrong) in wrongs {
            let redis = Redis::start_tcp().unwrap();
            let builder = match secret {
                Some(secret) => over(redis.url()).secret(secret),
                None => over(redis.url()),
            };
            let writer = builder.clone().build().await.unwrap();
            read(&writer, MIB - 2, 0).await;
            written(&writer, 1).await;
            wrong(&redis, &names(&redis));
            let reader = builder.clone().build().await.unwrap();
            assert_eq!(read(&reader, MIB - 2, 1).await, (Origin::Loaded, 1), "{what}");
            let stats = reader.stats();
            // A value of another type is an error of Redis.
            assert_eq!(stats.l2_refused + stats.l2_errors, 1, "{what}");
            written(&reader, 1).await;
            assert_eq!(read(&writer, MIB - 2, 2).await, (Origin::L2, 1), "{what}");
            // The parts of the refused entry are gone with it.
            assert_eq!(names(&redis).len(), 1 + PARTS, "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_of_another_entry_is_refused() {
    let redis = Redis::start_tcp().unwrap();
    let first = filled(&redis).await;
    let writer = cache(&redis).await;
    read(&writer, MIB - 3, 5).await;
    written(&writer, 1).await;
    let others: Vec<String> =
        names(&redis).into_iter().filter(|name| !first.contains(name)).collect();
    // The same number of parts, whose lengths fit but for one byte.
    for (ours, theirs) in first[1..].iter().zip(&others[1..]) {
        redis.command(&["RENAME", theirs, ours]).unwrap();
    }
    assert_eq!(read(&writer, MIB - 2, 1).await, (Origin::Loaded, 1));
    assert_eq!(writer.stats().l2_refused, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_replaced_takes_its_parts_with_it() {
    let redis = Redis::start_tcp().unwrap();
    let first = filled(&redis).await;
    let writer = cache(&redis).await;
    for version in 1..4 {
        writer.invalidate(["reports"]).await.acknowledged().unwrap();
        assert_eq!(read(&writer, MIB - 2, version).await, (Origin::Loaded, version));
        written(&writer, u64::from(version)).await;
        let names = names(&redis);
        assert_eq!(names.len(), 1 + PARTS);
        assert_eq!(names[0], first[0]);
        assert!(names[1..].iter().all(|name| !first.contains(name)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_has_lost_its_lease_changes_nothing_and_leaves_no_parts() {
    let redis = Redis::start_tcp().unwrap();
    let (slow, fast) = (cache(&redis).await, cache(&redis).await);
    let (begun, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let loading = tokio::spawn({
        let (slow, begun, gate) = (slow.clone(), begun.clone(), gate.clone());
        async move {
            let query = slow.query(SQL).tag("reports");
            let load = move || async move {
                begun.add_permits(1);
                let _open = gate.acquire().await.unwrap();
                Ok::<_, std::io::Error>(text(MIB - 2, 7))
            };
            query.params(((MIB - 2) as i64,)).load(load).await.unwrap()
        }
    });
    // It has its lease, and its stamp: a load that begins after the invalidation is not overtaken.
    let _begun = begun.acquire().await.unwrap();
    // An invalidation makes the load useless to others: another process takes the lease over.
    fast.invalidate(["reports"]).await.acknowledged().unwrap();
    assert_eq!(read(&fast, MIB - 2, 1).await, (Origin::Loaded, 1));
    written(&fast, 1).await;
    let before = names(&redis);
    gate.add_permits(1);
    loading.await.unwrap();
    until("it is overtaken", || slow.stats().l2_overtaken == 1).await;
    assert_eq!(names(&redis), before);
    assert_eq!(read(&slow, MIB - 2, 2).await, (Origin::L2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_without_a_lease_leave_one_entry_and_its_parts() {
    let redis = Redis::start_tcp().unwrap();
    let caches = [cache(&redis).await, cache(&redis).await];
    let gate = Arc::new(Semaphore::new(0));
    let mut loads = vec![];
    for (number, cache) in caches.iter().enumerate() {
        let (own, gate) = (cache.clone(), gate.clone());
        loads.push(tokio::spawn(async move {
            let query = own.query(SQL).tag("reports");
            let load = move || async move {
                let _open = gate.acquire().await.unwrap();
                Ok::<_, std::io::Error>(text(MIB - 2, number as u8))
            };
            query.params(((MIB - 2) as i64,)).load(load).await.unwrap()
        }));
        until("it loads", || cache.stats().loads == 1 || number > 0).await;
        let lease = names(&redis).into_iter().find(|it| it.ends_with("lease"));
        if let Some(lease) = lease {
            redis.command(&["DEL", &lease]).unwrap();
        }
    }
    // The second one waits for the first one's lease until it finds it gone.
    until_async("both load", async || {
        for lease in names(&redis).into_iter().filter(|it| it.ends_with("lease")) {
            redis.command(&["DEL", &lease]).unwrap();
        }
        caches.iter().all(|cache| cache.stats().loads == 1)
    })
    .await;
    for lease in names(&redis).into_iter().filter(|it| it.ends_with("lease")) {
        redis.command(&["DEL", &lease]).unwrap();
    }
    gate.add_permits(2);
    for load in loads {
        load.await.unwrap();
    }
    let ends = |cache: &QueryCache| cache.stats().l2_writes + cache.stats().l2_overtaken;
    until("both have written", || caches.iter().all(|cache| ends(cache) == 1)).await;
    assert_eq!(names(&redis).len(), 1 + PARTS);
    assert_eq!(read(&caches[0], MIB - 2, 9).await.0, Origin::L2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_waits_for_another_s_load_gets_the_large_result() {
    let redis = Redis::start_tcp().unwrap();
    let (one, other) = (cache(&redis).await, cache(&redis).await);
    let gate = Arc::new(Semaphore::new(0));
    let loading = tokio::spawn({
        let gate = gate.clone();
        async move {
            let query = one.query(SQL).tag("reports");
            let load = move || async move {
                let _open = gate.acquire().await.unwrap();
                Ok::<_, std::io::Error>(text(2 * MIB, 7))
            };
            query.params(((2 * MIB) as i64,)).load(load).await.unwrap();
            one
        }
    });
    until("the lease is there", || names(&redis).iter().any(|it| it.ends_with("lease"))).await;
    let waiting = tokio::spawn({
        let other = other.clone();
        async move { read(&other, 2 * MIB, 1).await }
    });
    until("the other one waits", || other.stats().lease_waits == 1).await;
    gate.add_permits(1);
    assert_eq!(waiting.await.unwrap().1, 7);
    assert_eq!(other.stats().loads, 0);
    loading.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_does_not_fetch_what_it_would_not_store() {
    let redis = Redis::start_tcp().unwrap();
    filled(&redis).await;
    let proxy = Proxy::to_redis(&redis).unwrap();
    let reader = over(proxy.url()).max_value_bytes(MIB / 2).build().await.unwrap();
    assert_eq!(read(&reader, MIB - 2, 1).await, (Origin::Loaded, 1));
    assert_eq!((reader.stats().oversized, reader.stats().l2_misses), (1, 1));
    assert!(transfers(&proxy).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_entry_of_an_earlier_version_is_read() {
    let redis = Redis::start_tcp().unwrap();
    let writer = cache(&redis).await;
    read(&writer, MIB - 2, 0).await;
    written(&writer, 1).await;
    // As version 0.1 wrote it: with its payload behind the slots, and no parts.
    let names = names(&redis);
    let client = ::redis::Client::open(redis.url()).unwrap();
    let mut by_hand = client.get_multiplexed_async_connection().await.unwrap();
    let mut whole: Vec<u8> =
        ::redis::cmd("GET").arg(&names[0]).query_async(&mut by_hand).await.unwrap();
    let payload = format!("\"{}\"", text(MIB - 2, 0));
    whole.truncate(whole.len() - 24);
    whole.extend(payload.as_bytes());
    let whole = forged(whole, |entry| {
        entry[4] = 3;
        entry[7] = 0;
        entry[80..88].copy_from_slice(&(payload.len() as u64).to_be_bytes());
    });
    let set = ::redis::cmd("SET").arg(&names[0]).arg(whole).arg("KEEPTTL").clone();
    set.exec_async(&mut by_hand).await.unwrap();
    for part in &names[1..] {
        redis.command(&["DEL", part]).unwrap();
    }
    assert_eq!(read(&cache(&redis).await, MIB - 2, 1).await, (Origin::L2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_claims_more_than_there_is_costs_what_there_is() {
    let redis = Redis::start_tcp().unwrap();
    let names = filled(&redis).await;
    let client = ::redis::Client::open(redis.url()).unwrap();
    let mut by_hand = client.get_multiplexed_async_connection().await.unwrap();
    let head: Vec<u8> = ::redis::cmd("GET").arg(&names[0]).query_async(&mut by_hand).await.unwrap();
    let length = head.len();
    let head = forged(head, |head| {
        head[7] = 255;
        // Below the reader's `max_value_bytes`.
        head[length - 24..length - 16].copy_from_slice(&(1_u64 << 50).to_be_bytes());
    });
    let set = ::redis::cmd("SET").arg(&names[0]).arg(head).arg("KEEPTTL").clone();
    set.exec_async(&mut by_hand).await.unwrap();
    let reader = over(redis.url()).max_value_bytes(1 << 60).build().await.unwrap();
    assert_eq!(read(&reader, MIB - 2, 1).await, (Origin::Loaded, 1));
    assert_eq!(reader.stats().l2_refused, 1);
}
