//! The names in a query may mean something else, though nothing that it called was defined anew.

use std::time::Duration;

use larder::testing::ManualClock;
use larder::{Origin, QueryCache};

use super::{with, write};
use crate::support::until_async;

const SCHEMA: &str = "
    CREATE SCHEMA first;
    CREATE TABLE t (id int PRIMARY KEY, v int, words text, d date); INSERT INTO t VALUES (1, 1, '(1)', '2024-01-01');
    CREATE TABLE c (d date); INSERT INTO c VALUES ('2024-01-01');
    CREATE FUNCTION volatile() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RETURN now() IS NOT NULL; END $$;
    CREATE FUNCTION g(numeric) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN true; END $$;
    CREATE FUNCTION k(numeric) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RETURN true; END $$;
    CREATE FUNCTION calls_k(x int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RETURN k(x); END $$;
    CREATE FUNCTION uses_built_in(x int) RETURNS bool LANGUAGE plpgsql AS
      $$ BEGIN RETURN div(x, 1) IS NOT NULL; END $$;
    CREATE OPERATOR <~ (FUNCTION = numeric_lt, LEFTARG = numeric, RIGHTARG = numeric);
    CREATE TYPE one AS (x int); CREATE DOMAIN small AS int;";

/// Queries, and a definition by which they ask for the time.
const CHANGES: &[(&str, &str)] = &[
    (
        "SELECT count(*) FROM t WHERE g(v)",
        "CREATE FUNCTION g(int) RETURNS bool LANGUAGE sql AS 'SELECT volatile()'",
    ),
    (
        "SELECT count(*) FROM t WHERE calls_k(v)",
        "CREATE FUNCTION k(int) RETURNS bool LANGUAGE sql AS 'SELECT volatile()'",
    ),
    (
        "SELECT count(*) FROM t WHERE uses_built_in(v)",
        "CREATE FUNCTION div(int, int) RETURNS bool LANGUAGE sql AS 'SELECT volatile()'",
    ),
    (
        "SELECT count(*) FROM t WHERE abs(v) = 1",
        "CREATE FUNCTION first.abs(int) RETURNS int LANGUAGE sql AS 'SELECT volatile()::int';",
    ),
    (
        "SELECT count(*) FROM t WHERE v <~ 2",
        "CREATE FUNCTION lt(int, int) RETURNS bool LANGUAGE sql AS 'SELECT volatile()';
         CREATE OPERATOR <~ (FUNCTION = lt, LEFTARG = int, RIGHTARG = int)",
    ),
    (
        "SELECT count(words::one) FROM t",
        "CREATE FUNCTION one(text) RETURNS one LANGUAGE sql AS 'SELECT row(volatile()::int)::one';
         CREATE CAST (text AS one) WITH FUNCTION one(text)",
    ),
    ("SELECT count(d::date) FROM c", "ALTER TABLE c ALTER d TYPE text"),
    ("SELECT count(v::small) FROM t", "CREATE DOMAIN first.small AS int CHECK (volatile())"),
    ("SELECT count(*) FROM t", "CREATE VIEW first.t AS SELECT * FROM public.t WHERE volatile()"),
];

#[tokio::test]
async fn what_a_name_means_from_now_on_is_noticed_within_a_second_by_loads() {
    let (database, pool) = with(SCHEMA).await;
    let client = database.connect().await.unwrap();
    for (sql, change) in CHANGES {
        let clock = ManualClock::new();
        let cache = QueryCache::builder().clock(clock.clone()).build().await.unwrap();
        let path = "first, pg_catalog, public";
        let query =
            cache.query(format!("{sql} HAVING $1 > 0")).auto().with_setting("search_path", path);
        let read = async |n: i32| query.bind(n).fetch(&pool).answer().await.unwrap().origin();
        assert_eq!((read(1).await, read(1).await), (Origin::Loaded, Origin::L1), "{sql}");
        client.batch_execute("BEGIN").await.unwrap();
        client.batch_execute(change).await.unwrap();
        client.batch_execute("COMMIT").await.unwrap();
        clock.advance(Duration::from_secs(1));
        read(2).await;
        assert_eq!((read(1).await, read(1).await), (Origin::Loaded, Origin::Loaded), "{sql}");
        let found = query.dependencies(&pool).await.unwrap();
        assert!(!found.unfollowed.is_empty(), "{sql}: {found:?}");
    }
}

#[tokio::test]
async fn a_table_in_an_earlier_schema_is_what_counts_from_then_on() {
    let (database, pool) = with(SCHEMA).await;
    let client = database.connect().await.unwrap();
    let clock = ManualClock::new();
    let cache = QueryCache::builder().clock(clock.clone()).build().await.unwrap();
    // The schema is not there yet.
    let query = cache
        .query("SELECT sum(v) FROM t WHERE $1 > 0")
        .auto()
        .with_setting("search_path", "later, public");
    let sum = async |n: i32| {
        let answer = query.bind(n).fetch(&pool).answer().await.unwrap();
        (answer.value().row(0).get::<_, i64>(0), answer.origin())
    };
    assert_eq!((sum(1).await, sum(1).await), ((1, Origin::Loaded), (1, Origin::L1)));
    let shadow =
        "CREATE SCHEMA later; CREATE TABLE later.t (v int); INSERT INTO later.t VALUES (7)";
    client.batch_execute(shadow).await.unwrap();
    clock.advance(Duration::from_secs(1));
    // The load that finds it out is not stored.
    assert_eq!((sum(2).await, sum(2).await), ((7, Origin::Loaded), (7, Origin::Loaded)));
    assert_eq!((sum(1).await, sum(1).await), ((7, Origin::Loaded), (7, Origin::L1)));
    for n in 8..12 {
        write(&cache, &pool, &format!("UPDATE later.t SET v = {n}")).await;
        assert_eq!(sum(1).await, (n, Origin::Loaded));
        assert_eq!(sum(1).await, (n, Origin::L1));
    }
    write(&cache, &pool, "UPDATE public.t SET v = 0").await;
    assert_eq!(sum(1).await, (11, Origin::L1));
}

/// A prepared statement goes on with the function that it found.
#[tokio::test]
async fn no_statement_that_means_what_a_name_has_meant_before_is_run_again() {
    let (database, pool) = with(SCHEMA).await;
    let client = database.connect().await.unwrap();
    client
        .batch_execute(
            "CREATE FUNCTION m(numeric) RETURNS int8 LANGUAGE plpgsql AS
               $$ BEGIN RETURN extract(epoch FROM now()); END $$;
             CREATE FUNCTION slow() RETURNS text LANGUAGE plpgsql IMMUTABLE AS
               $$ BEGIN RETURN pg_sleep(0.01); END $$",
        )
        .await
        .unwrap();
    let clock = ManualClock::new();
    let cache = QueryCache::builder().clock(clock.clone()).build().await.unwrap();
    let query = cache.query("SELECT m(v), slow() FROM t WHERE $1 > 0").auto();
    // On all connections of the pool at once.
    let all = async || {
        let reads = (0..8).map(|n| query.bind(1 + n).fetch(&pool).answer());
        futures_util::future::try_join_all(reads).await.unwrap()
    };
    all().await;
    assert_eq!(pool.status().size, 2);
    let followed =
        "CREATE FUNCTION m(int) RETURNS int8 LANGUAGE sql IMMUTABLE AS 'SELECT 42::int8'";
    client.batch_execute(followed).await.unwrap();
    clock.advance(Duration::from_secs(1));
    until_async("it is followed", async || {
        all().await.iter().all(|answer| answer.origin() == Origin::L1)
    })
    .await;
    for answer in all().await {
        assert_eq!(answer.value().row(0).get::<_, i64>(0), 42);
    }
}
