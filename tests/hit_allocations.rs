//! Does a hit in memory ask for any?
//!
//! A program of its own, with one test: the allocator's counts, and the garbage that moka's tables
//! leave to whoever comes next, belong to the whole process.

use std::time::Duration;

use allocation_counter::measure;
use futures_util::FutureExt;
use larder::{Origin, QueryCache};
use test_servers::Postgres;
use tokio::runtime::{Builder, Runtime};

/// 180 bytes, as a report's SQL may be.
const SQL: &str = "SELECT region, status, count(*) AS orders, sum(amount) AS total, avg(amount) AS mean \
                   FROM orders WHERE customer_id = $1 AND region = $2 GROUP BY region, status ORDER BY 1, 2";

type Ten = Vec<(String, i64, f64)>;

fn ten_rows() -> Ten {
    (0..10).map(|n| (format!("region {n}"), n, 0.5)).collect()
}

/// All on this thread, so that all is counted.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn cache(runtime: &Runtime) -> QueryCache {
    let ttl = Duration::from_secs(3600);
    runtime.block_on(QueryCache::builder().max_bytes(1 << 40).ttl(ttl).build()).unwrap()
}

#[test]
fn a_hit_in_memory_allocates_nothing() {
    let runtime = runtime();
    let cache = cache(&runtime);
    let query = cache.query(SQL);
    let database = runtime.block_on(Postgres::shared().unwrap().database()).unwrap();
    let pool = database.pool(1);
    let table = "CREATE TABLE orders AS SELECT 7::int8 AS customer_id, 'eu' AS region,
                 n::text AS status, n * 0.5 AS amount FROM generate_series(1, 10) AS n";
    runtime.block_on(async { pool.get().await.unwrap().batch_execute(table).await }).unwrap();
    let wrapped =
        cache.query(SQL).wrap(|_, _: (i64, String)| async { Ok::<_, std::io::Error>(ten_rows()) });
    runtime.block_on(async {
        wrapped.call((7, "eu".into())).await.unwrap();
        assert_eq!(query.bind(7_i64).bind("eu").fetch(&pool).await.unwrap().len(), 10);
        let read = query.bind(7_i64).bind("eu").as_role("postgres").with_setting("app.tenant", "7");
        assert_eq!(read.fetch(&pool).await.unwrap().len(), 10);
    });
    let hits = |regions: Vec<String>| {
        for region in regions {
            let hit = wrapped.call((7, region)).answer().now_or_never().unwrap().unwrap();
            assert_eq!(hit.origin(), Origin::L1);
            let read = query.bind(7_i64).bind("eu").fetch(&pool).answer();
            let hit = read.now_or_never().unwrap().unwrap();
            assert_eq!((hit.origin(), hit.value().len()), (Origin::L1, 10));
            let read = query.bind(7_i64).bind("eu");
            let read =
                read.as_role("postgres").with_setting("app.tenant", "7").fetch(&pool).answer();
            let hit = read.now_or_never().unwrap().unwrap();
            assert_eq!((hit.origin(), hit.value().len()), (Origin::L1, 10));
        }
    };
    // moka makes its timers when it tidies up for the first time, and it is told of one in 32 hits.
    hits(vec![String::from("eu"); 10_000]);
    // The caller's own `String`s are no cost of the cache.
    let regions = vec![String::from("eu"); 10_000];
    let counted = measure(|| hits(regions));
    assert_eq!(counted.count_total, 0, "{counted:?}");
}
