//! The replica identity says which rows a change is of. What if it changes?

use std::time::{Duration, Instant};

use deadpool_postgres::Pool;
use larder::Query;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::{database, following};

/// What the cache serves for each of these queries, once it is the truth. It fails only after a time in
/// which any change of a definition is known.
async fn settle(queries: &[(Query, String)], pool: &Pool, client: &Client) {
    let begun = Instant::now();
    'again: loop {
        for (query, sql) in queries {
            let served: String = query.fetch(pool).await.unwrap().row(0).get(0);
            let truth: String = client.query_one(&**sql, &[]).await.unwrap().get(0);
            if served != truth {
                let waited = begun.elapsed();
                assert!(waited < Duration::from_secs(20), "{sql}: {served}, not {truth}");
                continue 'again;
            }
        }
        return;
    }
}

async fn served(queries: &[(Query, String)], pool: &Pool, client: &Client, after: &str) {
    for (query, sql) in queries {
        let served: String = query.fetch(pool).await.unwrap().row(0).get(0);
        let truth: String = client.query_one(&**sql, &[]).await.unwrap().get(0);
        assert_eq!(served, truth, "{sql}, after: {after}");
    }
}

/// A change of the replica identity is one of a definition. Then row after row is met again, or all are.
#[tokio::test]
async fn a_replica_identity_that_changes_is_gone_by_from_then_on() {
    let (database, client) = database(
        "CREATE TABLE t (id int PRIMARY KEY, org int NOT NULL, v int);
         CREATE UNIQUE INDEX by_org ON t (org, id);
         CREATE TABLE p (id int NOT NULL, org int NOT NULL, v int) PARTITION BY LIST (org);
         CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); ALTER TABLE p1 REPLICA IDENTITY FULL;
         CREATE TABLE q (id int NOT NULL, org int NOT NULL, v int); INSERT INTO q SELECT n, 2, n FROM generate_series(1, 9) n;
         CREATE TABLE c () INHERITS (t); ALTER TABLE c REPLICA IDENTITY FULL;
         INSERT INTO t SELECT n, n % 3, n FROM generate_series(1, 9) n;
         INSERT INTO p SELECT n, 1, n FROM generate_series(1, 9) n",
    )
    .await;
    let (cache, pool) = (following(&database).await, database.pool(2));
    let sums = ["t", "p", "c"].iter().flat_map(|table| {
        let of = move |by: String| {
            format!("SELECT coalesce(sum(v), 0)::text || count(*) FROM {table} WHERE {by}")
        };
        (1..4).flat_map(move |n| [of(format!("id = {n}")), of(format!("org = {}", n - 1))])
    });
    let queries: Vec<(Query, String)> = sums.map(|sql| (cache.query(&*sql).auto(), sql)).collect();
    settle(&queries, &pool, &client).await;
    for definition in [
        "ALTER TABLE t REPLICA IDENTITY USING INDEX by_org",
        "ALTER TABLE t REPLICA IDENTITY FULL",
        "ALTER TABLE t REPLICA IDENTITY DEFAULT",
        "ALTER TABLE c REPLICA IDENTITY DEFAULT; ALTER TABLE c ADD PRIMARY KEY (id)",
        "ALTER TABLE c ADD UNIQUE (org, id); ALTER TABLE c REPLICA IDENTITY USING INDEX c_org_id_key",
        "ALTER TABLE t REPLICA IDENTITY USING INDEX by_org",
        "ALTER TABLE c DROP CONSTRAINT c_org_id_key",
        "ALTER TABLE p ATTACH PARTITION q FOR VALUES IN (2)",
        "ALTER TABLE q ADD PRIMARY KEY (id)",
        "ALTER TABLE q REPLICA IDENTITY NOTHING",
        "ALTER TABLE p DETACH PARTITION q",
        "CREATE TABLE p0 (id int PRIMARY KEY, org int NOT NULL, v int); INSERT INTO p0 VALUES (1, 0, 1), (2, 0, 2);
         ALTER TABLE p ATTACH PARTITION p0 FOR VALUES IN (0)",
        "ALTER TABLE p0 REPLICA IDENTITY FULL; INSERT INTO p0 VALUES (3, 0, 7)",
        "ALTER TABLE t RENAME id TO no; ALTER TABLE t RENAME org TO id; ALTER TABLE t RENAME no TO org",
        "ALTER TABLE t DROP CONSTRAINT t_pkey",
        "DROP INDEX by_org",
    ] {
        client.batch_execute(definition).await.unwrap_or_else(|error| panic!("{definition}: {error}"));
        settle(&queries, &pool, &client).await;
        // What was learned meanwhile may be of the definition before.
        tokio::time::timeout(Duration::from_secs(20), async {
            let checked = super::stats(&cache).round;
            crate::support::until("rounds have ended", || super::stats(&cache).round > checked + 2).await;
        })
        .await
        .unwrap();
        settle(&queries, &pool, &client).await;
        for change in [
            "UPDATE t SET org = (org + 1) % 3 WHERE id = 1",
            "UPDATE t SET id = id + 1000 WHERE v = 5; UPDATE t SET id = id - 1000 WHERE v = 5",
            "INSERT INTO t VALUES (100, 1, 100)",
            "UPDATE t SET v = v + 1 WHERE id = 2 OR org = 2",
            "DELETE FROM t WHERE v >= 100 AND id IN (100, 1)",
            "UPDATE p SET v = v + 1 WHERE id = 1",
            "UPDATE p SET id = id + 1 WHERE id = 2 AND org = 1",
            "INSERT INTO p VALUES (1, 1, 5)",
            "INSERT INTO c VALUES (200, 2, 9)",
            "UPDATE c SET org = 1, v = v + 1",
            "DELETE FROM c WHERE id = 200",
        ] {
            if let Err(error) = client.batch_execute(change).await {
                // Two of the columns have changed their names.
                assert_eq!(error.code(), Some(&SqlState::UNIQUE_VIOLATION), "{definition}; {change}");
            }
            cache.caught_up().await.unwrap();
            served(&queries, &pool, &client, &format!("{definition}; {change}")).await;
        }
    }
}
