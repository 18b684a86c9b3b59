//! Is anything served after it was invalidated?

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_executor::block_on;
use larder::{Answer, ErrorKind, Origin, Query, QueryCache, QueryCacheBuilder, Tagged};
use tokio::sync::oneshot;

use crate::support::{local, namespace, over_redis, until_async, written};

#[cfg(feature = "redis")]
mod fleet;

/// A table of one row, outside of any database.
#[derive(Clone, Default)]
struct Table(Arc<AtomicI64>);

impl Table {
    fn write(&self) -> i64 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    async fn answer(&self, query: &Query) -> Answer<Arc<i64>> {
        let value = self.0.clone();
        let load = || async move { Ok::<_, std::io::Error>(value.load(Ordering::SeqCst)) };
        query.load(load).answer().await.unwrap()
    }

    async fn read(&self, query: &Query) -> (i64, Origin) {
        let answer = self.answer(query).await;
        (**answer.value(), answer.origin())
    }
}

/// Caches with and without Redis.
async fn caches() -> Vec<QueryCache> {
    let mut caches = vec![local().await];
    if cfg!(feature = "redis") {
        caches.push(over_redis(&namespace()).build().await.unwrap());
    }
    caches
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_makes_stale_what_depends_on_it_and_nothing_else() {
    for cache in caches().await {
        let table = Table::default();
        let orders = cache.query("SELECT 1").tag("orders").tag("users");
        let users = cache.query("SELECT 2").tag("users");
        table.read(&orders).await;
        table.read(&users).await;
        assert_eq!(table.read(&orders).await, (0, Origin::L1));
        table.write();
        cache.invalidate(["orders"]).await.acknowledged().unwrap();
        assert_eq!(table.read(&orders).await, (1, Origin::Loaded));
        assert_eq!(table.read(&orders).await, (1, Origin::L1));
        assert_eq!(table.read(&users).await, (0, Origin::L1));
        table.write();
        cache.invalidate(["nobody's", "users"]).await.acknowledged().unwrap();
        assert_eq!(table.read(&orders).await, (2, Origin::Loaded));
        assert_eq!(table.read(&users).await, (2, Origin::Loaded));
        assert_eq!(cache.stats().invalidations, 2);
        let nothing: [&str; 0] = [];
        cache.invalidate(nothing).await.acknowledged().unwrap();
        assert_eq!(table.read(&orders).await.1, Origin::L1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_invalidated_with_all_its_parameters_and_others_are_not() {
    for cache in caches().await {
        let query = cache.query("SELECT $1");
        let (scoped, other) = (query.clone().scope("tenant:7"), cache.query("SELECT $1 + 0"));
        let read = async |query: &Query, number: i32| {
            let load = move || async move { Ok::<_, std::io::Error>(number) };
            query.params((number,)).load(load).answer().await.unwrap().origin()
        };
        for query in [&query, &scoped, &other] {
            read(query, 1).await;
            read(query, 2).await;
        }
        cache.invalidate_query(&query).await.acknowledged().unwrap();
        assert_eq!(read(&query, 1).await, Origin::Loaded);
        assert_eq!(read(&query, 2).await, Origin::Loaded);
        assert_eq!(read(&scoped, 1).await, Origin::L1);
        assert_eq!(read(&other, 1).await, Origin::L1);
        cache.clear().await.acknowledged().unwrap();
        assert_eq!(read(&query, 1).await, Origin::Loaded);
        assert_eq!(read(&scoped, 1).await, Origin::Loaded);
        assert_eq!(read(&other, 1).await, Origin::Loaded);
        let wrong = cache.query("SELECT 1").jitter(7.0);
        // Nothing can be stored under it, so there is nothing that could fail.
        assert!(cache.invalidate_query(&wrong).await.is_acknowledged());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_that_a_loader_reports_count_like_declared_ones() {
    for cache in caches().await {
        let basket = cache.query("SELECT lines FROM baskets").tag("baskets");
        let wrapped = cache.query("SELECT 3").wrap_tagged(|_, (id,): (i32,)| async move {
            Ok::<_, std::io::Error>(Tagged::new(id).tag(format!("product:{id}")))
        });
        let load = || {
            basket.load_tagged(|| async {
                let tags = ["product:7", "product:12"];
                Ok::<_, std::io::Error>(Tagged::new(vec![7, 12]).tags(tags))
            })
        };
        for (tag, origin) in [
            ("product:12", Origin::Loaded),
            ("product:13", Origin::L1),
            ("baskets", Origin::Loaded),
            ("product:7", Origin::Loaded),
        ] {
            load().await.unwrap();
            wrapped.call((7,)).await.unwrap();
            cache.invalidate([tag]).await.acknowledged().unwrap();
            assert_eq!(load().answer().await.unwrap().origin(), origin, "{tag}");
        }
        assert_eq!(wrapped.call((7,)).answer().await.unwrap().origin(), Origin::Loaded);
        assert_eq!(wrapped.call((7,)).answer().await.unwrap().origin(), Origin::L1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_of_a_call_counts_like_a_declared_one() {
    for cache in caches().await {
        let orders = cache.query("SELECT count(*) FROM orders WHERE region = $1").tag("orders");
        let count = async |region: &str| {
            let bound = orders.bind(region).tag(format!("orders:{region}")).tag("regions");
            bound.load(|| async { Ok::<_, std::io::Error>(7_i64) }).answer().await.unwrap().origin()
        };
        for (tag, eu, us) in [
            ("orders:eu", Origin::Loaded, Origin::L1),
            ("orders:us", Origin::L1, Origin::Loaded),
            ("orders:de", Origin::L1, Origin::L1),
            ("regions", Origin::Loaded, Origin::Loaded),
            ("orders", Origin::Loaded, Origin::Loaded),
        ] {
            count("eu").await;
            count("us").await;
            cache.invalidate([tag]).await.acknowledged().unwrap();
            assert_eq!((count("eu").await, count("us").await), (eu, us), "{tag}");
        }
    }
}

/// An error has no tags of its loader's, but those of the call are known before it runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_cached_error_ends_with_a_tag_of_its_call() {
    let pool = crate::support::database().await.pool(1);
    let cache = crate::support::local().await;
    let query = cache.query("SELECT 1 / $1::int4");
    let query = query.negative_sqlstates(["22012"], Duration::from_secs(3600));
    let loads = async || {
        query.bind(0).tag("zero").fetch(&pool).await.unwrap_err();
        cache.stats().loads
    };
    assert_eq!((loads().await, loads().await), (1, 1));
    cache.invalidate(["zero"]).await;
    assert_eq!((loads().await, loads().await), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_of_a_call_with_a_role_counts_too() {
    let pool = crate::support::database().await.pool(1);
    let cache = crate::support::local().await;
    let query = cache.query("SELECT current_setting('app.tenant')");
    let origin = async || {
        let read = query.params(()).tag("a").with_setting("app.tenant", "7").tag("b").fetch(&pool);
        read.answer().await.unwrap().origin()
    };
    for tag in ["a", "b"] {
        assert_eq!((origin().await, origin().await), (Origin::Loaded, Origin::L1), "{tag}");
        cache.invalidate([tag]).await;
    }
}

/// A load that can be held: it has read what it will answer.
async fn held_load(
    query: &Query,
    table: &Table,
    seen: oneshot::Sender<()>,
    go_on: oneshot::Receiver<()>,
) -> Answer<Arc<i64>> {
    let value = table.0.clone();
    let load = || async move {
        let value = value.load(Ordering::SeqCst);
        seen.send(()).unwrap();
        go_on.await.unwrap();
        Ok::<_, std::io::Error>(value)
    };
    query.load(load).answer().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_was_overtaken_by_an_invalidation_is_answered_and_never_served_again() {
    for cache in caches().await {
        let (table, query) = (Table::default(), cache.query("SELECT 1").tag("t"));
        let (seen, reading) = oneshot::channel();
        let (go_on, waiting) = oneshot::channel();
        let slow = {
            let (query, table) = (query.clone(), table.clone());
            tokio::spawn(async move { held_load(&query, &table, seen, waiting).await })
        };
        reading.await.unwrap();
        table.write();
        cache.invalidate(["t"]).await.acknowledged().unwrap();
        go_on.send(()).unwrap();
        // It began before the invalidation, so it may see what was there before.
        assert_eq!(**slow.await.unwrap().value(), 0);
        assert_eq!(table.read(&query).await, (1, Origin::Loaded));
        assert_eq!(table.read(&query).await, (1, Origin::L1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_came_after_an_invalidation_does_not_join_a_load_from_before_it() {
    for cache in caches().await {
        let (table, query) = (Table::default(), cache.query("SELECT 1").tag("t"));
        let (seen, reading) = oneshot::channel();
        let (go_on, waiting) = oneshot::channel();
        let slow = {
            let (query, table) = (query.clone(), table.clone());
            tokio::spawn(async move { held_load(&query, &table, seen, waiting).await })
        };
        reading.await.unwrap();
        table.write();
        cache.invalidate(["t"]).await.acknowledged().unwrap();
        let late: Vec<_> = (0..10)
            .map(|_| {
                let (query, table) = (query.clone(), table.clone());
                tokio::spawn(async move { table.read(&query).await.0 })
            })
            .collect();
        until_async("all have joined", async || cache.stats().coalesced >= 10).await;
        go_on.send(()).unwrap();
        for late in late {
            assert_eq!(late.await.unwrap(), 1);
        }
        slow.await.unwrap();
        assert_eq!(cache.stats().loads, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_from_before_an_invalidation_is_not_for_readers_after_it() {
    for cache in caches().await {
        let query = cache.query("SELECT 1").tag("t");
        let (seen, reading) = oneshot::channel();
        let (go_on, waiting) = oneshot::channel::<()>();
        let failing = {
            let query = query.clone();
            tokio::spawn(async move {
                let load = || async move {
                    seen.send(()).unwrap();
                    waiting.await.unwrap();
                    Err::<i64, _>(std::io::Error::other("no such table"))
                };
                query.load(load).await
            })
        };
        reading.await.unwrap();
        cache.invalidate(["t"]).await.acknowledged().unwrap();
        let late = {
            let query = query.clone();
            let load = || async { Ok::<_, std::io::Error>(7_i64) };
            tokio::spawn(async move { query.load(load).await })
        };
        until_async("it has joined", async || cache.stats().coalesced >= 1).await;
        go_on.send(()).unwrap();
        assert_eq!(failing.await.unwrap().unwrap_err().kind(), ErrorKind::Query);
        assert_eq!(*late.await.unwrap().unwrap(), 7);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_and_readers_of_one_process_never_see_a_value_from_before_an_invalidation() {
    for cache in caches().await {
        let (table, query) = (Table::default(), cache.query("SELECT 1").tag("t"));
        let acknowledged = Arc::new(AtomicI64::new(0));
        let readers: Vec<_> = (0..8)
            .map(|_| {
                let (table, query) = (table.clone(), query.clone());
                let acknowledged = acknowledged.clone();
                tokio::spawn(async move {
                    for _ in 0..2_000 {
                        let least = acknowledged.load(Ordering::SeqCst);
                        let (value, origin) = table.read(&query).await;
                        assert!(value >= least, "{value} from {origin:?} after {least}");
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        while readers.iter().any(|reader| !reader.is_finished()) {
            let value = table.write();
            cache.invalidate(["t"]).await.acknowledged().unwrap();
            acknowledged.store(value, Ordering::SeqCst);
            tokio::task::yield_now().await;
        }
        for reader in readers {
            reader.await.unwrap();
        }
    }
}
