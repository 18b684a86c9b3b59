//! How long after an invalidation was acknowledged do other processes still serve the old result
//! from memory? Eight processes read it continuously; this one invalidates it.
//!
//! Not measured by criterion, because the reads are in other processes. They read every 50 µs or
//! so.

use std::path::Path;
use std::time::Duration;

use futures_util::FutureExt;
use larder::{Origin, QueryCache, QueryCacheBuilder};
use rustix::time::{ClockId, clock_gettime};
use test_servers::{Redis, Worker, worker};

const PROCESSES: usize = 8;
const ROUNDS: usize = 300;
const PATIENCE: Duration = Duration::from_secs(30);

/// Nanoseconds by a clock that all processes of the machine share.
fn now() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

fn builder(url: &str) -> QueryCacheBuilder {
    QueryCache::builder().namespace("push").redis(url).redis_timeout(Duration::from_secs(5))
}

fn watch(url: &str) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _inside = runtime.enter();
    let cache = runtime.block_on(builder(url).build()).unwrap();
    let query = cache.query("SELECT 1").tag("orders");
    let load = || async { Ok::<_, std::io::Error>(7_i32) };
    worker::say("ready");
    for _ in worker::parent_lines().expect("this is a worker") {
        runtime.block_on(query.load(load).into_future()).unwrap();
        let in_memory = || {
            let answer = query.load(load).answer().now_or_never();
            answer.is_some_and(|answer| answer.unwrap().origin() == Origin::L1)
        };
        while !in_memory() {
            runtime.block_on(query.load(load).into_future()).unwrap();
        }
        worker::say("in memory");
        // What is not in memory any more is rarely there at the first poll, and comes from elsewhere
        // then: if Redis's answers arrive while this thread is off its core.
        while in_memory() {
            std::thread::sleep(Duration::from_micros(20));
        }
        worker::say(&now().to_string());
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, watcher, url] = arguments.as_slice()
        && watcher == "watch"
    {
        return watch(url);
    }
    let redis = Redis::start_tcp().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cache = runtime.block_on(builder(&redis.url()).build()).unwrap();
    let program = std::env::current_exe().unwrap();
    let mut watchers: Vec<Worker> = (0..PROCESSES)
        .map(|_| Worker::run(Path::new(&program), &["watch", &redis.url()]).unwrap())
        .collect();
    let expect = |watcher: &mut Worker, what: &str| {
        assert_eq!(watcher.next_line(PATIENCE).unwrap(), what);
    };
    watchers.iter_mut().for_each(|watcher| expect(watcher, "ready"));
    let (mut lags, mut trips) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        watchers.iter_mut().for_each(|watcher| watcher.send("again").unwrap());
        watchers.iter_mut().for_each(|watcher| expect(watcher, "in memory"));
        let asked = now();
        runtime.block_on(cache.invalidate(["orders"])).acknowledged().unwrap();
        let acknowledged = now();
        trips.push((acknowledged - asked) as f64 / 1e6);
        for watcher in &mut watchers {
            let noticed: i64 = watcher.next_line(PATIENCE).unwrap().parse().unwrap();
            lags.push((noticed - acknowledged) as f64 / 1e6);
        }
    }
    for (what, times) in [("invalidate", &mut trips), ("noticed after it", &mut lags)] {
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!(
            "push/{what}, {PROCESSES} processes, {ROUNDS} rounds: p50 {:.3} ms, p99 {:.3} ms, max {:.3} ms",
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
}
