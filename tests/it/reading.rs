//! Do the three ways to read work, and does an answer report its origin?

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use larder::testing::ManualClock;
use larder::{Origin, QueryCache, Rows, TlsPool, Wrapped};
use serde::{Deserialize, Serialize};
use tokio_postgres::NoTls;

use crate::support::{database, local, namespace, over_redis, written};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stats {
    orders: i64,
    total: f64,
    note: Option<String>,
}

const STATS: &str = "SELECT count(*) AS orders, sum(n)::float8 AS total, $2::text AS note
                     FROM generate_series(1, $1::int8) AS n";

#[tokio::test(flavor = "multi_thread")]
async fn a_wrapped_function_is_called_once_and_then_answered_from_memory() {
    let database = database().await;
    let pool = database.pool(4);
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let stats: Wrapped<(i64, String), Stats> =
        local().await.query(STATS).wrap(move |sql, (limit, note): (i64, String)| {
            counted.fetch_add(1, Ordering::Relaxed);
            let pool = pool.clone();
            async move {
                let client = pool.get().await?;
                let row = client.query_one(&*sql, &[&limit, &note]).await?;
                let (orders, total, note) = (row.get(0), row.get(1), row.get(2));
                Ok::<_, deadpool_postgres::PoolError>(Stats { orders, total, note })
            }
        });
    let expected = Stats { orders: 4, total: 10.0, note: Some("eu".into()) };

    let first = stats.call((4, "eu".into())).await.unwrap();
    assert_eq!(*first, expected);
    // Shared, not copied.
    assert!(Arc::ptr_eq(&first, &stats.call((4, "eu".into())).await.unwrap()));

    let clone = stats.clone();
    let elsewhere = tokio::spawn(async move { clone.call((4, "eu".into())).await.unwrap() });
    assert!(Arc::ptr_eq(&first, &elsewhere.await.unwrap()));
    assert_eq!(calls.load(Ordering::Relaxed), 1);

    assert_eq!(stats.call((3, "eu".into())).await.unwrap().orders, 3);
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_fetched_from_a_pool_and_from_a_shared_client() {
    let database = database().await;
    let pool = database.pool(2);
    let client = Arc::new(database.connect().await.unwrap());
    let cache = local().await;
    let query = cache.query(STATS);

    let rows = query.bind(4_i64).bind("eu").fetch(&pool).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows.row(0).get::<_, i64>("orders"), 4);
    assert_eq!(rows.row(0).get::<_, f64>(1), 10.0);
    assert_eq!(rows.row(0).get::<_, &str>("NOTE"), "eu");
    assert_eq!(
        rows.columns().iter().map(|c| c.name()).collect::<Vec<_>>(),
        ["orders", "total", "note"]
    );

    // The same call, in other words and through another source: the same result.
    let params = query.params((4_i64, String::from("eu")));
    let again = params.fetch(&client).answer().await.unwrap();
    assert_eq!((again.origin(), again.value()), (Origin::L1, &rows));

    let other = query.bind(5_i64).bind(None::<String>).fetch(&client).answer().await.unwrap();
    assert_eq!(other.origin(), Origin::Loaded);
    assert_eq!(other.value().row(0).get::<_, Option<String>>("note"), None);

    let tls = TlsPool::new(pool, NoTls);
    let third = query.bind(6_i64).bind("x").fetch(&tls).await.unwrap();
    assert_eq!(third.row(0).get::<_, i64>(0), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_call_is_loaded_without_wrapping_anything() {
    let cache = local().await;
    let load = |value: i32| async move { Ok::<_, std::io::Error>(value) };
    let query = cache.query("SELECT something");
    assert_eq!(*query.params((1_i32,)).load(move || load(7)).await.unwrap(), 7);
    assert_eq!(*query.params((1_i32,)).load(move || load(8)).await.unwrap(), 7);
    assert_eq!(*query.params((2_i32,)).load(move || load(8)).await.unwrap(), 8);
    assert_eq!(*cache.query("SELECT something").load(move || load(9)).await.unwrap(), 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_says_where_it_came_from_and_how_old_it_is() {
    let database = database().await;
    let pool = database.pool(2);
    let (namespace, clock) = (namespace(), ManualClock::new());
    let here = over_redis(&namespace).clock(clock.clone()).build().await.unwrap();
    let query = here.query("SELECT 1");

    let answer = query.fetch(&pool).answer().await.unwrap();
    assert_eq!((answer.origin(), answer.age()), (Origin::Loaded, Duration::ZERO));
    clock.advance(Duration::from_secs(20));
    let answer = query.fetch(&pool).answer().await.unwrap();
    assert_eq!((answer.origin(), answer.age()), (Origin::L1, Duration::from_secs(20)));
    assert_eq!(answer.into_value().len(), 1);

    if cfg!(feature = "redis") {
        written(&here, 1).await;
        let there = over_redis(&namespace).build().await.unwrap();
        let answer = there.query("SELECT 1").fetch(&pool).answer().await.unwrap();
        assert_eq!(answer.origin(), Origin::L2);
        // By Redis's clock: hardly any time has passed.
        assert!(answer.age() < Duration::from_secs(20), "{:?}", answer.age());
        let stats = there.stats();
        assert_eq!((stats.l2_hits, stats.l2_misses, stats.loads), (1, 0, 0));
    }
    let stats = here.stats();
    assert_eq!((stats.l1_hits, stats.loads), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_become_structs_maps_tuples_and_values() {
    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Mood {
        Sad,
        Happy,
    }
    #[derive(Debug, PartialEq, Deserialize)]
    struct Place {
        city: String,
        zip: Option<i32>,
    }
    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(tag = "kind")]
    enum Event {
        Sale { amount: f64 },
        Refund,
    }
    #[derive(Debug, PartialEq, Deserialize)]
    struct Row<'a> {
        id: i64,
        #[serde(borrow)]
        name: &'a str,
        sum: f64,
        exact: String,
        whole: u64,
        day: String,
        at: String,
        took: String,
        mood: Mood,
        moods: Vec<Option<Mood>>,
        place: Place,
        event: Event,
        refund: Event,
        grid: Vec<Vec<i32>>,
        nothing: Option<i32>,
        id_text: String,
        bytes: serde_bytes_like::Bytes,
    }
    mod serde_bytes_like {
        #[derive(Debug, PartialEq)]
        pub struct Bytes(pub Vec<u8>);
        impl<'de> serde::Deserialize<'de> for Bytes {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = Bytes;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("bytes")
                    }
                    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                        Ok(Bytes(bytes.to_vec()))
                    }
                }
                d.deserialize_bytes(Visitor)
            }
        }
    }

    let database = database().await;
    let client = Arc::new(database.connect().await.unwrap());
    client
        .batch_execute(
            "CREATE TYPE mood AS ENUM ('sad', 'happy');
             CREATE TYPE place AS (city text, zip int);
             CREATE DOMAIN happy_name AS text",
        )
        .await
        .unwrap();
    let cache = local().await;
    let query = cache.query(
        "SELECT 7::int8 AS id, 'Zoë'::happy_name AS name, 12345.678::numeric AS sum,
            -0.5000::numeric AS exact, 18446744073709551615::numeric AS whole,
            date '2024-02-29' AS day, timestamptz '2024-02-29 12:00:00.25+02' AS at,
            interval '1 day 90 minutes' AS took, 'happy'::mood AS mood,
            ARRAY['sad', NULL]::mood[] AS moods, ROW('Bern', NULL)::place AS place,
            '{\"kind\": \"Sale\", \"amount\": 2.5}'::jsonb AS event,
            '{\"kind\": \"Refund\"}'::json AS refund, ARRAY[[1,2],[3,4]] AS grid, NULL::int AS nothing,
            'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid AS id_text, '\\x00ff'::bytea AS bytes,
            point(1, 2) AS ignored",
    );
    let rows = query.fetch(&client).await.unwrap();
    let expected = Row {
        id: 7,
        name: "Zoë",
        sum: 12345.678,
        exact: "-0.5000".into(),
        whole: u64::MAX,
        day: "2024-02-29".into(),
        at: "2024-02-29T10:00:00.25Z".into(),
        took: "P1DT1H30M".into(),
        mood: Mood::Happy,
        moods: vec![Some(Mood::Sad), None],
        place: Place { city: "Bern".into(), zip: None },
        event: Event::Sale { amount: 2.5 },
        refund: Event::Refund,
        grid: vec![vec![1, 2], vec![3, 4]],
        nothing: None,
        id_text: "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11".into(),
        bytes: serde_bytes_like::Bytes(vec![0, 255]),
    };
    assert_eq!(rows.deserialize::<Row<'_>>().unwrap(), [expected]);

    let rows: Rows = cache.query("SELECT 1::int2 AS a, 'x' AS b").fetch(&client).await.unwrap();
    assert_eq!(rows.deserialize::<(u8, String)>().unwrap(), [(1, "x".into())]);
    let map: HashMap<String, serde_json::Value> = rows.row(0).deserialize().unwrap();
    assert_eq!(map["a"], 1);

    let rows =
        cache.query("SELECT n::int8 FROM generate_series(1, 3) n").fetch(&client).await.unwrap();
    assert_eq!(rows.deserialize::<i64>().unwrap(), [1, 2, 3]);
    assert_eq!(rows.deserialize::<Option<i64>>().unwrap(), [Some(1), Some(2), Some(3)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_does_not_fit_names_the_column_and_not_the_value() {
    #[derive(Debug, Deserialize)]
    struct Row {
        #[allow(dead_code)]
        amount: i32,
    }
    let database = database().await;
    let client = Arc::new(database.connect().await.unwrap());
    let cache = local().await;
    for (sql, expected) in [
        (
            "SELECT 'secret' AS amount",
            "column \"amount\" of type text: a string where i32 was expected",
        ),
        (
            "SELECT NULL::int4 AS amount",
            "column \"amount\" of type int4: NULL where i32 was expected",
        ),
        (
            "SELECT 4815162342::int8 AS amount",
            "column \"amount\" of type int8: an integer that is not i32",
        ),
        ("SELECT 1.5::numeric AS amount", "column \"amount\" of type numeric: the value is no i32"),
        ("SELECT 1::money AS amount", "column \"amount\" of type money: serde has no form"),
        ("SELECT 1 AS other", "missing field `amount`"),
    ] {
        let rows = cache.query(sql).fetch(&client).await.unwrap();
        let error = rows.deserialize::<Row>().unwrap_err();
        assert_eq!(error.kind(), larder::ErrorKind::Deserialize);
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!error.to_string().contains("secret") && !error.to_string().contains("4815"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_query_read_as_several_types_keeps_them_apart() {
    let namespace = namespace();
    let cache = over_redis(&namespace).build().await.unwrap();
    let query = cache.query("SELECT 1");
    let number = query.load(|| async { Ok::<_, std::io::Error>(1_i32) }).await.unwrap();
    let text = query.load(|| async { Ok::<_, std::io::Error>(String::from("1")) }).await.unwrap();
    let wide = query.load(|| async { Ok::<_, std::io::Error>(2_i64) }).await.unwrap();
    assert_eq!((*number, text.as_str(), *wide), (1, "1", 2));
    assert_eq!(cache.stats().loads, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn scope_and_schema_version_and_namespace_separate_results() {
    let namespace = namespace();
    let cache = over_redis(&namespace).build().await.unwrap();
    let other = over_redis(&crate::support::namespace()).build().await.unwrap();
    let load = |number: i32| move || async move { Ok::<_, std::io::Error>(number) };
    let base = cache.query("SELECT 1");
    assert_eq!(*base.load(load(1)).await.unwrap(), 1);
    assert_eq!(*base.clone().scope("tenant:7").load(load(2)).await.unwrap(), 2);
    assert_eq!(*base.clone().scope("tenant:8").load(load(3)).await.unwrap(), 3);
    assert_eq!(*base.clone().schema_version(1).load(load(4)).await.unwrap(), 4);
    assert_eq!(*other.query("SELECT 1").load(load(5)).await.unwrap(), 5);
    assert_eq!(*base.load(load(6)).await.unwrap(), 1);
    assert_eq!(*base.clone().scope("tenant:7").load(load(6)).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_it_is_a_cache_in_memory_with_the_same_api() {
    let database = database().await;
    let pool = database.pool(2);
    let cache = QueryCache::builder().build().await.unwrap();
    let query = cache.query("SELECT $1::int4");
    assert_eq!(query.bind(1_i32).fetch(&pool).answer().await.unwrap().origin(), Origin::Loaded);
    assert_eq!(query.bind(1_i32).fetch(&pool).answer().await.unwrap().origin(), Origin::L1);
    let stats = cache.stats();
    assert_eq!((stats.loads, stats.l1_hits, stats.l2_errors, stats.l2_misses), (1, 1, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_changed_its_columns_is_read_anew_on_a_prepared_connection() {
    let database = database().await;
    let pool = database.pool(1);
    let client = pool.get().await.unwrap();
    client.batch_execute("CREATE TABLE t AS SELECT 1 AS a").await.unwrap();
    drop(client);
    let cache = local().await;
    let query = cache.query("SELECT * FROM t");
    assert_eq!(query.fetch(&pool).await.unwrap().columns().len(), 1);
    let client = pool.get().await.unwrap();
    client.batch_execute("ALTER TABLE t ADD COLUMN b text DEFAULT 'new'").await.unwrap();
    drop(client);
    // The statement is prepared on the pool's only connection; PostgreSQL refuses it now.
    let rows = query.schema_version(1).fetch(&pool).await.unwrap();
    assert_eq!(rows.row(0).get::<_, String>("b"), "new");
    // Likewise one that the connection has forgotten.
    pool.get().await.unwrap().batch_execute("DEALLOCATE ALL").await.unwrap();
    let rows = cache.query("SELECT * FROM t").schema_version(2).fetch(&pool).await.unwrap();
    assert_eq!(rows.columns().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_borrowed_parameter_may_go_before_the_load_ends() {
    let database = database().await;
    let pool = database.pool(1);
    let cache = local().await;
    let query = cache.query("SELECT $1::text, $2::int4[], $3::bytea");
    let rows = {
        let (text, list, bytes) = (String::from("Zoë"), vec![1, 2, 3], vec![0_u8, 255]);
        let read =
            query.bind(text.as_str()).bind(list.as_slice()).bind(bytes.as_slice()).fetch(&pool);
        read.await.unwrap()
    };
    assert_eq!(rows.row(0).get::<_, &str>(0), "Zoë");
    assert_eq!(rows.row(0).get::<_, Vec<i32>>(1), [1, 2, 3]);
    assert_eq!(rows.row(0).get::<_, &[u8]>(2), [0, 255]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_or_a_row_with_more_than_was_asked_for_is_an_error_and_not_a_part_of_it() {
    let database = database().await;
    let client = Arc::new(database.connect().await.unwrap());
    let cache = local().await;
    let rows =
        cache.query("SELECT '{{1,2,3},{4,5,6}}'::int4[] AS grid").fetch(&client).await.unwrap();
    assert!(rows.deserialize::<Vec<[i32; 2]>>().is_err());
    assert!(rows.deserialize::<Vec<(i32,)>>().is_err());
    assert_eq!(rows.deserialize::<Vec<[i32; 3]>>().unwrap(), [[[1, 2, 3], [4, 5, 6]]]);
    let rows = cache.query("SELECT 1 AS a, 2 AS b").fetch(&client).await.unwrap();
    assert!(rows.deserialize::<(i32,)>().is_err());
    assert_eq!(rows.deserialize::<[i32; 2]>().unwrap(), [[1, 2]]);

    let rows = cache.query("SELECT '\\x0102'::bytea").fetch(&client).await.unwrap();
    assert_eq!(rows.deserialize::<Vec<u8>>().unwrap(), [[1, 2]]);
    let rows = cache.query("SELECT 'null'::jsonb").fetch(&client).await.unwrap();
    assert_eq!(rows.deserialize::<Option<i32>>().unwrap(), [None]);
    let rows = cache.query("SELECT 'x'::\"char\"").fetch(&client).await.unwrap();
    assert_eq!(rows.deserialize::<char>().unwrap(), ['x']);
    let rows = cache.query("SELECT repeat('9', 131072)::numeric").fetch(&client).await.unwrap();
    assert_eq!(rows.deserialize::<String>().unwrap(), ["9".repeat(131_072)]);
}
