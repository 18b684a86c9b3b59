//! Are rows as JSON what PostgreSQL's own `row_to_json` makes of them?

use std::sync::Arc;

use larder::stats::CacheStats;
use larder::{ErrorKind, Origin, QueryCache, Rows};
use serde::Deserialize;
use tokio_postgres::Client;

use crate::postgres_types::{base_types, literals};
use crate::support::{database, local};

struct Compared {
    client: Arc<Client>,
    cache: QueryCache,
}

impl Compared {
    async fn new() -> Compared {
        let client = Arc::new(database().await.connect().await.unwrap());
        client.batch_execute("SET TimeZone = 'UTC'").await.unwrap();
        Compared { client, cache: local().await }
    }

    async fn rows(&self, sql: &str) -> Rows {
        self.cache.query(sql).fetch(&self.client).await.unwrap_or_else(|it| panic!("{sql}: {it}"))
    }

    /// Byte for byte.
    async fn same(&self, sql: &str) {
        let theirs = format!(
            "SELECT '[' || coalesce(string_agg(row_to_json(t)::text, ','), '') || ']' FROM ({sql}) AS t"
        );
        let theirs = self.client.query_one(&theirs, &[]).await;
        let theirs: String = theirs.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0);
        let ours = serde_json::to_string(&self.rows(sql).await);
        assert_eq!(ours.unwrap_or_else(|error| panic!("{sql}: {error}")), theirs, "{sql}");
        let bytes = self.cache.query(sql).fetch_json(&self.client).await.unwrap();
        assert_eq!(bytes, theirs.as_bytes(), "{sql}");
    }

    async fn refused(&self, sql: &str) -> String {
        let json = serde_json::to_string(&self.rows(sql).await);
        let error = self.cache.query(sql).name("q").fetch_json(&self.client).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Json);
        let shown = error.to_string();
        assert!(shown.contains(&json.expect_err(sql).to_string()), "{shown}");
        shown
    }
}

