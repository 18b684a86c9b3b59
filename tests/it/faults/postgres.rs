//! What do readers notice of faults in PostgreSQL itself?

use super::*;
use crate::servers::Postgres;
use larder::ErrorKind;

#[tokio::test(flavor = "multi_thread")]
async fn its_errors_reach_the_caller_and_what_is_cached_is_served_meanwhile() {
    let redis = Redis::start().unwrap();
    let mut postgres = Postgres::start().unwrap();
    let pool = postgres.database().await.unwrap().pool(2);
    let cache = QueryCache::builder().namespace("pg").redis(redis.url()).build().await.unwrap();
    let known = cache.query("SELECT 1");
    let origin = async |sql: &str| {
        Ok::<_, larder::Error>(cache.query(sql).fetch(&pool).answer().await?.origin())
    };
    known.fetch(&pool).await.unwrap();
    postgres.stop().unwrap();
    assert_eq!(origin("SELECT 1").await.unwrap(), Origin::L1);
    let error = origin("SELECT 2").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Query | ErrorKind::Connect), "{error}");
    postgres.restart().unwrap();
    until_async("it is used again", async || origin("SELECT 2").await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_sessions_cost_the_queries_that_ran_in_them_and_no_others() {
    let database = database().await;
    let pool = database.pool(4);
    let cache = crate::support::local().await;
    cache.query("SELECT 1").fetch(&pool).await.unwrap();
    assert!(database.terminate_sessions().await.unwrap() > 0);
    assert_eq!(cache.query("SELECT 1").fetch(&pool).answer().await.unwrap().origin(), Origin::L1);
    until_async("the pool has new connections", async || {
        cache.query("SELECT 2").fetch(&pool).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exhausted_pool_keeps_loads_waiting_until_their_deadline_and_hits_never() {
    let database = database().await;
    let pool = database.pool(1);
    let cache = crate::support::local().await;
    cache.query("SELECT 1").fetch(&pool).await.unwrap();
    let taken = pool.get().await.unwrap();
    let query = cache.query("SELECT 2").load_deadline(Duration::from_millis(50));
    assert_eq!(query.fetch(&pool).await.unwrap_err().kind(), ErrorKind::Deadline);
    let hit = cache.query("SELECT 1").fetch(&pool).answer().await.unwrap();
    assert_eq!(hit.origin(), Origin::L1);
    drop(taken);
    assert!(query.fetch(&pool).await.is_ok());
}
