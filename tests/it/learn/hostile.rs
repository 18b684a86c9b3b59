//! Texts that are no query, callers that leave, rights that are missing: nothing is left behind, and
//! nothing is run that was not asked for.

use std::time::Duration;

use futures_util::future::{FutureExt, select};
use larder::{ErrorKind, Origin, QueryClass};

use super::{again, read, with, write};
use crate::support::{local, until_async};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0);
    CREATE FUNCTION slow() RETURNS int LANGUAGE plpgsql AS
      $$ BEGIN PERFORM v FROM t; PERFORM pg_advisory_xact_lock_shared(7); RETURN 1; END $$;
    CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT max(v) FROM t); END $$";

const HOSTILE: &[&str] = &[
    "SELECT 1; DROP TABLE t",
    "SELECT 1; SELECT 2",
    "SELECT 1; END; DROP TABLE t; --",
    "SELECT 1; END; $$; DROP TABLE t",
    "SELECT 1\n; END; DROP TABLE t; SELECT 1 /*",
    "SELECT 1 /*",
    "SELECT 1 */",
    "SELECT 'a",
    "SELECT \"a",
    "SELECT $$a",
    "",
    ";",
    "--",
    "END",
    "COMMIT",
    "ROLLBACK",
    "ROLLBACK; DROP TABLE t",
    "DROP TABLE t",
    "DO $$ BEGIN DROP TABLE t; END $$",
    "PREPARE larder_probe AS SELECT 1",
    "DEALLOCATE ALL",
    "SELECT $1",
    "SELECT $1::nothing_like_it",
    "SELECT $2::int",
    "EXPLAIN SELECT 1",
    "COPY t TO STDOUT",
    "LISTEN x",
    "SELECT 1 AS \"{QUERY :commandType 3}\"",
];

