//! A fleet in one process, without a server.

use super::*;
use crate::testing::ManualClock;
use crate::{Answer, ErrorKind, Origin, QueryCache};

struct Fleet {
    store: MemoryStore,
    one: QueryCache,
    other: QueryCache,
}

async fn cache_on(store: &MemoryStore) -> QueryCache {
    // The clock stands still, so a confirmed table stays confirmed.
    let builder = QueryCache::builder().memory_store(store).clock(ManualClock::new());
    builder.build().await.unwrap()
}

async fn fleet() -> Fleet {
    let store = MemoryStore::new();
    let (one, other) = (cache_on(&store).await, cache_on(&store).await);
    Fleet { store, one, other }
}

async fn answer(cache: &QueryCache) -> Answer<Arc<i64>> {
    let query = cache.query("SELECT 1").tag("t");
    query.load(|| async { Ok::<_, std::io::Error>(1_i64) }).answer().await.unwrap()
}

async fn origin(cache: &QueryCache) -> Origin {
    answer(cache).await.origin()
}

#[tokio::test]
async fn an_invalidation_of_one_cache_is_in_force_in_all() {
    let Fleet { one, other, .. } = fleet().await;
    assert_eq!(origin(&one).await, Origin::Loaded);
    assert_eq!(origin(&other).await, Origin::L2);
    assert_eq!(origin(&other).await, Origin::L1);
    one.invalidate(["t"]).await.acknowledged().unwrap();
    assert_eq!(origin(&other).await, Origin::Loaded);
    assert_eq!(origin(&one).await, Origin::L2);
}

#[tokio::test]
async fn namespaces_have_nothing_in_common() {
    let store = MemoryStore::new();
    let build = |namespace| QueryCache::builder().memory_store(&store).namespace(namespace);
    let (one, other) = (build("one").build().await.unwrap(), build("other"));
    let other = other.build().await.unwrap();
    assert_eq!(origin(&one).await, Origin::Loaded);
    assert_eq!(origin(&other).await, Origin::Loaded);
    one.clear().await.acknowledged().unwrap();
    assert_eq!(origin(&other).await, Origin::L1);
}

#[tokio::test]
async fn two_caches_load_a_key_once() {
    let Fleet { one, other, .. } = fleet().await;
    let load = async |cache: &QueryCache| {
        let query = cache.query("SELECT 2");
        let load = || async {
            tokio::task::yield_now().await;
            Ok::<_, std::io::Error>(2_i64)
        };
        query.load(load).await.unwrap();
    };
    tokio::join!(load(&one), load(&other));
    let (one, other) = (one.stats(), other.stats());
    assert_eq!((one.loads + other.loads, one.lease_waits + other.lease_waits), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn caches_that_are_cut_off_work_and_catch_up_when_they_are_not() {
    let Fleet { store, one, other } = fleet().await;
    origin(&one).await;
    origin(&other).await;
    store.disconnect();
    let error = one.invalidate(["t"]).await.acknowledged().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unacknowledged);
    assert_eq!(origin(&one).await, Origin::Loaded);
    assert_eq!(origin(&other).await, Origin::L1, "it cannot know");
    assert_eq!(origin(&cache_on(&store).await).await, Origin::Loaded, "built without it");
    store.reconnect();
    // Lets the heartbeat run, which announces the pending invalidation.
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(origin(&other).await, Origin::Loaded);
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_is_not_served_from_memory_either() {
    let Fleet { store, one, other } = fleet().await;
    origin(&one).await;
    origin(&other).await;
    store.lose_everything();
    assert_eq!(origin(&one).await, Origin::L1, "it has not asked");
    other.invalidate(["of something else"]).await.acknowledged().unwrap();
    assert_eq!(origin(&other).await, Origin::Loaded);
    // Lets the other cache's heartbeat run, which the notice has woken.
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(origin(&one).await, Origin::L2);
}

#[tokio::test(start_paused = true)]
async fn a_notice_that_is_lost_is_made_up_for_by_the_next_beat() {
    let Fleet { store, one, other } = fleet().await;
    origin(&one).await;
    origin(&other).await;
    store.drop_notices(true);
    one.invalidate(["t"]).await.acknowledged().unwrap();
    assert_eq!(origin(&other).await, Origin::L1);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(origin(&other).await, Origin::Loaded);
}

#[tokio::test]
async fn an_entry_has_the_life_that_it_was_given_and_no_more() {
    let clock = ManualClock::new();
    let store = MemoryStore::with_clock(clock.clone());
    let minute = Duration::from_secs(60);
    let builder = QueryCache::builder().memory_store(&store).clock(clock.clone()).ttl(minute);
    let one = builder.clone().build().await.unwrap();
    assert_eq!(origin(&one).await, Origin::Loaded);
    let second = Duration::from_secs(1);
    clock.advance(minute - second);
    let other = builder.clone().build().await.unwrap();
    let answer = answer(&other).await;
    assert_eq!((answer.origin(), answer.age()), (Origin::L2, minute - second));
    clock.advance(second);
    assert_eq!(origin(&builder.build().await.unwrap()).await, Origin::Loaded);
}

#[tokio::test]
async fn a_cache_that_is_gone_is_not_told_any_more() {
    let Fleet { store, one, other } = fleet().await;
    one.shutdown().await;
    assert_eq!(origin(&one).await, Origin::Loaded, "as if it were cut off for good");
    assert_eq!(origin(&other).await, Origin::Loaded);
    assert_eq!(store.0.lock().listeners.len(), 1);
    drop(other);
    tokio::task::yield_now().await;
    assert_eq!(store.0.lock().listeners.len(), 0);
}
