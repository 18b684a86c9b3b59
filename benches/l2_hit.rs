//! A hit in Redis, compared with a raw `GET` of the same bytes over one multiplexed connection, in
//! three forms: with the reply thrown away, which is the floor; with the reply kept until the next
//! one of the key, as a cache does; and in a raw pipeline with the other two commands of a strict
//! read.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use larder::testing::ManualClock;
use larder::{Origin, Query, QueryCache};
use redis::aio::MultiplexedConnection;
use test_servers::{Postgres, Redis};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// Rows of 64 bytes of payload each.
const SQL: &str =
    "SELECT n, md5(n::text) AS hash FROM generate_series(1, $1::int8) AS n WHERE $2::int4 = $2";

/// Keys of one size. Each is read once in a round: afterwards it is in memory, until the round's
/// end, when the clock is advanced past its life there.
struct Keys {
    rows: i64,
    per_task: i32,
    tasks: i32,
    names: Vec<String>,
    /// For each name its last reply, for those who keep it.
    kept: Arc<[Mutex<Vec<u8>>]>,
}

/// Who reads.
#[derive(Clone, Copy)]
enum Reader {
    /// A raw `GET`.
    Get,
    /// The same, with the reply kept.
    Kept,
    /// A raw `GET`, `TIME` and `ZMSCORE`, as of a look that is strict and alone.
    Look,
    Larder,
}

struct Setup {
    runtime: Runtime,
    pool: deadpool_postgres::Pool,
    clock: ManualClock,
    cache: QueryCache,
    query: Query,
    raw: MultiplexedConnection,
}

impl Setup {
    fn new(redis: &Redis) -> Setup {
        let runtime = Runtime::new().unwrap();
        let clock = ManualClock::new();
        let database = runtime.block_on(Postgres::shared().unwrap().database()).unwrap();
        let cache = QueryCache::builder()
            .namespace("bench")
            .redis(redis.url())
            .redis_timeout(Duration::from_secs(5))
            .ttl(Duration::from_secs(24 * 3600))
            .l1_ttl(Duration::from_secs(1))
            // The clock runs ahead of the beats.
            .max_staleness(Duration::from_secs(3600))
            .clock(clock.clone());
        let cache = runtime.block_on(cache.build()).unwrap();
        let info = redis::IntoConnectionInfo::into_connection_info(redis.url()).unwrap();
        let info = info.set_tcp_settings(redis::io::tcp::TcpSettings::default().set_nodelay(true));
        let client = redis::Client::open(info).unwrap();
        let raw = runtime.block_on(client.get_multiplexed_async_connection()).unwrap();
        let query = cache.query(SQL);
        Setup { pool: database.pool(2), runtime, clock, cache, query, raw }
    }

    /// Fills Redis with results of so many rows.
    fn keys(&self, rows: i64, tasks: i32, per_task: i32) -> Keys {
        self.runtime.block_on(async {
            let mut raw = self.raw.clone();
            let mut names = async || -> Vec<String> {
                redis::cmd("KEYS").arg("larder:bench:*}").query_async(&mut raw).await.unwrap()
            };
            let before = names().await;
            for copy in 0..tasks * per_task {
                self.query.bind(rows).bind(copy).fetch(&self.pool).await.unwrap();
            }
            while self.cache.stats().l2_writes < self.cache.stats().loads {
                tokio::task::yield_now().await;
            }
            let mut names = names().await;
            names.retain(|name| !before.contains(name));
            let kept = names.iter().map(|_| Mutex::default()).collect();
            Keys { rows, per_task, tasks, names, kept }
        })
    }

    /// The time of `count` reads by each task: all tasks together, round by round.
    fn time(&self, keys: &Keys, count: u64, reader: Reader) -> Duration {
        if keys.tasks * keys.per_task == 1 {
            return self.time_of_one_key(keys, count, reader);
        }
        let mut time = Duration::ZERO;
        let mut left = count;
        while left > 0 {
            let round = left.min(keys.per_task as u64) as i32;
            left -= round as u64;
            self.clock.advance(Duration::from_secs(2));
            time += self.runtime.block_on(async {
                let begin = Instant::now();
                let tasks = (0..keys.tasks).map(|task| {
                    let first = task * keys.per_task;
                    let names = || &keys.names[first as usize..(first + round) as usize];
                    match reader {
                        Reader::Larder => self.ours(keys.rows, first..first + round),
                        Reader::Get => self.get(names()),
                        Reader::Kept => self.get_and_keep(names(), keys, first as usize),
                        Reader::Look => self.look(names()),
                    }
                });
                for task in tasks.collect::<Vec<_>>() {
                    task.await.unwrap();
                }
                begin.elapsed()
            });
        }
        time
    }

