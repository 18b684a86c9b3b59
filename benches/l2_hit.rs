//! A hit in Redis, beside a raw `GET` of the same bytes over one multiplexed connection.

#[path = "../tests/servers/mod.rs"]
mod servers;

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use larder::{ManualClock, Origin, Query, QueryCache};
use redis::aio::MultiplexedConnection;
use servers::{Postgres, Redis};
use tokio::runtime::Runtime;

/// Rows of 64 bytes of payload each.
const SQL: &str =
    "SELECT n, md5(n::text) AS hash FROM generate_series(1, $1::int8) AS n WHERE $2::int4 = $2";

const ROWS_OF_100_KB: i64 = 2_200;

struct Setup {
    runtime: Runtime,
    pool: deadpool_postgres::Pool,
    clock: ManualClock,
    query: Query,
    raw: MultiplexedConnection,
}

async fn setup(
    redis: &Redis,
    pool: deadpool_postgres::Pool,
) -> (ManualClock, Query, MultiplexedConnection) {
    let clock = ManualClock::new();
    let cache = QueryCache::builder()
        .namespace("bench")
        .redis(redis.url())
        .redis_timeout(Duration::from_secs(5))
        .ttl(Duration::from_secs(24 * 3600))
        .l1_ttl(Duration::from_secs(1))
        .clock(clock.clone())
        .build()
        .await
        .unwrap();
    let query = cache.query(SQL);
    for (rows, copies) in [(16_i64, 64_i32), (ROWS_OF_100_KB, 1)] {
        for copy in 0..copies {
            query.bind(rows).bind(copy).fetch(&pool).await.unwrap();
        }
    }
    while cache.stats().l2_writes < 65 {
        tokio::task::yield_now().await;
    }
    let info = redis::IntoConnectionInfo::into_connection_info(redis.url()).unwrap();
    let info = info.set_tcp_settings(redis::io::tcp::TcpSettings::default().set_nodelay(true));
    let client = redis::Client::open(info).unwrap();
    (clock, query, client.get_multiplexed_async_connection().await.unwrap())
}

impl Setup {
    /// `count` hits in Redis: the copies in memory are let expire before each.
    async fn ours(&self, rows: i64, copy: i32, count: u64) -> Duration {
        let (query, pool, clock) = (self.query.clone(), self.pool.clone(), self.clock.clone());
        let task = tokio::spawn(async move {
            let begin = Instant::now();
            for _ in 0..count {
                clock.advance(Duration::from_secs(2));
                let answer = query.bind(rows).bind(copy).fetch(&pool).answer().await.unwrap();
                assert_eq!(answer.origin(), Origin::L2);
            }
            begin.elapsed()
        });
        task.await.unwrap()
    }

    async fn raw(&self, key: &str, count: u64) -> Duration {
        let (key, mut raw) = (key.to_owned(), self.raw.clone());
        let task = tokio::spawn(async move {
            let begin = Instant::now();
            for _ in 0..count {
                let bytes: Vec<u8> =
                    redis::cmd("GET").arg(&key).query_async(&mut raw).await.unwrap();
                assert!(!bytes.is_empty());
            }
            begin.elapsed()
        });
        task.await.unwrap()
    }

    async fn ours_of_64(&self, count: u64) -> Duration {
        let begin = Instant::now();
        futures_util::future::join_all((0..64).map(|copy| self.ours(16, copy, count))).await;
        begin.elapsed()
    }

    async fn raw_of_64(&self, keys: &[String], count: u64) -> Duration {
        let begin = Instant::now();
        futures_util::future::join_all((0..64).map(|n| self.raw(&keys[n], count))).await;
        begin.elapsed()
    }

    /// The keys of 1 KB and the one of 100 KB.
    async fn keys(&self) -> (Vec<String>, String) {
        let mut raw = self.raw.clone();
        let keys: Vec<String> =
            redis::cmd("KEYS").arg("larder:bench:*").query_async(&mut raw).await.unwrap();
        let (mut small, mut large) = (vec![], vec![]);
        for key in keys {
            let bytes: usize = redis::cmd("STRLEN").arg(&key).query_async(&mut raw).await.unwrap();
            if bytes < 2_000 { small.push(key) } else { large.push((key, bytes)) }
        }
        let (large, bytes) = large.remove(0);
        println!("the large entry has {bytes} bytes");
        (small, large)
    }
}

fn hits(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let redis = Redis::start_tcp().unwrap();
    let database = runtime.block_on(Postgres::shared().unwrap().database()).unwrap();
    let pool = database.pool(2);
    let (clock, query, raw) = runtime.block_on(setup(&redis, pool.clone()));
    let setup = Setup { runtime, pool, clock, query, raw };
    let rt = &setup.runtime;
    let (small, large) = rt.block_on(setup.keys());

    for (name, rows, key) in [("1 KB", 16, &small[0]), ("100 KB", ROWS_OF_100_KB, &large)] {
        let mut group = c.benchmark_group(format!("l2_hit, {name}, one at a time"));
        group.bench_function("floor: raw GET", |b| {
            b.iter_custom(|count| rt.block_on(setup.raw(key, count)));
        });
        group.bench_function("larder: rows", |b| {
            b.iter_custom(|count| rt.block_on(setup.ours(rows, 0, count)));
        });
        group.finish();
    }
    let mut group = c.benchmark_group("l2_hit, 1 KB, 64 tasks");
    group.throughput(Throughput::Elements(64));
    group.bench_function("floor: raw GET", |b| {
        b.iter_custom(|count| rt.block_on(setup.raw_of_64(&small, count)));
    });
    group.bench_function("larder: rows", |b| {
        b.iter_custom(|count| rt.block_on(setup.ours_of_64(count)));
    });
    group.finish();

    // Turn by turn, since the machine's speed drifts.
    let compare = |what: &str, turns: usize, count: u64, floor: Timed<'_>, ours: Timed<'_>| {
        let each = |timed: Timed<'_>| timed(count).as_secs_f64() * 1e6 / count as f64;
        let turns: Vec<_> = (0..turns).map(|_| (each(floor), each(ours))).collect();
        println!(
            "l2_hit/{what}: raw {:.1} µs, larder {:.1} µs, over raw {:.2} (medians of {} turns)",
            median(turns.iter().map(|turn| turn.0)),
            median(turns.iter().map(|turn| turn.1)),
            median(turns.iter().map(|turn| turn.1 / turn.0)),
            turns.len()
        );
    };
    compare(
        "1 KB, one at a time",
        51,
        1000,
        &|count| rt.block_on(setup.raw(&small[0], count)),
        &|count| rt.block_on(setup.ours(16, 0, count)),
    );
    compare(
        "100 KB, one at a time",
        51,
        300,
        &|count| rt.block_on(setup.raw(&large, count)),
        &|count| rt.block_on(setup.ours(ROWS_OF_100_KB, 0, count)),
    );
    compare(
        "1 KB, 64 tasks, for all of them",
        51,
        300,
        &|count| rt.block_on(setup.raw_of_64(&small, count)),
        &|count| rt.block_on(setup.ours_of_64(count)),
    );
}

type Timed<'a> = &'a dyn Fn(u64) -> Duration;

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

criterion_group!(benches, hits);
criterion_main!(benches);
