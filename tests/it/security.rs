//! What can an attacker do who can write to Redis or read a log?

use std::time::Duration;

use larder::{ErrorKind, Origin, QueryCache};

use crate::rights::restricted;
use crate::servers::Redis;
use crate::support::{namespace, over_redis, until, written};
use crate::wire::{connect, only_key};

const SECRET: &[u8] = b"known to all processes of the fleet";

async fn load(cache: &QueryCache, parameter: i32) -> (String, Origin) {
    let query = cache.query("SELECT name FROM t WHERE id = $1");
    let load = move || async move { Ok::<_, std::io::Error>(format!("the name of {parameter}")) };
    let answer = query.params((parameter,)).load(load).answer().await.unwrap();
    (answer.value().to_string(), answer.origin())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_somebody_changed_or_moved_is_a_miss_and_never_a_forged_result() {
    let (namespace, mut redis) = (namespace(), connect().await);
    let build = async || over_redis(&namespace).secret(SECRET).build().await.unwrap();
    let cache = build().await;
    load(&cache, 1).await;
    written(&cache, 1).await;
    let key = only_key(&mut redis, &namespace).await;
    let entry: Vec<u8> = redis::cmd("GET").arg(&key).query_async(&mut redis).await.unwrap();
    let mut put = async |key: &str, bytes: &[u8]| {
        let set = redis::cmd("SET").arg(key).arg(bytes).arg("EX").arg(60).clone();
        set.exec_async(&mut redis).await.unwrap();
    };
    // Every byte of it, one bit each; what is read is always loaded, and written anew.
    for at in 0..entry.len() {
        let mut changed = entry.clone();
        changed[at] ^= 1 << (at % 8);
        put(&key, &changed).await;
        let reader = build().await;
        assert_eq!(load(&reader, 1).await, ("the name of 1".into(), Origin::Loaded), "byte {at}");
        written(&reader, 1).await;
    }
    put(&key, &entry).await;
    assert_eq!(load(&build().await, 1).await.1, Origin::L2);

    // Under the key of another call, as it is and with that key's fingerprint put in.
    load(&cache, 2).await;
    written(&cache, 2).await;
    let mut keys = crate::wire::keys(&mut connect().await, &namespace).await;
    keys.retain(|other| *other != key);
    let other: Vec<u8> =
        redis::cmd("GET").arg(&keys[0]).query_async(&mut connect().await).await.unwrap();
    let mut moved = entry.clone();
    moved[8..24].copy_from_slice(&other[8..24]);
    for bytes in [&entry, &moved] {
        put(&keys[0], bytes).await;
        let reader = build().await;
        assert_eq!(load(&reader, 2).await, ("the name of 2".into(), Origin::Loaded));
        assert_eq!(reader.stats().l2_refused, 1);
        written(&reader, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_another_secret_or_of_none_are_misses() {
    let namespace = namespace();
    let build = async |secret: Option<&[u8]>| {
        let builder = over_redis(&namespace);
        match secret {
            Some(secret) => builder.secret(secret),
            None => builder,
        }
        .build()
        .await
        .unwrap()
    };
    for (writer, reader) in [
        (None, Some(SECRET)),
        (Some(SECRET), None),
        (Some(SECRET), Some(&b"another secret, also long enough"[..])),
    ] {
        let (writer, reader) = (build(writer).await, build(reader).await);
        writer.clear().await.acknowledged().unwrap();
        load(&writer, 1).await;
        written(&writer, 1).await;
        assert_eq!(load(&reader, 1).await.1, Origin::Loaded);
        assert_eq!(reader.stats().l2_refused, 1);
        written(&reader, 1).await;
        assert_eq!(load(&reader, 1).await.1, Origin::L1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_debug_output_nor_errors_show_a_secret_a_password_or_a_parameter() {
    let builder = QueryCache::builder()
        .namespace("shop")
        .redis("redis://user:hunter2@127.0.0.1:1/")
        .secret("correct horse battery staple")
        .redis_optional();
    let shown = format!("{builder:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("horse"), "{shown}");
    let cache = builder.clone().build().await.unwrap();
    let query = cache.query("SELECT $1").tag("t");
    let bound = query.bind("my parameter");
    let shown = format!("{cache:?} {query:?} {bound:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("horse"), "{shown}");
    assert!(!shown.contains("my parameter"), "{shown}");
    let error = cache.invalidate(["t"]).await.acknowledged().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unacknowledged);
    let error = QueryCache::builder()
        .namespace("shop")
        .redis("redis://user:hunter2@127.0.0.1:1/")
        .build()
        .await
        .unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"));
    let short = over_redis("shop").secret("hunter2").build().await.unwrap_err().to_string();
    assert!(short.contains("`secret` is shorter than that; allowed: at least 16 bytes"), "{short}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_of_redis_with_the_rights_listed_is_enough() {
    let redis = Redis::start_tcp().unwrap();
    let builder = restricted(&redis, "").redis_timeout(Duration::from_secs(10));
    let (here, there) = (builder.clone().build().await.unwrap(), builder.build().await.unwrap());
    load(&here, 1).await;
    written(&here, 1).await;
    assert_eq!(load(&there, 1).await.1, Origin::L2);
    // A large one: its parts need no further right, to be written, read, and replaced.
    let large = async |cache: &QueryCache| {
        let text = || async { Ok::<_, std::io::Error>("x".repeat(1 << 20)) };
        cache.query("large").load(text).answer().await.unwrap().origin()
    };
    assert_eq!(large(&here).await, Origin::Loaded);
    written(&here, 2).await;
    assert_eq!(large(&there).await, Origin::L2);
    here.invalidate_query(&here.query("large")).await.acknowledged().unwrap();
    assert_eq!(large(&here).await, Origin::Loaded);
    written(&here, 3).await;
    here.clear().await.acknowledged().unwrap();
    assert_eq!(load(&here, 1).await.1, Origin::Loaded);
    let errors = (here.stats().l2_errors, there.stats().l2_errors);
    assert_eq!(errors, (0, 0));
    assert_eq!(redis.command(&["ACL", "LOG"]).unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_needs_three_rights_more_and_harms_nobody_without_them() {
    let redis = Redis::start_tcp().unwrap();
    let builder = restricted(&redis, "").redis_timeout(Duration::from_secs(10));
    let builder = builder.publish_stats(Duration::from_millis(100));
    let cache = builder.build().await.unwrap();
    until("it was refused", || cache.stats().unpublished > 0).await;
    load(&cache, 1).await;
    written(&cache, 1).await;
    assert_eq!(cache.stats().l2_errors, 0);
    let published = || redis.command(&["HVALS", "larder:shop:stats"]).unwrap();
    assert_eq!(published(), "");
    redis.command(&["ACL", "SETUSER", "cache", "+hkeys", "+hset", "+hdel"]).unwrap();
    until("it is published", || published().contains("\"loads\":1")).await;
    // A second time, when there is one to be replaced.
    until("it is published again", || !published().contains("\"unpublished\":0")).await;
    let refused = cache.stats().unpublished;
    let first = published();
    until("it goes on", || published() != first).await;
    assert_eq!(cache.stats().unpublished, refused);
    assert!(!published().contains("hunter2"));
}
