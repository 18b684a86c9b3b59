//! What is announced when: a commit that is in the log and not visible yet.

use std::time::Duration;

use deadpool_postgres::Pool;
use test_servers::{Database, Postgres};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{Client, NoTls};

use super::Follow;
use crate::cache::QueryCache;
use crate::telemetry::stats::FollowRole;

const PATIENCE: Duration = Duration::from_secs(60);

async fn until(what: &str, mut happened: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !happened().await {
        assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

async fn following(database: &Database, is_gated: bool) -> QueryCache {
    let follow = Follow { is_gated, ..Follow::new(database.config(), NoTls) };
    let cache = QueryCache::builder().follow(follow).build().await.unwrap();
    until("the cache follows", async || {
        let stats = cache.follow_stats().unwrap();
        stats.role == FollowRole::Leads && stats.round > 0
    })
    .await;
    cache
}

async fn version(cache: &QueryCache, pool: &Pool, id: i32) -> i64 {
    let query = cache.query("SELECT v FROM race WHERE id = $1").table("race");
    query.bind(id).fetch(pool).await.unwrap().row(0).get(0)
}

/// A server whose commits are in the log, and decoded, long before they are visible: a synchronous
/// standby is waited for, and there is none.
struct Waiting {
    _server: Postgres,
    database: Database,
    client: Client,
}

impl Waiting {
    async fn start() -> Waiting {
        let server = Postgres::start_with(&["wal_level=logical", "max_wal_senders=8"]).unwrap();
        let database = server.database().await.unwrap();
        let client = database.connect().await.unwrap();
        let schema =
            "CREATE TABLE race (id int PRIMARY KEY, v int8); INSERT INTO race VALUES (0, 0)";
        client.batch_execute(schema).await.unwrap();
        Waiting { _server: server, database, client }
    }

    async fn set(&self, standby: &str) {
        let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{standby}'");
        // The session itself waits for no standby.
        self.client.batch_execute("SET synchronous_commit = local").await.unwrap();
        self.client.batch_execute(&set).await.unwrap();
        self.client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        let now = format!("SELECT current_setting('synchronous_standby_names') = '{standby}'");
        until("the setting is known", async || {
            let client = self.database.connect().await.unwrap();
            client.query_one(&now, &[]).await.unwrap().get(0)
        })
        .await;
    }

    /// Commits a new version, and returns when it is in the log, and its session.
    async fn commit(&self) -> tokio::task::JoinHandle<()> {
        let writer = self.database.connect().await.unwrap();
        let write = tokio::spawn(async move {
            writer.batch_execute("UPDATE race SET v = v + 1").await.unwrap();
        });
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        until("the commit waits for its standby", async || {
            self.client.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 1
        })
        .await;
        write
    }
}

/// What the cache serves after a load between the log and the visibility of a commit.
async fn served_after_a_load_in_between(is_gated: bool) -> i64 {
    let waiting = Waiting::start().await;
    let cache = following(&waiting.database, is_gated).await;
    let pool = waiting.database.pool(2);
    waiting.set("nobody").await;
    assert_eq!(version(&cache, &pool, 0).await, 0);
    let transactions = cache.follow_stats().unwrap().transactions;
    let write = waiting.commit().await;
    // It is read.
    until("the commit is decoded", async || {
        cache.caught_up().await.unwrap();
        cache.follow_stats().unwrap().transactions > transactions
    })
    .await;
    assert_eq!(cache.follow_stats().unwrap().held, u64::from(is_gated));
    assert_eq!(version(&cache, &pool, 0).await, 0, "it is not visible");
    waiting.set("").await;
    timeout(PATIENCE, write).await.unwrap().unwrap();
    cache.caught_up().await.unwrap();
    assert_eq!(cache.follow_stats().unwrap().held, 0);
    version(&cache, &pool, 0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_announced_when_it_is_visible_and_not_before() {
    assert_eq!(served_after_a_load_in_between(true).await, 1);
}

/// So the test above can fail.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_gate_a_result_from_before_would_be_served_for_ever() {
    assert_eq!(served_after_a_load_in_between(false).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_before_the_slot_and_is_not_visible_yet_is_waited_for() {
    let waiting = Waiting::start().await;
    let pool = waiting.database.pool(2);
    waiting.set("nobody").await;
    let write = waiting.commit().await;
    // A slot is made when all transactions have ended that had begun before.
    let makes = "SELECT count(*) FROM pg_replication_slots";
    let shows = async {
        until("the slot is being made", async || {
            waiting.client.query_one(makes, &[]).await.unwrap().get::<_, i64>(0) == 1
        })
        .await;
        waiting.set("").await;
        write.await.unwrap();
    };
    let (cache, ()) = tokio::join!(following(&waiting.database, true), shows);
    assert_eq!(version(&cache, &pool, 0).await, 1);
}

/// Bursts of writes and loads at once. After each, when everything is announced, nothing is served that
/// lacks the last version of its row.
#[tokio::test(flavor = "multi_thread")]
async fn no_load_among_writes_is_served_that_lacks_one() {
    const ROWS: i32 = 4;
    let bursts = std::env::var("LARDER_BURSTS").map_or(25, |bursts| bursts.parse().unwrap());
    let server = Postgres::start_with(&["wal_level=logical", "max_wal_senders=8"]).unwrap();
    let database = server.database().await.unwrap();
    let client = database.connect().await.unwrap();
    let schema = "CREATE TABLE race (id int PRIMARY KEY, v int8) WITH (fillfactor = 20);
        INSERT INTO race SELECT i, 0 FROM generate_series(0, 3) i";
    client.batch_execute(schema).await.unwrap();
    let cache = following(&database, true).await;
    let pool = database.pool(8);
    let mut loads = 0;
    for _ in 0..bursts {
        let writers = (0..ROWS).map(|id| {
            let database = &database;
            async move {
                let client = database.connect().await.unwrap();
                let update =
                    client.prepare("UPDATE race SET v = v + 1 WHERE id = $1").await.unwrap();
                for _ in 0..20 {
                    client.execute(&update, &[&id]).await.unwrap();
                }
            }
        });
        let loaders = (0..ROWS).map(|number| {
            let (cache, pool) = (cache.clone(), pool.clone());
            tokio::spawn(async move {
                for load in 0..100 {
                    version(&cache, &pool, (load + number) % ROWS).await;
                }
            })
        });
        let loaders = futures_util::future::join_all(loaders.collect::<Vec<_>>());
        let (_, loaded) = tokio::join!(futures_util::future::join_all(writers), loaders);
        loaded.into_iter().for_each(|loaded| loaded.unwrap());
        cache.caught_up().await.unwrap();
        for row in client.query("SELECT id, v FROM race", &[]).await.unwrap() {
            assert_eq!(version(&cache, &pool, row.get(0)).await, row.get::<_, i64>(1));
        }
        loads = cache.stats().loads;
    }
    assert!(loads > bursts, "{loads}");
}
