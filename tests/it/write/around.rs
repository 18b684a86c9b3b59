//! What if something around the transaction fails: Redis, the right to see locks, prepared statements?

use larder::{Error, Origin, QueryCache};

use super::{origin, relations, with};
use crate::support::local;

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0);
    CREATE TABLE other (id int)";

#[tokio::test]
async fn a_user_who_may_not_see_locks_writes_all_the_same_and_everything_is_stale() {
    let (database, admin) = with(SCHEMA).await;
    let user = format!("writer_{}", database.name());
    let sql = format!(
        "CREATE ROLE {user} LOGIN; GRANT ALL ON t TO {user};
         REVOKE EXECUTE ON FUNCTION pg_lock_status() FROM public"
    );
    admin.get().await.unwrap().batch_execute(&sql).await.unwrap();
    let (cache, pool) = (local().await, database.as_role(&user).pool(1));
    for n in 1..5 {
        origin(&cache, "other").await;
        let sql = "UPDATE t SET v = v + 1";
        assert_eq!(relations(&cache, &pool, sql).await, ["everything"]);
        assert_eq!(origin(&cache, "other").await, Origin::Loaded);
        let v = admin.get().await.unwrap().query_one("SELECT v FROM t", &[]).await.unwrap();
        assert_eq!(v.get::<_, i32>(0), n);
    }
    let grant = "GRANT EXECUTE ON FUNCTION pg_lock_status() TO public";
    admin.get().await.unwrap().batch_execute(grant).await.unwrap();
    assert_eq!(relations(&cache, &pool, "UPDATE t SET v = v + 1").await, ["public.t"]);
    // Deferred constraints and errors are judged as ever.
    assert_eq!(pool.status().size, 1);
}

#[tokio::test]
async fn statements_that_the_session_has_forgotten_are_no_hindrance() {
    let (database, _) = with(SCHEMA).await;
    let (cache, pool) = (local().await, database.pool(1));
    for forget in ["SELECT 1", "DEALLOCATE ALL", "DEALLOCATE ALL", "SELECT 1", "DEALLOCATE ALL"] {
        let sql = format!("UPDATE t SET v = v + 1; {forget}");
        assert_eq!(relations(&cache, &pool, &sql).await, ["public.t"]);
        pool.get().await.unwrap().batch_execute("DISCARD ALL").await.unwrap();
    }
    let none = QueryCache::builder().prepared_statements(0).build().await.unwrap();
    for _ in 0..3 {
        assert_eq!(relations(&none, &pool, "UPDATE t SET v = v + 1").await, ["public.t"]);
    }
}

#[tokio::test]
async fn the_users_own_settings_decide_nothing() {
    let (_database, pool) = with(SCHEMA).await;
    let cache = local().await;
    for set in [
        "SET LOCAL search_path TO ''",
        "SET LOCAL search_path TO other, pg_catalog",
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET LOCAL quote_all_identifiers = on",
        "SET LOCAL DateStyle = 'German'",
        "SAVEPOINT larder_write",
        "SET LOCAL larder.other = 'x'",
        "SET CONSTRAINTS ALL DEFERRED",
    ] {
        let sql = format!("{set}; UPDATE public.t SET v = v + 1");
        assert_eq!(relations(&cache, &pool, &sql).await, ["public.t"], "{set}");
    }
    let read_only = "SET TRANSACTION READ ONLY; SELECT * FROM t";
    assert_eq!(relations(&cache, &pool, read_only).await, [""; 0]);
    assert_eq!(cache.stats().invalidations, 9);
}

#[tokio::test]
async fn a_foreign_table_is_a_relation_like_any_other() {
    let (database, pool) = with(SCHEMA).await;
    let admin = database.connect().await.unwrap();
    let have = "SELECT count(*) FROM pg_available_extensions WHERE name = 'postgres_fdw'";
    if admin.query_one(have, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        return crate::servers::skipped("this PostgreSQL comes without postgres_fdw");
    }
    let config = database.config();
    let tokio_postgres::config::Host::Unix(socket) = &config.get_hosts()[0] else { panic!() };
    let sql = format!(
        "CREATE EXTENSION postgres_fdw;
         CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw
           OPTIONS (host '{}', dbname '{}');
         CREATE USER MAPPING FOR postgres SERVER here OPTIONS (user 'postgres');
         CREATE FOREIGN TABLE abroad (id int) SERVER here OPTIONS (table_name 'other')",
        socket.display(),
        database.name(),
    );
    admin.batch_execute(&sql).await.unwrap();
    let cache = local().await;
    origin(&cache, "abroad").await;
    let sql = "INSERT INTO abroad VALUES (1)";
    // The other side's session wrote to `other`. That is its own transaction.
    assert_eq!(relations(&cache, &pool, sql).await, ["public.abroad"]);
    assert_eq!(origin(&cache, "abroad").await, Origin::Loaded);
}

