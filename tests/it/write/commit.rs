//! How a transaction ends: committed, rolled back, or neither is known.

use std::error::Error as _;
use std::sync::Arc;

use larder::{Error, ErrorKind, Origin};
use tokio::sync::Mutex;

use super::{origin, relations, with};
use crate::support::local;

const SCHEMA: &str = "
    CREATE TABLE parents (id int PRIMARY KEY);
    CREATE TABLE children (parent int REFERENCES parents DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE late (id int); CREATE TABLE log (id int); CREATE TABLE log2 (id int);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN EXECUTE 'INSERT INTO ' || TG_ARGV[0] || ' VALUES (1)'; RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER a AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED
      FOR EACH ROW EXECUTE FUNCTION note('log');
    CREATE CONSTRAINT TRIGGER b AFTER INSERT ON log DEFERRABLE INITIALLY DEFERRED
      FOR EACH ROW EXECUTE FUNCTION note('log2');
    CREATE TABLE seats (id int PRIMARY KEY, taken int); INSERT INTO seats VALUES (1, 0), (2, 0);
";

#[tokio::test]
async fn what_deferred_triggers_write_counts() {
    let (database, pool) = with(SCHEMA).await;
    let cache = local().await;
    let written = relations(&cache, &pool, "INSERT INTO late VALUES (1)").await;
    assert_eq!(written, ["public.late", "public.log", "public.log2"]);
    let rows = "SELECT count(*) FROM log2";
    let rows = database.connect().await.unwrap().query_one(rows, &[]).await.unwrap();
    assert_eq!(rows.get::<_, i64>(0), 1);
}

#[tokio::test]
async fn a_violated_deferred_constraint_is_its_own_error_and_nothing_is_written() {
    let (_database, pool) = with(SCHEMA).await;
    let cache = local().await;
    origin(&cache, "children").await;
    let write = cache.write(&pool, async |tx| {
        tx.batch_execute("INSERT INTO children VALUES (1)").await.map_err(Error::from)
    });
    let error = write.await.unwrap_err();
    assert_eq!((error.kind(), error.sqlstate().unwrap().code()), (ErrorKind::Query, "23503"));
    // Not "the query failed": none is meant.
    assert!(error.to_string().starts_with("the transaction was rolled back"), "{error}");
    assert!(error.to_string().contains("refused to commit"), "{error}");
    assert_eq!(origin(&cache, "children").await, Origin::L1);
    assert_eq!(cache.stats().invalidations, 0);
    // The connection is as good as before.
    assert_eq!(pool.status().size, 1);
    let fixed = "INSERT INTO children VALUES (1); INSERT INTO parents VALUES (1)";
    assert_eq!(relations(&cache, &pool, fixed).await, ["public.children", "public.parents"]);
    assert_eq!(pool.status().size, 1);
}

#[tokio::test]
async fn an_error_of_the_function_is_returned_as_it_is_and_nothing_is_written() {
    #[derive(Debug)]
    enum Failure {
        SoldOut(i64),
        #[allow(dead_code)]
        Other(Error),
    }
    impl From<Error> for Failure {
        fn from(error: Error) -> Failure {
            Failure::Other(error)
        }
    }
    let (database, pool) = with(SCHEMA).await;
    let cache = local().await;
    origin(&cache, "seats").await;
    let write = cache.write(&pool, async |tx| {
        let taken = tx.execute("UPDATE seats SET taken = 1", &[]).await.map_err(Error::from)?;
        if taken > 1 { Err(Failure::SoldOut(taken as i64)) } else { Ok(()) }
    });
    assert!(matches!(write.await.unwrap_err(), Failure::SoldOut(2)));
    assert_eq!(origin(&cache, "seats").await, Origin::L1);
    let taken = "SELECT sum(taken) FROM seats";
    let taken = database.connect().await.unwrap().query_one(taken, &[]).await.unwrap();
    assert_eq!(taken.get::<_, i64>(0), 0);
}

#[tokio::test]
async fn an_error_that_the_function_keeps_to_itself_is_one_at_the_commit() {
    let (_database, pool) = with(SCHEMA).await;
    let cache = local().await;
    let write = cache.write(&pool, async |tx| {
        tx.execute("UPDATE seats SET taken = 1", &[]).await?;
        let _ = tx.execute("SELECT 1 / 0", &[]).await;
        Ok::<_, Error>(())
    });
    let error = write.await.unwrap_err();
    assert_eq!((error.kind(), error.sqlstate().unwrap().code()), (ErrorKind::Query, "25P02"));
    assert!(error.to_string().contains("returned no error"), "{error}");
    assert_eq!(cache.stats().invalidations, 0);
    assert_eq!(relations(&cache, &pool, "UPDATE seats SET taken = 0").await, ["public.seats"]);
}

#[tokio::test]
async fn a_panic_of_the_function_rolls_back() {
    let (database, pool) = with(SCHEMA).await;
    let cache = local().await;
    let (writer, of) = (cache.clone(), pool.clone());
    let panics = tokio::spawn(async move {
        let write = writer.write(&of, async |tx| {
            tx.execute("UPDATE seats SET taken = 1", &[]).await?;
            if tx.execute("SELECT 1", &[]).await.is_ok() {
                panic!("as it was told");
            }
            Ok::<_, Error>(())
        });
        write.await.map(drop)
    });
    assert!(panics.await.unwrap_err().is_panic());
    assert_eq!(relations(&cache, &pool, "SELECT 1").await, [""; 0]);
    let taken = "SELECT sum(taken) FROM seats";
    let taken = database.connect().await.unwrap().query_one(taken, &[]).await.unwrap();
    assert_eq!(taken.get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_serialization_failure_is_for_the_caller_to_retry() {
    let (_database, pool) = with(SCHEMA).await;
    let cache = local().await;
    // Each reads what the other writes: one of them is refused, at the latest by its commit.
    let swap = async |read: i32, write: i32, both: &tokio::sync::Barrier| {
        let mut first = true;
        loop {
            let written = cache.write(&pool, async |tx| {
                tx.batch_execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE").await?;
                let sql = "SELECT taken FROM seats WHERE id = $1";
                let taken: i32 = tx.query_one(sql, &[&read]).await?.get(0);
                if first {
                    both.wait().await;
                }
                let sql = "UPDATE seats SET taken = $1 WHERE id = $2";
                tx.execute(sql, &[&(taken + 1), &write]).await?;
                Ok::<_, Error>(())
            });
            match written.await {
                Ok(written) => return (written, first),
                Err(error) if error.sqlstate().is_some_and(|it| it.code() == "40001") => {
                    assert_eq!(error.kind(), ErrorKind::Query);
                    first = false;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    let both = tokio::sync::Barrier::new(2);
    let ((one, first), (other, second)) = tokio::join!(swap(1, 2, &both), swap(2, 1, &both));
    assert_eq!((one.relations(), other.relations()), (one.relations(), one.relations()));
    assert_eq!(one.relations().unwrap(), ["public.seats"]);
    assert!(first != second, "one of them was refused");
}

#[tokio::test]
async fn a_transaction_that_was_ended_by_a_statement_makes_everything_stale() {
    let mut server =
        crate::servers::Postgres::start_with(&["max_prepared_transactions=2"]).unwrap();
    let database = server.database().await.unwrap();
    database.connect().await.unwrap().batch_execute(SCHEMA).await.unwrap();
    let (cache, pool) = (local().await, database.pool(1));
    for end in [
        "COMMIT",
        "ROLLBACK",
        "COMMIT AND CHAIN",
        "COMMIT; BEGIN",
        "COMMIT; BEGIN; UPDATE parents SET id = 1",
        "PREPARE TRANSACTION 'later'",
    ] {
        origin(&cache, "parents").await;
        let sql = format!("UPDATE seats SET taken = taken + 1; {end}");
        assert_eq!(relations(&cache, &pool, &sql).await, ["everything"], "{end}");
        assert_eq!(origin(&cache, "parents").await, Origin::Loaded);
        // Nothing of it is left.
        assert_eq!(relations(&cache, &pool, "UPDATE late SET id = 1").await, ["public.late"]);
    }
    // It is committed by another statement, which the cache does not see.
    origin(&cache, "seats").await;
    pool.get().await.unwrap().batch_execute("COMMIT PREPARED 'later'").await.unwrap();
    assert_eq!(origin(&cache, "seats").await, Origin::L1);
    cache.invalidate_table("seats").await;
    assert_eq!(origin(&cache, "seats").await, Origin::Loaded);
    drop((cache, pool));
    server.stop().unwrap();
}

#[tokio::test]
async fn a_partition_that_was_attached_after_the_snapshot_names_its_parent() {
    let sql = "CREATE TABLE p (id int) PARTITION BY RANGE (id); CREATE TABLE p1 (id int)";
    let (database, pool) = with(sql).await;
    let cache = local().await;
    let other = database.connect().await.unwrap();
    let written = cache.write(&pool, async |tx| {
        tx.batch_execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
        tx.query("SELECT 1", &[]).await?;
        let attach = "ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (9);
            CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (19)";
        other.batch_execute(attach).await?;
        tx.batch_execute("INSERT INTO p1 VALUES (1); INSERT INTO p2 VALUES (11)").await?;
        Ok::<_, Error>(())
    });
    let written = written.await.unwrap();
    assert_eq!(written.relations().unwrap(), ["public.p", "public.p1", "public.p2"]);
}

#[tokio::test]
async fn savepoints_of_the_driver_and_values_of_the_function() {
    let (_database, pool) = with(SCHEMA).await;
    let cache = local().await;
    let names = ["seats".to_owned()];
    let written = cache.write(&pool, async |tx| {
        let inner = tx.transaction().await?;
        inner.execute("INSERT INTO parents VALUES (5)", &[]).await?;
        inner.rollback().await?;
        let inner = tx.transaction().await?;
        let taken = inner.execute(&format!("UPDATE {} SET taken = 3", names[0]), &[]).await?;
        inner.commit().await?;
        Ok::<_, Error>(taken)
    });
    let written = written.await.unwrap();
    assert_eq!((*written.value(), written.relations().unwrap()), (2, &["public.seats".into()][..]));
    assert_eq!(written.into_value(), 2);
}

#[tokio::test]
async fn a_client_behind_a_mutex_is_locked_until_the_end() {
    let (database, _pool) = with(SCHEMA).await;
    let cache = local().await;
    let client = Arc::new(Mutex::new(database.connect().await.unwrap()));
    let write = cache.write(&client, async |tx| {
        tx.execute("UPDATE seats SET taken = 1", &[]).await?;
        assert!(client.try_lock().is_err());
        Ok::<_, Error>(())
    });
    assert_eq!(write.await.unwrap().relations().unwrap(), ["public.seats"]);
    let over_tls = larder::TlsPool::from(database.pool(1));
    assert_eq!(relations(&cache, &over_tls, "UPDATE seats SET taken = 1").await, ["public.seats"]);
    for _ in 0..9 {
        assert_eq!(relations(&cache, &client, "INSERT INTO log VALUES (1)").await.len(), 2);
    }
    assert!(client.try_lock().is_ok());
}

#[tokio::test]
async fn without_a_connection_the_function_is_not_called() {
    let (database, _) = with("").await;
    let gone = database.as_role("nobody_of_this_name").pool(1);
    let write = local().await.write(&gone, async |_| -> Result<(), Error> { unreachable!() }).await;
    let error = write.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect);
    assert!(error.source().is_some());
}
