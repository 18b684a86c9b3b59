//! Is each right that a user of Redis lacks named, and what works without it?

use std::time::Duration;

use larder::{BuildError, Origin, QueryCache, QueryCacheBuilder};

use crate::servers::Redis;
use crate::support::{until, until_async};

/// The rights that the documentation lists.
pub const RIGHTS: [&str; 21] = [
    "~larder:shop:*",
    "&larder:shop:*",
    "+ping",
    "+time",
    "+get",
    "+mget",
    "+pttl",
    "+zmscore",
    "+subscribe",
    "+eval",
    "+evalsha",
    "+info",
    "+zadd",
    "+zrangebyscore",
    "+persist",
    "+del",
    "+publish",
    "+getrange",
    "+setrange",
    "+set",
    "+pexpire",
];

fn user(redis: &Redis, rights: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let begin = ["ACL", "SETUSER", "cache", "reset", "on", ">hunter2", "resetchannels"];
    let mut words: Vec<String> = begin.map(str::to_owned).to_vec();
    words.extend(rights.into_iter().map(|right| right.as_ref().to_owned()));
    redis.command(&words).unwrap();
    format!("redis://cache:hunter2@127.0.0.1:{}", redis.port().unwrap())
}

/// A user of Redis with the rights that the documentation lists but one, and how it is reached.
pub fn restricted(redis: &Redis, without: &str) -> QueryCacheBuilder {
    let url = user(redis, RIGHTS.into_iter().filter(|right| *right != without));
    QueryCache::builder().namespace("shop").redis(url)
}

