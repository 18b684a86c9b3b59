//! Are the cells and types of a cached result byte for byte those that `tokio_postgres` delivers?

use std::error::Error;
use std::sync::Arc;

use larder::{Origin, QueryCache, Rows};
use tokio_postgres::Client;
use tokio_postgres::types::{FromSql, Type};

use crate::support::{database, namespace, over_redis, written};

struct Raw<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Raw(raw))
    }
    fn accepts(_: &Type) -> bool {
        true
    }
}

fn assert_same(
    sql: &str,
    columns: &[tokio_postgres::Column],
    rows: &[tokio_postgres::Row],
    cached: &Rows,
) {
    assert_eq!(cached.len(), rows.len(), "{sql}");
    assert_eq!(cached.columns().len(), columns.len(), "{sql}");
    for (ours, theirs) in cached.columns().iter().zip(columns) {
        assert_eq!(ours.name(), theirs.name(), "{sql}");
        assert_eq!(ours.type_(), theirs.type_(), "{sql}");
        assert_eq!(ours.table_oid(), theirs.table_oid(), "{sql}");
        assert_eq!(ours.column_id(), theirs.column_id(), "{sql}");
        assert_eq!(ours.type_modifier(), theirs.type_modifier(), "{sql}");
    }
    for (ours, theirs) in cached.iter().zip(rows) {
        for column in 0..columns.len() {
            let raw: Option<Raw<'_>> = theirs.get(column);
            assert_eq!(ours.raw(column), raw.map(|raw| raw.0), "{sql}, column {column}");
        }
    }
}

/// A database, and two caches that share a namespace as two processes would.
struct Checked {
    client: Arc<Client>,
    here: QueryCache,
    there: QueryCache,
    results: u64,
}

impl Checked {
    async fn new() -> Checked {
        let namespace = namespace();
        Checked {
            client: Arc::new(database().await.connect().await.unwrap()),
            here: over_redis(&namespace).build().await.unwrap(),
            there: over_redis(&namespace).build().await.unwrap(),
            results: 0,
        }
    }

