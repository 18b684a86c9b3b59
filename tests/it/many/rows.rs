//! Rows of one query, assigned to the values of a batch.

use std::time::Duration;

use larder::{ErrorKind, Origin, Rows};

use crate::servers::Database;
use crate::support::{database, namespace, over_redis, until_async};

async fn shop() -> Database {
    let database = database().await;
    let client = database.connect().await.unwrap();
    client
        .batch_execute(
            "CREATE SEQUENCE queries; \
             CREATE TYPE region AS ENUM ('eu', 'us', 'asia'); \
             CREATE DOMAIN code AS varchar(8); \
             CREATE TABLE orders (id int8, customer int4, region region, code code, day date, \
               cents numeric); \
             INSERT INTO orders SELECT n, n % 5, (enum_range(NULL::region))[n % 2 + 1], \
               'c' || n % 3, '2026-01-01'::date + n % 4, n / 4.0 FROM generate_series(1, 20) n",
        )
        .await
        .unwrap();
    database
}

/// Counts how often it runs.
const BY_CUSTOMER: &str = "WITH run AS MATERIALIZED (SELECT nextval('queries') AS number) \
    SELECT customer, id, number FROM run, orders WHERE customer = ANY($1) ORDER BY id";

async fn queries(database: &Database) -> i64 {
    let client = database.connect().await.unwrap();
    let row = client.query_one("SELECT nextval('queries') - 1", &[]).await.unwrap();
    row.get(0)
}

fn ids(rows: &Rows) -> Vec<i64> {
    rows.iter().map(|row| row.get("id")).collect()
}

#[tokio::test]
async fn one_query_loads_all_that_is_missing_and_each_row_has_its_value() {
    let database = shop().await;
    let (pool, cache) = (database.pool(2), over_redis(&namespace()).build().await.unwrap());
    let query = cache.query(BY_CUSTOMER).tag("orders");
    let found = query.bind_many([3, 77, 0, 3]).by_column("customer").fetch(&pool).await;
    let found: Vec<Rows> = found.into_iter().collect::<Result<_, _>>().unwrap();
    let of: Vec<_> = found.iter().map(ids).collect();
    assert_eq!(of, [vec![3, 8, 13, 18], vec![], vec![5, 10, 15, 20], vec![3, 8, 13, 18]]);
    // An empty result has its columns.
    assert_eq!(found[1].columns(), found[0].columns());
    let numbers: Vec<i64> = found[2].iter().map(|row| row.get("number")).collect();
    assert_eq!(numbers, [1; 4]);
    // The result of a value is that of a list of it alone.
    let answer = query.bind([3]).fetch(&pool).answer().await.unwrap();
    assert_eq!((answer.value(), answer.origin()), (&found[0], Origin::L1));
    let single = query.bind(vec![4]).fetch(&pool).await.unwrap();
    let again = query.bind_many([77, 4, 1]).by(|row| row.get::<_, i32>("customer")).fetch(&pool);
    let again = again.answers().await;
    let origins: Vec<_> = again.iter().map(|it| it.as_ref().unwrap().origin()).collect();
    assert_eq!(origins, [Origin::L1, Origin::L1, Origin::Loaded]);
    assert_eq!(again[1].as_ref().unwrap().value(), &single);
    assert_eq!(ids(again[2].as_ref().unwrap().value()), [1, 6, 11, 16]);
    assert_eq!(queries(&database).await, 3);
    cache.invalidate(["orders"]).await;
    let found = query.bind_many([0, 1]).by_column("customer").fetch(&pool).answers().await;
    assert!(found.iter().all(|it| it.as_ref().unwrap().origin() == Origin::Loaded));
}

#[tokio::test]
async fn each_value_has_the_rows_of_a_query_for_it_alone() {
    let database = shop().await;
    let (pool, cache) = (database.pool(2), over_redis(&namespace()).build().await.unwrap());
    let query = cache.query("SELECT id FROM orders WHERE customer = $1 AND id > $2 ORDER BY id");
    let found = query.bind(2_i32).bind_many([0_i64, 10, 30]).fetch(&pool).await;
    let found: Vec<_> = found.iter().map(|it| ids(it.as_ref().unwrap())).collect();
    assert_eq!(found, [vec![2, 7, 12, 17], vec![12, 17], vec![]]);
    let single = query.bind(2_i32).bind(10_i64).fetch(&pool).answer().await.unwrap();
    assert_eq!(single.origin(), Origin::L1);
}

#[tokio::test]
async fn values_of_many_types_are_found_in_their_column() {
    let database = shop().await;
    let (pool, cache) = (database.pool(2), over_redis(&namespace()).build().await.unwrap());
    let sql = |column: &str| {
        format!("SELECT {column}, id FROM orders WHERE {column} = ANY($1) ORDER BY id")
    };
    let region = cache.query(sql("region"));
    let found = region.bind_many(["eu", "asia", "us"]).by_column("region").fetch(&pool).await;
    let counts: Vec<_> = found.into_iter().map(|it| it.unwrap().len()).collect();
    assert_eq!(counts, [10, 0, 10]);
    let code = cache.query(sql("code"));
    let found = code.bind_many(["c0", "c1", "c9"]).by_column("CODE").fetch(&pool).await;
    let counts: Vec<_> = found.into_iter().map(|it| it.unwrap().len()).collect();
    assert_eq!(counts, [6, 7, 0]);
    // NULL equals nothing.
    let id = cache.query(sql("id"));
    let found = id.bind_many([Some(1_i64), None]).by_column("id").fetch(&pool).await;
    let counts: Vec<_> = found.into_iter().map(|it| it.unwrap().len()).collect();
    assert_eq!(counts, [1, 0]);
    // A parameter before the list.
    let both = cache.query("SELECT customer, id FROM orders WHERE id < $1 AND customer = ANY($2)");
    let found = both.bind(7_i64).bind_many([1, 2]).by_column("customer").fetch(&pool).await;
    let found: Vec<_> = found.iter().map(|it| ids(it.as_ref().unwrap())).collect();
    assert_eq!(found, [vec![1, 6], vec![2]]);
}

