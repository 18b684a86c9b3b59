//! Does a large entry delay small reads, and is it served from Redis itself? All connections to
//! Redis share a network of 1 Gbit/s or 400 Mbit/s. Two tasks read small results from Redis; beside
//! them large ones are read or written twice a second.
//!
//! Not measured by criterion, because the reads are paced. `LARGE_SECONDS` is how long each
//! line is measured (12), in `LARGE_ROUNDS` turns (4); `LARGE_RATES` and `LARGE_SIZES` are lists of
//! Mbit/s and MiB.

use std::str::FromStr;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use deadpool_postgres::Pool;
use futures_util::future::join_all;
use larder::{Origin, QueryCache};
use test_servers::{Postgres, Proxy, Redis};
use tokio::time::sleep;

/// Rows of a KiB each.
const LARGE: &str = "SELECT repeat(md5(n::text), 32) FROM generate_series(1, 1024 * $1::int4) n \
                     WHERE $2::int4 = $2";
const SMALL: &str = "SELECT $1::int4, pg_sleep(0.002)::text";
const KEYS: i32 = 2_000;
const TASKS: i32 = 2;
/// Half of a round trip within a data center.
const ONE_WAY: Duration = Duration::from_micros(150);

#[derive(Clone, Copy, PartialEq)]
enum Beside {
    Nothing,
    /// So many large results are read at once.
    Reads(i32),
    /// A large result is loaded and written.
    Fill,
}

#[derive(Default)]
struct Measured {
    hits: usize,
    times: Vec<Duration>,
    large: Vec<(Origin, Duration)>,
    written: u64,
    too_slow: u64,
}

impl Measured {
    fn add(&mut self, other: Measured) {
        self.hits += other.hits;
        self.times.extend(other.times);
        self.times.sort();
        self.large.extend(other.large);
        self.written += other.written;
        self.too_slow += other.too_slow;
    }

    fn at(&self, share: f64) -> Duration {
        self.times[((self.times.len() - 1) as f64 * share) as usize]
    }
}

fn list<T: FromStr + Copy>(variable: &str, default: &[T]) -> Vec<T> {
    let Ok(given) = std::env::var(variable) else { return default.to_vec() };
    given.split(',').filter_map(|each| each.parse().ok()).collect()
}

async fn small(cache: &QueryCache, pool: &Pool, task: i32, end: Instant) -> (usize, Vec<Duration>) {
    let (mut hits, mut times) = (0, vec![]);
    let query = cache.query(SMALL);
    for number in (task * KEYS / TASKS..(task + 1) * KEYS / TASKS).cycle() {
        if Instant::now() >= end {
            break;
        }
        let begin = Instant::now();
        let origin = query.bind(number).fetch(pool).answer().await.unwrap().origin();
        times.push(begin.elapsed());
        hits += usize::from(origin == Origin::L2);
        sleep(Duration::from_millis(2)).await;
    }
    (hits, times)
}

async fn large(
    cache: &QueryCache,
    pool: &Pool,
    size: i32,
    beside: Beside,
    end: Instant,
) -> Vec<(Origin, Duration)> {
    static NEXT: AtomicI32 = AtomicI32::new(0);
    let query = cache.query(LARGE);
    let text = "x".repeat((size as usize) << 20);
    let read = async |number: i32| {
        let begin = Instant::now();
        let origin = if beside == Beside::Fill {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let text = text.clone();
            let load = move || async move { Ok::<_, std::io::Error>(text) };
            cache.query("large").params((number,)).load(load).answer().await.unwrap().origin()
        } else {
            query.params((size, number)).fetch(pool).answer().await.unwrap().origin()
        };
        (origin, begin.elapsed())
    };
    let at_once = match beside {
        Beside::Nothing => 0,
        Beside::Reads(count) => count,
        Beside::Fill => 1,
    };
    let mut answers = vec![];
    while at_once > 0 && Instant::now() < end {
        answers.extend(join_all((0..at_once).map(read)).await);
        sleep(Duration::from_millis(500)).await;
    }
    answers
}