#[tokio::test]
async fn a_hostile_text_is_not_run_and_leaves_the_connection_as_it_was() {
    let (database, _) = with(SCHEMA).await;
    let (cache, pool) = (local().await, database.pool(1));
    let other = database.connect().await.unwrap();
    for sql in HOSTILE {
        let found = cache.query(*sql).dependencies(&pool).await.unwrap();
        let legal = sql.contains("{QUERY") || *sql == "SELECT $1";
        assert_eq!(found.class == QueryClass::Static, legal, "{sql}: {found:?}");
        let client = pool.get().await.unwrap();
        let left = "SELECT (SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'larder%'),
            (SELECT count(*) FROM pg_proc WHERE proname = 'larder_probe'),
            (SELECT count(*) FROM t), pg_my_temp_schema() = 0, pg_backend_pid()";
        let row =
            client.query_typed(left, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let row = &row[0];
        let counts: (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        assert_eq!(counts, (0, 0, 1), "{sql}");
        assert!(row.get::<_, bool>(3), "{sql}");
        let state = "SELECT state FROM pg_stat_activity WHERE pid = $1";
        let state = other.query_one(state, &[&row.get::<_, i32>(4)]).await.unwrap();
        assert_eq!(state.get::<_, &str>(0), "idle", "{sql}");
    }
    assert_eq!(pool.status().size, 1);
    // What PostgreSQL says about it is the error of the read.
    let error = cache.query("SELECT 1; DROP TABLE t").auto().fetch(&pool).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Query);
    let kept = cache.query("SELECT count(*) FROM t").auto();
    assert_eq!(again(&kept, &pool).await, Origin::L1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_leaves_no_transaction_open() {
    let (database, _) = with(SCHEMA).await;
    let admin = database.connect().await.unwrap();
    admin.batch_execute("SELECT pg_advisory_lock(7)").await.unwrap();
    let (cache, pool) = (local().await, database.pool(1));
    // In the middle of the load, past its deadline.
    let query = cache.query("SELECT slow()").auto().load_deadline(Duration::from_millis(300));
    let error = query.fetch(&pool).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline);
    // At each point while it learns: after one poll more each time.
    for polls in 0..40 {
        let fresh = cache.query(format!("SELECT v, {polls} FROM t")).auto();
        let mut read = Box::pin(fresh.fetch(&pool).answer());
        for _ in 0..polls {
            if read.as_mut().now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND pid <> pg_backend_pid() AND (state LIKE 'idle in transaction%' OR state = 'active')";
    until_async("nothing is open", async || {
        admin.query_one(open, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    let left = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'larder%'";
    let client = pool.get().await.unwrap();
    assert_eq!(client.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
    drop(client);
    let kept = cache.query("SELECT v FROM t").auto();
    assert_eq!(again(&kept, &pool).await, Origin::L1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_come_at_once_ask_once_and_go_on_if_the_first_one_leaves() {
    let (_database, pool) = with(SCHEMA).await;
    let cache = local().await;
    let query = cache.query("SELECT f()").auto();
    let first = query.fetch(&pool);
    let left = select(Box::pin(first), Box::pin(tokio::task::yield_now())).await;
    drop(left);
    let reads = (0..50).map(|_| {
        let (query, pool) = (query.clone(), pool.clone());
        tokio::spawn(async move { query.fetch(&pool).await.unwrap().len() })
    });
    for read in reads.collect::<Vec<_>>() {
        assert_eq!(read.await.unwrap(), 1);
    }
    assert!(cache.stats().loads <= 2, "{:?}", cache.stats());
}

#[tokio::test]
async fn a_right_that_is_missing_is_named_and_the_query_is_answered() {
    let (database, _) = with(SCHEMA).await;
    let admin = database.connect().await.unwrap();
    let user = format!("plain_{}", database.name());
    let name = database.name();
    let sql = format!(
        "CREATE ROLE {user} LOGIN; GRANT SELECT ON t TO {user};
         REVOKE TEMPORARY ON DATABASE {name} FROM public"
    );
    admin.batch_execute(&sql).await.unwrap();
    let (cache, pool) = (local().await, database.as_role(&user).pool(1));
    let query = cache.query("SELECT v FROM t").auto();
    let found = query.dependencies(&pool).await.unwrap();
    let grant = format!("GRANT TEMPORARY ON DATABASE {name} TO {user}");
    assert!(found.unfollowed[0].contains(&grant), "{found:?}");
    assert_eq!(again(&query, &pool).await, Origin::Loaded);
    admin.batch_execute(&grant).await.unwrap();
    // It is asked again a second later; another cache asks at once.
    let cache = local().await;
    let query = cache.query("SELECT v FROM t").auto();
    assert_eq!(again(&query, &pool).await, Origin::L1);
    let sql = "REVOKE EXECUTE ON FUNCTION pg_lock_status() FROM public";
    admin.batch_execute(sql).await.unwrap();
    let cache = local().await;
    let query = cache.query("SELECT f()").auto();
    let found = query.dependencies(&pool).await.unwrap();
    assert!(found.unfollowed[0].contains("pg_lock_status"), "{found:?}");
    assert_eq!(again(&query, &pool).await, Origin::Loaded);
}

#[tokio::test]
async fn statements_that_the_session_has_forgotten_cost_a_hit_and_nothing_else() {
    let (database, _) = with(SCHEMA).await;
    let (cache, pool) = (local().await, database.pool(1));
    let query = cache.query("SELECT f() WHERE $1 > 0").auto();
    for n in 1..6_i32 {
        query.bind(n).fetch(&pool).await.unwrap();
        pool.get().await.unwrap().batch_execute("DISCARD ALL").await.unwrap();
    }
    query.bind(7_i32).fetch(&pool).await.unwrap();
    query.bind(8_i32).fetch(&pool).await.unwrap();
    let answer = query.bind(8_i32).fetch(&pool).answer().await.unwrap();
    assert_eq!(answer.origin(), Origin::L1);
    write(&cache, &pool, "UPDATE t SET v = 9").await;
    let answer = query.bind(8_i32).fetch(&pool).answer().await.unwrap();
    assert_eq!(answer.value().row(0).get::<_, i32>(0), 9);
    let none = larder::QueryCache::builder().prepared_statements(0).build().await.unwrap();
    let query = none.query("SELECT f()").auto();
    read(&query, &pool).await;
    assert_eq!(read(&query, &pool).await.origin(), Origin::L1);
}
