//! What an operator is told of a result in Redis, and that it is what readers get.

use std::time::Duration;

use larder::admin::{
    ErrorKind, Inspection, KeyBuilder, MissingRight, Redis, ResultKey, Seal, Verdict,
};
use larder::{Origin, QueryCache};
use test_servers::Redis as Server;

use crate::support::namespace;

const SQL: &str = "SELECT sum(amount) FROM orders WHERE region = $1";

struct Scene {
    server: Server,
    namespace: String,
    cache: QueryCache,
}

impl Scene {
    async fn new(secret: Option<&str>) -> Scene {
        let (server, namespace) = (Server::start().unwrap(), namespace());
        let cache = build(&server, &namespace, secret).await;
        Scene { server, namespace, cache }
    }

    /// Reads as a process with nothing in its memory does.
    async fn origin(&self) -> Origin {
        let stranger = build(&self.server, &self.namespace, None).await;
        let origin = read(&stranger).await;
        stranger.shutdown().await;
        origin
    }

    async fn admin(&self) -> Redis {
        Redis::connect(&self.server.url(), &self.namespace).await.unwrap()
    }

    fn key(&self) -> KeyBuilder {
        KeyBuilder::rows(&self.namespace, SQL).typed("i64", 8).param(&"eu".to_owned())
    }

    /// Waits until the entry is in Redis: it is written after the answer.
    async fn stored(&self, admin: &Redis) {
        let inspection = Inspection::of_query(&self.key());
        crate::support::until_async("the entry is in redis", async || {
            admin.inspect(&inspection).await.unwrap().entry.is_some()
        })
        .await;
    }
}

async fn build(server: &Server, namespace: &str, secret: Option<&str>) -> QueryCache {
    let builder = QueryCache::builder().namespace(namespace).redis(server.url());
    let builder = builder.redis_timeout(Duration::from_secs(10)).ttl(Duration::from_secs(3600));
    match secret {
        Some(secret) => builder.secret(secret).build().await.unwrap(),
        None => builder.build().await.unwrap(),
    }
}

