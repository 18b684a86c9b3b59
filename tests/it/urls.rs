//! Does each form of URL lead where it says?

use std::time::{Duration, Instant};

use larder::{Origin, QueryCache, QueryCacheBuilder};

use crate::servers::{Proxy, Redis};
use crate::support::{until, until_async};

fn on(url: impl Into<String>) -> QueryCacheBuilder {
    QueryCache::builder().namespace("urls").redis(url).redis_timeout(Duration::from_secs(10))
}

async fn read(cache: &QueryCache) -> Origin {
    let query = cache.query("SELECT 1").tag("t");
    query.load(|| async { Ok::<_, std::io::Error>(1_i32) }).answer().await.unwrap().origin()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_named_by_the_path_or_by_a_parameter() {
    let redis = Redis::start_tcp().unwrap();
    let (port, socket) = (redis.port().unwrap(), redis.socket().display().to_string());
    for (database, url) in [
        (0, format!("redis://127.0.0.1:{port}")),
        (1, format!("valkey://127.0.0.1:{port}/1")),
        (2, format!("redis://127.0.0.1:{port}?db=2")),
        (3, format!("redis://127.0.0.1:{port}/3?db=3&protocol=resp3")),
        (4, format!("unix://{socket}?db=4")),
        (5, format!("valkey+unix://{socket}?db=5&protocol=3")),
    ] {
        let cache = on(&url).build().await.unwrap();
        assert_eq!(read(&cache).await, Origin::Loaded, "{url}");
        until("it is written", || cache.stats().l2_writes == 1).await;
        let keyspace = redis.command(&["INFO", "keyspace"]).unwrap();
        assert!(keyspace.contains(&format!("db{database}:keys=2")), "{url}: {keyspace}");
        let channels = redis.command(&["PUBSUB", "CHANNELS"]).unwrap();
        let channel = match database {
            0 => "larder:urls:notices".to_owned(),
            database => format!("larder:urls:notices:{database}"),
        };
        assert!(channels.lines().any(|line| line == channel), "{url}: {channels}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_and_a_password_of_any_characters_are_those_of_redis() {
    let redis = Redis::start_tcp().unwrap();
    let (port, socket) = (redis.port().unwrap(), redis.socket().display().to_string());
    let rights = ["~*", "&*", "+@all"];
    let set = |name: &str, password: &str| {
        let words = [&["ACL", "SETUSER", name, "reset", "on", password][..], &rights].concat();
        redis.command(&words).unwrap();
    };
    set("app", ">a/b?c#d@e%f&g+h i");
    set("nobody", "nopass");
    let encoded = "a%2Fb%3Fc%23d%40e%25f%26g%2Bh%20i";
    // Nobody is let in without a name.
    redis
        .command(&["CONFIG", "SET", "requirepass", "another"])
        .unwrap_or_else(|error| panic!("{error}"));
    for url in [
        format!("redis://app:{encoded}@127.0.0.1:{port}"),
        format!("redis://app:{encoded}@127.0.0.1:{port}?protocol=3"),
        format!("unix://{socket}?user=app&pass={encoded}"),
        format!("redis://nobody@127.0.0.1:{port}"),
        format!("redis://nobody@127.0.0.1:{port}?protocol=3"),
        format!("redis://:another@127.0.0.1:{port}"),
    ] {
        let cache = on(&url).build().await.unwrap_or_else(|error| panic!("{url}: {error}"));
        read(&cache).await;
        assert_eq!(cache.stats().l2_errors, 0, "{url}");
    }
    for (url, advice) in [
        (format!("redis://app:a/b@127.0.0.1:{port}"), "`/` as %2F"),
        (format!("redis://app:a#b@127.0.0.1:{port}"), "`#` as %23"),
        (format!("redis://app:a%b@127.0.0.1:{port}"), "as %25"),
        (format!("unix://{socket}?user=app&pass=a/b?c#d@e"), "as %23"),
        (format!("redis://app@127.0.0.1:{port}?timeout=5"), "the parameter `timeout`"),
    ] {
        let error = on(&url).build().await.unwrap_err();
        assert_eq!(error.setting(), Some("redis"), "{error}");
        assert!(error.to_string().contains(advice), "{url}: {error}");
        // Also of a builder that would begin without Redis: it would never find it.
        assert!(on(&url).redis_optional().build().await.is_err());
    }
}

/// Channels are common to all databases of a server.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_in_two_databases_is_two_that_do_not_hear_each_other() {
    let redis = Redis::start_tcp().unwrap();
    let proxy = Proxy::to_redis(&redis).unwrap();
    let (port, patience) = (redis.port().unwrap(), Duration::from_secs(3600));
    let here = on(format!("{}/3", proxy.url())).max_staleness(patience).build().await.unwrap();
    let near = on(format!("redis://127.0.0.1:{port}/3")).build().await.unwrap();
    let there = on(format!("redis://127.0.0.1:{port}")).build().await.unwrap();
    read(&here).await;
    until("it is written", || here.stats().l2_writes == 1).await;
    let asked = || proxy.counts_of(|link| !link.said("SUBSCRIBE")).round_trips;
    let quiet = async || {
        let (mut last, mut since) = (asked(), Instant::now());
        until_async("it asks nothing", async || {
            if asked() != last {
                (last, since) = (asked(), Instant::now());
            }
            since.elapsed() > Duration::from_millis(600)
        })
        .await;
    };
    quiet().await;
    let before = asked();
    for _ in 0..300 {
        there.invalidate(["t"]).await.acknowledged().unwrap();
    }
    quiet().await;
    assert_eq!(asked(), before, "no beats because of the other database");
    // And those of its own it does hear.
    let heard = redis.command(&["PUBSUB", "NUMSUB", "larder:urls:notices:3"]).unwrap();
    assert!(heard.lines().any(|line| line == "2"), "{heard}");
    near.invalidate(["t"]).await.acknowledged().unwrap();
    until_async("it is in force", async || read(&here).await == Origin::Loaded).await;
}
