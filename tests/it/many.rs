//! Does a batch read each of its values as a single read would, with fewer questions?

mod faults;
mod fleet;
mod rows;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use larder::{ErrorKind, Origin, Query, QueryCache};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::{local, until};

/// A function that loads many values. It notes what it was asked for, and waits for a gate.
#[derive(Clone)]
struct Loader {
    asked: Arc<Mutex<Vec<Vec<i64>>>>,
    gate: Arc<Semaphore>,
}

impl Loader {
    fn open() -> Loader {
        let loader = Loader::closed();
        loader.gate.close();
        loader
    }

    fn closed() -> Loader {
        Loader { asked: Arc::default(), gate: Arc::new(Semaphore::new(0)) }
    }

    /// Returns ten times each value, but nothing for a negative one.
    async fn load(self, values: Vec<i64>) -> Result<Vec<(i64, i64)>, std::io::Error> {
        self.asked.lock().unwrap().push(values.clone());
        // A gate that is closed for good lets all pass.
        if let Ok(permit) = self.gate.acquire().await {
            permit.forget();
        }
        Ok(values.into_iter().filter(|it| *it >= 0).map(|it| (it, 10 * it)).collect())
    }

    fn asked(&self) -> Vec<Vec<i64>> {
        self.asked.lock().unwrap().clone()
    }

    /// How often each value was asked for.
    fn times(&self) -> BTreeMap<i64, usize> {
        let mut times = BTreeMap::new();
        for value in self.asked().into_iter().flatten() {
            *times.entry(value).or_default() += 1;
        }
        times
    }
}

type Answers = Vec<Result<(i64, Origin), larder::Error>>;

async fn answers(query: &Query, loader: &Loader, values: Vec<i64>) -> Answers {
    let loader = loader.clone();
    let read = query.bind_many(values).load_many(move |values| loader.clone().load(values));
    let answer = |it: larder::Answer<Arc<i64>>| (**it.value(), it.origin());
    read.answers().await.into_iter().map(|it| it.map(answer)).collect()
}

async fn values(query: &Query, loader: &Loader, values: Vec<i64>) -> Vec<i64> {
    answers(query, loader, values).await.into_iter().map(|it| it.unwrap().0).collect()
}

async fn origins(query: &Query, loader: &Loader, values: Vec<i64>) -> Vec<Origin> {
    answers(query, loader, values).await.into_iter().map(|it| it.unwrap().1).collect()
}

#[tokio::test]
async fn results_come_in_order_and_each_value_is_loaded_once() {
    let (cache, loader) = (local().await, Loader::open());
    let query = cache.query("SELECT 1").name("many");
    let given = vec![7, 3, 7, -1, 3, 9];
    assert_eq!(values(&query, &loader, given.clone()).await, [70, 30, 70, 0, 30, 90]);
    assert_eq!(loader.asked(), [[7, 3, -1, 9]]);
    // A value without a result is cached as well.
    assert_eq!(origins(&query, &loader, given).await, [Origin::L1; 6]);
    assert_eq!(values(&query, &loader, vec![9, 4, 3]).await, [90, 40, 30]);
    assert_eq!(loader.asked()[1..], [[4]]);
    assert!(values(&query, &loader, vec![]).await.is_empty());
    let stats = &cache.query_stats()[0];
    // A value that occurs twice is read once.
    assert_eq!((stats.loads, stats.l1_hits), (5, 6));
}

#[tokio::test]
async fn a_single_read_and_a_batch_share_their_results() {
    let (cache, loader) = (local().await, Loader::open());
    let query = cache.query("SELECT 1");
    assert_eq!(values(&query, &loader, vec![1, 2]).await, [10, 20]);
    let never = || async { Err::<i64, _>(std::io::Error::other("it is in memory")) };
    assert_eq!(*query.bind(2_i64).load(never).await.unwrap(), 20);
    let wrapped = query.clone().wrap(move |_, (_,): (i64,)| never());
    assert_eq!(*wrapped.call((1,)).await.unwrap(), 10);
    // And the other way round, with a parameter that all values share.
    let shared = query.params(("eu",));
    let one = shared.clone().bind(5_i64).load(|| async { Ok::<_, std::io::Error>(55_i64) });
    assert_eq!(*one.await.unwrap(), 55);
    let both = shared.bind_many([5_i64, 6]).load_each(|value| async move {
        assert_eq!(value, 6);
        Ok::<_, std::io::Error>(66_i64)
    });
    let both: Vec<i64> = both.await.into_iter().map(|it| *it.unwrap()).collect();
    assert_eq!(both, [55, 66]);
}