async fn refusal(builder: QueryCacheBuilder) -> (BuildError, String) {
    let error = builder.build().await.unwrap_err();
    let message = format!("{error} {error:?}");
    assert!(error.is_refused() && !error.is_unauthenticated(), "{message}");
    assert!(!message.contains("hunter2"), "{message}");
    (error, message)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_right_taken_away_is_named_at_the_start() {
    let redis = Redis::start_tcp().unwrap();
    for right in RIGHTS {
        redis.command(&["FLUSHALL"]).unwrap();
        redis.command(&["SCRIPT", "FLUSH"]).unwrap();
        let (_, message) = refusal(restricted(&redis, right)).await;
        let expected = format!(
            "its user must have the rights that `redis` lists in the \
                                documentation, and lacks {right}; grant them with `ACL SETUSER \
                                <user> {right}`"
        );
        assert!(message.contains(&expected), "{right}: {message}");
    }
    restricted(&redis, "").build().await.unwrap();
    // Several at once, but the first commands on a connection.
    let few = RIGHTS.into_iter().filter(|right| !["+getrange", "+pttl", "+del"].contains(right));
    let url = user(&redis, few);
    let (_, message) = refusal(QueryCache::builder().namespace("shop").redis(url)).await;
    assert!(message.contains("lacks +pttl +del +getrange; grant"), "{message}");
    // A replica is no place for a cache either.
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
    let error = restricted(&redis, "").build().await.unwrap_err().to_string();
    assert!(error.contains("it must be a master"), "{error}");
}

#[cfg(feature = "admin")]
#[tokio::test(flavor = "multi_thread")]
async fn each_right_taken_away_is_named_to_an_operator() {
    use larder::admin::{ErrorKind, MissingRight, Redis as Admin};

    let redis = Redis::start_tcp().unwrap();
    for right in RIGHTS {
        let url = user(&redis, RIGHTS.into_iter().filter(|other| *other != right));
        let admin = match Admin::connect(&url, "shop").await {
            Ok(admin) => admin,
            Err(error) => {
                assert_eq!(
                    (right, error.kind()),
                    ("+ping", ErrorKind::Denied(MissingRight::Command))
                );
                assert!(error.reply().contains("'ping'"), "{}", error.reply());
                continue;
            }
        };
        let mut missing = vec![];
        for it in admin.rights() {
            if let Some(lacks) = admin.missing_right(&it, None).await.unwrap() {
                missing.push((format!("+{}", it.command()), lacks));
            }
        }
        let of = |commands: &[&str], lacks| {
            commands.iter().map(|command| ((*command).to_owned(), lacks)).collect::<Vec<_>>()
        };
        match right {
            "&larder:shop:*" => {
                assert_eq!(missing, of(&["+subscribe", "+publish"], MissingRight::Channel));
            }
            "~larder:shop:*" => {
                assert_eq!(missing.len(), 12);
                assert!(
                    missing.iter().all(|(_, lacks)| *lacks == MissingRight::Keys),
                    "{missing:?}"
                );
            }
            right => assert_eq!(missing, of(&[right], MissingRight::Command)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_to_the_one_channel_that_is_used_is_enough() {
    let redis = Redis::start_tcp().unwrap();
    let rights = RIGHTS.map(|right| match right {
        "&larder:shop:*" => "&larder:shop:notices",
        right => right,
    });
    let url = user(&redis, rights);
    QueryCache::builder().namespace("shop").redis(&url).build().await.unwrap();
    // The other databases have other channels.
    user(&redis, rights.into_iter().chain(["+select"]));
    let (_, message) =
        refusal(QueryCache::builder().namespace("shop").redis(format!("{url}/3"))).await;
    assert!(message.contains("lacks &larder:shop:*; grant"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_tries_the_right_to_publish_and_disturbs_nobody() {
    let redis = Redis::start_tcp().unwrap();
    let client = redis::Client::open(redis.url()).unwrap();
    let mut subscribed = client.get_async_pubsub().await.unwrap();
    subscribed.subscribe("larder:shop:notices").await.unwrap();
    let builder = restricted(&redis, "").redis_timeout(Duration::from_secs(10));
    let cache = builder.build().await.unwrap();
    let info = redis.command(&["INFO", "commandstats"]).unwrap();
    assert!(info.lines().any(|line| line.starts_with("cmdstat_publish:")), "{info}");
    let keys = redis.command(&["KEYS", "*"]).unwrap();
    assert_eq!(keys.trim(), "larder:shop:directory");
    // The first message that others hear is its first invalidation.
    cache.invalidate(["t"]).await.acknowledged().unwrap();
    let first = futures_util::StreamExt::next(&mut subscribed.on_message()).await.unwrap();
    assert_eq!(first.get_payload_bytes()[0], b'i');
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalidation_without_the_right_to_publish_is_acknowledged_and_in_force() {
    let redis = Redis::start_tcp().unwrap();
    let builder = restricted(&redis, "").redis_timeout(Duration::from_secs(10));
    let (here, there) = (builder.clone().build().await.unwrap(), builder.build().await.unwrap());
    let read = async |cache: &QueryCache| {
        let query = cache.query("SELECT 1").tag("t");
        query.load(|| async { Ok::<_, std::io::Error>(1) }).answer().await.unwrap().origin()
    };
    until_async("it is in memory", async || read(&there).await == Origin::L1).await;
    redis.command(&["ACL", "SETUSER", "cache", "-publish"]).unwrap();
    here.invalidate(["t"]).await.acknowledged().unwrap();
    until_async("a beat brings it", async || read(&there).await == Origin::Loaded).await;
    assert_eq!((here.stats().unacknowledged, here.stats().l2_errors), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_to_listen_that_is_lost_later_is_counted() {
    let redis = Redis::start_tcp().unwrap();
    let builder = restricted(&redis, "").redis_timeout(Duration::from_secs(10));
    let cache = builder.build().await.unwrap();
    redis.command(&["ACL", "SETUSER", "cache", "-subscribe"]).unwrap();
    redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).unwrap();
    until("it is counted", || cache.stats().refused_credentials > 0).await;
    let read = async || {
        let query = cache.query("SELECT 1").tag("t");
        query.load(|| async { Ok::<_, std::io::Error>(1) }).answer().await.unwrap().origin()
    };
    until_async("it is cached", async || read().await != Origin::Loaded).await;
    cache.invalidate(["t"]).await.acknowledged().unwrap();
    assert_eq!(read().await, Origin::Loaded);
}
