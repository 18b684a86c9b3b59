//! Does one load serve all concurrent readers?

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use larder::Origin;
use tokio::sync::{Barrier, Semaphore};
use tokio::task::JoinSet;

use crate::support::{database, local, namespace, over_redis, until, written};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_tasks_that_ask_for_a_cold_key_cause_one_load() {
    let database = database().await;
    let client = database.connect().await.unwrap();
    client.batch_execute("CREATE SEQUENCE loads").await.unwrap();
    let (pool, cache) = (database.pool(8), over_redis(&namespace()).build().await.unwrap());
    // The query itself counts how often it runs.
    let query = cache.query("SELECT nextval('loads'), pg_sleep(0.2)::text");
    let barrier = Arc::new(Barrier::new(1000));
    let mut tasks = JoinSet::new();
    for _ in 0..1000 {
        let (query, pool, barrier) = (query.clone(), pool.clone(), barrier.clone());
        tasks.spawn(async move {
            barrier.wait().await;
            let answer = query.fetch(&pool).answer().await.unwrap();
            assert_eq!(answer.value().row(0).get::<_, i64>(0), 1);
            answer.origin()
        });
    }
    let origins = tasks.join_all().await;
    let loaded = origins.iter().filter(|&&origin| origin == Origin::Loaded).count();
    assert_eq!(loaded, 1);
    assert!(origins.iter().all(|o| matches!(o, Origin::Loaded | Origin::Coalesced | Origin::L1)));
    let row = client.query_one("SELECT last_value FROM loads", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
    assert_eq!(cache.stats().loads, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_second_load_slips_in_between_a_load_and_its_result() {
    // Many short races of the end of a load against new readers.
    let cache = local().await;
    let loads = Arc::new(AtomicU32::new(0));
    for round in 0..2000_i32 {
        let mut tasks = JoinSet::new();
        for _ in 0..6 {
            let (cache, loads) = (cache.clone(), loads.clone());
            tasks.spawn(async move {
                let query = cache.query("SELECT 1");
                let read = query.params((round,)).load(move || async move {
                    loads.fetch_add(1, Ordering::Relaxed);
                    Ok::<_, std::io::Error>(round)
                });
                assert_eq!(*read.await.unwrap(), round);
            });
        }
        tasks.join_all().await;
    }
    assert_eq!(loads.load(Ordering::Relaxed), 2000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_look_into_redis_is_shared_as_well() {
    let namespace = namespace();
    let load = || async { Ok::<_, std::io::Error>(7_i32) };
    let here = over_redis(&namespace).build().await.unwrap();
    here.query("SELECT 1").load(load).await.unwrap();
    written(&here, 1).await;
    if cfg!(feature = "redis") {
        let there = over_redis(&namespace).build().await.unwrap();
        let query = there.query("SELECT 1");
        let mut tasks = JoinSet::new();
        for _ in 0..100 {
            let query = query.clone();
            tasks.spawn(async move { *query.load(load).await.unwrap() });
        }
        assert!(tasks.join_all().await.iter().all(|&value| value == 7));
        assert_eq!((there.stats().l2_hits, there.stats().loads), (1, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_more_loads_run_at_a_time_than_are_allowed() {
    let cache = larder::QueryCache::builder().concurrent_loads(3).build().await.unwrap();
    let (running, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let gate = Arc::new(Semaphore::new(0));
    let mut tasks = JoinSet::new();
    for number in 0..20_i32 {
        let (cache, running, most, gate) =
            (cache.clone(), running.clone(), most.clone(), gate.clone());
        tasks.spawn(async move {
            let query = cache.query("SELECT 1");
            let read = query.params((number,)).load(move || async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                gate.acquire().await.unwrap().forget();
                running.fetch_sub(1, Ordering::SeqCst);
                Ok::<_, std::io::Error>(number)
            });
            assert_eq!(*read.await.unwrap(), number);
        });
    }
    until("three loads run", || running.load(Ordering::SeqCst) == 3).await;
    gate.add_permits(20);
    tasks.join_all().await;
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_load_within_a_load_does_not_wait_for_a_second_turn() {
    let cache = larder::QueryCache::builder().concurrent_loads(1).build().await.unwrap();
    let (inner, outer) = (cache.query("inner"), cache.query("outer"));
    let outer = outer.load(move || async move {
        let value = inner.load(|| async { Ok::<_, std::io::Error>(20_i32) }).await?;
        Ok::<_, larder::Error>(*value + 1)
    });
    assert_eq!(*outer.await.unwrap(), 21);
}
