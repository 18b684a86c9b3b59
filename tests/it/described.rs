//! Does every result have the description of types that its cells were written under?

use std::sync::Arc;

use larder::{ErrorKind, Origin, QueryCache, Rows, TransactionPooling};
use serde_json::Value;
use tokio_postgres::Client;

use crate::servers::Database;
use crate::support::{database, local, namespace, over_redis, until_async, written};

/// Types of every kind, at every depth, over the table `customer` and the enum `mood`.
const SETUP: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE TYPE place AS (city text, country text);
    CREATE DOMAIN home AS place;
    CREATE TYPE moods AS RANGE (SUBTYPE = mood);
    CREATE TABLE customer (id int, city text, phone text, at place, home home);
    CREATE VIEW seen AS SELECT id, mood 'ok' AS mood, ROW('a', 'b')::place AS at FROM customer;
    CREATE TABLE parted (id int, city text) PARTITION BY LIST (id);
    CREATE TABLE part PARTITION OF parted FOR VALUES IN (1);
    INSERT INTO customer VALUES (1, 'Oslo', '555', ('Oslo', 'NO'), ('Rome', 'IT'));
    INSERT INTO parted VALUES (1, 'Oslo');
    CREATE TYPE pair AS (one customer, moods mood[]);
";

const QUERIES: [&str; 9] = [
    "SELECT c FROM customer c",
    "SELECT ARRAY[c, NULL] AS c FROM customer c",
    "SELECT at FROM customer",
    "SELECT ARRAY[home] AS homes FROM customer",
    "SELECT ROW(c, ARRAY['ok']::mood[])::pair AS pair FROM customer c",
    "SELECT s FROM seen s",
    "SELECT p FROM parted p",
    "SELECT p FROM part p",
    "SELECT 'ok'::mood AS mood",
];

const CHANGES: [&str; 12] = [
    "ALTER TABLE customer ADD COLUMN country text DEFAULT 'NO'",
    // As many fields of the same types, under other names.
    "ALTER TABLE customer DROP COLUMN phone, ADD COLUMN fax text DEFAULT '666'",
    "ALTER TABLE customer RENAME COLUMN fax TO telex",
    "ALTER TYPE place RENAME ATTRIBUTE city TO town CASCADE",
    "ALTER TYPE place RENAME TO spot",
    "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'",
    "ALTER TYPE mood ADD VALUE 'fine' BEFORE 'ok'",
    "ALTER DOMAIN home RENAME TO house",
    "CREATE OR REPLACE VIEW seen AS SELECT id, mood 'ok' AS mood, ROW('a', 'b')::spot AS at, 1 AS n
       FROM customer",
    "ALTER TABLE parted RENAME COLUMN city TO town",
    "CREATE SCHEMA aside; ALTER TYPE spot SET SCHEMA aside",
    "ALTER SCHEMA aside RENAME TO astray",
];

/// The result of a connection that has never seen an older description.
async fn expected(database: &Database, sql: &str) -> Rows {
    Rows::query(&database.connect().await.unwrap(), sql, &[]).await.unwrap()
}

fn values(rows: &Rows) -> Vec<Value> {
    rows.deserialize::<(Value,)>().unwrap().into_iter().map(|(value,)| value).collect()
}

fn assert_same(found: &Rows, expected: &Rows, what: &str) {
    assert_eq!(found.columns()[0].type_(), expected.columns()[0].type_(), "{what}");
    assert_eq!(values(found), values(expected), "{what}");
}

#[tokio::test]
async fn types_may_change_at_any_depth() {
    let database = database().await;
    let admin = database.connect().await.unwrap();
    admin.batch_execute(SETUP).await.unwrap();
    let cache = local().await;
    let (pool, client) = (database.pool(1), Arc::new(database.connect().await.unwrap()));
    let transactions = TransactionPooling::new(database.pool(1));
    let alone = database.connect().await.unwrap();
    for change in ["SELECT 1"].iter().chain(&CHANGES) {
        admin.batch_execute(change).await.unwrap();
        for sql in QUERIES {
            let expected = expected(&database, sql).await;
            let query = cache.query(sql);
            for source in 0..4 {
                cache.clear().await.unwrap();
                let rows = match source {
                    0 => query.fetch(&pool).await,
                    1 => query.fetch(&client).await,
                    2 => query.fetch(&transactions).await,
                    _ => Rows::query(&alone, sql, &[]).await,
                };
                let what = format!("{sql} from source {source} after {change}");
                assert_same(&rows.unwrap_or_else(|e| panic!("{what}: {e}")), &expected, &what);
            }
        }
    }
}

