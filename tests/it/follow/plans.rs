//! Plans that do not mean what they show, or no longer: whatever they are, no result is served that lacks a
//! change.

use super::following;
use larder::Query;

use super::keys::as_text;
use crate::servers::Postgres;
use crate::support::{until, until_async};

/// A plan does not always mean what it shows, and it relies on what is defined.
struct Trick {
    setup: &'static str,
    /// With `7` for a parameter that is an int, and `abc` for a text.
    query: &'static str,
    /// One behind `define: ` may be noticed later than rows are.
    steps: &'static [&'static str],
}

const TRICKS: &[Trick] = &[
    Trick {
        setup: "CREATE COLLATION nd (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
                CREATE TABLE o (id int PRIMARY KEY, x text, v int); ALTER TABLE o REPLICA IDENTITY FULL;
                INSERT INTO o VALUES (1, 'ABC', 1)",
        query: "SELECT v FROM o WHERE x = $1::text COLLATE nd",
        steps: &["UPDATE o SET v = 2", "DELETE FROM o", "INSERT INTO o VALUES (2, 'Abc', 3)"],
    },
    Trick {
        setup: "CREATE TABLE o (id int PRIMARY KEY, x text, v int); ALTER TABLE o REPLICA IDENTITY FULL;
                INSERT INTO o VALUES (1, 'ABC', 1), (2, 'abc', 2)",
        query: "SELECT v FROM o WHERE x = $1::text",
        steps: &[
            "define: CREATE COLLATION nd (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
            "define: ALTER TABLE o ALTER x TYPE text COLLATE nd",
            "UPDATE o SET v = 3 WHERE id = 1",
            "DELETE FROM o WHERE id = 1",
        ],
    },
    Trick {
        setup: "CREATE COLLATION nd (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
                CREATE TABLE o (id int PRIMARY KEY, x text, v int); ALTER TABLE o REPLICA IDENTITY FULL;
                INSERT INTO o VALUES (1, 'ABC', 1), (2, 'abc', 2)",
        query: "SELECT v FROM o WHERE x = $1::text",
        steps: &["define: DROP COLLATION nd", "UPDATE o SET v = 3 WHERE id = 2", "DELETE FROM o WHERE id = 2"],
    },
    Trick {
        setup: "CREATE TABLE p (a int, b int, v int, PRIMARY KEY (a, b)) PARTITION BY HASH (a);
                CREATE TABLE p0 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 0);
                CREATE TABLE p1 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 1);
                CREATE VIEW w AS SELECT * FROM p;
                ALTER TABLE p RENAME a TO t; ALTER TABLE p RENAME b TO a; ALTER TABLE p RENAME t TO b;
                INSERT INTO p (b, a, v) VALUES (7, 100, 1), (100, 7, 2)",
        query: "SELECT v FROM w WHERE a = $1",
        steps: &["UPDATE p SET v = 3 WHERE b = 7", "UPDATE p SET v = 4 WHERE a = 7"],
    },
    Trick {
        setup: "CREATE TABLE u (id int PRIMARY KEY, a int, k int); INSERT INTO u VALUES (7, 0, 42);
                CREATE TABLE o (id int PRIMARY KEY, k int, j int, v int); ALTER TABLE o REPLICA IDENTITY FULL;
                CREATE INDEX ON o (k); INSERT INTO o SELECT n, n, 1, n FROM generate_series(1000, 3000) n; ANALYZE",
        query: "SELECT x.v FROM u, LATERAL (WITH c AS MATERIALIZED
                (SELECT o.* FROM o WHERE o.j > u.a AND o.k = u.k) SELECT * FROM c) x WHERE u.id = $1",
        steps: &["INSERT INTO o VALUES (1, 42, 1, 5)", "UPDATE o SET v = 6 WHERE id = 1"],
    },
    Trick {
        setup: "CREATE TABLE u (id int PRIMARY KEY, a int, k int); INSERT INTO u VALUES (7, 0, 42);
                CREATE TABLE o (id int PRIMARY KEY, k int, j int, v int); ALTER TABLE o REPLICA IDENTITY FULL;
                CREATE INDEX ON o (k); INSERT INTO o SELECT n, n, 1, n FROM generate_series(1000, 3000) n; ANALYZE",
        query: "SELECT x.m FROM u, LATERAL (SELECT (SELECT max(o.v) FROM o WHERE o.j > u.a AND o.k = u.k) m
                FROM u w OFFSET 0) x WHERE u.id = $1",
        steps: &["INSERT INTO o VALUES (1, 42, 1, 5)", "UPDATE o SET v = 6 WHERE id = 1"],
    },
    // A cast within a cast, which a plan does not show.
    Trick {
        setup: "CREATE TABLE l (c char(5), k float8); CREATE TABLE rr (id int PRIMARY KEY, c varchar(10), k bigint);
                ALTER TABLE rr REPLICA IDENTITY FULL; INSERT INTO rr VALUES (1, 'abc', 1000000000000000)",
        query: "SELECT id FROM l RIGHT JOIN rr USING (c) WHERE c::text = $1::text",
        steps: &["INSERT INTO rr VALUES (2, 'abc  ', 1)", "UPDATE rr SET id = 3 WHERE id = 2"],
    },
    Trick {
        setup: "CREATE TABLE l (c char(5), k float8); CREATE TABLE rr (id int PRIMARY KEY, c varchar(10), k bigint);
                ALTER TABLE rr REPLICA IDENTITY FULL; INSERT INTO rr VALUES (1, 'abc', 1000000000000000)",
        query: "SELECT rr.c FROM rr LEFT JOIN l USING (k) WHERE k::text = '1e+15' AND $1 > 0",
        steps: &["UPDATE rr SET c = 'x'", "DELETE FROM rr"],
    },
    Trick {
        setup: "CREATE TABLE ev (id int, part int, k int, v int, PRIMARY KEY (id, part, k)) PARTITION BY LIST (part);
                CREATE TABLE ev5 PARTITION OF ev FOR VALUES IN (5); CREATE TABLE evd PARTITION OF ev DEFAULT;
                INSERT INTO ev VALUES (1, 1, 7, 0); SET constraint_exclusion = on;
                DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET constraint_exclusion = on', current_database()); END $$",
        query: "SELECT id FROM evd WHERE k = $1 UNION ALL SELECT id FROM evd WHERE part = 5",
        steps: &[
            "define: ALTER TABLE ev DETACH PARTITION ev5",
            "INSERT INTO ev VALUES (9, 5, 8, 0)",
            "UPDATE evd SET id = 10 WHERE k = 8",
        ],
    },
    // Written anew with the type that it had, which is in no log.
    Trick {
        setup: "CREATE TABLE w (id int PRIMARY KEY, v int); INSERT INTO w VALUES (7, 1), (8, 2)",
        query: "SELECT sum(v) FROM w WHERE $1 > 0",
        steps: &["define: ALTER TABLE w ALTER v TYPE int USING v + 100", "UPDATE w SET v = 1"],
    },
    Trick {
        setup: "CREATE TABLE w (id int PRIMARY KEY, v int); INSERT INTO w VALUES (7, 1), (8, 2)",
        query: "SELECT v FROM w WHERE id = $1",
        steps: &["define: ALTER TABLE w ALTER v TYPE int USING v + 100", "UPDATE w SET v = 1"],
    },
    // The replica identity goes, and is back before anybody has looked.
    Trick {
        setup: "CREATE TABLE r (id int PRIMARY KEY, k int, v int); ALTER TABLE r REPLICA IDENTITY FULL;
                INSERT INTO r VALUES (1, 7, 1)",
        query: "SELECT v FROM r WHERE k = $1",
        steps: &[
            "define: BEGIN; ALTER TABLE r REPLICA IDENTITY DEFAULT; UPDATE r SET k = 6;
             ALTER TABLE r REPLICA IDENTITY FULL; COMMIT",
            "UPDATE r SET k = 7",
            "define: ALTER TABLE r REPLICA IDENTITY NOTHING; UPDATE r SET k = 5; ALTER TABLE r REPLICA IDENTITY FULL",
        ],
    },
    Trick {
        setup: "CREATE TABLE r (id int, k int, v int, PRIMARY KEY (id, k)); INSERT INTO r VALUES (1, 7, 1)",
        query: "SELECT v FROM r WHERE k = $1",
        steps: &[
            "define: BEGIN; ALTER TABLE r REPLICA IDENTITY NOTHING; UPDATE r SET k = 6;
             ALTER TABLE r REPLICA IDENTITY DEFAULT; COMMIT",
            "UPDATE r SET k = 7",
            "define: BEGIN; ALTER TABLE r DROP CONSTRAINT r_pkey; UPDATE r SET k = 5;
             ALTER TABLE r ADD PRIMARY KEY (id, k); COMMIT",
            "UPDATE r SET k = 7",
            "define: BEGIN; ALTER TABLE r RENAME k TO t; ALTER TABLE r RENAME id TO k; UPDATE r SET t = 4;
             ALTER TABLE r RENAME k TO id; ALTER TABLE r RENAME t TO k; COMMIT",
        ],
    },
    // What a scan was left out for.
    Trick {
        setup: "CREATE TABLE h (id int, k int, st int NOT NULL CHECK (st < 10), v int, PRIMARY KEY (id, k))
                  PARTITION BY HASH (id);
                CREATE TABLE h0 PARTITION OF h FOR VALUES WITH (MODULUS 2, REMAINDER 0);
                CREATE TABLE h1 PARTITION OF h FOR VALUES WITH (MODULUS 2, REMAINDER 1);
                ALTER TABLE h0 REPLICA IDENTITY FULL; ALTER TABLE h1 REPLICA IDENTITY FULL;
                INSERT INTO h VALUES (1, 7, 1, 1)",
        query: "SELECT v FROM h WHERE k = $1 UNION ALL SELECT v FROM h WHERE st = 50",
        steps: &[
            "UPDATE h SET v = 2",
            "define: ALTER TABLE h DROP CONSTRAINT h_st_check",
            "INSERT INTO h VALUES (2, 999, 50, 5)",
            "UPDATE h SET v = v + 1",
        ],
    },
    Trick {
        setup: "CREATE TABLE nu (id int PRIMARY KEY, k int NOT NULL, v int); ALTER TABLE nu REPLICA IDENTITY FULL;
                INSERT INTO nu VALUES (1, 7, 1)",
        query: "SELECT v FROM nu WHERE k = $1 UNION ALL SELECT v FROM nu WHERE k IS NULL",
        steps: &["define: ALTER TABLE nu ALTER k DROP NOT NULL", "INSERT INTO nu VALUES (2, NULL, 5)"],
    },
    Trick {
        setup: "CREATE TABLE other (k int NOT NULL); CREATE TABLE t (id int PRIMARY KEY, v int);
                INSERT INTO t VALUES (7, 1), (8, 2); INSERT INTO other VALUES (1)",
        query: "SELECT v FROM t WHERE id = $1 UNION ALL SELECT v FROM t, other WHERE k IS NULL",
        steps: &[
            "define: ALTER TABLE other ALTER k DROP NOT NULL",
            "INSERT INTO other VALUES (NULL)",
            "UPDATE t SET v = 3 WHERE id = 8",
        ],
    },
    Trick {
        setup: "CREATE TABLE c (id int PRIMARY KEY, k int NOT NULL, st int, un int UNIQUE, v int);
                ALTER TABLE c REPLICA IDENTITY FULL; INSERT INTO c VALUES (1, 7, 1, 1, 1)",
        query: "SELECT b.st FROM c a JOIN c b ON a.un = b.un WHERE a.k = $1",
        steps: &[
            "define: ALTER TABLE c DROP CONSTRAINT c_un_key",
            "INSERT INTO c VALUES (2, 8, 2, 1, 2)",
            "UPDATE c SET st = 3 WHERE id = 2",
        ],
    },
    Trick {
        setup: "CREATE TABLE i (id int PRIMARY KEY, k int, st int CHECK (st < 10)); ALTER TABLE i REPLICA IDENTITY FULL;
                CREATE TABLE i1 (CHECK (st < 10)) INHERITS (i); ALTER TABLE i1 REPLICA IDENTITY FULL;
                INSERT INTO i VALUES (1, 7, 1)",
        query: "SELECT st FROM i WHERE k = $1 UNION ALL SELECT st FROM i WHERE st = 50",
        steps: &[
            "define: ALTER TABLE i DROP CONSTRAINT i_st_check",
            "INSERT INTO i VALUES (2, 8, 50)",
            "define: CREATE TABLE i2 () INHERITS (i); ALTER TABLE i2 REPLICA IDENTITY FULL",
            "INSERT INTO i2 VALUES (3, 9, 50)",
        ],
    },
];

