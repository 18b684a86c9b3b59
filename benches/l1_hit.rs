//! A hit in memory, compared with its floor: the hash of the parameters, a `get` of an `Arc` from a
//! plain moka cache, which coalesces nothing, expires nothing and counts nothing, and one reading
//! of the clock. The cache is over Redis, and its results depend on two tags: each hit is checked
//! to be current.

mod common;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{ORDERS, PassThrough, SQL, floor_key, zipf};
use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;
use larder::{QueryCache, Rows, Wrapped};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::{Deserialize, Serialize};
use test_servers::{Postgres, Redis};

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
    let database = runtime.block_on(Postgres::shared().unwrap().database()).unwrap();
    let pool = database.pool(4);
    let redis = Redis::start().unwrap();
    let cache = QueryCache::builder().namespace("bench").redis(redis.url());
    // A beat that comes late on a busy machine is not what is measured here.
    let cache = cache.max_staleness(Duration::from_secs(60)).redis_timeout(Duration::from_secs(5));
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

    let bare = |id: i64| {
        moka.get(&floor_key(black_box(&[7; 32]), black_box(id), black_box("eu"))).unwrap()
    };
    let floor = |id: i64| {
        black_box(Instant::now());
        bare(id)
    };
    let rows = |id: i64| -> Rows {
        let read = query.bind(black_box(id)).bind(black_box("eu")).fetch(&pool);
        read.now_or_never().unwrap().unwrap()
    };
    let typed =
        |id: i64| lines.call((black_box(id), black_box("eu"))).now_or_never().unwrap().unwrap();
    let one_call = |id: i64| -> Rows {
        let query = cache.query(black_box(SQL)).tag("orders").tag("customers");
        let read = query.bind(black_box(id)).bind(black_box("eu")).fetch(&pool);
        read.now_or_never().unwrap().unwrap()
    };

    let mut group = c.benchmark_group("l1_hit");
    group.bench_function("keyed blake3 and moka get", |b| b.iter(|| bare(42)));
    group.bench_function("floor: the same and the clock", |b| b.iter(|| floor(42)));
    group.bench_function("larder: rows", |b| b.iter(|| rows(42)));
    group.bench_function("larder: typed", |b| b.iter(|| typed(42)));
    group.bench_function("larder: rows, the query made for the call", |b| b.iter(|| one_call(42)));
    group.finish();

    // The benches above run one after the other, and the machine's speed drifts meanwhile. Here
    // they take turns, and what counts is each turn's ratio.
    let spread: Vec<i64> =
        zipf(OTHERS as usize, 1.0, 1).take(1 << 16).map(|id| id as i64).collect();
    for (keys, ids) in [("one key", &[42][..]), ("Zipf over 10,000 keys", &spread)] {
        let rows = ratio(ids, |id| drop(floor(id)), |id| drop(rows(id)));
        println!("l1_hit/rows over floor, {keys}, median of {TURNS} turns: {rows:.2}");
        let typed = ratio(ids, |id| drop(floor(id)), |id| drop(typed(id)));
        println!("l1_hit/typed over floor, {keys}, median of {TURNS} turns: {typed:.2}");
    }
    let (front, back) = spread.split_at(spread.len() / 2);
    let each: [(&str, [&[i64]; 2]); 3] =
        [("one key", [&[42]; 2]), ("a key each", [&[42], &[43]]), ("Zipf", [front, back])];
    // What the machine allows: threads that share nothing.
    let key = |id: i64| floor_key(black_box(&[7; 32]), black_box(id), black_box("eu"));
    println!("l1_hit/key alone, two threads over one: {:.2}", two_threads([&[42]; 2], &key));
    for (keys, ids) in each {
        println!("l1_hit/rows, two threads over one, {keys}: {:.2}", two_threads(ids, &rows));
        println!("l1_hit/floor, two threads over one, {keys}: {:.2}", two_threads(ids, &floor));
    }
}

const TURNS: usize = 101;
const HITS: usize = 20_000;

fn time(ids: &[i64], hit: &impl Fn(i64)) -> Duration {
    let ids = ids.iter().cycle().take(HITS);
    let begin = Instant::now();
    ids.for_each(|&id| hit(id));
    begin.elapsed()
}

fn ratio(ids: &[i64], floor: impl Fn(i64), ours: impl Fn(i64)) -> f64 {
    // Each turn has ids of its own, where there are so many.
    let turn = |turn: usize| {
        let ids = &ids[turn * HITS % ids.len()..];
        let floor = time(ids, &floor);
        time(ids, &ours).as_secs_f64() / floor.as_secs_f64()
    };
    median((0..TURNS).map(turn).collect())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// How many times the hits of one thread two threads make in the same time, each with its own ids and
/// a core of its own: left to itself, Linux runs both on one for the first tenths of a second.
fn two_threads<T>(ids: [&[i64]; 2], hit: &(impl Fn(i64) -> T + Sync)) -> f64 {
    let hits = |threads: usize| {
        let done = AtomicU64::new(0);
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for (core, ids) in ids[..threads].iter().enumerate() {
                let (done, begin) = (&done, &begin);
                scope.spawn(move || {
                    let mut cores = CpuSet::new();
                    cores.set(core);
                    sched_setaffinity(None, &cores).expect("there are two cores");
                    let (mut mine, mut ids) = (0, ids.iter().cycle());
                    while begin.elapsed() < Duration::from_millis(100) {
                        ids.by_ref().take(1000).for_each(|&id| drop(black_box(hit(id))));
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