#[tokio::test]
async fn one_value_whose_load_fails_spoils_no_other() {
    let cache = local().await;
    let query = cache.query("SELECT 1").name("each");
    let load = |value: i32| async move {
        match value {
            2 => Err(std::io::Error::other("two is bad")),
            3 => panic!("three is worse"),
            _ => Ok(value),
        }
    };
    let outcomes = query.bind_many(1..=5).load_each(load).await;
    let kinds: Vec<_> =
        outcomes.iter().map(|it| it.as_ref().map(|it| **it).map_err(|it| it.kind())).collect();
    let (failed, panicked) = (Err(ErrorKind::Query), Err(ErrorKind::Panicked));
    assert_eq!(kinds, [Ok(1), failed, panicked, Ok(4), Ok(5)]);
    let message = outcomes[1].as_ref().unwrap_err().to_string();
    assert_eq!(message, "the query `each` failed: two is bad");
}

#[tokio::test]
async fn what_a_function_returns_must_belong_to_what_it_was_asked_for() {
    let cache = local().await;
    let query = cache.query("SELECT 1");
    for (returned, said) in [
        (vec![(1_i64, 1_i64), (9, 9)], "a value that was not asked for"),
        (vec![(1, 1), (2, 2), (1, 3)], "two results for one value"),
    ] {
        let read = query.bind_many([1_i64, 2]).load_many(move |_| {
            let returned = returned.clone();
            async move { Ok::<_, std::io::Error>(returned) }
        });
        for outcome in read.await {
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Column);
            assert!(error.to_string().contains(said), "{error}");
        }
    }
    let read = query.bind_many([1_i64, 2]).load_many(|_| async move {
        panic!("all of them");
        #[allow(unreachable_code)]
        Ok::<Vec<(i64, i64)>, std::io::Error>(vec![])
    });
    for outcome in read.await {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Panicked);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn batches_that_overlap_load_each_value_once() {
    for round in 0..20 {
        let (cache, loader) = (local().await, Loader::open());
        let query = cache.query("SELECT 1");
        let mut tasks = JoinSet::new();
        for first in 0..8_i64 {
            let (query, loader) = (query.clone(), loader.clone());
            tasks.spawn(async move {
                let given: Vec<i64> = (first * 10..first * 10 + 40).collect();
                let expected: Vec<i64> = given.iter().map(|it| it * 10).collect();
                assert_eq!(values(&query, &loader, given).await, expected);
            });
        }
        tasks.join_all().await;
        let times = loader.times();
        assert!(
            times.len() == 110 && times.values().all(|&times| times == 1),
            "{round}: {times:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_is_being_loaded_is_waited_for_and_the_others_do_not_wait() {
    let (cache, slow, fast) = (local().await, Loader::closed(), Loader::open());
    let query = cache.query("SELECT 1");
    let first = tokio::spawn({
        let (query, slow) = (query.clone(), slow.clone());
        async move { values(&query, &slow, vec![1, 2]).await }
    });
    until("the first batch loads", || !slow.asked().is_empty()).await;
    let second = tokio::spawn({
        let (query, fast) = (query.clone(), fast.clone());
        async move { answers(&query, &fast, vec![1, 2, 3]).await }
    });
    until("the second one has loaded the rest", || cache.stats().loads == 3).await;
    let never = || async { Err::<i64, _>(std::io::Error::other("it is being loaded")) };
    // It has its result, though the batch has not.
    assert_eq!(*query.bind(3_i64).load(never).await.unwrap(), 30);
    assert!(!second.is_finished());
    slow.gate.add_permits(1);
    assert_eq!(first.await.unwrap(), [10, 20]);
    let second: Vec<_> = second.await.unwrap().into_iter().map(|it| it.unwrap()).collect();
    let (coalesced, loaded) = (Origin::Coalesced, Origin::Loaded);
    assert_eq!(second, [(10, coalesced), (20, coalesced), (30, loaded)]);
    assert_eq!((slow.asked(), fast.asked()), (vec![vec![1, 2]], vec![vec![3]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_invalidated_during_a_load_is_not_served_afterwards() {
    let (cache, loader) = (local().await, Loader::closed());
    let query = cache.query("SELECT 1").tag("t");
    let before = tokio::spawn({
        let (query, loader) = (query.clone(), loader.clone());
        async move { values(&query, &loader, vec![1, 2]).await }
    });
    until("it loads", || loader.asked().len() == 1).await;
    cache.invalidate(["t"]).await;
    // This one begins after the invalidation: it must not take the result that is on its way.
    let after = tokio::spawn({
        let (query, loader) = (query.clone(), loader.clone());
        async move { values(&query, &loader, vec![2, 1]).await }
    });
    until("the second batch waits", || cache.stats().coalesced == 2).await;
    loader.gate.add_permits(1);
    assert_eq!(before.await.unwrap(), [10, 20]);
    // By one load or two: both values had to wait.
    loader.gate.close();
    assert_eq!(after.await.unwrap(), [20, 10]);
    assert_eq!(loader.times(), BTreeMap::from([(1, 2), (2, 2)]));
    assert_eq!(origins(&query, &loader, vec![1, 2]).await, [Origin::L1; 2]);
}

#[tokio::test]
async fn a_tag_of_one_value_concerns_that_value() {
    let cache = local().await;
    let query = cache.query("SELECT 1").tag("orders");
    let read = || {
        let read = query.bind_many(["eu", "us"]).tag("all").tag_each(|it| format!("orders:{it}"));
        read.load_each(|_| async { Ok::<_, std::io::Error>(7_i64) }).answers()
    };
    let origins = async || {
        let answers = read().await.into_iter();
        answers.map(|it| it.unwrap().origin()).collect::<Vec<_>>()
    };
    let (loaded, l1) = (Origin::Loaded, Origin::L1);
    assert_eq!(origins().await, [loaded, loaded]);
    for (tag, expected) in [
        ("orders:us", [l1, loaded]),
        ("orders:eu", [loaded, l1]),
        ("all", [loaded, loaded]),
        ("orders", [loaded, loaded]),
        ("other", [l1, l1]),
    ] {
        cache.invalidate([tag]).await;
        assert_eq!(origins().await, expected, "{tag}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_leaves_takes_nothing_away() {
    let (cache, loader) = (local().await, Loader::closed());
    let query = cache.query("SELECT 1");
    let batch = tokio::spawn({
        let (query, loader) = (query.clone(), loader.clone());
        async move { values(&query, &loader, vec![1, 2, 3]).await }
    });
    until("it loads", || !loader.asked().is_empty()).await;
    let never = || async { Err::<i64, _>(std::io::Error::other("it is being loaded")) };
    let waiting = tokio::spawn({
        let query = query.clone();
        async move { *query.bind(2_i64).load(never).await.unwrap() }
    });
    until("somebody waits", || cache.stats().coalesced == 1).await;
    batch.abort();
    assert!(batch.await.unwrap_err().is_cancelled());
    loader.gate.add_permits(1);
    assert_eq!(waiting.await.unwrap(), 20);
    assert_eq!(values(&query, &loader, vec![3, 1]).await, [30, 10]);
    assert_eq!(loader.asked().len(), 1);
}

#[tokio::test]
async fn a_caller_who_is_not_polled_any_more_holds_nobody_up() {
    let (cache, loader) = (local().await, Loader::open());
    let query = cache.query("SELECT 1");
    let mut batch = Box::pin(values(&query, &loader, (0..1_000).collect()));
    assert!(futures_util::poll!(batch.as_mut()).is_pending());
    let never = || async { Err::<i64, _>(std::io::Error::other("it is being loaded")) };
    for value in [0_i64, 20] {
        assert_eq!(*query.bind(value).load(never).await.unwrap(), 10 * value);
    }
    assert_eq!(batch.await.len(), 1_000);
    assert!(loader.times().values().all(|&times| times == 1));
}

#[tokio::test]
async fn ten_thousand_values_are_loaded_by_a_thousand() {
    let (cache, loader) = (local().await, Loader::open());
    let query = cache.query("SELECT 1");
    let given: Vec<i64> = (0..10_000).collect();
    let expected: Vec<i64> = given.iter().map(|it| it * 10).collect();
    assert_eq!(values(&query, &loader, given.clone()).await, expected);
    assert!(loader.asked().iter().all(|asked| asked.len() == 1_000), "{}", loader.asked().len());
    assert_eq!(origins(&query, &loader, given).await, vec![Origin::L1; 10_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_single_loads_run_at_a_time_than_are_allowed() {
    let cache = QueryCache::builder().concurrent_loads(3).build().await.unwrap();
    let query = cache.query("SELECT 1");
    let running = Arc::new(Mutex::new((0, 0)));
    let read = query.bind_many(0..50_i32).load_each({
        let running = running.clone();
        move |value| {
            let running = running.clone();
            async move {
                {
                    let mut running = running.lock().unwrap();
                    running.0 += 1;
                    running.1 = running.0.max(running.1);
                }
                tokio::task::yield_now().await;
                running.lock().unwrap().0 -= 1;
                Ok::<_, std::io::Error>(value)
            }
        }
    });
    assert!(read.await.into_iter().map(|it| *it.unwrap()).eq(0..50));
    assert!(running.lock().unwrap().1 <= 3);
}

#[tokio::test]
async fn a_batch_within_a_load_waits_for_no_second_permit() {
    let cache = QueryCache::builder().concurrent_loads(1).build().await.unwrap();
    let (inner, outer) = (cache.query("inner"), cache.query("outer"));
    let loader = Loader::open();
    let sum = outer.load(move || async move {
        let values = values(&inner, &loader, (0..100).collect()).await;
        Ok::<_, larder::Error>(values.iter().sum::<i64>())
    });
    assert_eq!(*sum.await.unwrap(), 49_500);
}

#[tokio::test]
async fn a_batch_whose_function_reads_its_own_values_is_told_at_once() {
    let cache = local().await;
    let query = cache.query("SELECT 1").name("own");
    let inner = query.clone();
    let read = query.bind_many([1_i64, 2]).load_many(move |_| {
        let inner = inner.clone();
        async move {
            let never = || async { Ok::<_, std::io::Error>(0_i64) };
            let own = [1_i64, 2].map(|value| inner.bind(value).load(never));
            for outcome in join_all(own).await {
                assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Cycle);
            }
            Ok::<_, std::io::Error>([(1_i64, 10_i64), (2, 20)])
        }
    });
    let read: Vec<i64> = read.await.into_iter().map(|it| *it.unwrap()).collect();
    assert_eq!(read, [10, 20]);
}

#[tokio::test]
async fn expired_results_are_served_while_one_load_renews_them() {
    let clock = larder::testing::ManualClock::new();
    let cache = QueryCache::builder().clock(clock.clone()).build().await.unwrap();
    let query = cache
        .query("SELECT 1")
        .ttl(Duration::from_secs(10))
        .jitter(0.0)
        .early_refresh(0.0)
        .stale_while_revalidate(Duration::from_secs(60));
    let loader = Loader::open();
    assert_eq!(values(&query, &loader, vec![1, 2, 3]).await, [10, 20, 30]);
    clock.advance(Duration::from_secs(11));
    assert_eq!(origins(&query, &loader, vec![1, 2, 3]).await, [Origin::Stale; 3]);
    until("they are loaded again", || loader.asked().len() == 2).await;
    assert_eq!(loader.asked()[1], [1, 2, 3]);
    crate::support::until_async("they are fresh", async || {
        origins(&query, &loader, vec![1, 2, 3]).await == [Origin::L1; 3]
    })
    .await;
}
