//! Rows past the cache, and rows that a loader of the user's brings.

use std::sync::Arc;

use larder::params::OwnedParams;
use larder::{Error, ErrorKind, Origin, Rows};

use crate::support::{database, local};

/// Columns of several types, and a null.
const SEVERAL: &str =
    "SELECT n, n::text AS name, NULLIF(n, 2::int8) AS maybe, n / 2.0::float8 AS half
                       FROM generate_series(1, $1::int8) n ORDER BY n";

#[tokio::test]
async fn within_a_transaction_one_gets_the_rows_that_it_sees() {
    let database = database().await;
    let mut client = database.connect().await.unwrap();
    client.batch_execute("CREATE TABLE accounts (id int4, cents int8)").await.unwrap();
    let other = database.connect().await.unwrap();
    let sql = "SELECT id, cents FROM accounts WHERE id >= $1 ORDER BY id";
    let transaction = client.transaction().await.unwrap();
    transaction.execute("INSERT INTO accounts VALUES (1, NULL), (2, 250)", &[]).await.unwrap();
    let rows = Rows::query(&transaction, sql, &[&1_i32]).await.unwrap();
    assert_eq!(rows.len(), 2);
    let cents: Vec<Option<i64>> = rows.iter().map(|row| row.get("cents")).collect();
    assert_eq!(cents, [None, Some(250)]);
    let statement = transaction.prepare(sql).await.unwrap();
    let again = Rows::query_prepared(&transaction, &statement, &[&2_i32]).await.unwrap();
    assert_eq!(again.iter().map(|row| row.get::<_, i32>(0)).collect::<Vec<_>>(), [2]);
    // Nobody else sees them, and no rows have columns all the same.
    let none = Rows::query(&other, sql, &[&1_i32]).await.unwrap();
    assert!(none.is_empty());
    assert_eq!(
        none.columns().iter().map(|column| column.name()).collect::<Vec<_>>(),
        ["id", "cents"]
    );
    transaction.rollback().await.unwrap();
}

#[tokio::test]
async fn an_error_of_postgresql_is_the_source() {
    let client = database().await.connect().await.unwrap();
    let error = Rows::query(&client, "SELECT 1 / 0", &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Query);
    assert_eq!(error.sqlstate().map(|state| state.code()), Some("22012"));
}

#[tokio::test]
async fn rows_of_a_loader_are_kept_under_the_key_of_fetch() {
    let (database, cache) = (database().await, local().await);
    let pool = database.pool(2);
    let query = cache.query("SELECT $1::int8 AS n");
    let loader = {
        let pool = pool.clone();
        move |sql: Arc<str>, params: OwnedParams| async move {
            let client = pool.get().await.map_err(|error| error.to_string())?;
            Rows::query(&**client, &sql, &params.as_refs()).await.map_err(|error| error.to_string())
        }
    };
    let answer = query.bind(7_i64).load_rows(loader).answer().await.unwrap();
    assert_eq!(answer.origin(), Origin::Loaded);
    let answer = query.bind(7_i64).fetch(&pool).answer().await.unwrap();
    assert_eq!(answer.origin(), Origin::L1);
    assert_eq!(answer.value().iter().next().unwrap().get::<_, i64>("n"), 7);
}

#[tokio::test]
async fn an_error_of_ours_that_a_loader_returns_is_passed_on_as_it_is() {
    let (database, cache) = (database().await, local().await);
    let pool = database.pool(1);
    let query = cache.query("SELECT broken");
    let load = move |_, _| async move {
        let client = pool.get().await.expect("a connection");
        Rows::query(&**client, "SELECT no_such_column", &[]).await
    };
    let error: Error = query.load_rows(load).await.unwrap_err();
    assert_eq!(error.sqlstate().map(|state| state.code()), Some("42703"));
    assert!(!format!("{error:?}").contains("Query(Query"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_gives_the_rows_that_fetch_gives() {
    let database = database().await;
    let pool = database.pool(2);
    let cache = local().await;
    let fetched = cache.query(SEVERAL).bind(2_i64).fetch(&pool).await.unwrap();
    assert_eq!(fetched.len(), 2);
    assert_eq!(fetched.row(1).get::<_, Option<i64>>("maybe"), None);

    let mut client = database.connect().await.unwrap();
    assert_eq!(Rows::query(&client, SEVERAL, &[&2_i64]).await.unwrap(), fetched);
    let pooled = pool.get().await.unwrap();
    assert_eq!(Rows::query(&**pooled, SEVERAL, &[&2_i64]).await.unwrap(), fetched);
    let statement = client.prepare(SEVERAL).await.unwrap();
    for _ in 0..2 {
        let rows = Rows::query_prepared(&client, &statement, &[&2_i64]).await.unwrap();
        assert_eq!(rows, fetched);
    }
    let transaction = client.transaction().await.unwrap();
    assert_eq!(Rows::query(&transaction, SEVERAL, &[&2_i64]).await.unwrap(), fetched);
    let other = Rows::query(&transaction, SEVERAL, &[&1_i64]).await.unwrap();
    assert_ne!(other, fetched);
    assert!(Rows::query(&transaction, SEVERAL, &[&0_i64]).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_reads_its_own_writes_and_does_not_fill_the_cache() {
    let database = database().await;
    let pool = database.pool(2);
    let mut client = database.connect().await.unwrap();
    let setup = "CREATE TABLE stock (id int8, units int8); INSERT INTO stock VALUES (1, 10)";
    client.batch_execute(setup).await.unwrap();
    let cache = local().await;
    let sql = "SELECT units FROM stock WHERE id = $1";
    let units = |rows: &Rows| rows.row(0).get::<_, i64>("units");

    let transaction = client.transaction().await.unwrap();
    transaction.execute("UPDATE stock SET units = 9 WHERE id = 1", &[]).await.unwrap();
    assert_eq!(units(&Rows::query(&transaction, sql, &[&1_i64]).await.unwrap()), 9);
    let answer = cache.query(sql).bind(1_i64).fetch(&pool).answer().await.unwrap();
    assert_eq!((answer.origin(), units(answer.value())), (Origin::Loaded, 10));
    transaction.commit().await.unwrap();
    // Nor is the cache read.
    assert_eq!(units(&Rows::query(&client, sql, &[&1_i64]).await.unwrap()), 9);
}
