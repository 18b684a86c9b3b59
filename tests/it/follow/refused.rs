//! What if the database cannot be followed? What lasts is an error of `build` that says what to change;
//! what may pass is tried again, and reads work meanwhile.

use larder::{BuildError, Follow, Origin, QueryCache};
use tokio_postgres::{Config, NoTls};

use super::{LOGICAL, leads, origin, stats};
use crate::servers::{PgBouncer, Postgres};
use crate::support::until;

async fn built(config: Config) -> Result<QueryCache, BuildError> {
    QueryCache::builder().follow(Follow::new(config, NoTls)).build().await
}

async fn refused(config: Config, words: &[&str]) {
    let error = built(config).await.unwrap_err();
    assert!(error.is_not_followed(), "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "{word:?} in: {error}");
    }
    assert!(std::error::Error::source(&error).is_some());
}

#[tokio::test]
async fn what_lasts_is_an_error_that_names_what_to_change() {
    let server = Postgres::start_with(LOGICAL).unwrap();
    let database = server.database().await.unwrap();
    let client = database.connect().await.unwrap();
    client
        .batch_execute("CREATE ROLE plain LOGIN; CREATE ROLE may LOGIN REPLICATION")
        .await
        .unwrap();
    refused(database.as_role("plain").config(), &["42501", "REPLICATION"]).await;
    // Nothing else is needed.
    let cache = built(database.as_role("may").config()).await.unwrap();
    leads(&cache).await;
    let mut elsewhere = database.config();
    elsewhere.dbname("nowhere");
    refused(elsewhere, &["3D000", "name of the database"]).await;
    let mut nobody = database.config();
    nobody.user("nobody_at_all");
    refused(nobody, &["28000", "user or the password"]).await;
    let error = QueryCache::builder()
        .follow(Follow::new(database.config(), NoTls).max_blind(std::time::Duration::ZERO))
        .build()
        .await
        .unwrap_err();
    assert_eq!(error.setting(), Some("max_blind"));
}

#[tokio::test]
async fn a_server_without_the_setting_and_a_standby_are_refused() {
    let mut server = Postgres::start_with(&["wal_level=replica"]).unwrap();
    let database = server.database().await.unwrap();
    refused(database.config(), &["`wal_level`", "`replica`", "wal_level = logical"]).await;
    crate::replicas::into_recovery(&mut server);
    refused(database.config(), &["standby", "address of the primary"]).await;
}

#[tokio::test]
async fn a_pooler_is_refused() {
    let server = Postgres::start_with(LOGICAL).unwrap();
    let database = server.database().await.unwrap();
    let pooler = PgBouncer::start(&server, &[]).unwrap();
    refused(pooler.database(database.name()).config(), &["pooler"]).await;
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_reads_work() {
    let server = Postgres::start_with(&[
        "wal_level=logical",
        "max_wal_senders=2",
        "max_replication_slots=1",
    ])
    .unwrap();
    let database = server.database().await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute("CREATE TABLE t (id int)").await.unwrap();
    let hold = "SELECT pg_create_logical_replication_slot('held', 'test_decoding')";
    client.batch_execute(hold).await.unwrap();
    let cache = built(database.config()).await.unwrap();
    let told = |word: &'static str| {
        let cache = &cache;
        move || stats(cache).reason.is_some_and(|reason| reason.contains(word))
    };
    until("the full slots are named", told("max_replication_slots")).await;
    assert_eq!(origin(&cache, "t").await, Origin::Loaded);
    origin(&cache, "t").await;
    client.batch_execute("SELECT pg_drop_replication_slot('held')").await.unwrap();
    leads(&cache).await;
    assert_eq!(stats(&cache).reason, None);
    drop(cache);
    // A server that is not there yet.
    let mut nowhere = Config::new();
    nowhere.host_path("/nowhere").user("postgres");
    let cache = built(nowhere).await.unwrap();
    until("the reason is known", || stats(&cache).reason.is_some()).await;
    assert_eq!(origin(&cache, "t").await, Origin::Loaded);
    origin(&cache, "t").await;
    let error = cache.caught_up().await.unwrap_err();
    assert_eq!(error.kind(), larder::ErrorKind::NotFollowed);
    assert!(error.to_string().contains("connecting to /nowhere"), "{error}");
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn a_namespace_of_two_databases_is_named() {
    let server = Postgres::start_with(LOGICAL).unwrap();
    let (one, other) = (server.database().await.unwrap(), server.database().await.unwrap());
    let namespace = crate::support::namespace();
    let build = async |config| {
        let builder = crate::support::over_redis(&namespace);
        builder.follow(Follow::new(config, NoTls)).build().await.unwrap()
    };
    let first = build(one.config()).await;
    leads(&first).await;
    let second = build(one.config()).await;
    until("it stands by", || stats(&second).role == larder::stats::FollowRole::StandsBy).await;
    let third = build(other.config()).await;
    let named = || stats(&third).reason.is_some_and(|it| it.contains("another database"));
    until("the other database is named", named).await;
}