#[tokio::test]
async fn a_plan_is_not_taken_for_more_than_it_means() {
    // Settings of databases are of all databases of a server.
    let server = Postgres::start_with(super::LOGICAL).unwrap();
    for Trick { setup, query, steps } in TRICKS {
        let database = server.database().await.unwrap();
        let client = database.connect().await.unwrap();
        if let Err(error) = client.batch_execute(setup).await {
            let why = format!("{:?}", error.as_db_error());
            assert!(why.contains("ICU is not supported"), "{setup}: {why}");
            continue;
        }
        let (cache, pool) = (following(&database).await, database.pool(2));
        let sql = as_text(query);
        // The one that was learned first, and one that is learned after each change of a definition.
        let mut queries = vec![cache.query(&*sql).auto()];
        let ask = async |queries: &[Query], what: &str| {
            let (param, truth): (Option<&str>, String) = if sql.contains("$1::text") {
                (Some("abc"), client.query_one(&*sql, &[&"abc"]).await.unwrap().get(0))
            } else {
                (None, client.query_one(&*sql, &[&7_i32]).await.unwrap().get(0))
            };
            for query in queries {
                let served: String = match param {
                    Some(text) => query.bind(text).fetch_scalar(&pool).await.unwrap(),
                    None => query.bind(7_i32).fetch_scalar(&pool).await.unwrap(),
                };
                if served != truth {
                    return Err(format!("{sql}, after {what}: {served} and not {truth}"));
                }
            }
            Ok(())
        };
        for _ in 0..3 {
            ask(&queries, "setup").await.unwrap();
        }
        for (number, step) in steps.iter().enumerate() {
            let definition = step.strip_prefix("define: ");
            client.batch_execute(definition.unwrap_or(step)).await.unwrap();
            if definition.is_some() {
                until_async("it is the truth", async || ask(&queries, step).await.is_ok()).await;
                let noticed = super::stats(&cache).round;
                until("definitions have been compared", || {
                    super::stats(&cache).round > noticed + 2
                })
                .await;
                queries.push(cache.query(format!("{sql} -- {number}")).auto());
            }
            cache.caught_up().await.unwrap();
            // What is kept is read again.
            for _ in 0..3 {
                ask(&queries, step).await.unwrap();
            }
        }
    }
}
