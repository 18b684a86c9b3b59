//! A miss: the look into Redis, the query, and the way into both tiers, beside the query alone.

#[path = "../tests/servers/mod.rs"]
mod servers;

mod common;

use std::time::{Duration, Instant};

use common::{ORDERS, SQL};
use criterion::{Criterion, criterion_group, criterion_main};
use larder::{Origin, QueryCache};
use servers::{Postgres, Redis};

fn misses(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let redis = Redis::start_tcp().unwrap();
    let database = runtime.block_on(Postgres::shared().unwrap().database()).unwrap();
    let pool = database.pool(4);
    let cache = QueryCache::builder().namespace("bench").redis(redis.url());
    let cache = runtime.block_on(cache.redis_timeout(Duration::from_secs(5)).build()).unwrap();
    let query = cache.query(SQL);
    runtime.block_on(async { pool.get().await.unwrap().batch_execute(ORDERS).await }).unwrap();

    let mut group = c.benchmark_group("miss");
    group.bench_function("floor: the query, prepared, on the pool", |b| {
        b.iter_custom(|count| {
            let pool = pool.clone();
            let task = runtime.spawn(async move {
                let begin = Instant::now();
                for id in 0..count as i64 {
                    let client = pool.get().await.unwrap();
                    let statement = client.prepare_cached(SQL).await.unwrap();
                    client.query(&statement, &[&id, &"eu"]).await.unwrap();
                }
                begin.elapsed()
            });
            runtime.block_on(task).unwrap()
        });
    });
    let mut next = 0_i64;
    group.bench_function("larder: rows", |b| {
        b.iter_custom(|count| {
            let (query, pool, from) = (query.clone(), pool.clone(), next);
            next += count as i64;
            let task = runtime.spawn(async move {
                let begin = Instant::now();
                for id in from..from + count as i64 {
                    let answer = query.bind(id).bind("eu").fetch(&pool).answer().await.unwrap();
                    assert_eq!(answer.origin(), Origin::Loaded);
                }
                begin.elapsed()
            });
            runtime.block_on(task).unwrap()
        });
    });
    group.finish();
}

criterion_group!(benches, misses);
criterion_main!(benches);
