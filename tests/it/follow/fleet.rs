//! Several processes: one leads, one stands by, and the others are told.

use larder::stats::FollowRole;
use larder::{Follow, Origin, QueryCache};
use tokio_postgres::{Client, NoTls};

use super::{database, leads, left_behind, origin, stale, stats, wholesale};
use crate::servers::{Database, Worker, worker};
use crate::support::{namespace, over_redis, until, until_async};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int)";

async fn process(namespace: &str, database: &Database) -> QueryCache {
    let follow = Follow::new(database.config(), NoTls);
    over_redis(namespace).follow(follow).build().await.unwrap()
}

/// Waits until this process would go on without a gap.
async fn stands_by(cache: &QueryCache) {
    let is_ready = || stats(cache).role == FollowRole::StandsBy && stats(cache).is_ready;
    until("it stands by", is_ready).await;
}

async fn insert(client: &Client, id: i32) {
    client.execute("INSERT INTO t VALUES ($1)", &[&id]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_that_stands_by_goes_on_without_a_gap() {
    let (database, client) = database(SCHEMA).await;
    let namespace = namespace();
    let first = process(&namespace, &database).await;
    leads(&first).await;
    let second = process(&namespace, &database).await;
    stands_by(&second).await;
    let reader = process(&namespace, &database).await;
    until("the third is told why", || {
        stats(&reader).reason.is_some_and(|it| it.contains("two processes"))
    })
    .await;
    assert_eq!(stale(&reader, &["t", "u"]).await, ["t", "u"]);
    insert(&client, 1).await;
    assert_eq!(stale(&reader, &["t", "u"]).await, ["t"]);
    drop(first);
    insert(&client, 2).await;
    leads(&second).await;
    assert_eq!(stale(&reader, &["t", "u"]).await, ["t"]);
    insert(&client, 3).await;
    assert_eq!(stale(&reader, &["t", "u"]).await, ["t"]);
    for cache in [&second, &reader] {
        assert_eq!(wholesale(&stats(cache)), 0, "{:?}", stats(cache));
    }
    // The reader has taken the slot that is free.
    stands_by(&reader).await;
    drop((second, reader));
    until_async("nothing is left", async || left_behind(&client).await == 0).await;
}

#[test]
#[ignore = "another process of a test"]
fn a_process_that_follows() {
    let Some(_lines) = worker::parent_lines() else { return };
    let get = |name: &str| std::env::var(name).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let cache = QueryCache::builder()
            .namespace(get("FOLLOW_NAMESPACE"))
            .redis(get("FOLLOW_REDIS"))
            .follow(Follow::new(get("FOLLOW_DATABASE").parse().unwrap(), NoTls))
            .build()
            .await
            .unwrap();
        leads(&cache).await;
        worker::say("leads");
        std::future::pending::<()>().await
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_stopped_or_killed_is_replaced_and_harms_nobody_when_it_wakes() {
    let (database, client) = database(SCHEMA).await;
    let namespace = namespace();
    let redis = crate::servers::Redis::shared().unwrap().url();
    let env = [
        ("FOLLOW_NAMESPACE", namespace.as_str()),
        ("FOLLOW_REDIS", redis.as_str()),
        ("FOLLOW_DATABASE", &database.url()),
    ];
    let mut leader = Worker::start("follow::fleet::a_process_that_follows", &env).unwrap();
    assert_eq!(leader.next_line(std::time::Duration::from_secs(60)).unwrap(), "leads");
    let second = process(&namespace, &database).await;
    stands_by(&second).await;
    stale(&second, &["t", "u"]).await;
    leader.pause().unwrap();
    insert(&client, 1).await;
    leads(&second).await;
    assert_eq!(stale(&second, &["t", "u"]).await, ["t"]);
    let term = stats(&second).term;
    leader.resume().unwrap();
    for id in 2..6 {
        insert(&client, id).await;
        assert_eq!(stale(&second, &["t", "u"]).await, ["t"]);
    }
    assert_eq!(stats(&second).term, term, "the deposed one stands by");
    leader.kill().unwrap();
    insert(&client, 6).await;
    assert_eq!(stale(&second, &["t", "u"]).await, ["t"]);
    assert_eq!(wholesale(&stats(&second)), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_namespaces_follow_one_database_each_for_itself() {
    let (database, client) = database(SCHEMA).await;
    let (one, other) =
        (process(&namespace(), &database).await, process(&namespace(), &database).await);
    leads(&one).await;
    leads(&other).await;
    for cache in [&one, &other] {
        stale(cache, &["t", "u"]).await;
    }
    insert(&client, 1).await;
    for cache in [&one, &other] {
        assert_eq!(stale(cache, &["t", "u"]).await, ["t"]);
        assert_eq!(origin(cache, "t").await, Origin::L1);
    }
}
