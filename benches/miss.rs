//! A miss: the lookup in Redis, the query, and the writes to both tiers. It is compared with the
//! query alone, and with what one would write by hand: `GET`, the query, JSON, `SET`.

mod common;

use std::time::{Duration, Instant};

use common::turns::{print_head, turns};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use deadpool_postgres::Pool;
use larder::{Origin, Query, QueryCache};
use redis::aio::MultiplexedConnection;
use serde::Serialize;
use test_servers::{Postgres, Redis};
use tokio::runtime::Runtime;

/// Ten rows for whoever asks, of which there is no end.
const SQL: &str = "SELECT region, status, count(*) AS orders, sum(amount) AS total, avg(amount) AS mean \
     FROM orders WHERE customer_id = $1::int8 % 1000 AND region = $2 GROUP BY region, status ORDER BY 1, 2";

const ORDERS: &str = "
    CREATE TABLE orders AS SELECT customer_id, 'eu' AS region, 'status ' || n AS status,
        n * 0.5::float8 AS amount
        FROM generate_series(0::int8, 999) AS customer_id, generate_series(1, 10) AS n;
    CREATE INDEX ON orders (customer_id);
    ANALYZE orders;";

#[derive(Serialize)]
struct Line {
    region: String,
    status: String,
    orders: i64,
    total: f64,
    mean: f64,
}

struct Setup {
    runtime: Runtime,
    pool: Pool,
    raw: MultiplexedConnection,
    query: Query,
    cache: QueryCache,
    /// A customer who has not been asked for.
    next: i64,
    _redis: Redis,
}

impl Setup {
    fn new() -> Setup {
        let runtime = Runtime::new().unwrap();
        let redis = Redis::start_tcp().unwrap();
        let database = runtime.block_on(Postgres::shared().unwrap().database()).unwrap();
        let pool = database.pool(4);
        let cache = QueryCache::builder().namespace("bench").redis(redis.url());
        let cache = runtime.block_on(cache.redis_timeout(Duration::from_secs(5)).build()).unwrap();
        let info = redis::IntoConnectionInfo::into_connection_info(redis.url()).unwrap();
        let info = info.set_tcp_settings(redis::io::tcp::TcpSettings::default().set_nodelay(true));
        let client = redis::Client::open(info).unwrap();
        let raw = runtime.block_on(client.get_multiplexed_async_connection()).unwrap();
        runtime.block_on(async { pool.get().await.unwrap().batch_execute(ORDERS).await }).unwrap();
        let query = cache.query(SQL);
        Setup { runtime, pool, raw, query, cache, next: 0, _redis: redis }
    }

    fn customers(&mut self, count: u64) -> std::ops::Range<i64> {
        let from = self.next;
        self.next += count as i64;
        from..self.next
    }

    fn alone(&mut self, count: u64) -> Duration {
        let (pool, customers) = (self.pool.clone(), self.customers(count));
        let task = self.runtime.spawn(async move {
            let begin = Instant::now();
            for id in customers {
                ask(&pool, id).await;
            }
            begin.elapsed()
        });
        self.runtime.block_on(task).unwrap()
    }

    fn by_hand(&mut self, count: u64) -> Duration {
        let (pool, mut raw, customers) =
            (self.pool.clone(), self.raw.clone(), self.customers(count));
        let task = self.runtime.spawn(async move {
            let begin = Instant::now();
            for id in customers {
                let name = format!("orders:{id}:eu");
                let found: Option<Vec<u8>> =
                    redis::cmd("GET").arg(&name).query_async(&mut raw).await.unwrap();
                assert!(found.is_none());
                let lines: Vec<Line> = ask(&pool, id).await.iter().map(line).collect();
                let json = serde_json::to_vec(&lines).unwrap();
                let mut set = redis::cmd("SET");
                set.arg(&name).arg(json).arg("PX").arg(300_000);
                set.exec_async(&mut raw).await.unwrap();
            }
            begin.elapsed()
        });
        self.runtime.block_on(task).unwrap()
    }

    fn larder(&mut self, count: u64) -> Duration {
        let (query, pool, customers) =
            (self.query.clone(), self.pool.clone(), self.customers(count));
        let task = self.runtime.spawn(async move {
            let begin = Instant::now();
            for id in customers {
                let answer = query.bind(id).bind("eu").fetch(&pool).answer().await.unwrap();
                assert_eq!(answer.origin(), Origin::Loaded);
            }
            begin.elapsed()
        });
        let took = self.runtime.block_on(task).unwrap();
        // What is still on its way into Redis must not fall into another's turn.
        self.runtime.block_on(async {
            while self.cache.stats().l2_writes < self.cache.stats().loads {
                tokio::task::yield_now().await;
            }
        });
        took
    }
}

async fn ask(pool: &Pool, id: i64) -> Vec<tokio_postgres::Row> {
    let client = pool.get().await.unwrap();
    let statement = client.prepare_cached(SQL).await.unwrap();
    let rows = client.query(&statement, &[&id, &"eu"]).await.unwrap();
    assert_eq!(rows.len(), 10);
    rows
}

fn line(row: &tokio_postgres::Row) -> Line {
    Line {
        region: row.get(0),
        status: row.get(1),
        orders: row.get(2),
        total: row.get(3),
        mean: row.get(4),
    }
}

fn misses(c: &mut Criterion) {
    let mut setup = Setup::new();
    let mut group = c.benchmark_group("miss");
    group.throughput(Throughput::Elements(1));
    group.bench_function("floor: the query, prepared, on the pool", |b| {
        b.iter_custom(|count| setup.alone(count));
    });
    group.bench_function("by hand: GET, query, JSON, SET", |b| {
        b.iter_custom(|count| setup.by_hand(count));
    });
    group.bench_function("larder: rows", |b| b.iter_custom(|count| setup.larder(count)));
    group.finish();

    let setup = std::cell::RefCell::new(setup);
    let each = turns(
        51,
        100,
        [
            &mut |count| setup.borrow_mut().alone(count),
            &mut |count| setup.borrow_mut().by_hand(count),
            &mut |count| setup.borrow_mut().larder(count),
        ],
    );
    print_head("floor", "larder");
    each.print("miss, over the query alone", 2, 0);
    each.print("miss, over `GET`, query, JSON and `SET` by hand", 2, 1);
    each.print("(by hand, over the query alone)", 1, 0);
}

criterion_group!(benches, misses);
criterion_main!(benches);
