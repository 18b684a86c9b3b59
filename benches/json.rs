//! A report as JSON from memory, as a handler sends it: kept with the entry, and made each time.

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::turns::{print_head, turns};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use larder::{Origin, QueryCache};
use test_servers::Postgres;
use tokio::runtime::Runtime;

/// 100 KB of JSON.
const SQL: &str = "SELECT 'eu' AS region, 'status ' || n % 10 AS status, md5(n::text) AS customer, \
     n::int8 AS orders, n * 0.5::numeric AS total FROM generate_series(1, 930) AS n";

fn json(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let database = runtime.block_on(Postgres::shared().unwrap().database()).unwrap();
    let pool = database.pool(1);
    let cache = runtime.block_on(QueryCache::builder().build()).unwrap();
    let query = cache.query(SQL);
    let bytes = runtime.block_on(query.fetch_json(&pool)).unwrap();
    assert!((95_000..105_000).contains(&bytes.len()), "{} bytes", bytes.len());
    let hits = moka::sync::Cache::<u64, Bytes>::new(100);
    hits.insert(7, bytes.clone());

    let timed = |count: u64, run: &mut dyn FnMut()| {
        let begin = Instant::now();
        (0..count).for_each(|_| run());
        begin.elapsed()
    };
    let floor = |count: u64| timed(count, &mut || drop(hits.get(&7).unwrap()));
    // Within the runtime, as a handler is.
    let within = |count: u64, kept: bool| -> Duration {
        let (query, pool) = (query.clone(), pool.clone());
        let task = runtime.spawn(async move {
            let begin = Instant::now();
            for _ in 0..count {
                if kept {
                    std::hint::black_box(query.fetch_json(&pool).await.unwrap());
                } else {
                    let answer = query.fetch(&pool).answer().await.unwrap();
                    assert_eq!(answer.origin(), Origin::L1);
                    std::hint::black_box(serde_json::to_vec(answer.value()).unwrap());
                }
            }
            begin.elapsed()
        });
        runtime.block_on(task).unwrap()
    };
    let size = bytes.len();
    let mut group = c.benchmark_group("a report as JSON, from memory");
    group.bench_function(BenchmarkId::new("floor: bytes from moka", size), |b| {
        b.iter_custom(floor);
    });
    group.bench_function(BenchmarkId::new("larder, kept: fetch_json", size), |b| {
        b.iter_custom(|count| within(count, true));
    });
    group.bench_function(BenchmarkId::new("larder, made each time: to_vec(&rows)", size), |b| {
        b.iter_custom(|count| within(count, false));
    });
    group.finish();
    print_head("floor", "larder");
    let each = turns(101, 5_000, [&mut |count| floor(count), &mut |count| within(count, true)]);
    each.print("100 KB of JSON from memory, over bytes from moka", 1, 0);
    let each = turns(31, 50, [&mut |count| within(count, false), &mut |count| within(count, true)]);
    each.print("the same, over made each time (`to_vec(&rows)`)", 1, 0);
}

criterion_group!(benches, json);
criterion_main!(benches);
