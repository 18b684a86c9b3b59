//! Do `Rows::query` and `load_rows` give the rows that `fetch` gives?

use larder::{Error, ErrorKind, Origin, Rows};
use tokio_postgres::error::SqlState;

use crate::support::{database, local};

/// Columns of several types, a null and a second row.
const SQL: &str = "SELECT n, n::text AS name, NULLIF(n, 2::int8) AS maybe, n / 2.0::float8 AS half
                   FROM generate_series(1, $1::int8) n ORDER BY n";

#[tokio::test(flavor = "multi_thread")]
async fn every_client_gives_the_rows_that_fetch_gives() {
    let database = database().await;
    let pool = database.pool(2);
    let cache = local().await;
    let fetched = cache.query(SQL).bind(2_i64).fetch(&pool).await.unwrap();
    assert_eq!(fetched.len(), 2);
    assert_eq!(fetched.row(1).get::<_, Option<i64>>("maybe"), None);

    let mut client = database.connect().await.unwrap();
    assert_eq!(Rows::query(&client, SQL, &[&2_i64]).await.unwrap(), fetched);
    let pooled = pool.get().await.unwrap();
    assert_eq!(Rows::query(&**pooled, SQL, &[&2_i64]).await.unwrap(), fetched);
    let statement = client.prepare(SQL).await.unwrap();
    for _ in 0..2 {
        let rows = Rows::query_prepared(&client, &statement, &[&2_i64]).await.unwrap();
        assert_eq!(rows, fetched);
    }
    let transaction = client.transaction().await.unwrap();
    assert_eq!(Rows::query(&transaction, SQL, &[&2_i64]).await.unwrap(), fetched);
    let other = Rows::query(&transaction, SQL, &[&1_i64]).await.unwrap();
    assert_ne!(other, fetched);
    assert!(Rows::query(&transaction, SQL, &[&0_i64]).await.unwrap().is_empty());
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

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_postgresql_is_the_source() {
    let database = database().await;
    let mut client = database.connect().await.unwrap();
    let mut transaction = client.transaction().await.unwrap();
    // The first fails when it is prepared, the second when it runs.
    for (sql, state) in [
        ("SELECT $1::int8 FROM nowhere", SqlState::UNDEFINED_TABLE),
        ("SELECT 1 / ($1::int8 - 1)", SqlState::DIVISION_BY_ZERO),
    ] {
        let attempt = transaction.savepoint("attempt").await.unwrap();
        let error = Rows::query(&attempt, sql, &[&1_i64]).await.unwrap_err();
        assert_eq!((error.kind(), error.sqlstate()), (ErrorKind::Query, Some(&state)));
        attempt.rollback().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn loaded_rows_have_the_key_of_fetched_rows() {
    let database = database().await;
    let pool = database.pool(2);
    let cache = local().await;
    let query = cache.query(SQL);

    let from = pool.clone();
    let load = move || async move {
        let client = from.get().await.map_err(|error| error.to_string())?;
        Rows::query(&**client, SQL, &[&3_i64]).await.map_err(|error| error.to_string())
    };
    let loaded = query.bind(3_i64).load_rows(load).answer().await.unwrap();
    assert_eq!((loaded.origin(), loaded.value().len()), (Origin::Loaded, 3));
    let fetched = query.bind(3_i64).fetch(&pool).answer().await.unwrap();
    assert_eq!((fetched.origin(), fetched.value()), (Origin::L1, loaded.value()));
    let other = query.bind(2_i64).fetch(&pool).answer().await.unwrap();
    assert_eq!((other.origin(), other.value().len()), (Origin::Loaded, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_larder_error_of_a_loader_is_passed_on() {
    let database = database().await;
    let client = database.connect().await.unwrap();
    let cache = local().await;
    let load = move || async move { Rows::query(&client, "SELECT 1 / 0", &[]).await };
    let error: Error = cache.query("SELECT 1 / 0").load_rows(load).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Query);
    assert_eq!(error.sqlstate(), Some(&SqlState::DIVISION_BY_ZERO));
    let source = std::error::Error::source(&error).unwrap();
    assert!(source.is::<tokio_postgres::Error>(), "{source:?}");
    // An error of another type is the source.
    let query = cache.query("SELECT 1 / 0");
    let error = query.load_rows(|| async { Err::<Rows, _>("no rows") }).await.unwrap_err();
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "no rows");
}
