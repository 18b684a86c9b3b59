//! Do the numbers add up, for the cache and for each query?

use std::time::Duration;

use larder::stats::QueryStats;
use larder::testing::ManualClock;
use larder::{ErrorKind, QueryCache};

use crate::support::{local, namespace, over_redis, until, written};

fn of(cache: &QueryCache, name: &str) -> QueryStats {
    let all = cache.query_stats();
    all.into_iter().find(|query| query.name == name).unwrap_or_else(|| panic!("no {name}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_read_is_counted_once_by_where_its_answer_came_from() {
    let namespace = namespace();
    let build = async || over_redis(&namespace).build().await.unwrap();
    let (here, there) = (build().await, build().await);
    let ask = async |cache: &QueryCache, number: i32| {
        let query = cache.query("SELECT $1").name("numbers").tag("numbers");
        let load = move || async move {
            match number {
                0 => Err(std::io::Error::other("none")),
                number => Ok(number),
            }
        };
        query.bind(number).load(load).await
    };
    ask(&here, 1).await.unwrap();
    written(&here, 1).await;
    for _ in 0..3 {
        ask(&here, 1).await.unwrap();
    }
    ask(&here, 0).await.unwrap_err();
    let numbers = of(&here, "numbers");
    assert_eq!((numbers.l1_hits, numbers.reads_loaded, numbers.failed), (3, 1, 1));
    assert_eq!((numbers.loads, numbers.load_errors), (2, 1));
    assert_eq!((numbers.reads(), numbers.hit_ratio()), (5, Some(0.6)));
    assert_eq!(numbers.load_latency.count(), 2);
    assert_eq!(numbers.loaded_bytes, 1);

    if cfg!(feature = "redis") {
        ask(&there, 1).await.unwrap();
        let numbers = of(&there, "numbers");
        assert_eq!((numbers.l2_hits, numbers.reads(), numbers.loads), (1, 1, 0));
        assert_eq!(numbers.lookup_latency.count(), 1);
        assert!(numbers.l2_bytes_read > 0);
        assert_eq!(numbers.l2_bytes_read, of(&here, "numbers").l2_bytes_written);
        here.invalidate(["numbers"]).await.acknowledged().unwrap();
        ask(&here, 1).await.unwrap();
        assert!(of(&here, "numbers").invalidated >= 1);
    }

    // And the cache is the sum of its queries.
    let (all, queries) = (here.stats(), here.query_stats());
    let sum = |of: fn(&QueryStats) -> u64| queries.iter().map(of).sum::<u64>();
    assert_eq!(all.l1_hits, sum(|query| query.l1_hits));
    assert_eq!(all.loads, sum(|query| query.loads));
    assert_eq!(all.load_latency.count(), sum(|query| query.load_latency.count()));
}

#[tokio::test]
async fn a_stale_answer_is_counted_as_that_and_the_load_that_failed_as_well() {
    let (minute, clock) = (Duration::from_secs(60), ManualClock::new());
    let builder = QueryCache::builder().clock(clock.clone()).ttl(minute).stale_if_error(minute);
    let cache = builder.build().await.unwrap();
    let query = cache.query("SELECT 1").name("stale");
    query.load(|| async { Ok::<_, std::io::Error>(1) }).await.unwrap();
    clock.advance(minute);
    query.load(|| async { Err::<i32, _>(std::io::Error::other("none")) }).await.unwrap();
    let stale = of(&cache, "stale");
    assert_eq!((stale.stale, stale.failed, stale.reads_loaded, stale.reads()), (1, 0, 1, 2));
    assert_eq!((stale.loads, stale.load_errors), (2, 1));
    assert_eq!(cache.stats().stale, 1);
}

#[tokio::test]
async fn who_waited_for_another_is_counted_as_that() {
    let cache = local().await;
    let query = cache.query("SELECT 1").name("one");
    let (go, wait) = tokio::sync::oneshot::channel::<()>();
    let slow = || async move {
        let _ = wait.await;
        Ok::<_, std::io::Error>(1)
    };
    let other = || async { Ok::<_, std::io::Error>(2) };
    let both = async {
        until("one waits", || cache.stats().coalesced == 1).await;
        go.send(()).unwrap();
    };
    let (one, other, ()) = tokio::join!(query.load(slow), query.load(other), both);
    assert_eq!((*one.unwrap(), *other.unwrap()), (1, 1));
    let one = of(&cache, "one");
    assert_eq!((one.reads_loaded, one.coalesced, one.loads, one.reads()), (1, 1, 1, 2));
    assert_eq!(one.hit_ratio(), Some(0.5));
}

#[tokio::test]
async fn a_query_without_a_name_has_one_that_is_the_same_everywhere() {
    let (here, there) = (local().await, local().await);
    let load = || async { Ok::<_, std::io::Error>(1) };
    for scope in ["a", "b", "c"] {
        // An object for each call, and one name.
        here.query("SELECT 1").scope(scope).schema_version(7).load(load).await.unwrap();
    }
    here.query("SELECT 1").load(load).await.unwrap();
    there.query("SELECT 1").load(load).await.unwrap();
    let (here, there) = (here.query_stats(), there.query_stats());
    assert_eq!((here.len(), here[0].loads), (1, 4));
    assert_eq!(here[0].name, there[0].name);
    assert_eq!(here[0].name.len(), 16);
    assert!(here[0].name.bytes().all(|byte| byte.is_ascii_hexdigit()));
}

#[tokio::test]
async fn a_name_that_cannot_be_shown_is_an_error_that_says_so() {
    let cache = local().await;
    let load = || async { Ok::<_, std::io::Error>(1) };
    let error = cache.query("SELECT 1").name("two\nlines").load(load).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Setting);
    let allowed = "`name` is \"two\\nlines\"; allowed: 1 to 64 bytes, without control characters";
    assert!(error.to_string().contains(allowed), "{error}");
    let query = cache.query("SELECT 1").name("one");
    query.load(load).await.unwrap();
    assert!(format!("{query:?}").contains("name: \"one\""), "{query:?}");
}

#[tokio::test]
async fn what_memory_holds_is_told_in_results_and_bytes() {
    let cache = local().await;
    for number in 0..100 {
        let load = move || async move { Ok::<_, std::io::Error>("x".repeat(1000)) };
        cache.query("SELECT $1").bind(number).load(load).await.unwrap();
    }
    assert_eq!(cache.stats().entries, 100);
    let bytes = cache.stats().memory_bytes;
    assert!((100 * 1000..100 * 2000).contains(&bytes), "{bytes}");
}
