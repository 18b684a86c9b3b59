//! Is a result that learns served while it is current, and not after a write to what it reads?

use std::sync::Arc;
use std::time::Duration;

use larder::testing::ManualClock;
use larder::{ErrorKind, Origin, QueryCache};
use tokio::sync::Mutex;

use super::{again, read, with, write};
use crate::support::{local, namespace, over_redis, until, until_async, written};

const SCHEMA: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT n, 0 FROM generate_series(1, 10) n;
    CREATE TABLE other (id int PRIMARY KEY, v int); INSERT INTO other VALUES (1, 0);
    CREATE TABLE third (id int PRIMARY KEY, v int); INSERT INTO third VALUES (1, 0);
    CREATE VIEW both_of_them AS SELECT t.id, t.v + other.v AS v FROM t JOIN other USING (id);
    CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS
      $$ BEGIN RETURN (SELECT sum(v) FROM both_of_them); END $$;
    CREATE TABLE p (id int, v int) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
    CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2); INSERT INTO p VALUES (1, 1), (2, 2);
    CREATE MATERIALIZED VIEW mv AS SELECT count(*) AS n FROM t;
    CREATE SCHEMA tenant_7; CREATE TABLE tenant_7.t (id int, v int); INSERT INTO tenant_7.t VALUES (1, 7);
    CREATE SCHEMA tenant_8; CREATE TABLE tenant_8.t (id int, v int); INSERT INTO tenant_8.t VALUES (1, 8)";

#[tokio::test]
async fn a_write_to_anything_that_it_reads_makes_it_stale_and_no_other_does() {
    let (_database, pool) = with(SCHEMA).await;
    let cache = local().await;
    for (sql, stale, fresh) in [
        ("SELECT sum(v) FROM t", &["UPDATE t SET v = v + 1"][..], &["UPDATE other SET v = 1"][..]),
        (
            "SELECT sum(v) FROM both_of_them",
            &["UPDATE t SET v = v + 1", "UPDATE other SET v = v + 1", "TRUNCATE other"],
            &["UPDATE third SET v = 1"],
        ),
        (
            "SELECT f()",
            &["UPDATE t SET v = v + 1", "INSERT INTO other VALUES (7, 7)"],
            &["UPDATE third SET v = 1"],
        ),
        (
            "SELECT v FROM p WHERE id = 1",
            &["UPDATE p SET v = 7 WHERE id = 1", "UPDATE p1 SET v = 8", "DELETE FROM p2"],
            &["UPDATE t SET v = 1"],
        ),
        ("SELECT v FROM p1", &["UPDATE p1 SET v = 9"], &["INSERT INTO p2 VALUES (2, 2)"]),
        ("SELECT n FROM mv", &["REFRESH MATERIALIZED VIEW mv"], &["UPDATE t SET v = v + 1"]),
    ] {
        let query = cache.query(sql).auto();
        assert_eq!(again(&query, &pool).await, Origin::L1, "{sql}");
        for write_to in fresh {
            write(&cache, &pool, write_to).await;
            assert_eq!(read(&query, &pool).await.origin(), Origin::L1, "{sql}: {write_to}");
        }
        for write_to in stale {
            write(&cache, &pool, write_to).await;
            assert_eq!(read(&query, &pool).await.origin(), Origin::Loaded, "{sql}: {write_to}");
            assert_eq!(read(&query, &pool).await.origin(), Origin::L1, "{sql}: {write_to}");
        }
    }
    assert_eq!(cache.stats().unfollowed, 0);
}

#[tokio::test]
async fn what_was_defined_anew_is_learned_anew_by_the_next_load() {
    let (_database, pool) = with(SCHEMA).await;
    let cache = local().await;
    let query = cache.query("SELECT sum(v) FROM both_of_them").auto();
    assert_eq!(again(&query, &pool).await, Origin::L1);
    write(&cache, &pool, "CREATE OR REPLACE VIEW both_of_them AS SELECT id, v FROM third").await;
    // The load that finds it out is not stored, since it was asked for by the verdict before.
    until_async("it is cached again", async || read(&query, &pool).await.origin() == Origin::L1)
        .await;
    write(&cache, &pool, "UPDATE third SET v = 42").await;
    let answer = read(&query, &pool).await;
    assert_eq!((answer.origin(), answer.value().row(0).get::<_, i64>(0)), (Origin::Loaded, 42));
    // A view that asks for the time is not followed any more, and one that does not is again, when that
    // is noticed.
    let define = |by: &str| {
        format!(
            "DROP VIEW both_of_them;
             CREATE VIEW both_of_them AS SELECT id, v FROM third WHERE {by} IS NOT NULL"
        )
    };
    write(&cache, &pool, &define("now()")).await;
    for _ in 0..4 {
        assert_eq!(read(&query, &pool).await.origin(), Origin::Loaded);
    }
    write(&cache, &pool, &define("'2024-01-01'::timestamptz")).await;
    until_async("it is cached again", async || read(&query, &pool).await.origin() == Origin::L1)
        .await;
}

