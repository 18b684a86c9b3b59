//! Is it right behind a pooler that gives each transaction a different session, and with sqlx?

use larder::{Error, Origin, TransactionPooling};

use super::{again, read};
use crate::pooling::poison;
use crate::servers::{PgBouncer, Postgres};
use crate::support::local;

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v int);
    INSERT INTO t SELECT n, 0 FROM generate_series(1, 10) n; CREATE TABLE other (id int);
    CREATE FUNCTION f(int) RETURNS int LANGUAGE plpgsql AS
      $$ BEGIN RETURN (SELECT v FROM t WHERE id = $1); END $$;
    CREATE FUNCTION catches() RETURNS int LANGUAGE plpgsql AS $$ DECLARE x int := 0; BEGIN
      BEGIN SELECT max(v) INTO x FROM t; RAISE division_by_zero;
      EXCEPTION WHEN division_by_zero THEN NULL; END; RETURN x; END $$";

#[tokio::test(flavor = "multi_thread")]
async fn loads_that_share_sessions_learn_their_own_reads_and_leave_nothing_behind() {
    let postgres = Postgres::shared().unwrap();
    let direct = postgres.database().await.unwrap();
    let bouncer = PgBouncer::start(postgres, &["default_pool_size=3"]).unwrap();
    let pooled = bouncer.database(direct.name());
    direct.connect().await.unwrap().batch_execute(SCHEMA).await.unwrap();
    poison(&pooled, "s").await;
    let cache = local().await;
    let source = TransactionPooling::new(pooled.pool(8));
    let tasks = (0..8_i32).map(|task| {
        let (cache, source) = (cache.clone(), source.clone());
        tokio::spawn(async move {
            for n in 0..10_i32 {
                let query = cache.query("SELECT f($1), $2::int AS n").auto();
                let read = || query.bind(task % 10 + 1).bind(n).fetch(&source).answer();
                assert_eq!(read().await.unwrap().value().row(0).get::<_, i32>("n"), n);
                let query = cache.query("SELECT v, $2::int AS n FROM t WHERE id = $1").auto();
                let rows = query.bind(task % 10 + 1).bind(n).fetch(&source).await.unwrap();
                assert_eq!(rows.row(0).get::<_, i32>("n"), n);
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(cache.stats().unfollowed, 0);
    for sql in ["SELECT f(1)", "SELECT sum(v) FROM t", "SELECT catches()"] {
        let query = cache.query(sql).auto();
        assert_eq!(again(&query, &source).await, Origin::L1, "{sql}");
        let write = async |sql: &'static str| {
            let written =
                cache.write(&source, async |tx| tx.batch_execute(sql).await.map_err(Error::from));
            written.await.unwrap();
        };
        write("INSERT INTO other VALUES (1)").await;
        assert_eq!(read(&query, &source).await.origin(), Origin::L1, "{sql}");
        write("UPDATE t SET v = v + 1").await;
        assert_eq!(read(&query, &source).await.origin(), Origin::Loaded, "{sql}");
    }
    for _ in 0..3 {
        let holder = pooled.connect().await.unwrap();
        holder.batch_execute("BEGIN").await.unwrap();
        let left = r"SELECT (SELECT count(*) FROM pg_prepared_statements
            WHERE name NOT LIKE 'PGBOUNCER\_%' AND (statement LIKE '%pg_lock_status%' OR name LIKE 'larder%')),
            pg_my_temp_schema() = 0, current_setting('max_parallel_workers_per_gather')";
        let left = holder.query_typed(left, &[]).await.unwrap();
        assert_eq!((left[0].get::<_, i64>(0), left[0].get::<_, bool>(1)), (0, true));
        assert_ne!(left[0].get::<_, &str>(2), "0");
    }
}

#[cfg(feature = "sqlx")]
#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_sqlx_learns_as_one_of_deadpool_does() {
    use ::sqlx::postgres::{PgConnectOptions, PgPoolOptions};

    let postgres = Postgres::shared().unwrap();
    let direct = postgres.database().await.unwrap();
    direct.connect().await.unwrap().batch_execute(SCHEMA).await.unwrap();
    let bouncer = PgBouncer::start(postgres, &["default_pool_size=2"]).unwrap();
    let pooled = bouncer.database(direct.name());
    let pool = |url: String| {
        let options: PgConnectOptions = url.parse().unwrap();
        PgPoolOptions::new().max_connections(2).connect_lazy_with(options.extra_float_digits(None))
    };
    let (plain, pooled) = (pool(direct.url()), TransactionPooling::new(pool(pooled.url())));
    let cache = local().await;
    let deadpool = direct.pool(1);
    for sql in ["SELECT f(1)", "SELECT sum(v) FROM t", "SELECT catches()"] {
        let query = cache.query(sql).auto();
        let found = query.params(()).dependencies(&plain).await.unwrap();
        assert_eq!(found.relations, ["public.t"], "{sql}");
        for write in ["UPDATE t SET v = v + 1", "TRUNCATE t"] {
            assert_eq!(again(&query, &plain).await, Origin::L1, "{sql}");
            super::write(&cache, &deadpool, write).await;
            assert_eq!(read(&query, &plain).await.origin(), Origin::Loaded, "{sql}");
            super::write(&cache, &deadpool, "INSERT INTO t VALUES (1, 1) ON CONFLICT DO NOTHING")
                .await;
            assert_eq!(again(&query, &pooled).await, Origin::L1, "{sql}");
            super::write(&cache, &deadpool, write).await;
            assert_eq!(read(&query, &pooled).await.origin(), Origin::Loaded, "{sql}");
        }
    }
    let unfollowed = cache.query("SELECT now()").auto();
    assert_eq!(again(&unfollowed, &plain).await, Origin::Loaded);
    let hostile = cache.query("SELECT 1; DROP TABLE t").auto();
    hostile.fetch(&plain).await.unwrap_err();
    assert_eq!(hostile.dependencies(&plain).await.unwrap().relations, [""; 0]);
}
