//! An invalidation, with a thousand results under its tag and with a million. It is compared with a
//! raw `INCR` and `PUBLISH` in one transaction: the least that counts it and notifies others.

mod common;

use std::time::{Duration, Instant};

use common::turns::{print_head, turns};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use larder::QueryCache;
use redis::aio::MultiplexedConnection;
use test_servers::Redis;
use tokio::runtime::Runtime;

const TASKS: i64 = 64;

/// Loads so many results that depend on one tag, into memory and into Redis.
fn fill(runtime: &Runtime, cache: &QueryCache, results: i64) {
    let query = cache.query("SELECT $1").tag("orders");
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let query = query.clone();
            runtime.spawn(async move {
                for number in (task..results).step_by(TASKS as usize) {
                    let load = move || async move { Ok::<_, std::io::Error>(number) };
                    query.params((number,)).load(load).await.unwrap();
                }
            })
        })
        .collect();
    runtime.block_on(async {
        for task in tasks {
            task.await.unwrap();
        }
        // The last of them are written after they were answered.
        while cache.stats().l2_writes + cache.stats().l2_errors < results as u64 {
            tokio::task::yield_now().await;
        }
    });
}

struct Setup {
    runtime: Runtime,
    cache: QueryCache,
    raw: MultiplexedConnection,
    _redis: Redis,
}

impl Setup {
    fn new(results: i64) -> Setup {
        let runtime = Runtime::new().unwrap();
        let redis = Redis::start_tcp().unwrap();
        let cache = QueryCache::builder().namespace("bench").redis(redis.url()).max_bytes(1 << 30);
        let cache = cache.redis_timeout(Duration::from_secs(5)).ttl(Duration::from_secs(3600));
        let cache = runtime.block_on(cache.build()).unwrap();
        let info = redis::IntoConnectionInfo::into_connection_info(redis.url()).unwrap();
        let info = info.set_tcp_settings(redis::io::tcp::TcpSettings::default().set_nodelay(true));
        let client = redis::Client::open(info).unwrap();
        let raw = runtime.block_on(client.get_multiplexed_async_connection()).unwrap();
        fill(&runtime, &cache, results);
        let entries: usize = redis.command(&["DBSIZE"]).unwrap().parse().unwrap();
        assert!(entries as i64 >= results, "{entries} entries in redis");
        Setup { runtime, cache, raw, _redis: redis }
    }

    fn ours(&self, count: u64) -> Duration {
        let cache = self.cache.clone();
        let task = self.runtime.spawn(async move {
            let begin = Instant::now();
            for _ in 0..count {
                cache.invalidate(["orders"]).await.acknowledged().unwrap();
            }
            begin.elapsed()
        });
        self.runtime.block_on(task).unwrap()
    }

    fn raw(&self, count: u64) -> Duration {
        let mut raw = self.raw.clone();
        let task = self.runtime.spawn(async move {
            let begin = Instant::now();
            for _ in 0..count {
                let mut both = redis::pipe();
                both.atomic().cmd("INCR").arg("seq").cmd("PUBLISH").arg("notices").arg("orders");
                both.exec_async(&mut raw).await.unwrap();
            }
            begin.elapsed()
        });
        self.runtime.block_on(task).unwrap()
    }
}

const TURNS: usize = 51;
const EACH: u64 = 200;

fn invalidations(c: &mut Criterion) {
    let (few, many) = (Setup::new(1_000), Setup::new(1_000_000));
    let mut group = c.benchmark_group("invalidate");
    group.throughput(Throughput::Elements(1));
    group.bench_function("floor: INCR and PUBLISH", |b| b.iter_custom(|count| few.raw(count)));
    group.bench_function("larder: 1,000 results", |b| b.iter_custom(|count| few.ours(count)));
    group.bench_function("larder: 1,000,000 results", |b| b.iter_custom(|count| many.ours(count)));
    group.finish();

    let each = turns(
        TURNS,
        EACH,
        [&mut |count| few.raw(count), &mut |count| few.ours(count), &mut |count| many.ours(count)],
    );
    print_head("floor", "larder");
    each.print("`invalidate` over `INCR` and `PUBLISH`", 1, 0);
    each.print("a million results under the tag over a thousand", 2, 1);
}

criterion_group!(benches, invalidations);
criterion_main!(benches);
