//! Does the cache follow what is committed in the database, by connections that know of no cache?

mod faults;
#[cfg(feature = "redis")]
mod fleet;
mod identities;
mod keys;
mod learned;
mod operations;
mod plans;
mod refused;

use std::sync::OnceLock;
use std::time::Duration;

use larder::stats::{FollowRole, FollowStats};
use larder::{Follow, Origin, QueryCache};
use tokio_postgres::{Client, NoTls};

use crate::servers::{Database, Postgres};
use crate::support::until;

const LOGICAL: &[&str] = &[
    "wal_level=logical",
    "max_wal_senders=40",
    "max_replication_slots=40",
    "max_prepared_transactions=5",
];

/// The server that the tests of this module share. None of them keeps a transaction open that has
/// written: slots are not made until it has ended.
fn server() -> &'static Postgres {
    static SHARED: OnceLock<Postgres> = OnceLock::new();
    SHARED.get_or_init(|| Postgres::start_with(LOGICAL).unwrap())
}

async fn database(schema: &str) -> (Database, Client) {
    let database = server().database().await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute(schema).await.unwrap();
    (database, client)
}

/// A cache without Redis that follows.
async fn following(database: &Database) -> QueryCache {
    let follow = Follow::new(database.config(), NoTls);
    let cache = QueryCache::builder().follow(follow).build().await.unwrap();
    leads(&cache).await;
    cache
}

fn stats(cache: &QueryCache) -> FollowStats {
    cache.follow_stats().unwrap()
}

/// Waits until this process announces what is committed.
async fn leads(cache: &QueryCache) {
    let has_led = || stats(cache).role == FollowRole::Leads && stats(cache).round > 0;
    let led = until("the cache follows the database", has_led);
    let told = tokio::time::timeout(Duration::from_secs(25), led).await;
    told.unwrap_or_else(|_| panic!("it does not lead: {:?}", stats(cache)));
}

/// Where a result that reads this relation comes from.
async fn origin(cache: &QueryCache, relation: &str) -> Origin {
    let query = cache.query(format!("SELECT {relation}")).table(relation);
    let read = query.load(|| async { Ok::<_, std::io::Error>(1_i32) });
    read.answer().await.unwrap().origin()
}

/// The relations of which results are stale, when all that is visible now is known. The results are
/// in memory again afterwards.
async fn stale(cache: &QueryCache, relations: &[&'static str]) -> Vec<&'static str> {
    cache.caught_up().await.unwrap();
    let mut stale = vec![];
    for &relation in relations {
        if origin(cache, relation).await == Origin::Loaded {
            stale.push(relation);
        }
    }
    stale
}

/// How often everything that is followed was invalidated.
fn wholesale(stats: &FollowStats) -> u64 {
    stats.wholesale_gaps
        + stats.wholesale_unseen
        + stats.wholesale_unnamed
        + stats.wholesale_unreadable
        + stats.wholesale_definitions
}

/// Sessions that read a stream, and slots, of this database.
async fn left_behind(client: &Client) -> i64 {
    let sql = "\
        SELECT (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
            AND pid <> pg_backend_pid()) \
          + (SELECT count(*) FROM pg_replication_slots WHERE database = current_database()) \
          + (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn what_others_write_makes_results_stale_and_nothing_is_left_behind() {
    let (database, client) =
        database("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int)").await;
    let cache = following(&database).await;
    assert_eq!(stale(&cache, &["t", "u"]).await, ["t", "u"]);
    assert_eq!(stale(&cache, &["t", "u"]).await, [""; 0]);
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    assert_eq!(stale(&cache, &["t", "u"]).await, ["t"]);
    // Nobody has to ask for it.
    let before = stats(&cache).announced;
    client.batch_execute("INSERT INTO u VALUES (1)").await.unwrap();
    until("the change is announced", || stats(&cache).announced > before).await;
    assert_eq!(stale(&cache, &["t", "u"]).await, ["u"]);
    let seen = stats(&cache);
    assert!(seen.transactions >= 2 && seen.announced >= 2 && seen.reason.is_none(), "{seen:?}");
    assert_eq!(wholesale(&seen), 1, "the first start: {seen:?}");
    let counted = cache.stats();
    assert_eq!((counted.follow_leads, counted.followed_gaps, counted.follow_failures), (1, 1, 0));
    assert!(counted.followed_relations >= 2 && !counted.follow_lag.is_zero(), "{counted:?}");
    drop(cache);
    crate::support::until_async("nothing is left", async || left_behind(&client).await == 0).await;
    let cache = following(&database).await;
    cache.shutdown().await;
    crate::support::until_async("nothing is left", async || left_behind(&client).await == 0).await;
    let error = cache.caught_up().await.unwrap_err();
    assert_eq!(error.kind(), larder::ErrorKind::NotFollowed);
}

#[tokio::test]
async fn a_cache_that_does_not_follow_says_so() {
    let cache = crate::support::local().await;
    assert!(cache.follow_stats().is_none());
    let error = cache.caught_up().await.unwrap_err();
    assert_eq!(error.kind(), larder::ErrorKind::NotFollowed);
    assert!(error.to_string().contains("`follow`"), "{error}");
}

#[tokio::test]
async fn a_large_transaction_is_one_change() {
    let rows: u32 = std::env::var("LARDER_ROWS").map_or(50_000, |rows| rows.parse().unwrap());
    let (database, client) =
        database("CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE u (id int)").await;
    let cache = following(&database).await;
    stale(&cache, &["t", "u"]).await;
    let before = stats(&cache);
    let sql = format!("INSERT INTO t SELECT i, 0 FROM generate_series(1, {rows}) i");
    client.batch_execute(&sql).await.unwrap();
    let deadline = Duration::from_secs(120);
    tokio::time::timeout(deadline, async { while cache.caught_up().await.is_err() {} })
        .await
        .unwrap();
    assert_eq!(stale(&cache, &["t", "u"]).await, ["t"]);
    let after = stats(&cache);
    assert_eq!(after.announced - before.announced, 1);
    assert_eq!(wholesale(&after), wholesale(&before));
}

#[tokio::test]
async fn two_databases_of_one_server_do_not_meet() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY)";
    let ((one, client), (other, _other)) = (database(schema).await, database(schema).await);
    let (first, second) = (following(&one).await, following(&other).await);
    stale(&first, &["t"]).await;
    stale(&second, &["t"]).await;
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    assert_eq!(stale(&first, &["t"]).await, ["t"]);
    assert_eq!(stale(&second, &["t"]).await, [""; 0]);
}
