//! `larder invalidate`.

use std::time::Duration;

use larder::{Follow, Origin, QueryCache};
use tokio_postgres::NoTls;

use crate::servers::{Postgres, Redis};
use crate::support::{larder, namespace, run};

async fn cache(namespace: &str, redis: &str) -> QueryCache {
    QueryCache::builder()
        .namespace(namespace)
        .redis(redis)
        .redis_timeout(Duration::from_secs(10))
        .build()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_results_that_have_the_tag_are_stale_and_no_others() {
    let (redis, namespace) = (Redis::shared().unwrap().url(), namespace());
    let cache = cache(&namespace, &redis).await;
    let queries = ["orders", "users", "Größe 1"].map(|tag| cache.query(tag).tag(tag));
    let origin = async |number: usize| {
        let one = async || Ok::<_, std::io::Error>(1_i32);
        queries[number].load(one).answer().await.unwrap().origin()
    };
    for number in 0..3 {
        assert_eq!(origin(number).await, Origin::Loaded);
    }
    let ran = run(larder([
        "invalidate",
        "orders",
        "Größe 1",
        "--redis",
        &redis,
        "--namespace",
        &namespace,
    ]))
    .await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(ran.out.contains("2 tags"), "{}", ran.out);
    // A push tells this process's memory; a second, its loss.
    crate::support::until("the push has come", async || origin(0).await != Origin::L1).await;
    assert_eq!(origin(1).await, Origin::L1);
    let ran = run(larder(["invalidate", "--all", "--redis", &redis, "--namespace", &namespace]));
    assert_eq!(ran.await.code, 0);
    crate::support::until("the push has come", async || origin(1).await != Origin::L1).await;
}

/// It depends on rows of the table, and not on its name.
#[tokio::test(flavor = "multi_thread")]
async fn the_name_of_a_table_means_what_has_read_some_of_its_rows_as_well() {
    let (redis, namespace) = (Redis::shared().unwrap().url(), namespace());
    let server = Postgres::start_with(&["wal_level=logical"]).unwrap();
    let database = server.database().await.unwrap();
    let client = database.connect().await.unwrap();
    let sql = "CREATE TABLE users (id int PRIMARY KEY); INSERT INTO users VALUES (7)";
    client.batch_execute(sql).await.unwrap();
    let cache = QueryCache::builder()
        .namespace(&namespace)
        .redis(&redis)
        .redis_timeout(Duration::from_secs(10))
        .follow(Follow::new(database.config(), NoTls))
        .build()
        .await
        .unwrap();
    cache.caught_up().await.unwrap();
    let (query, pool) = (cache.query("SELECT * FROM users WHERE id = $1").auto(), database.pool(1));
    let origin = async || query.bind(7_i32).fetch(&pool).answer().await.unwrap().origin();
    crate::support::until("it is cached", async || origin().await == Origin::L1).await;
    crate::support::until("it is in Redis", async || cache.stats().l2_writes > 0).await;
    let ran = run(larder(["invalidate", "users", "--redis", &redis, "--namespace", &namespace]));
    let ran = ran.await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    crate::support::until("the push has come", async || origin().await != Origin::L1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_uses_is_said() {
    let (redis, namespace) = (Redis::shared().unwrap().url(), namespace());
    let invalidate = async |words: &[&str]| {
        let fixed = ["invalidate", "--redis", &redis, "--namespace", &namespace];
        run(larder(fixed.iter().chain(words))).await
    };
    let ran = invalidate(&["orders"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains(&format!("nobody has used the namespace {namespace}")), "{}", ran.err);
    let cache = cache(&namespace, &redis).await;
    let one = async || Ok::<_, std::io::Error>(1_i32);
    cache.query("orders").tag("orders").load(one).await.unwrap();
    crate::support::until("it is in redis", async || cache.stats().l2_writes == 1).await;
    let ran = invalidate(&["orders", "odrers"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("2 tags") && ran.err.contains("the tag odrers"), "{}", ran.err);
    assert!(!ran.err.contains("the tag orders"), "{}", ran.err);
    assert_eq!(invalidate(&["orders"]).await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_not_there_is_named_without_its_password() {
    let mut command = larder(["invalidate", "orders", "--namespace", "shop"]);
    command.env("LARDER_REDIS", "redis://:hunter2@127.0.0.1:1");
    let ran = run(command).await;
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("127.0.0.1:1") && !ran.err.contains("hunter2"), "{}", ran.err);
    assert!(!ran.err.contains('\x1b'), "colours without a terminal: {:?}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_asked_for() {
    let ran = run(larder(["invalidate", "orders", "--namespace", "shop"])).await;
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("--redis") && ran.err.contains("LARDER_REDIS"), "{}", ran.err);
    let ran = run(larder(["invalidate"])).await;
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("<TAG>"), "{}", ran.err);
}