#[tokio::test]
async fn a_function_that_was_defined_anew_is_noticed_within_a_second_by_loads() {
    let (_database, pool) = with(SCHEMA).await;
    let clock = ManualClock::new();
    let cache = QueryCache::builder().clock(clock.clone()).build().await.unwrap();
    let query = cache.query("SELECT f() WHERE $1 > 0").auto();
    let read = async |n: i32| query.bind(n).fetch(&pool).answer().await.unwrap().origin();
    read(1).await;
    assert_eq!(read(1).await, Origin::L1);
    let sql = "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE plpgsql AS
        $$ BEGIN RETURN (SELECT sum(v) FROM third WHERE now() IS NOT NULL); END $$";
    pool.get().await.unwrap().batch_execute(sql).await.unwrap();
    clock.advance(Duration::from_secs(1));
    // Another call of the query finds it out, and makes all results of the query stale.
    read(2).await;
    assert_eq!((read(1).await, read(1).await), (Origin::Loaded, Origin::Loaded));
    assert!(cache.stats().unfollowed >= 3);
}

#[tokio::test]
async fn names_without_a_schema_mean_every_schema_and_tenants_do_not_disturb_each_other() {
    let (_database, pool) = with(SCHEMA).await;
    let cache = local().await;
    let of = |tenant: &str| {
        cache.query("SELECT v FROM t WHERE id = 1").with_setting("search_path", tenant).auto()
    };
    let (seven, eight) = (of("tenant_7"), of("tenant_8"));
    assert_eq!(read(&seven, &pool).await.value().row(0).get::<_, i32>(0), 7);
    assert_eq!(read(&eight, &pool).await.value().row(0).get::<_, i32>(0), 8);
    write(&cache, &pool, "UPDATE tenant_7.t SET v = 70").await;
    assert_eq!(read(&seven, &pool).await.value().row(0).get::<_, i32>(0), 70);
    assert_eq!(read(&eight, &pool).await.origin(), Origin::L1);
    cache.invalidate_table("T").await;
    assert_eq!(read(&seven, &pool).await.origin(), Origin::Loaded);
    assert_eq!(read(&eight, &pool).await.origin(), Origin::Loaded);
    cache.invalidate_table("tenant_8.t").await;
    assert_eq!(read(&seven, &pool).await.origin(), Origin::L1);
    assert_eq!(read(&eight, &pool).await.origin(), Origin::Loaded);
}

#[tokio::test]
async fn tags_count_as_well_and_a_query_without_auto_has_results_of_its_own() {
    let (_database, pool) = with(SCHEMA).await;
    let cache = local().await;
    let plain = cache.query("SELECT sum(v) FROM t");
    let learns = plain.clone().auto().tag("mine");
    assert_eq!(again(&plain, &pool).await, Origin::L1);
    assert_eq!(read(&learns, &pool).await.origin(), Origin::Loaded);
    assert_eq!(read(&learns, &pool).await.origin(), Origin::L1);
    cache.invalidate(["mine"]).await;
    assert_eq!(read(&learns, &pool).await.origin(), Origin::Loaded);
    let call = async || {
        let bound = learns.params(()).auto().tag("of the call");
        bound.fetch(&pool).answer().await.unwrap().origin()
    };
    // The same result, loaded without the tag of the call.
    assert_eq!(call().await, Origin::L1);
    write(&cache, &pool, "UPDATE t SET v = 3").await;
    assert_eq!(call().await, Origin::Loaded);
    cache.invalidate(["of the call"]).await;
    assert_eq!(call().await, Origin::Loaded);
    // By hand, in the spelling of the schema that is usual.
    cache.invalidate(["t"]).await;
    assert_eq!(call().await, Origin::Loaded);
    assert_eq!(read(&plain, &pool).await.origin(), Origin::L1);
}

#[tokio::test]
async fn other_processes_get_it_from_redis_and_a_write_anywhere_makes_it_stale_everywhere() {
    let (_database, pool) = with(SCHEMA).await;
    let namespace = namespace();
    let (here, there) = (
        over_redis(&namespace).build().await.unwrap(),
        over_redis(&namespace).build().await.unwrap(),
    );
    let query = |cache: &QueryCache| cache.query("SELECT f(), sum(v) FROM p").auto();
    read(&query(&here), &pool).await;
    written(&here, 1).await;
    let from_redis = if cfg!(feature = "redis") { Origin::L2 } else { Origin::Loaded };
    assert_eq!(read(&query(&there), &pool).await.origin(), from_redis);
    write(&there, &pool, "UPDATE other SET v = 5; UPDATE p1 SET v = 5").await;
    assert_eq!(read(&query(&there), &pool).await.origin(), Origin::Loaded);
    if cfg!(feature = "redis") {
        until_async("the other process knows", async || {
            read(&query(&here), &pool).await.origin() != Origin::L1
        })
        .await;
    }
}

