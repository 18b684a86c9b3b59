//! Does serde get PostgreSQL's text for types that have no usual form?

use larder::{QueryCache, Row};

use crate::support::{database, local};

/// Values of types that become text, and of all types as parts of a record.
const VALUES: &[&str] = &[
    "int4range(1, 5)",
    "int4range(NULL, 5, '[]')",
    "'empty'::int4range",
    "numrange(1.50, 2)",
    "tsrange('2024-02-29 12:34:56.789', 'infinity')",
    "tstzrange('2024-02-29 12:34:56+02', NULL)",
    "daterange('0044-03-15 BC', '12024-01-01')",
    "'{[1,3),[5,9)}'::int4multirange",
    "'{}'::nummultirange",
    "textrange('', 'a b')",
    r#"textrange('a"b', 'c\d,')"#,
    "moods('sad', 'ok', '[]')",
    "ARRAY[int4range(1, 2), NULL]",
    "point(1, -2.5)",
    "point('NaN', 1e20)",
    "lseg(point(1, 2), point(3, 4))",
    "box(point(1, 2), point(3, 4))",
    "'((1,2),(3,4))'::path",
    "'[(0,0),(1,1)]'::path",
    "'((0,0),(1,1),(2,0))'::polygon",
    "'{1,2,3}'::line",
    "'<(1,2),3>'::circle",
    "to_tsvector('simple', 'a fat cat sat on a mat and ate a fat rat')",
    r"$$'it''s':1A,2 'b c':3C d:4B 'e\\f' g$$::tsvector",
    "''::tsvector",
    "'a & (b | !c) <-> d:*A'::tsquery",
    "'!(a & b) | c <3> (d <-> e) & (f <-> g) <-> h:ABD'::tsquery",
    "'(a | b) & !!c'::tsquery",
    "'a <-> (b & c)'::tsquery",
    "''::tsquery",
    "'08:00:2b:01:02:03'::macaddr",
    "'08:00:2b:01:02:03:04:05'::macaddr8",
    "B'10110'::bit(5)",
    "B'1011011101'::varbit",
    "''::varbit",
    "'12:34:56.789+14'::timetz",
    "'00:00:00-12:30'::timetz",
    "'00:00:00+01:02:03'::timetz",
    "'16/B374D848'::pg_lsn",
    "'(4294967295,65535)'::tid",
    "'18446744073709551615'::xid8",
    "'4294967295'::xid",
    "'$.a[*] ? (@ > 1)'::jsonpath",
    r#"'a=>1, "b c"=>NULL, "d\"e"=>""'::hstore"#,
    "ROW(1, 'a', NULL, '')",
    r#"ROW(1, ROW('a b', ARRAY['x', 'NULL', NULL, '', 'a"b', 'c\d', '{}']))"#,
    r#"ROW(true, false, 'x'::"char", 1::int2, 2::int8, 7::oid, 'name'::name)"#,
    "ROW(0.1::float4, 1e6::float4, 123456::float4, 1e-5::float4, 1e10::float4, '-0'::float4)",
    "ROW(0.1::float8, 1e14::float8, 1e15::float8, 1e-5::float8, 0.0001::float8, 1e300::float8)",
    "ROW('NaN'::float8, '-infinity'::float8, 123456789012345678::float8, '-0'::float8)",
    r#"ROW(1.50::numeric, '\x00ff'::bytea, '{"a": [1, "b"]}'::jsonb, '{"a" :1}'::json)"#,
    "ROW('2024-02-29'::date, '0044-03-15 BC'::date, '5874897-12-31'::date, '-infinity'::date)",
    "ROW('2024-02-29 12:34:56.789'::timestamp, '4713-01-01 00:00:00 BC'::timestamp, '24:00'::time)",
    "ROW('2024-02-29 12:34:56+02'::timestamptz, '0044-03-15 BC'::timestamptz)",
    "ROW('1 year -2 months 3 days -04:05:06.789'::interval, '0'::interval)",
    "ROW('14 months 1 day'::interval, '-14 months +1 day 00:00:01'::interval, '-0.5 s'::interval)",
    "ROW('10.0.0.1'::inet, '10.1.0.0/16'::inet, '10.1.0.0/16'::cidr, '2001:db8::/32'::cidr)",
    "ROW('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid, ARRAY[1, 2], ARRAY[[1], [2]], '{}'::int[])",
    "ROW('[5:6]={1,2}'::int[], '[0:0][2:3]={{a,b}}'::text[], ARRAY[box(point(1, 2), point(3, 4))])",
    "ROW(int4range(1, 2), point(1, 2), 'a'::tsvector)",
];

fn both(row: Row<'_>) -> (String, String) {
    row.deserialize()
        .or_else(|_| {
            // An array is a sequence; of texts, here.
            let (parts, text) = row.deserialize::<(Vec<Option<String>>, String)>()?;
            let part =
                |it: &Option<String>| it.as_ref().map_or("NULL".into(), |it| format!("\"{it}\""));
            Ok::<_, larder::Error>((
                format!("{{{}}}", parts.iter().map(part).collect::<Vec<String>>().join(",")),
                text,
            ))
        })
        .unwrap_or_else(|error| panic!("{error}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_the_text_that_postgresql_gives() {
    let database = database().await;
    let setup = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE EXTENSION hstore;
        CREATE TYPE moods AS RANGE (subtype = mood);
        CREATE TYPE textrange AS RANGE (subtype = text, collation = \"C\")";
    database.connect().await.unwrap().batch_execute(setup).await.unwrap();
    let cache: QueryCache = local().await;
    let pool = database.pool(1);
    for value in VALUES {
        let sql = format!("SELECT {value} AS value, ({value})::text AS text");
        let query = cache.query(sql).with_setting("TimeZone", "UTC");
        let rows = query.fetch(&pool).await;
        let rows = rows.unwrap_or_else(|error| panic!("{value}: {error} {:?}", error.db_error()));
        let (ours, theirs) = both(rows.row(0));
        assert_eq!(ours, theirs, "{value}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_rows_with_such_values_are_read_into_a_struct() {
    #[derive(Debug, serde::Deserialize)]
    struct Booking {
        id: i32,
        during: String,
        place: Option<String>,
        words: String,
        parts: Vec<String>,
    }
    let (database, cache) = (database().await, local().await);
    let sql = "SELECT 7 AS id, int4range(1, 5) AS during, NULL::point AS place,
        'cat:1 fat:2'::tsvector AS words, ARRAY[point(1, 2), point(3, 4)] AS parts";
    let rows = cache.query(sql).fetch(&database.pool(1)).await.unwrap();
    let booking: Booking = rows.row(0).deserialize().unwrap();
    assert_eq!((booking.id, booking.during.as_str(), booking.place), (7, "[1,5)", None));
    assert_eq!(booking.words, "'cat':1 'fat':2");
    assert_eq!(booking.parts, ["(1,2)", "(3,4)"]);
}
