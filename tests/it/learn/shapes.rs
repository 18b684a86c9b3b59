//! The relations that queries of many shapes read, at their first and at their seventh run.

use std::collections::BTreeSet;

use larder::{Origin, QueryClass};
use test_servers::Database;

use super::{read, with};
use crate::support::local;

const SCHEMA: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, i FROM generate_series(1, 1000) i;
    CREATE TABLE t2 (id int PRIMARY KEY, v int); INSERT INTO t2 SELECT i, i FROM generate_series(1, 1000) i;
    CREATE TABLE t3 (id int PRIMARY KEY, v int CHECK (v > 0)); INSERT INTO t3 VALUES (1, 1);
    CREATE TABLE cfg (k text PRIMARY KEY, val int); INSERT INTO cfg VALUES ('flag', 0);
    CREATE UNLOGGED TABLE ul (id int);
    CREATE VIEW v1 AS SELECT id, v FROM t; CREATE VIEW v2 AS SELECT v1.id FROM v1 JOIN t2 USING (id);
    CREATE MATERIALIZED VIEW mv AS SELECT count(*) n FROM t; CREATE VIEW vmv AS SELECT n FROM mv;
    CREATE TABLE p (id int, v int) PARTITION BY RANGE (id);
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
    CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200) PARTITION BY RANGE (v);
    CREATE TABLE p2a PARTITION OF p2 FOR VALUES FROM (0) TO (100);
    CREATE TABLE p2b PARTITION OF p2 FOR VALUES FROM (100) TO (200);
    INSERT INTO p VALUES (1, 1), (150, 150);
    CREATE TABLE ih (id int); CREATE TABLE ihc () INHERITS (ih);
    CREATE SEQUENCE sq;
    CREATE FUNCTION f_inl(int) RETURNS SETOF t LANGUAGE sql STABLE AS 'SELECT * FROM t WHERE id = $1';
    CREATE FUNCTION f_sql(int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT v FROM t WHERE id = $1';
    CREATE FUNCTION f_pl(int) RETURNS int LANGUAGE plpgsql STABLE AS
      $$ BEGIN RETURN (SELECT v FROM t WHERE id = $1); END $$;
    CREATE FUNCTION f_dyn(text) RETURNS bigint LANGUAGE plpgsql AS $$ DECLARE n bigint;
      BEGIN EXECUTE 'SELECT count(*) FROM ' || quote_ident($1) INTO n; RETURN n; END $$;
    CREATE FUNCTION f_def(int) RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS
      $$ BEGIN RETURN (SELECT v FROM t2 WHERE id = $1); END $$;
    CREATE FUNCTION f_branch() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN
      IF (SELECT val FROM cfg WHERE k = 'flag') = 1 THEN RETURN (SELECT count(*) FROM t); END IF;
      RETURN (SELECT count(*) FROM t2); END $$;
    CREATE FUNCTION f_exc() RETURNS int LANGUAGE plpgsql AS $$ DECLARE x int := 0; BEGIN
      BEGIN SELECT max(v) INTO x FROM t2; RAISE division_by_zero;
      EXCEPTION WHEN division_by_zero THEN NULL; END; RETURN x; END $$;
    CREATE FUNCTION f_exc_part() RETURNS int LANGUAGE plpgsql AS $$ DECLARE x int := 0; BEGIN
      BEGIN SELECT max(v) INTO x FROM p WHERE id = 1; RAISE division_by_zero;
      EXCEPTION WHEN division_by_zero THEN NULL; END; RETURN x; END $$;
    CREATE FUNCTION f_imm() RETURNS int LANGUAGE plpgsql IMMUTABLE AS
      $$ BEGIN RETURN (SELECT max(v) FROM t2); END $$;
    CREATE FUNCTION f_par(int) RETURNS int LANGUAGE plpgsql STABLE PARALLEL SAFE AS
      $$ BEGIN RETURN (SELECT v FROM t2 WHERE id = $1); END $$;
    CREATE FUNCTION opf(int, int) RETURNS bool LANGUAGE plpgsql STABLE AS
      $$ BEGIN RETURN EXISTS (SELECT FROM t3 WHERE id = $1) AND $1 < $2; END $$;
    CREATE OPERATOR <~ (FUNCTION = opf, LEFTARG = int, RIGHTARG = int);
    CREATE FUNCTION sf(bigint, int) RETURNS bigint LANGUAGE plpgsql AS
      $$ BEGIN RETURN $1 + (SELECT count(*) FROM t3); END $$;
    CREATE AGGREGATE agg(int) (SFUNC = sf, STYPE = bigint, INITCOND = '0');
    CREATE FUNCTION dchk(int) RETURNS bool LANGUAGE plpgsql AS
      $$ BEGIN RETURN EXISTS (SELECT FROM t3); END $$;
    CREATE DOMAIN dom AS int CHECK (dchk(value));
    CREATE FUNCTION f_cat() RETURNS bigint LANGUAGE plpgsql AS
      $$ BEGIN RETURN (SELECT count(*) FROM pg_class); END $$;
    CREATE FUNCTION f_ul() RETURNS bigint LANGUAGE plpgsql AS
      $$ BEGIN RETURN (SELECT count(*) FROM ul); END $$;
    CREATE FUNCTION f_view() RETURNS bigint LANGUAGE plpgsql AS
      $$ BEGIN RETURN (SELECT count(*) FROM v2); END $$;
    CREATE FUNCTION f_cast(t) RETURNS text LANGUAGE sql AS 'SELECT v::text FROM t2 WHERE id = ($1).id';
    CREATE TABLE rls (id int, owner text); CREATE TABLE members (who text, owner text);
    INSERT INTO rls VALUES (1, 'a'); INSERT INTO members VALUES ('tenant', 'a');
    ALTER TABLE rls ENABLE ROW LEVEL SECURITY;
    CREATE POLICY pol ON rls USING (owner IN (SELECT m.owner FROM members m WHERE m.who = current_user));
    CREATE SCHEMA \"S.x\"; CREATE TABLE \"S.x\".\"we: ird\"\"t\" (id int);
    CREATE TABLE big (id int, v int); INSERT INTO big SELECT i, i FROM generate_series(1, 100000) i; ANALYZE";

/// Makes PostgreSQL use workers, and only them, wherever it can.
const PARALLEL: &[(&str, &str)] = &[
    ("max_parallel_workers_per_gather", "2"),
    ("parallel_setup_cost", "0"),
    ("parallel_tuple_cost", "0"),
    ("min_parallel_table_scan_size", "0"),
    ("parallel_leader_participation", "off"),
];

struct Shape {
    sql: &'static str,
    /// What it reads, if it can be followed.
    reads: Option<&'static [&'static str]>,
    settings: &'static [(&'static str, &'static str)],
}