/// Reads never fall behind a write that has returned, whoever else writes and reads.
#[tokio::test(flavor = "multi_thread")]
async fn no_read_after_a_write_is_older_than_it() {
    let (_database, pool) = with(SCHEMA).await;
    let cache = local().await;
    let v = cache.query("SELECT v FROM t").table("t");
    let tasks = (0..4).map(|_| {
        let (cache, pool, v) = (cache.clone(), pool.clone(), v.clone());
        tokio::spawn(async move {
            for _ in 0..100 {
                let written = cache.write(&pool, async |tx| {
                    let sql = "UPDATE t SET v = v + 1 RETURNING v";
                    Ok::<i32, Error>(tx.query_one(sql, &[]).await?.get(0))
                });
                let written = written.await.unwrap().into_value();
                let read: i32 = v.fetch(&pool).await.unwrap().row(0).get(0);
                assert!(read >= written, "{read} after {written}");
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(v.fetch(&pool).await.unwrap().row(0).get::<_, i32>(0), 400);
}

#[cfg(feature = "redis")]
mod with_redis {
    use super::*;
    use crate::servers::{Proxy, Redis};
    use crate::support::{namespace, over_redis, until_async};
    use deadpool_postgres::{Manager, Pool};
    use std::time::Duration;
    use tokio_postgres::{Config, NoTls};

    #[tokio::test(flavor = "multi_thread")]
    async fn the_results_of_other_processes_are_stale_too() {
        let (_database, pool) = with(SCHEMA).await;
        let namespace = namespace();
        let one = over_redis(&namespace).build().await.unwrap();
        let other = over_redis(&namespace).build().await.unwrap();
        origin(&other, "t").await;
        assert_eq!(origin(&other, "t").await, Origin::L1);
        relations(&one, &pool, "UPDATE t SET v = 1").await;
        until_async("the other one has heard of it", async || {
            origin(&other, "t").await != Origin::L1
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn without_redis_the_write_is_committed_and_the_invalidation_is_kept() {
        let (_database, pool) = with(SCHEMA).await;
        let mut redis = Redis::start().unwrap();
        let build =
            async || QueryCache::builder().namespace("w").redis(redis.url()).build().await.unwrap();
        let (cache, other) = (build().await, build().await);
        origin(&cache, "t").await;
        redis.kill().unwrap();
        let written = cache
            .write(&pool, async |tx| Ok::<_, Error>(tx.execute("UPDATE t SET v = 7", &[]).await?));
        let written = written.await.unwrap();
        assert_eq!((*written.value(), written.relations().unwrap()), (1, &["public.t".into()][..]));
        assert!(!written.invalidated().is_acknowledged());
        assert_ne!(origin(&cache, "t").await, Origin::L1);
        assert_eq!(cache.stats().unacknowledged, 1);
        redis.restart().unwrap();
        until_async("redis is told", async || {
            cache.invalidate(["elsewhere"]).await.is_acknowledged()
        })
        .await;
        drop(other);
    }

    /// A proxy before PostgreSQL counts as many round trips as for the same by hand.
    #[tokio::test(flavor = "multi_thread")]
    async fn it_takes_the_round_trips_of_the_transaction_and_one_to_redis() {
        let postgres = crate::servers::Postgres::shared().unwrap();
        let (database, _) = with(SCHEMA).await;
        let proxy = Proxy::to_socket(postgres.socket()).unwrap();
        let mut config = Config::new();
        config.host("127.0.0.1").port(proxy.port()).user("postgres").dbname(database.name());
        let pool = Pool::builder(Manager::new(config, NoTls)).max_size(1).build().unwrap();
        let redis = Redis::start_tcp().unwrap();
        let to_redis = Proxy::to_redis(&redis).unwrap();
        let cache = QueryCache::builder()
            .namespace("trips")
            .redis(to_redis.url())
            .redis_timeout(Duration::from_secs(10))
            .max_staleness(Duration::from_secs(3600))
            .build()
            .await
            .unwrap();
        let trips = || to_redis.counts_of(|link| !link.said("SUBSCRIBE")).round_trips;
        let (mut least, mut least_redis) = (u64::MAX, u64::MAX);
        for _ in 0..20 {
            let (before, redis_before) = (proxy.counts().round_trips, trips());
            relations(&cache, &pool, "UPDATE t SET v = v + 1").await;
            least = least.min(proxy.counts().round_trips - before);
            least_redis = least_redis.min(trips() - redis_before);
        }
        let mut by_hand = u64::MAX;
        for _ in 0..20 {
            let before = proxy.counts().round_trips;
            let mut client = pool.get().await.unwrap();
            let transaction = client.transaction().await.unwrap();
            transaction.batch_execute("UPDATE t SET v = v + 1").await.unwrap();
            transaction.commit().await.unwrap();
            by_hand = by_hand.min(proxy.counts().round_trips - before);
        }
        assert_eq!((least, least_redis), (by_hand, 1));
        assert_eq!(by_hand, 3);
    }
}
