//! Are results correct behind a pooler that gives each transaction a different session?

use std::sync::Arc;
use std::time::Duration;

use larder::{ErrorKind, Origin, QueryCache, TransactionPooling};

use crate::servers::{Database, PgBouncer, Postgres, is_running};
use crate::support::{local, until_async};

/// A pooler before a database, and both ways to it.
async fn pooled() -> (PgBouncer, Database, Database) {
    let postgres = Postgres::shared().unwrap();
    let direct = postgres.database().await.unwrap();
    let bouncer = PgBouncer::start(postgres, &["default_pool_size=3"]).unwrap();
    let pooled = bouncer.database(direct.name());
    (bouncer, direct, pooled)
}

/// Fills all sessions of the pooler with statements of names that any client's may have: this, and a
/// number.
pub async fn poison(pooled: &Database, name: &str) {
    let mut holders = vec![];
    for _ in 0..3 {
        let holder = pooled.connect().await.unwrap();
        holder.batch_execute("BEGIN").await.unwrap();
        holders.push(holder);
    }
    for holder in holders {
        let sql = format!(
            "DO $$ BEGIN FOR n IN 0..2000 LOOP
              EXECUTE format('PREPARE {name}%s(int8) AS SELECT $1 AS n, ''theirs'' AS whose', n);
            END LOOP; END $$; COMMIT"
        );
        holder.batch_execute(&sql).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_result_is_another_processs_and_nothing_is_left_behind() {
    let (_bouncer, direct, pooled) = pooled().await;
    let admin = direct.connect().await.unwrap();
    admin.batch_execute("CREATE TYPE mood AS ENUM ('ours', 'theirs')").await.unwrap();
    poison(&pooled, "s").await;
    let cache = local().await;
    let source = TransactionPooling::new(pooled.pool(8));
    // The type is one that has to be looked up, with a statement as well.
    let query = Arc::new(cache.query("SELECT $1::int8 AS n, 'ours'::mood AS whose"));
    let tasks = (0..8_i64).map(|task| {
        let (query, source) = (query.clone(), source.clone());
        tokio::spawn(async move {
            for n in 0..50 {
                let rows = query.bind(task * 1_000 + n).fetch(&source).await.unwrap();
                let row = rows.row(0);
                assert_eq!(row.get::<_, i64>("n"), task * 1_000 + n);
                assert_eq!(row.raw(1), Some(&b"ours"[..]));
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(cache.stats().loads, 400);
    let mut holders = vec![];
    for _ in 0..3 {
        let holder = pooled.connect().await.unwrap();
        holder.batch_execute("BEGIN").await.unwrap();
        // Since version 1.21, PgBouncer keeps statements for its clients, under names of its own.
        let left = r"SELECT count(*) FROM pg_prepared_statements
            WHERE statement LIKE '%mood%' AND name NOT LIKE 'PGBOUNCER\_%'";
        let left = holder.query_typed(left, &[]).await.unwrap();
        assert_eq!(left[0].get::<_, i64>(0), 0);
        holders.push(holder);
    }
}

#[tokio::test]
async fn an_error_of_the_query_leaves_a_usable_connection() {
    let (_bouncer, _, pooled) = pooled().await;
    let cache: QueryCache = local().await;
    let source = TransactionPooling::new(pooled.pool(1));
    for _ in 0..5 {
        let error = cache.query("SELECT 1 / 0").fetch(&source).await.unwrap_err();
        assert_eq!(error.sqlstate().unwrap().code(), "22012");
        cache.query("SELEKT").fetch(&source).await.unwrap_err();
    }
    let one = cache.query("SELECT 1 AS one").fetch(&source).answer().await.unwrap();
    assert_eq!((one.value().row(0).get::<_, i32>("one"), one.origin()), (1, Origin::Loaded));
}

#[tokio::test]
async fn a_load_past_its_deadline_ends_in_postgresql_and_harms_no_pooler() {
    let (bouncer, direct, pooled) = pooled().await;
    let admin = direct.connect().await.unwrap();
    let cache = local().await;
    let source = TransactionPooling::new(pooled.pool(2));
    let slow = cache.query("SELECT pg_sleep(60)::text").load_deadline(Duration::from_millis(200));
    let error = slow.fetch(&source).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline);
    until_async("the query has ended", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                   AND pid <> pg_backend_pid() AND query LIKE '%pg_sleep%' AND state = 'active'";
        admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    assert!(is_running(bouncer.pid()));
    let one = cache.query("SELECT 1 AS one").fetch(&source).await.unwrap();
    assert_eq!(one.row(0).get::<_, i32>("one"), 1);
}

#[tokio::test]
async fn without_a_pooler_cached_statements_of_the_same_connection_go_on_to_work() {
    let (_bouncer, direct, _) = pooled().await;
    let pool = direct.pool(1);
    let cache: QueryCache = local().await;
    let plain = cache.query("SELECT 1 AS one");
    let source = TransactionPooling::new(pool.clone());
    for _ in 0..3 {
        let client = pool.get().await.unwrap();
        let statement = client.prepare_cached("SELECT 2").await.unwrap();
        assert_eq!(client.query_one(&statement, &[]).await.unwrap().get::<_, i32>(0), 2);
        drop(client);
        cache.clear().await;
        assert_eq!(plain.fetch(&pool).await.unwrap().row(0).get::<_, i32>(0), 1);
        cache.query("SELECT 3").fetch(&source).await.unwrap();
    }
    let client = pool.get().await.unwrap();
    let left = "SELECT count(*) FROM pg_prepared_statements";
    let left = client.query_typed(left, &[]).await.unwrap();
    assert_eq!(left[0].get::<_, i64>(0), 0);
}