#[tokio::test]
async fn a_ttl_of_its_own_stores_what_cannot_be_followed_and_a_query_that_acts_never_is() {
    let (_database, pool) = with(SCHEMA).await;
    let cache = local().await;
    let ttl = Duration::from_secs(60);
    let timed = cache.query("SELECT count(*) FROM t WHERE now() IS NOT NULL").ttl(ttl).auto();
    assert_eq!(again(&timed, &pool).await, Origin::L1);
    // What its tree names makes it stale all the same.
    write(&cache, &pool, "UPDATE t SET v = 3").await;
    assert_eq!(read(&timed, &pool).await.origin(), Origin::Loaded);
    for sql in ["SELECT v FROM t WHERE id = 1 FOR UPDATE", "UPDATE t SET v = v + 1 RETURNING v"] {
        let acts = cache.query(sql).ttl(ttl).auto();
        assert_eq!(again(&acts, &pool).await, Origin::Loaded, "{sql}");
    }
    let v = cache.query("SELECT v FROM t WHERE id = 1").auto().fetch_scalar::<i32>(&pool).await;
    assert_eq!(v.unwrap(), 5);
}

#[tokio::test]
async fn one_load_for_all_that_read_at_once_and_stale_results_while_it_runs() {
    let (_database, pool) = with(SCHEMA).await;
    let clock = ManualClock::new();
    let cache = QueryCache::builder().clock(clock.clone()).build().await.unwrap();
    let query = cache
        .query("SELECT sum(v) FROM both_of_them")
        .auto()
        .ttl(Duration::from_secs(10))
        .stale_while_revalidate(Duration::from_secs(60));
    let reads = (0..50).map(|_| query.fetch(&pool));
    futures_util::future::try_join_all(reads).await.unwrap();
    assert_eq!(cache.stats().loads, 1);
    clock.advance(Duration::from_secs(11));
    let stale = read(&query, &pool).await;
    assert!(stale.staleness().is_some());
    until("it is loaded again", || cache.stats().background_loads == 1 && cache.stats().loads == 2)
        .await;
    until_async("it is fresh", async || read(&query, &pool).await.staleness().is_none()).await;
    // Invalidated results are not served.
    write(&cache, &pool, "UPDATE other SET v = 77").await;
    assert_eq!(read(&query, &pool).await.origin(), Origin::Loaded);
    // An empty result is one as well.
    let empty =
        cache.query("SELECT * FROM t WHERE v = 999").auto().negative_ttl(Duration::from_secs(1));
    assert_eq!(again(&empty, &pool).await, Origin::L1);
    write(&cache, &pool, "UPDATE t SET v = 999 WHERE id = 1").await;
    assert_eq!(read(&empty, &pool).await.value().len(), 1);
}

#[tokio::test]
async fn an_error_is_not_kept_since_nobody_knows_what_it_depends_on() {
    let (_database, pool) = with(SCHEMA).await;
    let cache = local().await;
    let query = cache
        .query("SELECT 1 / v FROM t WHERE id = 1")
        .auto()
        .negative_sqlstates(["22012", "42P01"], Duration::from_secs(60));
    let error = query.fetch(&pool).await.unwrap_err();
    assert_eq!(error.sqlstate().unwrap().code(), "22012");
    write(&cache, &pool, "UPDATE t SET v = 1").await;
    assert_eq!(query.fetch_scalar::<i32>(&pool).await.unwrap(), 1);
    let missing = cache.query("SELECT * FROM missing").auto();
    let error = missing.fetch(&pool).await.unwrap_err();
    assert_eq!(error.sqlstate().unwrap().code(), "42P01");
    assert_eq!(cache.stats().negative_hits, 0);
    pool.get().await.unwrap().batch_execute("CREATE TABLE missing (id int)").await.unwrap();
    assert_eq!(missing.fetch(&pool).await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_client_behind_a_mutex_learns_and_a_shared_one_is_refused_with_what_to_do() {
    let (database, pool) = with(SCHEMA).await;
    let cache = local().await;
    let client = Arc::new(Mutex::new(database.connect().await.unwrap()));
    for sql in ["SELECT f()", "SELECT sum(v) FROM t"] {
        let query = cache.query(sql).auto();
        assert_eq!(again(&query, &client).await, Origin::L1);
        write(&cache, &pool, "UPDATE t SET v = v + 1").await;
        assert_eq!(read(&query, &client).await.origin(), Origin::Loaded);
    }
    let shared = Arc::new(database.connect().await.unwrap());
    let query = cache.query("SELECT sum(v) FROM t").auto();
    let error = query.fetch(&shared).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Setting);
    assert!(error.to_string().contains("pool"), "{error}");
    let error = query.load(async || Ok::<_, std::io::Error>(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Setting);
    let wrapped = query.clone().wrap(|_, (): ()| async { Ok::<_, std::io::Error>(1) });
    assert_eq!(wrapped.call(()).await.unwrap_err().kind(), ErrorKind::Setting);
    assert_eq!(query.dependencies(&shared).await.unwrap_err().kind(), ErrorKind::Setting);
}