#[tokio::test]
async fn another_process_never_reads_cells_under_an_older_description() {
    let database = database().await;
    let admin = database.connect().await.unwrap();
    admin.batch_execute(SETUP).await.unwrap();
    let namespace = namespace();
    let here = over_redis(&namespace).build().await.unwrap();
    let (pool, sql) = (database.pool(1), QUERIES[0]);
    for (results, change) in (1..).zip(["SELECT 1"].iter().chain(&CHANGES[..3])) {
        admin.batch_execute(change).await.unwrap();
        here.clear().await.unwrap();
        let expected = expected(&database, sql).await;
        let rows = here.query(sql).fetch(&pool).await.unwrap();
        assert_same(&rows, &expected, change);
        written(&here, results).await;
        // A process that was started after the change.
        let there = over_redis(&namespace).build().await.unwrap();
        let answer = there.query(sql).fetch(&database.pool(1)).answer().await.unwrap();
        assert_same(answer.value(), &expected, change);
        if cfg!(feature = "redis") {
            assert_eq!(answer.origin(), Origin::L2);
        }
    }
}

/// Waits until a session waits for an advisory lock.
async fn until_it_waits(admin: &Client) {
    until_async("the query waits for the lock", async || {
        let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
        admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
}

#[tokio::test]
async fn a_type_may_change_while_its_query_runs() {
    let database = database().await;
    let admin = database.connect().await.unwrap();
    admin.batch_execute("CREATE TYPE place AS (city text, phone text)").await.unwrap();
    let sql = "SELECT ROW('Oslo', pg_advisory_xact_lock(7)::text)::place AS at";
    let cache: QueryCache = local().await;
    let (pool, transactions) = (database.pool(1), TransactionPooling::new(database.pool(1)));
    // The connections know the type.
    cache.query(sql).fetch(&pool).await.unwrap();
    for (source, (from, to)) in [("phone", "fax"), ("fax", "telex")].into_iter().enumerate() {
        cache.clear().await.unwrap();
        admin.batch_execute("SELECT pg_advisory_lock(7)").await.unwrap();
        let (cache, pool, transactions) = (cache.clone(), pool.clone(), transactions.clone());
        let load = tokio::spawn(async move {
            let query = cache.query(sql);
            let read = if source == 0 {
                query.fetch(&pool).answer().await
            } else {
                query.fetch(&transactions).answer().await
            };
            read.unwrap()
        });
        until_it_waits(&admin).await;
        let change = format!("ALTER TYPE place RENAME ATTRIBUTE {from} TO {to}");
        admin.batch_execute(&change).await.unwrap();
        admin.batch_execute("SELECT pg_advisory_unlock(7)").await.unwrap();
        let answer = load.await.unwrap();
        assert_eq!(answer.origin(), Origin::Loaded);
        let expected = serde_json::json!({ "city": "Oslo", to: "" });
        assert_eq!(values(answer.value()), [expected]);
    }
}

#[tokio::test]
async fn a_type_costs_one_question_per_connection_and_base_types_none() {
    let database = database().await;
    let admin = database.connect().await.unwrap();
    admin.batch_execute(SETUP).await.unwrap();
    let cache = local().await;
    let pool = database.pool(1);
    let pid: i32 = {
        let client = pool.get().await.unwrap();
        client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
    };
    // The text of the connection's last query shows what was asked after the load.
    let last = async || -> String {
        let sql = "SELECT query FROM pg_stat_activity WHERE pid = $1";
        admin.query_one(sql, &[&pid]).await.unwrap().get(0)
    };
    cache.query("SELECT 1 AS one").fetch(&pool).await.unwrap();
    assert_eq!(last().await, "SELECT 1 AS one");
    cache.query("SELECT 'ok'::mood").fetch(&pool).await.unwrap();
    until_async("the version was asked for", async || last().await.starts_with("SELECT t.oid"))
        .await;
    cache.query("SELECT 2 AS two").fetch(&pool).await.unwrap();
    assert_eq!(last().await, "SELECT 2 AS two");
}

#[tokio::test]
async fn a_type_that_rows_cannot_hold_is_an_error_and_harms_no_other_query() {
    let database = database().await;
    let admin = database.connect().await.unwrap();
    let mut sql = String::from("CREATE DOMAIN d0 AS int;");
    for depth in 1..80 {
        sql += &format!("CREATE DOMAIN d{depth} AS d{};", depth - 1);
    }
    admin.batch_execute(&sql).await.unwrap();
    admin.batch_execute("CREATE TYPE deep AS (f d79); CREATE TYPE flat AS (f d50)").await.unwrap();
    let cache = local().await;
    let (pool, client) = (database.pool(1), Arc::new(database.connect().await.unwrap()));
    let transactions = TransactionPooling::new(database.pool(1));
    let deep = cache.query("SELECT ROW(1)::deep AS deep");
    for error in [
        deep.fetch(&pool).await.unwrap_err(),
        deep.fetch(&client).await.unwrap_err(),
        deep.fetch(&transactions).await.unwrap_err(),
        Rows::query(&admin, "SELECT ROW(1)::deep AS deep", &[]).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Query, "{error}");
        assert!(error.to_string().contains("column \"deep\""), "{error}");
    }
    let flat = cache.query("SELECT ROW(1)::flat AS flat").fetch(&pool).await.unwrap();
    assert_eq!(values(&flat), [serde_json::json!({ "f": 1 })]);
}