    /// The time of `count` reads of the one key. Each reply takes the place of the one before, in
    /// memory that is still warm.
    fn time_of_one_key(&self, keys: &Keys, count: u64, reader: Reader) -> Duration {
        self.runtime.block_on(async {
            let begin = Instant::now();
            if let Reader::Larder = reader {
                let (clock, query, pool) =
                    (self.clock.clone(), self.query.clone(), self.pool.clone());
                let rows = keys.rows;
                let task = tokio::spawn(async move {
                    for _ in 0..count {
                        clock.advance(Duration::from_secs(2));
                        let read = query.bind(rows).bind(0_i32).fetch(&pool);
                        assert_eq!(read.answer().await.unwrap().origin(), Origin::L2);
                    }
                });
                task.await.unwrap();
            } else {
                let names = vec![keys.names[0].clone(); count as usize];
                match reader {
                    Reader::Look => self.look(&names),
                    Reader::Kept => tokio::spawn(get_and_keep(
                        self.raw.clone(),
                        names,
                        keys.kept.clone(),
                        |_| 0,
                    )),
                    _ => self.get(&names),
                }
                .await
                .unwrap();
            }
            begin.elapsed()
        })
    }

    fn ours(&self, rows: i64, copies: Range<i32>) -> JoinHandle<()> {
        let (query, pool) = (self.query.clone(), self.pool.clone());
        tokio::spawn(async move {
            for copy in copies {
                let answer = query.bind(rows).bind(copy).fetch(&pool).answer().await.unwrap();
                assert_eq!(answer.origin(), Origin::L2);
            }
        })
    }

    fn get(&self, names: &[String]) -> JoinHandle<()> {
        let (names, mut raw) = (names.to_vec(), self.raw.clone());
        tokio::spawn(async move {
            for name in names {
                let bytes: Vec<u8> =
                    redis::cmd("GET").arg(name).query_async(&mut raw).await.unwrap();
                assert!(!bytes.is_empty());
            }
        })
    }

    fn get_and_keep(&self, names: &[String], keys: &Keys, first: usize) -> JoinHandle<()> {
        let kept = keys.kept.clone();
        tokio::spawn(get_and_keep(self.raw.clone(), names.to_vec(), kept, move |at| first + at))
    }

    fn look(&self, names: &[String]) -> JoinHandle<()> {
        let (names, mut raw) = (names.to_vec(), self.raw.clone());
        tokio::spawn(async move {
            for name in names {
                let mut look = redis::pipe();
                look.cmd("GET").arg(&name).cmd("TIME");
                look.cmd("ZMSCORE").arg("larder:bench:directory").arg("epoch").arg("seq");
                let (bytes, _, marks): (Vec<u8>, [u64; 2], Vec<f64>) =
                    look.query_async(&mut raw).await.unwrap();
                assert!(!bytes.is_empty() && marks.len() == 2);
            }
        })
    }
}

async fn get_and_keep(
    mut raw: MultiplexedConnection,
    names: Vec<String>,
    kept: Arc<[Mutex<Vec<u8>>]>,
    place: impl Fn(usize) -> usize,
) {
    for (at, name) in names.into_iter().enumerate() {
        let bytes: Vec<u8> = redis::cmd("GET").arg(name).query_async(&mut raw).await.unwrap();
        assert!(!bytes.is_empty());
        *kept[place(at)].lock().unwrap() = bytes;
    }
}

fn hits(c: &mut Criterion) {
    let redis = Redis::start_tcp().unwrap();
    let setup = Setup::new(&redis);
    let cases = [
        ("1 KB, one at a time", setup.keys(16, 1, 500), 500, 51),
        ("100 KB, one at a time", setup.keys(2_200, 1, 50), 300, 51),
        ("100 KB, one key again and again", setup.keys(2_201, 1, 1), 300, 51),
        ("1 KB, 64 tasks", setup.keys(17, 64, 200), 200, 51),
    ];
    for (name, keys, ..) in &cases {
        let mut group = c.benchmark_group(format!("l2_hit, {name}"));
        group.throughput(Throughput::Elements(keys.tasks as u64));
        group.bench_function("floor: raw GET", |b| {
            b.iter_custom(|count| setup.time(keys, count, Reader::Get));
        });
        group.bench_function("raw GET, replies kept", |b| {
            b.iter_custom(|count| setup.time(keys, count, Reader::Kept));
        });
        group.bench_function("raw GET, TIME, ZMSCORE", |b| {
            b.iter_custom(|count| setup.time(keys, count, Reader::Look));
        });
        group.bench_function("larder: rows", |b| {
            b.iter_custom(|count| setup.time(keys, count, Reader::Larder));
        });
        group.finish();
    }
    // Turn by turn, since the machine's speed drifts.
    for (name, keys, count, turns) in &cases {
        let reads = (*count * keys.tasks as u64) as f64;
        let each = |reader| setup.time(keys, *count, reader).as_secs_f64() * 1e6 / reads;
        let turns: Vec<_> = (0..*turns)
            .map(|_| [Reader::Get, Reader::Kept, Reader::Look, Reader::Larder].map(each))
            .collect();
        let ratio = |of: usize, over: usize| median(turns.iter().map(|turn| turn[of] / turn[over]));
        println!(
            "l2_hit/{name}: raw GET {:.1} µs, larder {:.1} µs; over GET {:.2}, over GET with its \
             replies kept {:.2}, which is {:.2} over GET; the three commands are {:.2} over GET \
             (medians of {} turns)",
            median(turns.iter().map(|turn| turn[0])),
            median(turns.iter().map(|turn| turn[3])),
            ratio(3, 0),
            ratio(3, 1),
            ratio(1, 0),
            ratio(2, 0),
            turns.len()
        );
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

criterion_group!(benches, hits);
criterion_main!(benches);