/// One phase, in a process whose memory holds nothing.
async fn phase(url: &str, pool: &Pool, size: i32, beside: Beside, time: Duration) -> Measured {
    let cache = QueryCache::builder().namespace("large").redis(url).memory_off();
    let cache = cache.max_value_bytes(64 << 20).build().await.unwrap();
    let end = Instant::now() + time;
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (cache, pool) = (cache.clone(), pool.clone());
            tokio::spawn(async move { small(&cache, &pool, task, end).await })
        })
        .collect();
    let mut measured =
        Measured { large: large(&cache, pool, size, beside, end).await, ..Measured::default() };
    for task in tasks {
        let (hits, times) = task.await.unwrap();
        measured.hits += hits;
        measured.times.extend(times);
    }
    measured.times.sort();
    let stats = cache.stats();
    measured.written = stats.l2_writes;
    measured.too_slow = stats.l2_too_slow;
    measured
}

async fn measure() {
    let time = Duration::from_secs(list("LARGE_SECONDS", &[12])[0]);
    let database = Postgres::shared().unwrap().database().await.unwrap();
    let pool = database.pool(16);
    let redis = Redis::start_tcp().unwrap();
    let proxy = Proxy::to_redis(&redis).unwrap();
    let sizes = list("LARGE_SIZES", &[8, 12, 16]);
    let filler = QueryCache::builder().namespace("large").redis(redis.url());
    let filler = filler.redis_timeout(Duration::from_secs(5)).max_value_bytes(64 << 20);
    let filler = filler.build().await.unwrap();
    for number in 0..KEYS {
        filler.query(SMALL).bind(number).fetch(&pool).await.unwrap();
    }
    for &size in &sizes {
        for number in 0..4 {
            filler.query(LARGE).params((size, number)).fetch(&pool).await.unwrap();
        }
    }
    while filler.stats().l2_writes < filler.stats().loads {
        sleep(Duration::from_millis(20)).await;
    }
    filler.shutdown().await;
    println!(
        "| network | beside | small: from Redis | p50 | p99 | p99 / alone | large: from Redis | median | longest | written | too slow |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let rounds: u32 = list("LARGE_ROUNDS", &[4])[0];
    for rate in list("LARGE_RATES", &[1000.0, 400.0]) {
        proxy.rate(rate * 1e6 / 8.0);
        proxy.delay(ONE_WAY);
        for &size in &sizes {
            let kinds = [Beside::Nothing, Beside::Reads(1), Beside::Reads(4), Beside::Fill];
            let mut all = kinds.map(|_| Measured::default());
            // In turns: what else the machine does falls on all of them alike.
            for _ in 0..rounds {
                for (all, beside) in all.iter_mut().zip(kinds) {
                    all.add(phase(&proxy.url(), &pool, size, beside, time / rounds).await);
                }
            }
            let alone = all[0].at(0.99);
            for (measured, beside) in all.iter_mut().zip(kinds) {
                let what = match beside {
                    Beside::Nothing => "nothing".to_owned(),
                    Beside::Reads(count) => format!("{count} × {size} MiB read"),
                    Beside::Fill => format!("{size} MiB written"),
                };
                measured.large.sort_by_key(|(_, took)| *took);
                let large = &measured.large;
                let from_redis = large.iter().filter(|(origin, _)| *origin == Origin::L2).count();
                let took = |at: usize| large.get(at).map_or(0, |it| it.1.as_millis());
                println!(
                    "| {rate} Mbit/s | {what} | {:.1} % of {} | {:.2?} | {:.2?} | {:.2} | \
                     {from_redis} of {} | {} ms | {} ms | {} | {} |",
                    100.0 * measured.hits as f64 / measured.times.len() as f64,
                    measured.times.len(),
                    measured.at(0.5),
                    measured.at(0.99),
                    measured.at(0.99).as_secs_f64() / alone.as_secs_f64(),
                    large.len(),
                    took(large.len() / 2),
                    took(large.len().saturating_sub(1)),
                    measured.written,
                    measured.too_slow,
                );
            }
        }
    }
}

fn main() {
    tokio::runtime::Runtime::new().unwrap().block_on(measure());
}