/// Types whose text depends on the catalogs or on the locale, and those that are PostgreSQL's own
/// affair.
const WITHOUT_TEXT: &[&str] = &[
    "money",
    "regproc",
    "regprocedure",
    "regoper",
    "regoperator",
    "regclass",
    "regtype",
    "regrole",
    "regnamespace",
    "regconfig",
    "regdictionary",
    "regcollation",
    "txid_snapshot",
    "pg_snapshot",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_base_type_its_nulls_and_its_arrays() {
    let compared = Compared::new().await;
    for (name, type_, has_array) in base_types(&compared.client).await {
        let mut values: Vec<String> = literals(&name)
            .iter()
            .map(|text| format!("('{}'::{type_})", text.replace('\'', "''")))
            .collect();
        if WITHOUT_TEXT.contains(&name.as_str()) {
            let error = compared.refused(&format!("VALUES {}", values.join(", "))).await;
            assert!(error.contains(&format!("column \"column1\" of type {name}: ")), "{error}");
            continue;
        }
        values.push(format!("(NULL::{type_})"));
        compared.same(&format!("VALUES {}", values.join(", "))).await;
        if has_array && values.len() > 1 {
            let list = values.join(", ");
            compared
                .same(&format!(
                    "SELECT ARRAY[{list}] AS some, '{{}}'::{type_}[] AS empty, NULL::{type_}[] AS none,
                        ARRAY[ARRAY[{list}], ARRAY[{list}]] AS grid, '[5:5]={{NULL}}'::{type_}[] AS from_five"
                ))
                .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_keep_their_digits() {
    let compared = Compared::new().await;
    for sql in [
        "SELECT 0.1::float4 AS a, 1e6::float4 AS b, 123456::float4 AS c, 1e-5::float4 AS d, 16777216::float4 AS e",
        "SELECT 5::float8 AS a, 1e14::float8 AS b, 1e15::float8 AS c, 1e300::float8 AS d, 1e-7::float8 AS e",
        "SELECT 123456789012345678::float8 AS a, '-0'::float8 AS b, '-0'::float4 AS c, 0.1 + 0.2::float8 AS d",
        "SELECT 1234567890123456789012345678901234567890.50 AS a, 1.10 AS b, -0.00 AS c, 1e-30 AS d",
        "SELECT sum(n), avg(n) FROM generate_series(1, 4) AS n",
        "SELECT '{\"a\": 12345678901234567890123.4500, \"b\": 1e400}'::jsonb AS a, '[1.0, 1E5 ]'::json AS b",
        "SELECT 9223372036854775807 AS a, '-9223372036854775808'::int8 AS b, 1::int2 AS c",
    ] {
        compared.same(sql).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dates_and_times_of_all_eras() {
    let compared = Compared::new().await;
    for sql in [
        "SELECT '0044-03-15 BC'::date AS a, '10000-01-01'::date AS b, 'infinity'::date AS c, '0001-01-01'::date AS d",
        "SELECT '0044-03-15 BC'::timestamp AS a, '12024-02-29 01:02:03.4'::timestamp AS b",
        "SELECT '0044-03-15 01:02:03.000004 BC'::timestamptz AS a, '12024-02-29 01:02:03+02'::timestamptz AS b",
        "SELECT '2024-02-29 12:00:00+02'::timestamptz AS a, '-infinity'::timestamptz AS b, '-infinity'::timestamp AS c",
        "SELECT '14 months -1 day 00:00:01'::interval AS a, '24:00'::time AS b, '12:34:56.789-12:30'::timetz AS c",
    ] {
        compared.same(sql).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_with_every_character() {
    let compared = Compared::new().await;
    compared.same("SELECT chr(n) AS text FROM generate_series(1, 0x2fff::int) AS n WHERE n NOT BETWEEN 55296 AND 57343".replace("0x2fff::int", "12287").as_str()).await;
    compared.same(r#"SELECT 'a"b\c/d' AS "na""me\", E'\u2028\U0001F600\x7f' AS "Zoë""#).await;
    compared
        .same("SELECT E'\\x01\\x1f'::text AS a, '\"\"'::json AS b, '\"\\u0041\\n\"'::jsonb AS c")
        .await;
    compared
        .same("SELECT convert_to('a\"b', 'UTF8') AS a, 'x'::\"char\" AS b, 'n'::name AS c")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn composites_records_ranges_enums_and_domains() {
    let compared = Compared::new().await;
    compared
        .client
        .batch_execute(
            "CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION ltree;
             CREATE TYPE mood AS ENUM ('sad', 'so so', 'happy''s');
             CREATE DOMAIN positive AS numeric(10, 2) CHECK (VALUE > 0);
             CREATE DOMAIN very_positive AS positive;
             CREATE TYPE address AS (street text, zip positive, moods mood[], since timestamptz);
             CREATE TYPE person AS (name text, home address, former address[]);
             CREATE DOMAIN somebody AS person;
             CREATE DOMAIN document AS jsonb;
             CREATE TABLE people (id int PRIMARY KEY, who person, secret bytea, label varchar(20));
             INSERT INTO people VALUES (1, ROW('Zoë', NULL, '{}'), '\\x00ff', 'a');
             ALTER TABLE people ADD COLUMN gone int, ADD COLUMN last float8 DEFAULT 1;
             ALTER TABLE people DROP COLUMN gone",
        )
        .await
        .unwrap();
    for sql in [
        "SELECT 'sad'::mood AS a, ARRAY['so so', NULL]::mood[] AS b, NULL::mood AS c",
        "SELECT 1.5::positive AS a, 1000::very_positive AS b, ARRAY[1, 2]::positive[] AS c, '{\"a\":  1}'::document AS d",
        "SELECT ROW('Rue 1', 12.5, '{sad}', '2024-02-29')::address AS a, NULL::address AS b, ROW(NULL, NULL, NULL, NULL)::address AS c",
        "SELECT ROW('Zoë', ROW('Rue', 1, NULL, NULL)::address, ARRAY[ROW('x', 2, '{}', NULL)::address, NULL])::person AS p",
        "SELECT ROW('Zoë', NULL, '{}')::person::somebody AS p",
        "SELECT people AS whole, * FROM people",
        "SELECT ROW(1, 'a'::text, NULL, ROW(2.50, ARRAY[1, 2], '{\"a\" : 1}'::json, true)) AS anonymous",
        "SELECT ARRAY[ROW(1, 'a'::text), ROW(2, NULL)] AS records",
        "SELECT int4range(1, 5) AS a, 'empty'::numrange AS b, tsrange('2024-02-29', NULL) AS c, tstzrange('2024-02-29', NULL) AS d",
        "SELECT '{[1,3),[5,9)}'::int4multirange AS a, ARRAY[daterange('2024-01-01', NULL)] AS b",
        "SELECT 'AbC'::citext AS a, 'a.b'::ltree AS b, ARRAY['X'::citext] AS c",
        "SELECT 1 AS same, 2 AS same, NULL AS same",
        "SELECT 1 AS a WHERE false",
        "SELECT FROM generate_series(1, 3)",
    ] {
        compared.same(sql).await;
    }
    // Its cast to JSON puts blanks between the pairs.
    let hstore =
        r#"SELECT 'a=>1, "b c"=>NULL, "d\"e"=>""'::hstore AS a, ARRAY['a=>1'::hstore] AS b"#;
    let theirs = format!("SELECT row_to_json(t) FROM ({hstore}) AS t");
    let theirs = compared.client.query_one(&theirs, &[]);
    let theirs: serde_json::Value = theirs.await.unwrap().get(0);
    assert_eq!(serde_json::to_value(compared.rows(hstore).await).unwrap()[0], theirs);
    let error = compared.refused("SELECT ROW(1, 'sad'::mood) AS r").await;
    assert!(error.contains("column \"r\" of type record") && error.contains("cast it"), "{error}");
}

/// A binary format has no numbers of any length; what it has is read back.
#[cfg(feature = "msgpack")]
#[tokio::test(flavor = "multi_thread")]
async fn a_binary_format_gets_its_own_kinds_of_value() {
    let compared = Compared::new().await;
    let rows = compared
        .rows("SELECT 1.50 AS a, 2::float8 AS b, '{\"x\": [1]}'::jsonb AS c, 'NaN'::float4 AS d")
        .await;
    type Line = std::collections::BTreeMap<String, serde_json::Value>;
    let lines: Vec<Line> = rmp_serde::from_slice(&rmp_serde::to_vec_named(&rows).unwrap()).unwrap();
    let expected = serde_json::json!({"a": "1.50", "b": 2.0, "c": {"x": [1]}, "d": "NaN"});
    assert_eq!(serde_json::to_value(&lines[0]).unwrap(), expected);
}

#[derive(Debug, PartialEq, Deserialize)]
struct Line {
    a: i32,
    b: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn one_row_none_or_a_value_are_fetched_in_one_call() {
    let pool = database().await.pool(1);
    let cache = local().await;
    let lines =
        cache.query("SELECT n AS a, 'x' AS b FROM generate_series(1, $1::int4) AS n").name("lines");
    let line = Line { a: 1, b: "x".into() };
    assert_eq!(lines.bind(1).fetch_one::<Line>(&pool).await.unwrap(), line);
    let found: Option<Line> = lines.bind(1).fetch_optional(&pool).await.unwrap();
    assert_eq!(found, Some(line));
    assert_eq!(lines.bind(0).fetch_optional::<Line>(&pool).await.unwrap(), None);
    let count = cache.query("SELECT count(*) FROM generate_series(1, 7)");
    assert_eq!(count.fetch_scalar::<i64>(&pool).await.unwrap(), 7);
    assert_eq!(count.fetch_one::<i64>(&pool).await.unwrap(), 7);
    let none = cache.query("SELECT NULL::text");
    assert_eq!(none.fetch_scalar::<Option<String>>(&pool).await.unwrap(), None);
    // All are the one result.
    assert_eq!(lines.bind(1).fetch(&pool).answer().await.unwrap().origin(), Origin::L1);
    assert_eq!(cache.stats().loads, 4);
    let tenant = cache.query("SELECT current_setting('app.tenant')");
    let of = |tenant_id: &'static str| tenant.params(()).with_setting("app.tenant", tenant_id);
    assert_eq!(of("7").fetch_scalar::<String>(&pool).await.unwrap(), "7");
    assert_eq!(of("8").fetch_one::<String>(&pool).await.unwrap(), "8");
    assert_eq!(of("8").fetch_json(&pool).await.unwrap(), r#"[{"current_setting":"8"}]"#);

    for (error, kind, expected) in [
        (
            lines.bind(0).fetch_one::<Line>(&pool).await.unwrap_err(),
            ErrorKind::RowCount,
            "has no rows, and exactly one",
        ),
        (
            lines.bind(2).fetch_one::<Line>(&pool).await.unwrap_err(),
            ErrorKind::RowCount,
            "has 2 rows, and exactly one",
        ),
        (
            lines.bind(2).fetch_optional::<Line>(&pool).await.unwrap_err(),
            ErrorKind::RowCount,
            "has 2 rows, and at most one",
        ),
        (
            lines.bind(1).fetch_scalar::<i32>(&pool).await.unwrap_err(),
            ErrorKind::Column,
            "has 2 columns, and a single value",
        ),
        (
            lines.bind(1).fetch_one::<i32>(&pool).await.unwrap_err(),
            ErrorKind::Deserialize,
            "2 columns",
        ),
    ] {
        assert_eq!(error.kind(), kind);
        let shown = error.to_string();
        assert!(
            shown.starts_with("the query `lines` failed: ") && shown.contains(expected),
            "{shown}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_iterated_by_value_and_outlive_their_result() {
    let pool = database().await.pool(1);
    let query = local().await.query("SELECT n, n::text FROM generate_series(1, 3) AS n");
    let mut owned = vec![];
    for row in query.fetch(&pool).await.unwrap() {
        owned.push(row);
    }
    let numbers: Vec<i32> = owned.iter().map(|row| row.get(0)).collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert_eq!(owned[1].try_get::<_, &str>(1).unwrap(), "2");
    let last = query.fetch(&pool).await.unwrap().into_iter().next_back().unwrap();
    assert_eq!(
        tokio::spawn(async move { last.deserialize::<(i32, String)>() }).await.unwrap().unwrap(),
        (3, "3".into())
    );
    assert_eq!(query.fetch(&pool).await.unwrap().into_iter().len(), 3);
    assert_eq!(serde_json::to_string(&owned[0]).unwrap(), r#"{"n":1,"n":"1"}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_made_once_kept_with_the_entry_and_counted() {
    let pool = database().await.pool(1);
    let cache = local().await;
    let query = cache
        .query("SELECT n, repeat('x', 100) AS text FROM generate_series(1, 1000) AS n")
        .tag("t");
    let weight = || cache.stats().memory_bytes;
    let rows = query.fetch(&pool).await.unwrap();
    let before = weight();
    let first = query.fetch_json(&pool).await.unwrap();
    assert_eq!(first.len(), serde_json::to_vec(&rows).unwrap().len());
    assert_eq!(weight(), before + first.len() as u64);
    for _ in 0..100 {
        let again = query.fetch_json(&pool).await.unwrap();
        assert_eq!(again.as_ptr(), first.as_ptr());
    }
    assert_eq!(weight(), before + first.len() as u64);
    // Those who ask for rows get the same entry.
    assert_eq!(query.fetch(&pool).answer().await.unwrap().origin(), Origin::L1);
    let CacheStats { loads, entries, .. } = cache.stats();
    assert_eq!((loads, entries), (1, 1));
    // An invalidation ends both.
    cache.invalidate(["t"]).await;
    let new = query.fetch_json(&pool).await.unwrap();
    assert!(new == first && new.as_ptr() != first.as_ptr());
    assert_eq!(cache.stats().loads, 2);
}
