//! What a transaction has written to.

use larder::Origin;

use super::{origin, relations, with};
use crate::support::local;

const SCHEMA: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v text);
    INSERT INTO t SELECT n, n FROM generate_series(1, 10) n;
    CREATE TABLE other (id int);
    CREATE SCHEMA \"S.x\";
    CREATE TABLE \"S.x\".\"we: ird\"\"t\" (id int);
    CREATE UNLOGGED TABLE unlogged (id int);
    CREATE TABLE serial (id serial, v int);
    CREATE VIEW v AS SELECT * FROM other;

    CREATE TABLE parents (id int PRIMARY KEY);
    CREATE TABLE children (id int, parent int REFERENCES parents ON DELETE CASCADE ON UPDATE CASCADE);
    INSERT INTO parents VALUES (1), (2); INSERT INTO children VALUES (7, 1);

    CREATE TABLE watched (id int); CREATE TABLE log (id int);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN INSERT INTO log VALUES (1); RETURN NULL; END $$;
    CREATE TRIGGER note AFTER INSERT ON watched EXECUTE FUNCTION note();

    CREATE TABLE p (id int, v int) PARTITION BY RANGE (id);
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
    CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id);
    CREATE TABLE p2a PARTITION OF p2 FOR VALUES FROM (10) TO (15);
    CREATE INDEX ON p (id); INSERT INTO p VALUES (1);
    CREATE TABLE pair (id int, v int);
    CREATE TABLE heir () INHERITS (pair);

    CREATE MATERIALIZED VIEW mv AS SELECT * FROM t; CREATE UNIQUE INDEX ON mv (id);

    CREATE FUNCTION fails_inside() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
      BEGIN INSERT INTO other VALUES (1); RAISE 'no'; EXCEPTION WHEN raise_exception THEN NULL; END;
      INSERT INTO log VALUES (1);
    END $$;
    CREATE FUNCTION works_inside() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
      BEGIN INSERT INTO other VALUES (1); EXCEPTION WHEN raise_exception THEN NULL; END;
      EXECUTE 'INSERT INTO log VALUES (1)';
    END $$;
";