    /// Compares the load, the hit in memory and the hit in Redis with `tokio_postgres` itself.
    async fn query(&mut self, sql: &str) {
        let statement = self.client.prepare(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        let rows =
            self.client.query(&statement, &[]).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        for origin in [Origin::Loaded, Origin::L1] {
            let answer = self.here.query(sql).fetch(&self.client).answer().await.unwrap();
            assert_eq!(answer.origin(), origin, "{sql}");
            assert_same(sql, statement.columns(), &rows, answer.value());
        }
        self.results += 1;
        if cfg!(feature = "redis") {
            written(&self.here, self.results).await;
            for origin in [Origin::L2, Origin::L1] {
                let answer = self.there.query(sql).fetch(&self.client).answer().await.unwrap();
                assert_eq!(answer.origin(), origin, "{sql}");
                assert_same(sql, statement.columns(), &rows, answer.value());
            }
        }
    }
}

/// Values to write for a base type, or nothing for one that cannot be written.
pub fn literals(type_: &str) -> &'static [&'static str] {
    match type_ {
        "bool" => &["true", "false"],
        "bytea" => &["", "\\x00ff", "\\xdeadbeef"],
        "char" => &["", "x"],
        "name" | "text" | "varchar" | "bpchar" => &["", "Zoë \u{1f600}", " a b "],
        "int2" => &["-32768", "0", "32767"],
        "int4" => &["-2147483648", "0", "2147483647"],
        "int8" => &["-9223372036854775808", "9223372036854775807"],
        "float4" => &["-0", "1.5e-45", "NaN", "Infinity", "-Infinity", "3.4028235e38"],
        "float8" => &["-0", "5e-324", "NaN", "Infinity", "-Infinity", "0.1"],
        "numeric" => &[
            "0",
            "0.00",
            "-1234567890.0987654321",
            "1e100",
            "1e-50",
            "NaN",
            "Infinity",
            "-Infinity",
        ],
        "money" => &["-12.34", "92233720368547758.07"],
        "oid" | "xid" | "cid" | "regproc" | "regprocedure" | "regoper" | "regoperator"
        | "regclass" | "regtype" | "regrole" | "regnamespace" | "regconfig" | "regdictionary"
        | "regcollation" => &["0"],
        "xid8" => &["18446744073709551615"],
        "tid" => &["(0,1)", "(4294967295,65535)"],
        "int2vector" | "oidvector" => &["", "1 2 3"],
        "json" => &["null", "{\"a\" :  [1, 2.50]}"],
        "jsonb" => &["null", "{\"b\": [1, {\"c\": \"Zoë\"}], \"a\": 1e10}"],
        "jsonpath" => &["$.a[*] ? (@ > 1)"],
        "xml" => &["<a>b</a>"],
        "point" => &["(1,-2.5)", "(NaN,Infinity)"],
        "lseg" | "box" => &["((1,2),(3,4))"],
        "path" => &["((1,2),(3,4))", "[(0,0),(1,1),(2,0)]"],
        "polygon" => &["((0,0),(1,1),(2,0))"],
        "line" => &["{1,2,3}"],
        "circle" => &["<(1,2),3>"],
        "macaddr" => &["08:00:2b:01:02:03"],
        "macaddr8" => &["08:00:2b:01:02:03:04:05"],
        "inet" => &["10.0.0.1", "10.1.0.0/16", "::1", "2001:db8::/32"],
        "cidr" => &["10.1.0.0/16", "2001:db8::/32"],
        "date" => &["2024-02-29", "0044-03-15 BC", "5874897-12-31", "infinity", "-infinity"],
        "time" => &["00:00:00", "24:00:00", "12:34:56.789012"],
        "timetz" => &["12:34:56.789+14", "00:00:00-12"],
        "timestamp" | "timestamptz" => {
            &["2024-02-29 12:34:56.789012", "4713-01-01 00:00:00 BC", "infinity", "-infinity"]
        }
        "interval" => &["0", "1 year -2 months 3 days -04:05:06.789", "178000000 years"],
        "bit" | "varbit" => &["1", "0"],
        "uuid" => &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
        "pg_lsn" => &["0/0", "FFFFFFFF/FFFFFFFF"],
        "tsvector" => &["", "'a':1A,2 'b c':3"],
        "tsquery" => &["", "a & (b | !c) <-> d:*A"],
        "refcursor" => &["cursor"],
        "txid_snapshot" | "pg_snapshot" => &["10:20:10,14,15"],
        _ => &[],
    }
}

/// Base types of which no value can be written; NULL is tried all the same.
const UNWRITABLE: &[&str] = &[
    "pg_node_tree",
    "pg_ndistinct",
    "pg_dependencies",
    "pg_mcv_list",
    "pg_brin_bloom_summary",
    "pg_brin_minmax_multi_summary",
];

