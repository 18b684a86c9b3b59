//! Which relations does each operation make stale? Exactly those of which a result can be different,
//! and where a definition may mean any result, everything that is followed.

use tokio_postgres::Client;

use super::{LOGICAL, database, following, stale, stats, wholesale};
use crate::servers::{Postgres, skipped};

const SCHEMA: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v int, big text);
    CREATE TABLE nopk (id int, v int);
    CREATE TABLE p (id int, v int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
    CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200);
    CREATE TABLE p3 (id int PRIMARY KEY, v int);
    CREATE TABLE ih (id int PRIMARY KEY, v int);
    CREATE TABLE ihc (PRIMARY KEY (id)) INHERITS (ih);
    CREATE TABLE fkp (id int PRIMARY KEY);
    CREATE TABLE fkc (id int PRIMARY KEY,
      pid int REFERENCES fkp ON DELETE CASCADE ON UPDATE CASCADE);
    CREATE TABLE src (id int PRIMARY KEY, v int);
    CREATE TABLE dst (id int PRIMARY KEY, v int);
    CREATE FUNCTION copy_to_dst() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN INSERT INTO dst VALUES (new.id, new.v); RETURN new; END $$;
    CREATE TRIGGER cp AFTER INSERT ON src FOR EACH ROW EXECUTE FUNCTION copy_to_dst();
    CREATE MATERIALIZED VIEW mv AS SELECT id, v FROM t;
    CREATE UNIQUE INDEX ON mv (id);
    CREATE VIEW vw AS SELECT id FROM t;
    CREATE TYPE en AS ENUM ('a', 'b');
    CREATE TABLE rls (id int PRIMARY KEY, owner text);
    ALTER TABLE rls ENABLE ROW LEVEL SECURITY;
    CREATE POLICY pol ON rls USING (owner = current_user);
    CREATE FUNCTION fn() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1';
    CREATE SCHEMA other;
    CREATE SCHEMA \"S.x\";
    CREATE TABLE \"S.x\".\"we: ird\"\"t\" (\"a: b\" text);
    INSERT INTO t SELECT i, i, repeat('x', 10) FROM generate_series(1, 20) i;
    INSERT INTO nopk SELECT i, i FROM generate_series(1, 20) i;
    INSERT INTO p VALUES (1, 1), (150, 1);
    INSERT INTO ih VALUES (1, 1);
    INSERT INTO ihc VALUES (2, 2);
    INSERT INTO fkp VALUES (1), (2), (3);
    INSERT INTO fkc VALUES (1, 1), (2, 2);
    REFRESH MATERIALIZED VIEW mv;";

const WATCHED: &[&str] = &[
    "t",
    "nopk",
    "p",
    "p1",
    "p2",
    "p3",
    "p4",
    "ih",
    "ihc",
    "fkp",
    "fkc",
    "src",
    "dst",
    "mv",
    "vw",
    "rls",
    "\"S.x\".\"we: ird\"\"t\"",
];

const WEIRD: &str = "\"S.x\".\"we: ird\"\"t\"";

/// Everything that is followed.
const ALL: &str = "everything";

