//! When is a stale result served, and does the answer report it?

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use larder::testing::ManualClock;
use larder::{Answer, Error, ErrorKind, Origin, Query, QueryCache, QueryCacheBuilder, Staleness};

use crate::support::{database, namespace, over_redis, until, until_async, written};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Counts up at every load; below zero it fails.
#[derive(Clone, Default)]
struct Loader(Arc<AtomicI64>);

impl Loader {
    async fn answer(&self, query: &Query) -> Result<Answer<Arc<i64>>, Error> {
        let next = self.0.clone();
        let load = || async move {
            match next.load(Ordering::SeqCst) {
                failing if failing < 0 => Err(std::io::Error::other("it fails")),
                _ => Ok(next.fetch_add(1, Ordering::SeqCst)),
            }
        };
        query.load(load).answer().await
    }

    async fn read(&self, query: &Query) -> (i64, Origin, Option<Staleness>) {
        let answer = self.answer(query).await.unwrap();
        (**answer.value(), answer.origin(), answer.staleness())
    }
}

async fn with_clock(builder: QueryCacheBuilder) -> (QueryCache, ManualClock) {
    let clock = ManualClock::new();
    let cache = builder.ttl(MINUTE).clock(clock.clone()).build().await.unwrap();
    (cache, clock)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_result_is_served_while_one_load_brings_a_new_one() {
    let (cache, clock) = with_clock(QueryCache::builder()).await;
    let (loader, query) = (Loader::default(), cache.query("q").stale_while_revalidate(MINUTE));
    loader.read(&query).await;
    clock.advance(MINUTE + SECOND);
    let stale = (0, Origin::Stale, Some(Staleness::Expired));
    let (bring, brought) = tokio::sync::oneshot::channel::<i64>();
    let slow = query.load(|| brought).answer().await.unwrap();
    assert_eq!((**slow.value(), slow.origin(), slow.staleness()), stale);
    assert_eq!(loader.read(&query).await, stale);
    bring.send(5).unwrap();
    until_async("the new one is served", async || {
        let answer = loader.read(&query).await;
        assert!(answer == stale || answer == (5, Origin::L1, None), "{answer:?}");
        answer != stale
    })
    .await;
    assert_eq!((cache.stats().background_loads, cache.stats().loads), (1, 2));
    // Beyond its time nobody is served the old one.
    clock.advance(2 * MINUTE);
    assert_eq!(loader.read(&query).await, (1, Origin::Loaded, None));
    assert!(cache.stats().stale >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_finds_a_new_load_under_way_is_served_the_old_result_as_well() {
    let (cache, clock) = with_clock(QueryCache::builder()).await;
    let query = cache.query("q").stale_while_revalidate(MINUTE);
    Loader::default().read(&query).await;
    clock.advance(MINUTE);
    let never = query.load(std::future::pending::<Result<i64, std::io::Error>>);
    assert_eq!(never.answer().await.unwrap().origin(), Origin::Stale);
    for _ in 0..10 {
        assert_eq!(Loader::default().read(&query).await.1, Origin::Stale);
    }
    until("the new load has begun", || cache.stats().loads == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_result_is_served_if_the_load_fails_and_the_error_otherwise() {
    let (cache, clock) = with_clock(QueryCache::builder()).await;
    let query = cache.query("q").stale_if_error(MINUTE);
    let loader = Loader::default();
    loader.read(&query).await;
    clock.advance(MINUTE);
    loader.0.store(-1, Ordering::SeqCst);
    assert_eq!(loader.read(&query).await, (0, Origin::Stale, Some(Staleness::Expired)));
    clock.advance(MINUTE);
    assert_eq!(loader.answer(&query).await.unwrap_err().kind(), ErrorKind::Query);
    loader.0.store(5, Ordering::SeqCst);
    assert_eq!(loader.read(&query).await, (5, Origin::Loaded, None));
    // A panic and a deadline are failures too.
    clock.advance(MINUTE);
    let panics = query.load(|| async {
        if true {
            panic!("on purpose");
        }
        Ok::<_, std::io::Error>(0_i64)
    });
    assert_eq!(panics.answer().await.unwrap().origin(), Origin::Stale);
    let late = query.clone().load_deadline(Duration::from_millis(20));
    let never = late.load(std::future::pending::<Result<i64, std::io::Error>>);
    assert_eq!(never.answer().await.unwrap().origin(), Origin::Stale);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_invalidated_is_served_only_where_that_is_allowed_and_says_so() {
    let (cache, clock) = with_clock(QueryCache::builder()).await;
    let strict = cache.query("q").tag("t").stale_if_error(MINUTE).stale_while_revalidate(MINUTE);
    let lax = strict.clone().allow_invalidated();
    let loader = Loader::default();
    loader.read(&strict).await;
    loader.0.store(-1, Ordering::SeqCst);
    cache.invalidate(["t"]).await.acknowledged().unwrap();
    assert_eq!(loader.answer(&strict).await.unwrap_err().kind(), ErrorKind::Query);
    assert_eq!(loader.read(&lax).await, (0, Origin::Stale, Some(Staleness::Invalidated)));
    clock.advance(MINUTE);
    assert_eq!(loader.read(&lax).await, (0, Origin::Stale, Some(Staleness::Invalidated)));
    assert_eq!(loader.answer(&strict).await.unwrap_err().kind(), ErrorKind::Query);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_result_lives_for_its_own_time() {
    let database = database().await;
    let pool = database.pool(1);
    let (cache, clock) = with_clock(QueryCache::builder().negative_ttl(SECOND)).await;
    let none = cache.query("SELECT 1 WHERE false");
    let some = cache.query("SELECT 1");
    let origin = async |query: &Query| query.fetch(&pool).answer().await.unwrap().origin();
    let typed = async |value: Option<i32>, query: &Query| {
        let read = query.load(move || async move { Ok::<_, std::io::Error>(value) });
        read.answer().await.unwrap().origin()
    };
    let (typed_none, typed_some) = (cache.query("a"), cache.query("b"));
    for round in 0..2 {
        let loaded = if round == 0 { Origin::Loaded } else { Origin::L1 };
        assert_eq!(origin(&none).await, Origin::Loaded);
        assert_eq!(origin(&none).await, Origin::L1);
        assert_eq!(origin(&some).await, loaded);
        assert_eq!(typed(None, &typed_none).await, Origin::Loaded);
        assert_eq!(typed(None, &typed_none).await, Origin::L1);
        assert_eq!(typed(Some(1), &typed_some).await, loaded);
        clock.advance(SECOND);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_named_sqlstates_are_kept_and_others_are_not() {
    let database = database().await;
    let (pool, admin) = (database.pool(2), database.connect().await.unwrap());
    let (cache, clock) = with_clock(QueryCache::builder()).await;
    let named = cache.query("SELECT 1 FROM not_yet").tag("not_yet");
    let named = named.negative_sqlstates(["42P01"], SECOND);
    let other = cache.query("SELECT 1/0").negative_sqlstates(["42P01"], SECOND);
    let state = async |query: &Query| {
        query.fetch(&pool).await.unwrap_err().sqlstate().unwrap().code().to_owned()
    };
    for loads in [1, 1] {
        assert_eq!(state(&named).await, "42P01");
        assert_eq!(cache.stats().loads, loads);
    }
    assert_eq!(cache.stats().negative_hits, 1);
    // A query of the same key that did not ask for it runs.
    assert_eq!(state(&cache.query("SELECT 1 FROM not_yet").tag("not_yet")).await, "42P01");
    assert_eq!(cache.stats().loads, 2);
    clock.advance(SECOND);
    assert_eq!(state(&named).await, "42P01");
    assert_eq!(cache.stats().loads, 3);
    // The table comes, and whoever made it says so.
    admin.batch_execute("CREATE TABLE not_yet AS SELECT 1 AS one").await.unwrap();
    cache.invalidate(["not_yet"]).await.acknowledged().unwrap();
    assert_eq!(named.fetch(&pool).await.unwrap().len(), 1);
    for loads in [5, 6] {
        assert_eq!(state(&other).await, "22012");
        assert_eq!(cache.stats().loads, loads);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_about_to_end_is_loaded_anew_before_it_does() {
    let (cache, clock) = with_clock(QueryCache::builder()).await;
    let query = cache.query("q").early_refresh(1.0);
    let loads = Arc::new(AtomicU64::new(0));
    let read = async || {
        let (clock, loads) = (clock.clone(), loads.clone());
        // By the cache's clock a load takes ten seconds.
        let load = || async move {
            clock.advance(10 * SECOND);
            Ok::<_, std::io::Error>(loads.fetch_add(1, Ordering::SeqCst))
        };
        query.load(load).answer().await.unwrap().origin()
    };
    assert_eq!(read().await, Origin::Loaded);
    for _ in 0..100 {
        // 60 s to go: e^-6.
        assert_eq!(read().await, Origin::L1);
        if loads.load(Ordering::SeqCst) > 1 {
            break;
        }
    }
    let before = loads.load(Ordering::SeqCst);
    clock.advance(55 * SECOND);
    until("it is loaded anew", || {
        loads.load(Ordering::SeqCst) > before || {
            let origin = futures_executor::block_on(read());
            assert!(origin == Origin::L1 || before > 1, "nobody waits: {origin:?}");
            false
        }
    })
    .await;
    assert!(cache.stats().background_loads >= 1);
    // One that was not asked to, is not.
    let (other, begin) = (cache.query("other"), cache.stats().background_loads);
    Loader::default().read(&other).await;
    clock.advance(MINUTE - Duration::from_nanos(1));
    for _ in 0..100 {
        assert_eq!(Loader::default().read(&other).await.1, Origin::L1);
    }
    assert_eq!(cache.stats().background_loads, begin);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_result_may_come_from_redis() {
    if cfg!(not(feature = "redis")) {
        return;
    }
    let namespace = namespace();
    let build = async || {
        let builder = over_redis(&namespace).stale_if_error(10 * MINUTE);
        builder.stale_while_revalidate(10 * MINUTE).ttl(Duration::from_millis(50))
    };
    let here = build().await.build().await.unwrap();
    let loader = Loader::default();
    loader.read(&here.query("q")).await;
    written(&here, 1).await;
    let begin = std::time::Instant::now();
    until("its time to live is over", || begin.elapsed() > Duration::from_millis(60)).await;
    let there = build().await.build().await.unwrap();
    let (value, origin, staleness) = loader.read(&there.query("q")).await;
    assert_eq!((value, origin, staleness), (0, Origin::Stale, Some(Staleness::Expired)));
    until("a new one is in redis", || there.stats().l2_writes == 1).await;
}
