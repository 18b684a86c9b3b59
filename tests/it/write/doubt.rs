//! What if the connection, the caller or the runtime is lost while a transaction is being committed?

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Manager, Pool};
use futures_util::poll;
use larder::{Error, ErrorKind, Origin, Query, QueryCache, WriteSource, Written};
use tokio::sync::Mutex;
use tokio_postgres::{Client, Config, NoTls};

use super::{origin, relations, with};
use crate::servers::{Database, Postgres, Proxy, Way};
use crate::support::{local, until_async};

/// A server whose commits wait for a replica that is not there, where a transaction demands it.
struct Held {
    database: Database,
    admin: Client,
    proxy: Proxy,
    cache: QueryCache,
    /// Dropped last.
    _server: Postgres,
}

const STANDBYS: &str = "ALTER SYSTEM SET synchronous_standby_names = 'nobody'";

impl Held {
    async fn new() -> Held {
        let server = Postgres::start_with(&["synchronous_commit=local"]).unwrap();
        let database = server.database().await.unwrap();
        let admin = database.connect().await.unwrap();
        admin.batch_execute("CREATE TABLE seats (taken int); CREATE TABLE other ()").await.unwrap();
        admin.batch_execute("INSERT INTO seats VALUES (0)").await.unwrap();
        admin.batch_execute(STANDBYS).await.unwrap();
        admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        let proxy = Proxy::to_socket(server.socket()).unwrap();
        let held = Held { database, admin, proxy, cache: local().await, _server: server };
        held.holds().await;
        held
    }

    /// Waits until a commit is held. The setting takes effect a little later than sessions show it.
    async fn holds(&self) {
        let sql = "SET synchronous_commit = 'on'; CREATE TABLE IF NOT EXISTS tried ();
            DROP TABLE tried";
        let cancel = "SELECT count(pg_cancel_backend(pid)) > 0 FROM pg_stat_activity \
            WHERE wait_event = 'SyncRep'";
        loop {
            let client = self.database.connect().await.unwrap();
            let tried = tokio::spawn(async move { client.batch_execute(sql).await });
            let mut held = false;
            until_async("it was held, or not", async || {
                held |= self.is(cancel).await;
                tried.is_finished()
            })
            .await;
            tried.await.unwrap().unwrap();
            if held {
                return;
            }
        }
    }

    async fn is(&self, sql: &str) -> bool {
        self.admin.query_one(sql, &[]).await.unwrap().get(0)
    }

    fn config(&self) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.proxy.port()).user("postgres");
        config.dbname(self.database.name());
        config
    }

    fn pool(&self) -> Pool {
        Pool::builder(Manager::new(self.config(), NoTls)).max_size(2).build().unwrap()
    }

    async fn write(
        cache: QueryCache,
        source: impl WriteSource,
        sql: &str,
    ) -> Result<Written<()>, Error> {
        let write = cache.write(&source, async |tx| {
            tx.batch_execute("SET LOCAL synchronous_commit = 'on'").await?;
            tx.batch_execute(sql).await?;
            Ok(())
        });
        write.await
    }

    /// Waits until a commit is under way and not yet visible.
    async fn committing(&self) {
        let waits = "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        until_async("a commit is under way", async || self.is(waits).await).await;
    }

    /// Lets commits end.
    async fn release(&self) {
        let sql = "ALTER SYSTEM RESET synchronous_standby_names";
        self.admin.batch_execute(sql).await.unwrap();
        self.admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        until_async("the commit is visible", async || self.taken().await == 1).await;
    }

    async fn taken(&self) -> i32 {
        self.admin.query_one("SELECT taken FROM seats", &[]).await.unwrap().get(0)
    }

    fn seats(&self) -> Query {
        self.cache.query("SELECT taken FROM seats").table("seats")
    }

    async fn cached(&self) -> (i32, Origin) {
        let pool = self.database.pool(1);
        let answer = self.seats().fetch(&pool).answer().await.unwrap();
        (answer.value().row(0).get(0), answer.origin())
    }

    /// The commit became visible after the connection was lost, and what was loaded in between is not
    /// served for long.
    ///
    /// `question` is part of what is asked meanwhile.
    async fn is_seen_at_last(&self, question: &str) {
        let asked = format!(
            "SELECT max(query_start)::text FROM pg_stat_activity \
             WHERE pid <> pg_backend_pid() AND query LIKE '%{question}%'"
        );
        let mut times = std::collections::BTreeSet::new();
        until_async("it was asked several times", async || {
            times.extend(
                self.admin.query_one(&asked, &[]).await.unwrap().get::<_, Option<String>>(0),
            );
            times.len() >= 3
        })
        .await;
        assert_eq!(self.cached().await.0, 0);
        assert_eq!(self.cached().await, (0, Origin::L1));
        self.release().await;
        until_async("the write is seen", async || self.cached().await.0 == 1).await;
    }
}