/// Each with its statements, which are sent one after the other, and what becomes stale.
const OPERATIONS: &[(&str, &[&str])] = &[
    ("INSERT INTO t VALUES (100, 1)", &["t"]),
    ("UPDATE t SET v = v + 1 WHERE id = 1", &["t"]),
    ("UPDATE t SET v = 0 WHERE false", &[]),
    ("DELETE FROM t WHERE id = 100", &["t"]),
    ("BEGIN; INSERT INTO t VALUES (101, 1); ROLLBACK", &[]),
    (
        "BEGIN; SAVEPOINT a; INSERT INTO t VALUES (101, 1); ROLLBACK TO a; INSERT INTO nopk VALUES (1); COMMIT",
        &["nopk"],
    ),
    ("SELECT * FROM t WHERE id = 1 FOR UPDATE", &[]),
    ("INSERT INTO t VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET v = 9", &["t"]),
    ("COPY t (id, v) FROM PROGRAM 'echo 900,1' (FORMAT csv)", &["t"]),
    ("UPDATE nopk SET v = v + 1 WHERE id = 1", &["nopk"]),
    ("TRUNCATE nopk", &["nopk"]),
    ("TRUNCATE fkp CASCADE", &["fkp", "fkc"]),
    (
        "INSERT INTO fkp VALUES (1), (2), (3); INSERT INTO fkc VALUES (1, 1), (2, 2)",
        &["fkp", "fkc"],
    ),
    ("DELETE FROM fkp WHERE id = 1", &["fkp", "fkc"]),
    ("INSERT INTO src VALUES (1, 1)", &["src", "dst"]),
    ("INSERT INTO p VALUES (2, 2)", &["p", "p1"]),
    ("INSERT INTO p1 VALUES (3, 3)", &["p", "p1"]),
    ("UPDATE p SET id = 160 WHERE id = 3", &["p", "p1", "p2"]),
    ("TRUNCATE p2", &["p", "p2"]),
    ("INSERT INTO p3 VALUES (250, 1)", &["p3"]),
    ("ALTER TABLE p ATTACH PARTITION p3 FOR VALUES FROM (200) TO (300)", &["p"]),
    ("INSERT INTO p3 VALUES (251, 1)", &["p", "p3"]),
    ("ALTER TABLE p DETACH PARTITION p3", &["p"]),
    ("INSERT INTO p3 VALUES (252, 1)", &["p3"]),
    ("ALTER TABLE p DETACH PARTITION p2 CONCURRENTLY", &["p"]),
    ("CREATE TABLE p4 PARTITION OF p FOR VALUES FROM (400) TO (500)", &["p4"]),
    ("INSERT INTO p4 VALUES (401, 1)", &["p", "p4"]),
    ("DROP TABLE p4", &["p", "p4"]),
    (
        "BEGIN; CREATE TABLE p4 PARTITION OF p FOR VALUES FROM (400) TO (500); INSERT INTO p VALUES (402, 1); COMMIT",
        &["p", "p4"],
    ),
    ("INSERT INTO ihc VALUES (7, 7)", &["ih", "ihc"]),
    ("ALTER TABLE ihc NO INHERIT ih", &["ih"]),
    (
        "SET session_replication_role = replica; INSERT INTO t VALUES (102, 1); RESET session_replication_role",
        &["t"],
    ),
    ("REFRESH MATERIALIZED VIEW mv", &["mv"]),
    ("UPDATE t SET v = v + 1 WHERE id = 3", &["t"]),
    ("REFRESH MATERIALIZED VIEW CONCURRENTLY mv", &["mv"]),
    ("REFRESH MATERIALIZED VIEW CONCURRENTLY mv", &[]),
    ("ALTER TABLE t ADD COLUMN d int DEFAULT 5", &["t"]),
    ("ALTER TABLE t ADD COLUMN r float DEFAULT random()", &["t"]),
    ("ALTER TABLE src ALTER COLUMN v TYPE int8 USING v * 2", &["src"]),
    ("ALTER TABLE t DROP COLUMN d", &["t"]),
    ("ALTER TABLE dst RENAME COLUMN v TO w", &["dst"]),
    (
        "BEGIN; ALTER TABLE src RENAME TO tmp_; ALTER TABLE dst RENAME TO src; ALTER TABLE tmp_ RENAME TO dst; COMMIT",
        &["src", "dst"],
    ),
    ("ALTER TABLE nopk SET SCHEMA other", &["nopk"]),
    ("CREATE TABLE other.t (id int)", &["t"]),
    // What is written to it is in no stream from now on.
    ("ALTER TABLE fkc SET UNLOGGED", &["fkc"]),
    ("VACUUM t", &[]),
    ("ANALYZE t", &[]),
    ("VACUUM FULL t", &[]),
    ("CLUSTER t USING t_pkey", &[]),
    ("CREATE INDEX ON t (v)", &[]),
    ("REINDEX TABLE t", &[]),
    ("CREATE OR REPLACE VIEW vw AS SELECT id + 1 AS id FROM t", &["vw"]),
    ("CREATE OR REPLACE FUNCTION fn() RETURNS int LANGUAGE sql STABLE AS 'SELECT 2'", &[ALL]),
    ("ALTER POLICY pol ON rls USING (true)", &["rls"]),
    ("ALTER TABLE rls DISABLE ROW LEVEL SECURITY", &["rls"]),
    ("CREATE ROLE ROLE", &[ALL]),
    ("GRANT SELECT ON t TO ROLE", &[]),
    ("GRANT pg_read_all_data TO ROLE", &[ALL]),
    ("ALTER ROLE ROLE SET timezone = 'UTC'", &[ALL]),
    ("ALTER DATABASE DATABASE SET timezone = 'UTC'", &[ALL]),
    ("ALTER TYPE en RENAME VALUE 'a' TO 'z'", &[ALL]),
    ("CREATE TEMP TABLE tt (i int); INSERT INTO tt VALUES (1)", &[]),
    ("DROP TABLE tt", &[]),
    ("COMMENT ON TABLE t IS 'x'", &[]),
    ("BEGIN; INSERT INTO t (id) VALUES (700); PREPARE TRANSACTION 'GID'", &[]),
    ("COMMIT PREPARED 'GID'", &["t"]),
    ("SELECT lo_from_bytea(0, 'abc')", &[]),
    ("SELECT pg_logical_emit_message(true, 'other', 'x')", &[]),
    ("INSERT INTO \"S.x\".\"we: ird\"\"t\" VALUES ('table public.t: INSERT: x')", &[WEIRD]),
    ("DROP TABLE rls", &["rls"]),
];