/// The base types of the server: each name, how SQL writes it, and whether there are arrays of it.
pub async fn base_types(client: &Client) -> Vec<(String, String, bool)> {
    let types = client
        .query(
            "SELECT typname, format('pg_catalog.%I', typname), typarray <> 0 FROM pg_type
             WHERE typtype = 'b' AND typsend <> 0 AND oid NOT IN (SELECT typarray FROM pg_type)
               AND typnamespace = 'pg_catalog'::regnamespace ORDER BY oid",
            &[],
        )
        .await
        .unwrap();
    assert!(types.len() > 60, "{} types", types.len());
    types.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

/// A query for each base type, with its NULLs, and one with its arrays.
pub async fn of_base_types(client: &Client) -> Vec<String> {
    let mut queries = vec![];
    for (name, type_, has_array) in base_types(client).await {
        let literals = literals(&name);
        assert!(
            !literals.is_empty() || UNWRITABLE.contains(&name.as_str()),
            "no value for the type {name}: add one"
        );
        let mut values: Vec<String> = literals
            .iter()
            .map(|text| format!("('{}'::{type_})", text.replace('\'', "''")))
            .collect();
        values.push(format!("(NULL::{type_})"));
        let list = values.join(", ");
        queries.push(format!("VALUES {list}"));
        if has_array && !literals.is_empty() {
            queries.push(format!(
                "SELECT ARRAY[{list}] AS some, '{{}}'::{type_}[] AS empty, NULL::{type_}[] AS none,
                    ARRAY[ARRAY[{list}], ARRAY[{list}]] AS grid, '[5:5]={{NULL}}'::{type_}[] AS from_five"
            ));
        }
    }
    queries
}

#[tokio::test(flavor = "multi_thread")]
async fn every_base_type_its_nulls_and_its_arrays() {
    let mut checked = Checked::new().await;
    for sql in of_base_types(&checked.client).await {
        checked.query(&sql).await;
    }
}

/// Types of a user, of every kind.
pub const OWN_TYPES: &str = "
    CREATE SCHEMA \"odd schema\";
    CREATE TYPE \"odd schema\".\"Mood\" AS ENUM ('sad', 'so so', 'happy''s');
    CREATE DOMAIN positive AS numeric(10, 2) CHECK (VALUE > 0);
    CREATE DOMAIN very_positive AS positive CHECK (VALUE > 100);
    CREATE TYPE address AS (street text, zip positive, moods \"odd schema\".\"Mood\"[]);
    CREATE TYPE person AS (name text, home address, former address[]);
    CREATE TYPE floatrange AS RANGE (subtype = float8);
    CREATE TABLE people (id int PRIMARY KEY, who person, secret bytea, label varchar(20))";

/// Queries for them.
pub const OF_OWN_TYPES: &[&str] = &[
    "VALUES ('sad'::\"odd schema\".\"Mood\"), ('happy''s'), (NULL)",
    "SELECT ARRAY['sad', NULL]::\"odd schema\".\"Mood\"[] AS moods",
    "SELECT 1.5::positive AS a, 1000::very_positive AS b, ARRAY[1, 2]::positive[] AS c",
    "SELECT ROW('Rue 1', 12.5, '{sad}')::address AS a, NULL::address AS b, ROW(NULL, NULL, NULL)::address AS c",
    "SELECT ROW('Zoë', ROW('Rue', 1, NULL)::address, ARRAY[ROW('x', 2, '{}')::address, NULL])::person AS p",
    "SELECT int4range(1, 5) AS a, int8range(NULL, 5, '[]') AS b, 'empty'::numrange AS c, tsrange('-infinity', NULL) AS d, daterange(NULL, NULL) AS e",
    "SELECT '{[1,3),[5,9)}'::int4multirange AS a, '{}'::nummultirange AS b",
    "SELECT floatrange(1.5, NULL) AS a, ARRAY[floatrange(1, 2)] AS b, '{[1,2),[3,4)}'::floatmultirange AS c",
    "SELECT ROW(1, 'a', NULL, ROW(2.5)) AS anonymous",
    "SELECT people AS whole, * FROM people",
    "SELECT * FROM pg_type LIMIT 20",
    // Of views on statistics the rows change by themselves, the columns do not.
    "SELECT * FROM pg_stat_activity WHERE false",
];

#[tokio::test(flavor = "multi_thread")]
async fn enums_composites_domains_ranges_and_multiranges_of_ones_own() {
    let mut checked = Checked::new().await;
    checked.client.batch_execute(OWN_TYPES).await.unwrap();
    for sql in OF_OWN_TYPES {
        checked.query(sql).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_rows_no_columns_same_names_and_as_many_columns_as_there_can_be() {
    let mut checked = Checked::new().await;
    checked.query("SELECT 1 AS a WHERE false").await;
    checked.query("SELECT").await;
    checked.query("SELECT FROM generate_series(1, 5)").await;
    checked.query("SELECT WHERE false").await;
    checked.query("SELECT 1 AS x, 'two' AS x, NULL::int AS \"X\", 4 AS \"\"\"x\"\"\"").await;
    checked.query("SELECT n, repeat('x', n), NULL::text FROM generate_series(0, 3000) AS n").await;
    let wide: Vec<String> = (0..1600)
        .map(|n| if n % 3 == 0 { format!("NULL::int8 AS c{n}") } else { format!("{n} AS c{n}") })
        .collect();
    // A target list may have 1,664 entries, a table 1,600.
    let table = format!("CREATE TABLE wide AS SELECT {}", wide.join(", "));
    checked.client.batch_execute(&table).await.unwrap();
    checked.query("SELECT * FROM wide").await;
    checked.query("SELECT * FROM wide WHERE false").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_of_many_megabytes() {
    let mut checked = Checked::new().await;
    checked
        .query("SELECT n, repeat(md5(n::text), 20) AS text FROM generate_series(1, 12000) AS n")
        .await;
}