async fn read(cache: &QueryCache) -> Origin {
    let query = cache.query(SQL).tag("orders");
    let read = query.bind("eu".to_owned()).load(|| async { Ok::<_, std::io::Error>(7_i64) });
    read.answer().await.unwrap().origin()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_reported_is_what_a_reader_gets() {
    let scene = Scene::new(None).await;
    let admin = scene.admin().await;
    let inspection = Inspection::of_query(&scene.key()).tag("orders");
    let report = admin.inspect(&inspection).await.unwrap();
    assert_eq!(report.verdict, Verdict::Absent { loading: None });

    read(&scene.cache).await;
    scene.stored(&admin).await;
    let report = admin.inspect(&inspection).await.unwrap();
    assert!(report.verdict.is_served(), "{}", report.verdict);
    let entry = report.entry.unwrap();
    assert_eq!((entry.seal, entry.signed, entry.payload()), (Seal::Holds, false, &b"7"[..]));
    let header = entry.header.unwrap();
    assert_eq!(header.ttl, Duration::from_secs(3600));
    assert!(header.remaining.unwrap() <= header.ttl);
    let names: Vec<&str> =
        report.slots.iter().flat_map(|slot| &slot.names).map(String::as_str).collect();
    for name in ["orders", "the query itself", "everything"] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert_eq!(scene.origin().await, Origin::L2);

    scene.cache.invalidate(["orders"]).await.acknowledged().unwrap();
    let report = admin.inspect(&inspection).await.unwrap();
    assert!(matches!(report.verdict, Verdict::Invalidated { .. }), "{}", report.verdict);
    assert_eq!(scene.origin().await, Origin::Loaded);

    // By its name and by its first digits, it is the same.
    let key = scene.key().key();
    let found = admin.find_keys(&key.to_string()[..12], 100_000).await.unwrap();
    assert_eq!((found.keys, found.complete), (vec![key], true));
    assert_eq!(admin.key_of_name(&admin.name_of_key(&key)), Some(key));
    assert_eq!(ResultKey::of_hex(&key.to_string()), Some(key));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_redis_and_another_epoch_are_told_apart_from_an_invalidation() {
    let mut scene = Scene::new(None).await;
    read(&scene.cache).await;
    scene.stored(&scene.admin().await).await;
    scene.cache.shutdown().await;
    let key = scene.key().key();
    let admin = scene.admin().await;
    // Its directory alone is gone, as by an eviction.
    let client = redis::Client::open(scene.server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let directory = format!("larder:{}:directory", scene.namespace);
    let _: () = redis::cmd("DEL").arg(directory).query_async(&mut connection).await.unwrap();
    let report = admin.inspect(&Inspection::of_key(key)).await.unwrap();
    assert_eq!(report.verdict, Verdict::NoDirectory);
    scene.cache = build(&scene.server, &scene.namespace, None).await;
    let report = admin.inspect(&Inspection::of_key(key)).await.unwrap();
    assert!(matches!(report.verdict, Verdict::OtherEpoch { .. }), "{}", report.verdict);
    assert_eq!(scene.origin().await, Origin::Loaded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mac_is_checked_if_the_secret_is_given() {
    let scene = Scene::new(Some("known to all processes")).await;
    let admin = scene.admin().await;
    read(&scene.cache).await;
    scene.stored(&admin).await;
    let inspection = || Inspection::of_query(&scene.key());
    let report = admin.inspect(&inspection()).await.unwrap();
    assert!(matches!(report.verdict, Verdict::Served { unchecked: true, .. }));
    let report = admin.inspect(&inspection().secret(b"known to all processes")).await.unwrap();
    assert!(matches!(report.verdict, Verdict::Served { unchecked: false, .. }));
    let report = admin.inspect(&inspection().secret(b"another one altogether")).await.unwrap();
    assert_eq!(report.verdict, Verdict::Unauthentic);
    assert_eq!(report.entry.unwrap().seal, Seal::Unauthentic);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_larder_did_not_write_is_called_foreign() {
    let scene = Scene::new(None).await;
    let admin = scene.admin().await;
    let (key, name) = (scene.key().key(), admin.name_of_key(&scene.key().key()));
    let client = redis::Client::open(scene.server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    for (command, verdict) in [
        (redis::cmd("SET").arg(&name).arg("something"), Verdict::Foreign),
        (
            redis::cmd("SET").arg(&name).arg(&b"LRDR\x09"[..]),
            Verdict::OtherFormat { format: 9, reads: 3 },
        ),
    ] {
        let _: () = command.query_async(&mut connection).await.unwrap();
        let report = admin.inspect(&Inspection::of_key(key)).await.unwrap();
        assert_eq!(report.verdict, verdict);
    }
    let _: () = redis::cmd("DEL").arg(&name).query_async(&mut connection).await.unwrap();
    let _: () = redis::cmd("LPUSH").arg(&name).arg("x").query_async(&mut connection).await.unwrap();
    let report = admin.inspect(&Inspection::of_key(key)).await.unwrap();
    assert!(matches!(report.verdict, Verdict::OtherType(_)), "{}", report.verdict);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_is_named() {
    let server = Server::start().unwrap();
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let _: () = redis::cmd("ACL")
        .arg(&["SETUSER", "limited", "on", "nopass", "~larder:shop:*", "resetchannels"])
        .arg(&["+@all", "-zadd"])
        .query_async(&mut connection)
        .await
        .unwrap();
    let url = server.url();
    let separator = if url.contains('?') { '&' } else { '?' };
    let admin =
        Redis::connect(&format!("{url}{separator}user=limited&pass=x"), "shop").await.unwrap();
    assert_eq!(admin.user().await, "limited");
    let mut missing = vec![];
    for right in admin.rights() {
        if let Some(lacks) = admin.missing_right(&right, None).await.unwrap() {
            missing.push((right.command(), lacks));
        }
    }
    let channel = MissingRight::Channel;
    assert_eq!(
        missing,
        [("subscribe", channel), ("zadd", MissingRight::Command), ("publish", channel)]
    );
    let error = admin.run_scripts().await.unwrap_err();
    assert_ne!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(Redis::connect("redis://127.0.0.1:1", "shop").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_result_is_reported_with_its_parts_and_without_one_of_them() {
    let scene = Scene::new(None).await;
    let text = "x".repeat((1 << 20) - 2);
    let load = {
        let text = text.clone();
        || async { Ok::<_, std::io::Error>(text) }
    };
    let typed = scene.key().typed("alloc::string::String", size_of::<String>());
    let query = scene.cache.query(SQL).tag("orders");
    query.bind("eu".to_owned()).load(load).await.unwrap();
    let admin = scene.admin().await;
    let inspection = Inspection::of_query(&typed);
    crate::support::until_async("the entry is in redis", async || {
        admin.inspect(&inspection).await.unwrap().entry.is_some()
    })
    .await;
    let report = admin.inspect(&inspection).await.unwrap();
    assert!(report.verdict.is_served(), "{}", report.verdict);
    let entry = report.entry.unwrap();
    assert_eq!((entry.format, entry.parts, entry.seal), (4, 4, Seal::Holds));
    assert_eq!(entry.payload(), format!("\"{text}\"").as_bytes());
    assert!(entry.size > 1 << 20);
    let found = admin.find_keys("", 1_000).await.unwrap();
    assert_eq!(found.keys, [report.key]);

    let names = scene.server.command(&["KEYS", "*}:*:2"]).unwrap();
    scene.server.command(&["DEL", names.trim()]).unwrap();
    let report = admin.inspect(&inspection).await.unwrap();
    assert_eq!(report.verdict, Verdict::Incomplete { missing: 1 });
    assert_eq!(report.entry.unwrap().seal, Seal::Broken);
}