/// One after the other: some may not run in a transaction with others.
async fn run(client: &Client, statements: &str) {
    for statement in statements.split("; ") {
        client
            .batch_execute(statement)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
}

#[tokio::test]
async fn each_operation_makes_exactly_those_results_stale_that_it_changes() {
    // Roles are of all databases of a server.
    let server = Postgres::start_with(LOGICAL).unwrap();
    let database = server.database().await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute(SCHEMA).await.unwrap();
    let cache = following(&database).await;
    stale(&cache, WATCHED).await;
    let mut wrong = vec![];
    for (operation, expected) in OPERATIONS {
        let role = format!("someone_{}", database.name());
        let sql = operation
            .replace("ROLE ROLE", &format!("ROLE {role}"))
            .replace("TO ROLE", &format!("TO {role}"))
            .replace("DATABASE DATABASE", &format!("DATABASE {}", database.name()))
            .replace("GID", database.name());
        let before = wholesale(&stats(&cache));
        run(&client, &sql).await;
        // What has no transaction in the stream is found out within a second.
        if expected.contains(&ALL) {
            let found = || wholesale(&stats(&cache)) > before;
            crate::support::until("the definition is known", found).await;
        }
        let mut stale = stale(&cache, WATCHED).await;
        if wholesale(&stats(&cache)) > before && stale == WATCHED {
            stale = vec![ALL];
        }
        if stale != *expected {
            wrong.push(format!("{sql}: {stale:?} instead of {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(stats(&cache).failures, 0);
}

#[tokio::test]
async fn a_definition_that_is_changed_among_writes_is_known_within_a_second() {
    let (database, client) = database(SCHEMA).await;
    let cache = following(&database).await;
    for (change, expected) in [
        ("ALTER TABLE dst RENAME COLUMN v TO w", "dst"),
        ("CREATE OR REPLACE VIEW vw AS SELECT id + 1 AS id FROM t", "vw"),
        ("ALTER TABLE p DETACH PARTITION p2", "p"),
        ("REFRESH MATERIALIZED VIEW mv", "mv"),
    ] {
        stale(&cache, WATCHED).await;
        run(&client, &format!("BEGIN; {change}; INSERT INTO nopk VALUES (1, 1); COMMIT")).await;
        let known = async || stale(&cache, &[expected]).await == [expected];
        crate::support::until_async(change, known).await;
    }
    assert_eq!(wholesale(&stats(&cache)), 1, "the first start");
}

#[tokio::test]
async fn a_table_that_is_gone_before_it_is_looked_up_may_have_been_part_of_any_other() {
    let (database, client) = database(SCHEMA).await;
    let cache = following(&database).await;
    for (statements, lasting) in [
        ("CREATE TABLE gone (id int); INSERT INTO gone VALUES (1)", 0),
        ("DROP TABLE gone", 0),
        // It is decoded under its name, and there is no such table when it is looked up.
        (
            "BEGIN; CREATE TABLE new (id int); INSERT INTO new VALUES (1); ALTER TABLE new RENAME TO old; COMMIT",
            1,
        ),
        ("BEGIN; INSERT INTO old VALUES (1); ALTER TABLE old RENAME TO older; COMMIT", 0),
    ] {
        stale(&cache, WATCHED).await;
        let before = stats(&cache);
        run(&client, statements).await;
        cache.caught_up().await.unwrap();
        let after = stats(&cache);
        assert_eq!(after.wholesale_unnamed - before.wholesale_unnamed, lasting, "{statements}");
        assert_eq!(wholesale(&after) - wholesale(&before), lasting, "{statements}");
    }
}

#[tokio::test]
async fn a_merge_is_a_change_of_its_target() {
    let (database, client) = database(SCHEMA).await;
    let version = client.query_one("SHOW server_version_num", &[]).await.unwrap();
    if version.get::<_, &str>(0).parse::<i32>().unwrap() < 150_000 {
        return skipped("MERGE needs PostgreSQL 15");
    }
    let cache = following(&database).await;
    stale(&cache, WATCHED).await;
    let merge =
        "MERGE INTO t USING (VALUES (2)) s (i) ON t.id = s.i WHEN MATCHED THEN UPDATE SET v = 5";
    client.batch_execute(merge).await.unwrap();
    assert_eq!(stale(&cache, WATCHED).await, ["t"]);
}