const TAKE: &str = "UPDATE seats SET taken = 1";

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_visible_after_its_connection_was_lost_is_invalidated_then() {
    let held = Held::new().await;
    origin(&held.cache, "other").await;
    let write = tokio::spawn(Held::write(held.cache.clone(), held.pool(), TAKE));
    held.committing().await;
    let before = held.cache.stats().invalidations;
    held.proxy.disconnect();
    let error = write.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InDoubt);
    assert_eq!(held.cache.stats().invalidations, before + 1);
    // The locks were reported before the commit, so nothing else is stale.
    assert_eq!(origin(&held.cache, "other").await, Origin::L1);
    held.is_seen_at_last("pg_xact_status").await;
    assert_eq!(origin(&held.cache, "other").await, Origin::L1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_without_any_reply_makes_everything_stale() {
    let held = Held::new().await;
    origin(&held.cache, "other").await;
    let (cache, pool, proxy) = (&held.cache, held.pool(), &held.proxy);
    // Connections and types are there; from here on no reply arrives.
    let write = async {
        let write = cache.write(&pool, async |tx| {
            tx.batch_execute("SET LOCAL synchronous_commit = 'on'").await?;
            tx.batch_execute(TAKE).await?;
            proxy.stall(Way::ToClient);
            Ok::<_, Error>(())
        });
        write.await
    };
    let lose = async {
        held.committing().await;
        // What is held back is lost with the connection.
        proxy.disconnect();
        proxy.pass();
    };
    let (written, ()) = tokio::join!(write, lose);
    assert_eq!(written.unwrap_err().kind(), ErrorKind::InDoubt);
    assert_eq!(origin(&held.cache, "other").await, Origin::Loaded);
    held.is_seen_at_last("pg_snapshot_xmin").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_without_a_pool_is_invalidated_again_and_again() {
    let held = Held::new().await;
    let (client, connection) = held.config().connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    let client = Arc::new(Mutex::new(client));
    let write = tokio::spawn(Held::write(held.cache.clone(), client, TAKE));
    held.committing().await;
    held.proxy.cut();
    assert_eq!(write.await.unwrap().unwrap_err().kind(), ErrorKind::InDoubt);
    held.cached().await;
    held.release().await;
    until_async("the write is seen", async || held.cached().await.0 == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_during_the_commit_does_not_keep_it_from_being_invalidated() {
    let held = Held::new().await;
    origin(&held.cache, "other").await;
    let pool = held.pool();
    let write = tokio::spawn(Held::write(held.cache.clone(), pool.clone(), TAKE));
    held.committing().await;
    write.abort();
    assert!(write.await.unwrap_err().is_cancelled());
    assert_eq!(held.cached().await.0, 0);
    // The connection is in use until the commit has ended.
    assert_eq!((pool.status().size, pool.status().available), (1, 0));
    held.release().await;
    until_async("the write is seen", async || held.cached().await.0 == 1).await;
    assert_eq!(origin(&held.cache, "other").await, Origin::L1);
    until_async("it is back in the pool", async || pool.status().available == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_ends_during_the_commit_makes_everything_stale() {
    let held = Held::new().await;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let pool = held.pool();
    held.cached().await;
    origin(&held.cache, "other").await;
    runtime.spawn(Held::write(held.cache.clone(), pool, TAKE));
    held.committing().await;
    runtime.shutdown_background();
    until_async("everything is stale", async || {
        origin(&held.cache, "other").await == Origin::Loaded
    })
    .await;
    held.release().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_at_the_commit_leaves_doubt_and_one_that_was_gone_before_an_error() {
    let mut server = Postgres::start().unwrap();
    let database = server.database().await.unwrap();
    database.connect().await.unwrap().batch_execute("CREATE TABLE seats (n int)").await.unwrap();
    let (cache, pool) = (local().await, database.pool(1));
    origin(&cache, "other").await;
    let write = cache.write(&pool, async |tx| {
        tx.execute("INSERT INTO seats VALUES (1)", &[]).await?;
        server.crash().unwrap();
        Ok::<_, Error>(())
    });
    let error = write.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InDoubt);
    assert!(error.to_string().contains("may have been committed or not"), "{error}");
    assert_eq!(origin(&cache, "other").await, Origin::Loaded);
    let write = cache.write(&pool, async |_| Ok::<_, Error>(())).await;
    assert_eq!(write.unwrap_err().kind(), ErrorKind::Connect);
    server.restart().unwrap();
    until_async("it can write again", async || {
        let write = cache.write(&pool, async |tx| {
            tx.execute("INSERT INTO seats VALUES (2)", &[]).await.map_err(Error::from)
        });
        write.await.is_ok_and(|written| written.relations().unwrap() == ["public.seats"])
    })
    .await;
}

#[tokio::test]
async fn wherever_the_caller_leaves_a_result_is_stale_if_and_only_if_it_was_committed() {
    let (database, pool) =
        with("CREATE TABLE seats (taken int); INSERT INTO seats VALUES (0)").await;
    let (cache, direct) = (local().await, database.connect().await.unwrap());
    let seats = cache.query("SELECT taken FROM seats").table("seats");
    let (mut committed, mut rolled_back) = (0, 0);
    // Dropped after so many polls, until it ends before that.
    for polls in 0.. {
        seats.fetch(&pool).await.unwrap();
        let before = direct.query_one("SELECT taken FROM seats", &[]).await.unwrap();
        let before: i32 = before.get(0);
        let mut done = false;
        {
            let write = cache.write(&pool, async |tx| {
                tx.execute("UPDATE seats SET taken = taken + 1", &[]).await?;
                tx.query_one("SELECT pg_sleep(0.001)", &[]).await?;
                Ok::<_, Error>(())
            });
            let mut write = std::pin::pin!(write);
            for _ in 0..polls {
                if poll!(write.as_mut()).is_ready() {
                    done = true;
                    break;
                }
                // The connection's task, and that of the commit, go on.
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                }
                tokio::time::timeout(Duration::from_micros(300), std::future::pending::<()>())
                    .await
                    .unwrap_err();
            }
        }
        let idle = "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() \
                    AND pid <> pg_backend_pid() AND (state <> 'idle' OR backend_xid IS NOT NULL)";
        until_async("the transaction has ended", async || {
            pool.status().available == pool.status().size
                && direct.query_one(idle, &[]).await.unwrap().get(0)
        })
        .await;
        let now: i32 = direct.query_one("SELECT taken FROM seats", &[]).await.unwrap().get(0);
        let answer = seats.fetch(&pool).answer().await.unwrap();
        assert_eq!(answer.value().row(0).get::<_, i32>(0), now, "dropped after {polls} polls");
        if now > before {
            committed += 1;
        } else {
            rolled_back += 1;
            assert_eq!(answer.origin(), Origin::L1, "dropped after {polls} polls");
        }
        if done {
            break;
        }
        assert!(polls < 10_000);
    }
    assert!(committed >= 1 && rolled_back >= 3, "{committed} committed, {rolled_back} not");
    assert_eq!(relations(&cache, &pool, "SELECT 1").await, [""; 0]);
}

/// As a pooler does that has lost its server: an error instead of the replies that it had.
#[tokio::test(flavor = "multi_thread")]
async fn a_fatal_error_from_a_pooler_leaves_doubt_although_the_transaction_was_committed() {
    let (database, direct) = with("CREATE TABLE seats (taken int)").await;
    let proxy = Proxy::to_socket(Postgres::shared().unwrap().socket()).unwrap();
    let mut config = Config::new();
    config.host("127.0.0.1").port(proxy.port()).user("postgres").dbname(database.name());
    let pool = Pool::builder(Manager::new(config, NoTls)).max_size(1).build().unwrap();
    let cache = local().await;
    let seats = cache.query("SELECT count(*) FROM seats").table("seats");
    seats.fetch(&direct).await.unwrap();
    let fields = b"SFATAL\0VFATAL\0C08P01\0Mserver conn crashed?\0\0";
    let mut fatal = vec![b'E'];
    fatal.extend((fields.len() as i32 + 4).to_be_bytes());
    fatal.extend(fields);
    let write = cache.write(&pool, async |tx| {
        tx.batch_execute("INSERT INTO seats VALUES (1)").await?;
        // All that was sent is answered, so the next reply is that to the commit.
        let mut replies = Some(fatal.clone());
        proxy.rewrite(move |_| replies.take().unwrap_or_default());
        Ok::<_, Error>(())
    });
    let error = tokio::join!(write, async {
        until_async("it is committed", async || {
            let count = direct.get().await.unwrap();
            let count = count.query_one("SELECT count(*) FROM seats", &[]).await.unwrap();
            count.get::<_, i64>(0) == 1
        })
        .await;
        proxy.disconnect();
        proxy.pass();
    });
    assert_eq!(error.0.unwrap_err().kind(), ErrorKind::InDoubt);
    until_async("the write is seen", async || {
        seats.fetch(&direct).await.unwrap().row(0).get::<_, i64>(0) == 1
    })
    .await;
}
