//! A transaction through `write`, which asks PostgreSQL what was written, beside the same transaction by
//! hand with `invalidate`. Both update one row, and both make one round trip to Redis.

mod common;

use std::time::{Duration, Instant};

use common::turns::{print_head, turns};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use deadpool_postgres::Pool;
use larder::QueryCache;
use test_servers::{Postgres, Redis};
use tokio::runtime::Runtime;

const UPDATE: &str = "UPDATE accounts SET cents = cents + 1 WHERE id = $1";
const ROWS: i64 = 10_000;

struct Setup {
    runtime: Runtime,
    cache: QueryCache,
    pool: Pool,
    _postgres: Postgres,
    _redis: Redis,
}

impl Setup {
    fn new() -> Setup {
        let runtime = Runtime::new().unwrap();
        let (postgres, redis) = (Postgres::start().unwrap(), Redis::start_tcp().unwrap());
        let (cache, pool) = runtime.block_on(async {
            let cache = QueryCache::builder().namespace("bench").redis(redis.url());
            let cache = cache.redis_timeout(Duration::from_secs(5)).build().await.unwrap();
            let pool = postgres.database().await.unwrap().pool(1);
            let sql = format!(
                "CREATE TABLE accounts (id int8 PRIMARY KEY, cents int8);
                 INSERT INTO accounts SELECT n, 0 FROM generate_series(1, {ROWS}) n; ANALYZE accounts"
            );
            pool.get().await.unwrap().batch_execute(&sql).await.unwrap();
            (cache, pool)
        });
        Setup { runtime, cache, pool, _postgres: postgres, _redis: redis }
    }

    fn by_hand(&self, count: u64) -> Duration {
        let (cache, pool) = (self.cache.clone(), self.pool.clone());
        let task = self.runtime.spawn(async move {
            let begin = Instant::now();
            for n in 0..count {
                let mut client = pool.get().await.unwrap();
                let update = client.prepare_cached(UPDATE).await.unwrap();
                let transaction = client.transaction().await.unwrap();
                let id = n as i64 * 7919 % ROWS + 1;
                transaction.execute(&update, &[&id]).await.unwrap();
                transaction.commit().await.unwrap();
                drop(client);
                cache.invalidate(["accounts"]).await;
            }
            begin.elapsed()
        });
        self.runtime.block_on(task).unwrap()
    }

    fn ours(&self, count: u64) -> Duration {
        let (cache, pool) = (self.cache.clone(), self.pool.clone());
        let task = self.runtime.spawn(async move {
            let update = {
                let client = pool.get().await.unwrap();
                client.prepare_cached(UPDATE).await.unwrap()
            };
            let begin = Instant::now();
            for n in 0..count {
                let id = n as i64 * 7919 % ROWS + 1;
                let written = cache.write(&pool, async |tx| {
                    tx.execute(&update, &[&id]).await.map_err(larder::Error::from)
                });
                let written = written.await.unwrap();
                assert_eq!(written.relations().map(<[String]>::len), Some(1));
            }
            begin.elapsed()
        });
        self.runtime.block_on(task).unwrap()
    }
}

const TURNS: usize = 51;
const EACH: u64 = 200;

fn writes(c: &mut Criterion) {
    let setup = Setup::new();
    let mut group = c.benchmark_group("write");
    group.throughput(Throughput::Elements(1));
    group.bench_function("by hand, and invalidate", |b| b.iter_custom(|n| setup.by_hand(n)));
    group.bench_function("larder: write", |b| b.iter_custom(|n| setup.ours(n)));
    group.finish();

    let each =
        turns(TURNS, EACH, [&mut |count| setup.by_hand(count), &mut |count| setup.ours(count)]);
    print_head("by hand", "larder");
    each.print("`write` over the transaction by hand and `invalidate`", 1, 0);
}

criterion_group!(benches, writes);
criterion_main!(benches);
