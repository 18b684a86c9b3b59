//! Does an error say which query failed and why, and no more than may be shown?

use std::io;
use std::sync::Arc;
use std::time::Duration;

use larder::{ErrorKind, Query};
use tokio_postgres::error::SqlState;

use crate::support::{database, local};

/// As a program's own errors are: they name what was attempted, and have a source.
#[derive(Debug)]
struct Mine<E>(&'static str, E);

impl<E> std::fmt::Display for Mine<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl<E: std::error::Error + 'static> std::error::Error for Mine<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.1)
    }
}

async fn failed(query: &Query, error: impl std::error::Error + Send + Sync + 'static) -> String {
    let read = query.load(move || async move { Err::<i64, _>(error) });
    read.await.unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_names_its_query_and_its_cause_whoever_ran_the_query() {
    let database = database().await;
    let pool = database.pool(1);
    let client = Arc::new(database.connect().await.unwrap());
    let cache = local().await;
    let top = |sql: &str| cache.query(sql).name("top customers");
    let expected = "the query `top customers` failed: relation \"customers\" does not exist \
                    (SQLSTATE 42P01)";
    let sql = "SELECT * FROM customers";
    let query = top(sql);
    assert_eq!(query.fetch(&pool).await.unwrap_err().to_string(), expected);
    let error = query.fetch(&client).await.unwrap_err();
    assert_eq!((error.to_string().as_str(), error.query_name()), (expected, Some("top customers")));

    // A function of one's own, with the driver's error in whatever it was put into.
    let of_driver = async || client.query(sql, &[]).await.unwrap_err();
    assert_eq!(failed(&query, of_driver().await).await, expected);
    assert_eq!(failed(&query, Arc::new(of_driver().await)).await, expected);
    assert_eq!(failed(&query, io::Error::other(of_driver().await)).await, expected);
    let wrapped = expected.replace("failed: ", "failed: cannot list: ");
    assert_eq!(failed(&query, Mine("cannot list", of_driver().await)).await, wrapped);
    let deep = Mine("cannot list", io::Error::other(Box::new(Arc::new(of_driver().await))));
    assert_eq!(failed(&query, deep).await, wrapped);
    let repeated = Mine("cannot list: db error", of_driver().await);
    assert_eq!(failed(&query, repeated).await, wrapped);
    let anyhow = || async {
        let rows = client.query("SELECT * FROM customers", &[]).await;
        Ok::<_, anyhow::Error>(rows?.len() as i64)
    };
    let error = anyhow().await.unwrap_err().context("cannot list");
    let read = query.load(|| async { Err::<i64, _>(error) });
    let error = read.await.unwrap_err();
    assert_eq!(error.to_string(), wrapped);
    assert_eq!(error.sqlstate(), Some(&SqlState::UNDEFINED_TABLE));
    assert_eq!(error.db_error().unwrap().message(), "relation \"customers\" does not exist");

    // Of another driver, or of none.
    let gone = failed(&query, Mine("cannot list", io::Error::other("the socket is gone"))).await;
    assert_eq!(gone, "the query `top customers` failed: cannot list: the socket is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_failure_names_the_query() {
    let database = database().await;
    let cache = local().await;
    let top = |sql: &str| cache.query(sql).name("top customers");
    let pool = database.pool(1);
    let held = pool.get().await.unwrap();
    let slow = top("SELECT pg_sleep(100)").load_deadline(Duration::from_millis(50));
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(1).user("nobody");
    let nowhere = deadpool_postgres::Manager::new(config, tokio_postgres::NoTls);
    let nowhere = deadpool_postgres::Pool::builder(nowhere).build().unwrap();
    let one = top("SELECT 1");
    let panics = one.load(|| async {
        if true {
            panic!("hunter2");
        }
        Ok::<i64, io::Error>(1)
    });
    for (error, kind, expected) in [
        (slow.fetch(&pool).await.unwrap_err(), ErrorKind::Deadline, "load deadline of 50ms"),
        (
            top("SELECT 1").fetch(&nowhere).await.unwrap_err(),
            ErrorKind::Connect,
            "onnection refused",
        ),
        (panics.await.unwrap_err(), ErrorKind::Panicked, "its query function panicked"),
        (
            top("SELECT 1").ttl(Duration::ZERO).fetch(&pool).await.unwrap_err(),
            ErrorKind::Setting,
            "`ttl`",
        ),
        (
            top("SELECT 1").params(()).as_role("").fetch(&pool).await.unwrap_err(),
            ErrorKind::Setting,
            "`as_role`",
        ),
        (
            top("SELECT 2")
                .as_role("app")
                .load(|| async { Ok::<_, io::Error>(1) })
                .await
                .unwrap_err(),
            ErrorKind::Setting,
            "set for `fetch` only",
        ),
    ] {
        assert_eq!(error.kind(), kind);
        let shown = error.to_string();
        assert!(shown.starts_with("the query `top customers` failed: "), "{shown}");
        assert!(shown.contains(expected) && !shown.contains("hunter2"), "{shown}");
    }
    drop(held);
    // Without a name of its own, it has the one that the statistics show.
    let error = cache.query("SELECT * FROM nowhere").fetch(&pool).await.unwrap_err();
    let name = error.query_name().unwrap();
    assert!(cache.query_stats().iter().any(|query| query.name == name), "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_of_a_query_within_a_query_names_the_inner_one() {
    let cache = local().await;
    let inner = cache.query("SELECT 1").name("inner");
    let outer = cache.query("SELECT 2").name("outer");
    let read = outer.load(move || async move {
        inner.load(|| async { Err::<i64, _>(io::Error::other("no")) }).await.map(|it| *it)
    });
    assert_eq!(read.await.unwrap_err().to_string(), "the query `inner` failed: no");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_may_quote_a_value_is_not_shown_whatever_wraps_it() {
    let database = database().await;
    let client = Arc::new(database.connect().await.unwrap());
    let query = local().await.query("SELECT $1::text::int4").name("top");
    let code_only = "the query `top` failed (SQLSTATE 22P02)";
    let error = query.bind("hunter2").fetch(&client).await.unwrap_err();
    assert_eq!(error.to_string(), code_only);
    let of_driver =
        async || client.query("SELECT $1::text::int4", &[&"hunter2"]).await.unwrap_err();
    let repeats = Mine("invalid input syntax for type integer: \"hunter2\"", of_driver().await);
    assert_eq!(failed(&query, repeats).await, code_only);
    // PostgreSQL's details are never shown: they may quote rows.
    client.batch_execute("CREATE TABLE t (name text UNIQUE)").await.unwrap();
    let sql = "INSERT INTO t VALUES ('hunter2'), ('hunter2') RETURNING 1";
    let error = client.query(sql, &[]).await.unwrap_err();
    let shown = failed(&query, error).await;
    assert!(shown.ends_with("unique constraint \"t_name_key\" (SQLSTATE 23505)"), "{shown}");
}
