//! A hit in memory, beside its floor: the hash of the parameters and a `get` of an `Arc` from a
//! plain moka cache, which coalesces nothing, expires nothing and counts nothing, and one look at the
//! clock. The cache is over Redis, and its results depend on two tags: each hit is checked to be
//! current.

#[path = "../tests/servers/mod.rs"]
mod servers;

mod common;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{ORDERS, PassThrough, SQL, floor_key};
use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;
use larder::{QueryCache, Rows, Wrapped};
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Line {
    region: String,
    status: String,
    orders: i64,
    total: f64,
}

fn ten_lines() -> Vec<Line> {
    let line =
        |n: i64| Line { region: "eu".into(), status: format!("status {n}"), orders: n, total: 0.5 };
    (0..10).map(line).collect()
}

/// As many other entries, so that the tables have a size.
const OTHERS: i64 = 10_000;

fn hits(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(servers::Postgres::shared().unwrap().database()).unwrap();
    let pool = database.pool(4);
    let redis = servers::Redis::start().unwrap();
    let cache = QueryCache::builder().namespace("bench").redis(redis.url());
    // A beat that comes late on a busy machine is not what is measured here.
    let cache = cache.max_blind(Duration::from_secs(60)).redis_timeout(Duration::from_secs(5));
    let cache = runtime.block_on(cache.build()).unwrap();
    let made = || cache.query(SQL).tag("orders").tag("customers");
    let query = made();
    let lines: Wrapped<(i64, &'static str), Vec<Line>> =
        made().wrap(|_, _| async { Ok::<_, std::io::Error>(ten_lines()) });
    let moka: moka::sync::Cache<[u8; 32], Arc<Vec<Line>>, PassThrough> =
        moka::sync::Cache::builder()
            .max_capacity(1 << 20)
            .build_with_hasher(PassThrough::default());
    runtime.block_on(async {
        pool.get().await.unwrap().batch_execute(ORDERS).await.unwrap();
        for id in 0..OTHERS {
            query.bind(id).bind("eu").fetch(&pool).await.unwrap();
            lines.call((id, "eu")).await.unwrap();
            moka.insert(floor_key(&[7; 32], id, "eu"), Arc::new(ten_lines()));
        }
    });
    assert_eq!(
        query.bind(42_i64).bind("eu").fetch(&pool).now_or_never().unwrap().unwrap().len(),
        10
    );

    let bare =
        || moka.get(&floor_key(black_box(&[7; 32]), black_box(42), black_box("eu"))).unwrap();
    let floor = || {
        black_box(Instant::now());
        bare()
    };
    let rows = || -> Rows {
        let read = query.bind(black_box(42_i64)).bind(black_box("eu")).fetch(&pool);
        read.now_or_never().unwrap().unwrap()
    };
    let typed = || lines.call((black_box(42), black_box("eu"))).now_or_never().unwrap().unwrap();
    let one_call = || -> Rows {
        let query = cache.query(black_box(SQL)).tag("orders").tag("customers");
        let read = query.bind(black_box(42_i64)).bind(black_box("eu")).fetch(&pool);
        read.now_or_never().unwrap().unwrap()
    };

    let mut group = c.benchmark_group("l1_hit");
    group.bench_function("keyed blake3 and moka get", |b| b.iter(bare));
    group.bench_function("floor: the same and the clock", |b| b.iter(floor));
    group.bench_function("larder: rows", |b| b.iter(rows));
    group.bench_function("larder: typed", |b| b.iter(typed));
    group.bench_function("larder: rows, the query made for the call", |b| b.iter(one_call));
    group.finish();

    // The benches above run one after the other, and the machine's speed drifts meanwhile. Here
    // they take turns, and what counts is each turn's ratio.
    let ratios = [
        ("rows", ratio(|| drop(floor()), || drop(rows()))),
        ("typed", ratio(|| drop(floor()), || drop(typed()))),
    ];
    for (name, ratio) in ratios {
        println!("l1_hit/{name} over floor, median of {TURNS} turns: {ratio:.2}");
    }
    println!("l1_hit/rows, two threads over one: {:.2}", two_threads(&rows));
    println!("l1_hit/floor, two threads over one: {:.2}", two_threads(&floor));
}

const TURNS: usize = 101;
const HITS: u32 = 20_000;

fn time(hit: &impl Fn()) -> Duration {
    let begin = Instant::now();
    (0..HITS).for_each(|_| hit());
    begin.elapsed()
}

fn ratio(floor: impl Fn(), ours: impl Fn()) -> f64 {
    let turn = |_| {
        let floor = time(&floor);
        time(&ours).as_secs_f64() / floor.as_secs_f64()
    };
    median((0..TURNS).map(turn).collect())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// How many times the hits of one thread two threads make in the same time.
fn two_threads<T>(hit: &(impl Fn() -> T + Sync)) -> f64 {
    let hits = |threads: usize| {
        let done = AtomicU64::new(0);
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let mut mine = 0;
                    while begin.elapsed() < Duration::from_millis(100) {
                        (0..1000).for_each(|_| drop(hit()));
                        mine += 1000;
                    }
                    done.fetch_add(mine, Ordering::Relaxed);
                });
            }
        });
        done.into_inner() as f64
    };
    median((0..11).map(|_| hits(2) / hits(1)).collect())
}

criterion_group!(benches, hits);
criterion_main!(benches);
