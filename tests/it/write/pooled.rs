//! Is it right behind a pooler that gives each transaction a different session?

use larder::{Error, Origin, TransactionPooling};

use super::{origin, relations};
use crate::pooling::poison;
use crate::servers::{PgBouncer, Postgres};
use crate::support::local;

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v int);
    INSERT INTO t SELECT n, 0 FROM generate_series(1, 10) n;
    CREATE TABLE parents (id int PRIMARY KEY);
    CREATE TABLE children (parent int REFERENCES parents DEFERRABLE INITIALLY DEFERRED)";

#[tokio::test(flavor = "multi_thread")]
async fn transactions_that_share_sessions_know_their_own_writes_and_leave_nothing_behind() {
    let postgres = Postgres::shared().unwrap();
    let direct = postgres.database().await.unwrap();
    let bouncer = PgBouncer::start(postgres, &["default_pool_size=3"]).unwrap();
    let pooled = bouncer.database(direct.name());
    direct.connect().await.unwrap().batch_execute(SCHEMA).await.unwrap();
    poison(&pooled, "s").await;
    let cache = local().await;
    let source = TransactionPooling::new(pooled.pool(8));
    let tasks = (0..8_i32).map(|task| {
        let (cache, source) = (cache.clone(), source.clone());
        tokio::spawn(async move {
            for n in 0..25 {
                let table = if (task + n) % 2 == 0 { "t" } else { "parents" };
                let written = cache.write(&source, async |tx| {
                    // Prepared under a name, as other clients' statements are.
                    let sql = if table == "t" {
                        "UPDATE t SET v = $1 WHERE id = $2"
                    } else {
                        "INSERT INTO parents VALUES ($1 * 1000 + $2)"
                    };
                    tx.execute(sql, &[&n, &task]).await?;
                    Ok::<_, Error>(())
                });
                let written = written.await.unwrap();
                assert_eq!(written.relations().unwrap(), [format!("public.{table}")]);
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    // A failed commit, and one that succeeds, on whatever session.
    for _ in 0..5 {
        let write = cache.write(&source, async |tx| {
            tx.batch_execute("INSERT INTO children VALUES (-1)").await.map_err(Error::from)
        });
        assert_eq!(write.await.unwrap_err().sqlstate().unwrap().code(), "23503");
        origin(&cache, "t").await;
        assert_eq!(relations(&cache, &source, "UPDATE t SET v = 0").await, ["public.t"]);
        assert_eq!(origin(&cache, "t").await, Origin::Loaded);
        assert_eq!(relations(&cache, &source, "COMMIT; BEGIN").await, ["everything"]);
    }
    for _ in 0..3 {
        let holder = pooled.connect().await.unwrap();
        holder.batch_execute("BEGIN").await.unwrap();
        let left = r"SELECT (SELECT count(*) FROM pg_prepared_statements
            WHERE name NOT LIKE 'PGBOUNCER\_%' AND statement LIKE '%pg_lock_status%'),
            coalesce(current_setting('larder.write', true), '')";
        let left = holder.query_typed(left, &[]).await.unwrap();
        assert_eq!((left[0].get::<_, i64>(0), left[0].get::<_, &str>(1)), (0, ""));
    }
}