#[tokio::test]
async fn a_transaction_has_written_to_exactly_these_relations() {
    let (_database, pool) = with(SCHEMA).await;
    let cache = local().await;
    let weird = "\"S.x\".\"we: ird\"\"t\"";
    let cases: &[(&str, &[&str])] = &[
        // Reads, and what changes nothing.
        ("SELECT * FROM t; SELECT * FROM t FOR UPDATE", &[]),
        ("SAVEPOINT a; UPDATE t SET v = 1; ROLLBACK TO a", &[]),
        ("SAVEPOINT a; TRUNCATE t; SAVEPOINT b; UPDATE other SET id = 1; ROLLBACK TO a", &[]),
        // Statements.
        ("INSERT INTO other VALUES (1)", &["public.other"]),
        ("UPDATE t SET v = 'x' WHERE id = 1", &["public.t"]),
        ("DELETE FROM t WHERE id = 9", &["public.t"]),
        ("INSERT INTO t VALUES (1, 'y') ON CONFLICT (id) DO UPDATE SET v = 'y'", &["public.t"]),
        (
            "WITH gone AS (DELETE FROM t WHERE id = 8 RETURNING id) \
          INSERT INTO other SELECT id FROM gone",
            &["public.other", "public.t"],
        ),
        ("UPDATE v SET id = 1", &["public.other", "public.v"]),
        ("INSERT INTO serial (v) VALUES (1)", &["public.serial", "public.serial_id_seq"]),
        (
            "SET search_path TO \"S.x\"; INSERT INTO \"we: ird\"\"t\" VALUES (1); \
          SET search_path TO DEFAULT",
            &[weird],
        ),
        ("UPDATE unlogged SET id = 1", &["public.unlogged"]),
        ("TRUNCATE t", &["public.t"]),
        ("TRUNCATE parents CASCADE", &["public.children", "public.parents"]),
        // Triggers, cascades, functions.
        ("INSERT INTO watched VALUES (1)", &["public.log", "public.watched"]),
        (
            "INSERT INTO parents VALUES (1), (2); INSERT INTO children VALUES (7, 1)",
            &["public.children", "public.parents"],
        ),
        ("DELETE FROM parents WHERE id = 1", &["public.children", "public.parents"]),
        ("SELECT works_inside()", &["public.log", "public.other"]),
        ("SELECT fails_inside()", &["public.log"]),
        ("DO $$ BEGIN UPDATE t SET v = 'z'; END $$", &["public.t"]),
        // Savepoints.
        ("SAVEPOINT a; UPDATE t SET v = 1; RELEASE a", &["public.t"]),
        (
            "UPDATE other SET id = 1; SAVEPOINT a; UPDATE t SET v = 1; ROLLBACK TO a",
            &["public.other"],
        ),
        // Partitions and children.
        ("INSERT INTO p VALUES (12)", &["public.p", "public.p2", "public.p2a"]),
        ("INSERT INTO p2a VALUES (12)", &["public.p", "public.p2", "public.p2a"]),
        ("UPDATE p1 SET v = 1", &["public.p", "public.p1"]),
        (
            "UPDATE p SET id = 12, v = 1 WHERE id = 1",
            &["public.p", "public.p1", "public.p2", "public.p2a"],
        ),
        ("TRUNCATE p2a", &["public.p", "public.p2", "public.p2a"]),
        ("INSERT INTO heir VALUES (1)", &["public.heir", "public.pair"]),
        ("UPDATE ONLY pair SET v = 1", &["public.pair"]),
        // Temporary tables are this session's own.
        ("CREATE TEMP TABLE mine (a int) ON COMMIT DROP; INSERT INTO mine VALUES (1)", &[]),
        (
            "CREATE TEMP TABLE kept (a int); INSERT INTO kept SELECT 1; UPDATE other SET id = 1",
            &["public.other"],
        ),
        // Definitions.
        ("ALTER TABLE other ADD COLUMN more int", &["public.other"]),
        ("CREATE INDEX ON other (id)", &["public.other"]),
        ("CREATE TABLE made AS SELECT 1 AS one", &["public.made"]),
        ("CREATE POLICY mine ON other USING (true)", &["public.other"]),
        ("CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (20) TO (30)", &["public.p", "public.p3"]),
        ("ALTER TABLE p DETACH PARTITION p3", &["public.p", "public.p3"]),
        (
            "ALTER TABLE p ATTACH PARTITION p3 FOR VALUES FROM (20) TO (30)",
            &["public.p", "public.p3"],
        ),
        ("CREATE OR REPLACE VIEW v AS SELECT id, 1 AS one FROM other", &["public.v"]),
        // Names from before are gone.
        ("ALTER TABLE made RENAME TO renamed", &["everything"]),
        ("CREATE SCHEMA away; ALTER TABLE renamed SET SCHEMA away", &["everything"]),
        ("DROP TABLE away.renamed", &["everything"]),
        ("DROP TABLE p3", &["everything"]),
        ("ALTER VIEW v RENAME TO w", &["everything"]),
        ("SAVEPOINT a; ALTER TABLE other RENAME TO another; RELEASE a", &["everything"]),
        ("SAVEPOINT a; ALTER TABLE another RENAME TO other; ROLLBACK TO a", &[]),
        ("REFRESH MATERIALIZED VIEW mv", &["everything"]),
        ("REFRESH MATERIALIZED VIEW CONCURRENTLY mv", &["everything"]),
        ("LOCK TABLE t IN ACCESS EXCLUSIVE MODE", &["public.t"]),
    ];
    for (sql, expected) in cases {
        assert_eq!(relations(&cache, &pool, sql).await, *expected, "{sql}");
    }
}

#[tokio::test]
async fn more_relations_than_the_fast_path_has_places_for() {
    let tables = (0..40).map(|n| format!("CREATE TABLE t{n:02} (id int);")).collect::<String>();
    let (_database, pool) = with(&tables).await;
    let cache = local().await;
    let sql: String = (0..40).map(|n| format!("INSERT INTO t{n:02} VALUES (1);")).collect();
    let expected: Vec<String> = (0..40).map(|n| format!("public.t{n:02}")).collect();
    assert_eq!(relations(&cache, &pool, &sql).await, expected);
}

#[tokio::test]
async fn what_was_written_is_stale_in_every_spelling_and_nothing_else_is() {
    let (_database, pool) = with(SCHEMA).await;
    let cache = local().await;
    let read = ["t", "T", "public.t", "\"t\"", "PUBLIC.T", "p", "public.p2a"];
    let others = ["other", "log", "p1", "a.t"];
    let write = "UPDATE t SET v = 1; INSERT INTO p2a VALUES (11)";
    for table in read.iter().chain(&others) {
        origin(&cache, table).await;
        assert_eq!(origin(&cache, table).await, Origin::L1);
    }
    relations(&cache, &pool, write).await;
    for table in read {
        assert_eq!(origin(&cache, table).await, Origin::Loaded, "{table}");
    }
    for table in others {
        assert_eq!(origin(&cache, table).await, Origin::L1, "{table}");
    }
    let tagged = cache.query("SELECT 'tagged'").tag("orders");
    let load = || tagged.load(async || Ok::<_, std::io::Error>(1_i64));
    load().await.unwrap();
    cache.invalidate_table("Public.ORDERS").await;
    assert_eq!(load().answer().await.unwrap().origin(), Origin::Loaded);
    // Everything, where that is not known.
    relations(&cache, &pool, "DROP TABLE other CASCADE").await;
    for table in read.iter().chain(&others) {
        assert_eq!(origin(&cache, table).await, Origin::Loaded, "{table}");
    }
}