const fn reads(sql: &'static str, reads: &'static [&'static str]) -> Shape {
    Shape { sql, reads: Some(reads), settings: &[] }
}

const fn unfollowed(sql: &'static str) -> Shape {
    Shape { sql, reads: None, settings: &[] }
}

const SHAPES: &[Shape] = &[
    reads("SELECT * FROM t WHERE id = 1", &["t"]),
    reads("SELECT * FROM v1 WHERE id = 1", &["v1", "t"]),
    reads("SELECT count(*) FROM v2", &["v2", "v1", "t", "t2"]),
    reads("SELECT * FROM mv", &["mv"]),
    reads("SELECT * FROM vmv", &["vmv", "mv"]),
    reads("SELECT t.v FROM t LEFT JOIN t2 USING (id) WHERE t.id = 1", &["t", "t2"]),
    reads("SELECT * FROM t WHERE false", &["t"]),
    Shape {
        sql: "SELECT * FROM t3 WHERE v < 0",
        reads: Some(&["t3"]),
        settings: &[("constraint_exclusion", "on")],
    },
    reads("SELECT * FROM p WHERE id = 5", &["p"]),
    reads("SELECT * FROM p WHERE id = 150 AND v = 150", &["p"]),
    reads("SELECT * FROM p WHERE id = 999", &["p"]),
    reads("SELECT * FROM p2a", &["p2a"]),
    reads("SELECT count(*) FROM ih", &["ih"]),
    reads("WITH x AS (SELECT * FROM t2) SELECT count(*) FROM t", &["t", "t2"]),
    reads(
        "SELECT * FROM t, LATERAL (SELECT * FROM t2 WHERE t2.id = t.id LIMIT 1) x WHERE t.id = 1",
        &["t", "t2"],
    ),
    reads("SELECT * FROM t WHERE id = -1 AND EXISTS (SELECT FROM t2)", &["t", "t2"]),
    reads("SELECT * FROM f_inl(1)", &["t"]),
    reads("SELECT f_sql(1)", &["t"]),
    reads("SELECT f_pl(1)", &["t"]),
    reads("SELECT count(*) FROM t2 WHERE v = f_pl(id) AND id < 5", &["t", "t2"]),
    reads("SELECT f_def(1)", &["t2"]),
    reads("SELECT f_branch()", &["cfg", "t2"]),
    reads("SELECT f_exc()", &["t2"]),
    reads("SELECT f_exc_part()", &["p"]),
    reads("SELECT f_view()", &["v2", "v1", "t", "t2"]),
    Shape {
        sql: "SELECT sum(f_par(id % 1000)) FROM big",
        reads: Some(&["big", "t2"]),
        settings: PARALLEL,
    },
    reads("SELECT 1 <~ 2", &["t3"]),
    reads("SELECT agg(id) FROM t WHERE id < 3", &["t", "t3"]),
    reads("SELECT 2::dom", &["t3"]),
    reads("SELECT t.f_cast FROM t WHERE id = 1", &["t", "t2"]),
    reads("SELECT count(*) FROM rls", &["rls", "members"]),
    reads("SELECT * FROM \"S.x\".\"we: ird\"\"t\"", &["\"S.x\".\"we: ird\"\"t\""]),
    reads("VALUES (1), (2)", &[]),
    reads(
        "SELECT id FROM t UNION ALL SELECT id FROM t2 WHERE v IN (SELECT v FROM t3)",
        &["t", "t2", "t3"],
    ),
    unfollowed("SELECT f_dyn('t3')"),
    unfollowed("SELECT f_imm()"),
    unfollowed("SELECT query_to_xml('SELECT count(*) FROM t2', true, true, '')::text"),
    unfollowed("SELECT last_value FROM sq"),
    unfollowed("SELECT nextval('sq')"),
    unfollowed("SELECT pg_sequence_last_value('sq')"),
    unfollowed("SELECT * FROM ul"),
    unfollowed("SELECT f_ul()"),
    unfollowed("SELECT count(*) FROM pg_class"),
    unfollowed("SELECT f_cat()"),
    unfollowed("SELECT has_table_privilege('t', 'SELECT'), obj_description('t'::regclass)"),
    unfollowed("SELECT count(*) FROM information_schema.tables"),
    unfollowed("SELECT count(*) >= 0 FROM pg_stat_activity"),
    unfollowed("SELECT lo_from_bytea(0, 'x') > 0"),
    unfollowed(
        "WITH x AS (INSERT INTO t3 VALUES (7, 7) ON CONFLICT DO NOTHING RETURNING id) SELECT * FROM x",
    ),
    unfollowed("SELECT * FROM t WHERE id = 1 FOR UPDATE"),
    unfollowed("SELECT now() IS NULL, random() > 2"),
];

fn qualified(names: &[&str]) -> BTreeSet<String> {
    let full = |name: &&str| {
        if name.contains('.') { (*name).to_owned() } else { format!("public.{name}") }
    };
    names.iter().map(full).collect()
}

#[tokio::test]
async fn each_shape_of_query_depends_on_all_that_it_reads_at_every_run() {
    let (database, pool) = with(SCHEMA).await;
    // One connection, so that each run uses the statement of the one before.
    let single = database.pool(1);
    let all: BTreeSet<String> = relations(&database).await;
    for shape in SHAPES {
        let cache = local().await;
        let mut query = cache.query(shape.sql).auto();
        for (name, value) in shape.settings {
            query = query.with_setting(*name, *value);
        }
        let found = query.params(()).dependencies(&single).await.unwrap();
        let Some(expected) = shape.reads else {
            assert_eq!(found.class, QueryClass::Unfollowed, "{}", shape.sql);
            assert!(!found.unfollowed.is_empty(), "{}", shape.sql);
            for _ in 0..2 {
                assert_eq!(read(&query, &single).await.origin(), Origin::Loaded, "{}", shape.sql);
            }
            let stats = &cache.query_stats()[0];
            assert_eq!(stats.unfollowed, 2, "{}", shape.sql);
            assert!(stats.unfollowed_because.is_some(), "{}", shape.sql);
            continue;
        };
        assert_eq!(found.unfollowed, [""; 0], "{}", shape.sql);
        let expected = qualified(expected);
        let learned: BTreeSet<String> = found.relations.iter().cloned().collect();
        assert!(learned.is_superset(&expected), "{}: {learned:?}", shape.sql);
        // What counts is what makes it stale, at the first run and at the seventh, by when PostgreSQL
        // plans without the values.
        for run in 1..=7 {
            assert_eq!(read(&query, &single).await.origin(), Origin::Loaded, "{}", shape.sql);
            if run == 1 || run == 7 {
                let stale = makes_stale(&cache, &query, &single, &all).await;
                assert!(stale.is_superset(&expected), "{}, run {run}: {stale:?}", shape.sql);
                let more: Vec<_> =
                    stale.difference(&expected).filter(|it| !learned.contains(*it)).collect();
                assert!(more.len() <= 6, "{}, run {run}: {more:?}", shape.sql);
            }
            cache.clear().await;
        }
        assert_eq!(cache.stats().unfollowed, 0, "{}", shape.sql);
    }
    drop(pool);
}

/// All relations of the schema.
async fn relations(database: &Database) -> BTreeSet<String> {
    let client = database.connect().await.unwrap();
    let sql = "SELECT c.oid::regclass::text, n.nspname FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid >= 16384 AND n.nspname IN ('public', 'S.x') AND c.relkind IN ('r', 'p', 'v', 'm')";
    let rows = client.query(sql, &[]).await.unwrap();
    let name = |row: &tokio_postgres::Row| {
        let (name, schema): (String, String) = (row.get(0), row.get(1));
        if schema == "public" { format!("public.{name}") } else { name }
    };
    rows.iter().map(name).collect()
}

/// The relations whose invalidation makes a cached result stale.
async fn makes_stale(
    cache: &larder::QueryCache,
    query: &larder::Query,
    source: &deadpool_postgres::Pool,
    all: &BTreeSet<String>,
) -> BTreeSet<String> {
    let mut stale = BTreeSet::new();
    for name in all {
        assert_eq!(read(query, source).await.origin(), Origin::L1, "{name}");
        cache.invalidate_table(name).await;
        if read(query, source).await.origin() != Origin::L1 {
            stale.insert(name.clone());
        }
    }
    stale
}

#[tokio::test]
async fn a_foreign_table_is_not_followed() {
    let (database, pool) = with(SCHEMA).await;
    let admin = database.connect().await.unwrap();
    let have = "SELECT count(*) FROM pg_available_extensions WHERE name = 'postgres_fdw'";
    if admin.query_one(have, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        return crate::servers::skipped("this PostgreSQL comes without postgres_fdw");
    }
    let sql = "CREATE EXTENSION postgres_fdw;
         CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw;
         CREATE FOREIGN TABLE ft (id int, v int) SERVER here;
         CREATE TABLE pf (id int, v int) PARTITION BY LIST (id);
         CREATE FOREIGN TABLE pf1 PARTITION OF pf FOR VALUES IN (1) SERVER here;
         CREATE TABLE pf2 PARTITION OF pf FOR VALUES IN (2)";
    admin.batch_execute(sql).await.unwrap();
    let cache = local().await;
    for sql in ["SELECT * FROM ft", "SELECT * FROM pf WHERE id = 2"] {
        let found = cache.query(sql).dependencies(&pool).await.unwrap();
        assert_eq!(found.class, QueryClass::Unfollowed, "{sql}");
        assert!(found.unfollowed[0].contains("foreign"), "{:?}", found.unfollowed);
    }
}

#[tokio::test]
async fn a_result_does_not_depend_on_what_another_branch_of_a_function_has_read() {
    let (database, _) = with(SCHEMA).await;
    let (cache, pool) = (local().await, database.pool(1));
    let query = cache.query("SELECT f_branch() WHERE $1 >= 0").auto();
    let read = async |n: i32| query.bind(n).fetch(&pool).answer().await.unwrap().origin();
    let flag = async |to: i32| {
        super::write(&cache, &pool, &format!("UPDATE cfg SET val = {to}")).await;
    };
    // Both branches have been run, by one load each.
    for n in [0, 1] {
        flag(n).await;
        assert_eq!(read(n).await, Origin::Loaded);
    }
    assert_eq!(read(1).await, Origin::L1);
    cache.invalidate_table("t2").await;
    assert_eq!(read(1).await, Origin::L1);
    cache.invalidate_table("t").await;
    assert_eq!(read(1).await, Origin::Loaded);
}

#[tokio::test]
async fn what_a_connection_has_read_before_is_not_taken_for_what_a_function_reads() {
    let (database, _) = with(SCHEMA).await;
    let (cache, pool) = (local().await, database.pool(1));
    let query = cache.query("SELECT f_exc() WHERE $1 > 0").auto();
    for n in 1..4_i32 {
        // Reads of others on the same connection, within the second that PostgreSQL keeps counts for.
        let others = "SELECT count(*) FROM ul; SELECT count(*) FROM t";
        pool.get().await.unwrap().batch_execute(others).await.unwrap();
        let answer = query.bind(n).fetch(&pool).answer().await.unwrap();
        assert_eq!(answer.origin(), Origin::Loaded);
        let origin = async || query.bind(n).fetch(&pool).answer().await.unwrap().origin();
        assert_eq!(origin().await, Origin::L1);
        cache.invalidate_table("t").await;
        assert_eq!(origin().await, Origin::L1);
        cache.invalidate_table("t2").await;
        assert_eq!(origin().await, Origin::Loaded);
    }
    assert_eq!(cache.stats().unfollowed, 0);
}