#[tokio::test]
async fn rows_that_cannot_be_assigned_are_errors_that_say_what_to_do() {
    let database = shop().await;
    let (pool, cache) = (database.pool(2), over_redis(&namespace()).build().await.unwrap());
    let query = cache.query("SELECT customer, cents FROM orders WHERE customer = ANY($1)");
    let all = cache.query("SELECT customer FROM orders WHERE customer >= ANY($1)");
    for (read, said) in [
        (query.bind_many([1, 2]).by_column("client").fetch(&pool), "no column \"client\""),
        (query.bind_many([1, 2]).by_column("cents").fetch(&pool), "by a function instead (`by`)"),
        (all.bind_many([1, 2]).by_column("customer").fetch(&pool), "nothing else"),
        (all.bind_many([1, 2]).by(|row| row.get::<_, i32>(0)).fetch(&pool), "nothing else"),
    ] {
        for outcome in read.await {
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Column);
            assert!(error.to_string().contains(said), "{error}");
        }
    }
    // Numbers have several forms; a function knows which.
    let cents = cache.query("SELECT cents, id FROM orders WHERE cents::float8 = ANY($1)");
    let read = cents.bind_many([0.25_f64, 1.0]).by(|row| {
        let id: i64 = row.get("id");
        id as f64 / 4.0
    });
    let found: Vec<_> =
        read.fetch(&pool).await.iter().map(|it| ids(it.as_ref().unwrap())).collect();
    assert_eq!(found, [[1], [4]]);
}

#[tokio::test]
async fn one_bad_value_spoils_no_other() {
    let database = shop().await;
    let (pool, cache) = (database.pool(2), over_redis(&namespace()).build().await.unwrap());
    let query = cache
        .query("SELECT value, 100 / (value - 13) AS quotient FROM unnest($1::int8[]) AS value");
    let read = query.bind_many(0..100_i64).by_column("value").fetch(&pool);
    for (value, outcome) in read.await.into_iter().enumerate() {
        if value == 13 {
            assert_eq!(outcome.unwrap_err().sqlstate().unwrap().code(), "22012");
        } else {
            let expected = 100 / (value as i64 - 13);
            assert_eq!(outcome.unwrap().row(0).get::<_, i64>("quotient"), expected);
        }
    }
    // An error that is of the query itself is not tried again for each value.
    let broken = cache.query("SELECT nextval('queries'), id FROM no_orders WHERE id = ANY($1)");
    for outcome in broken.bind_many(0..100_i64).by_column("id").fetch(&pool).await {
        assert_eq!(outcome.unwrap_err().sqlstate().unwrap().code(), "42P01");
    }
    // With a value that cannot be written at all.
    let text = cache.query("SELECT value FROM unnest($1::text[]) AS value");
    let read = text.bind_many(["fine", "with \0"]).by_column("value").fetch(&pool).await;
    assert_eq!(read[0].as_ref().unwrap().len(), 1);
    assert_eq!(read[1].as_ref().unwrap_err().sqlstate().unwrap().code(), "22021");
}

#[tokio::test]
async fn a_query_past_its_deadline_is_cancelled_and_all_its_values_are_told() {
    let database = shop().await;
    let (pool, cache) = (database.pool(2), over_redis(&namespace()).build().await.unwrap());
    let query = cache
        .query("SELECT value, pg_sleep(600)::text FROM unnest($1::int8[]) AS value")
        .load_deadline(Duration::from_millis(300));
    for outcome in query.bind_many(0..20_i64).by_column("value").fetch(&pool).await {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Deadline);
    }
    let client = database.connect().await.unwrap();
    until_async("nothing sleeps", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' \
            AND state = 'active' AND pid <> pg_backend_pid() AND datname = current_database()";
        client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
}

#[tokio::test]
async fn a_role_and_settings_hold_for_a_batch() {
    let database = shop().await;
    let (pool, cache) = (database.pool(2), over_redis(&namespace()).build().await.unwrap());
    let query = cache.query(
        "SELECT value, current_setting('app.tenant') AS tenant FROM unnest($1::int8[]) AS value",
    );
    for tenant in ["seven", "eight", "seven"] {
        let bound = query.params(()).with_setting("app.tenant", tenant);
        let found = bound.bind_many([1_i64, 2]).by_column("value").fetch(&pool).await;
        for rows in found {
            assert_eq!(rows.unwrap().row(0).get::<_, String>("tenant"), tenant);
        }
    }
    assert_eq!(cache.stats().loads, 4);
    let bound = query.params(()).with_setting("app.tenant", "seven");
    let read = bound.bind_many([1_i64]).load_each(|_| async { Ok::<_, std::io::Error>(1) });
    assert_eq!(read.await[0].as_ref().unwrap_err().kind(), ErrorKind::Setting);
}
